//! ONNX: a graph that is one chain of operators, from one matrix of columns to scores.
//!
//! ```text
//! bytes -> proto -> graph: node by node -> trees (v3, v5) -> Forest
//!                                       -> dense, linear  -> Network
//! ```
//!
//! A model whose input is `tensor(double)` is read as well: Engram's columns are f32, and each value is widened, as a cast would
//! do it; its trees compare and add in f64. Operators outside of the chain that only make labels are left out, since a score is
//! what is asked for.
//!
//! The scores are those of ONNX Runtime 1.32 with one thread (`intra_op_num_threads=1`): it adds trees in the order in which the
//! file has them, and the base values last. With several threads it adds them in parts.

mod attributes;
mod chain;
mod ensemble;
mod graph;
mod layers;
mod linear;
mod proto;
mod rows;
mod tensor;
#[cfg(test)]
mod tests;
mod transforms;
mod trees_v3;
mod trees_v5;

use crate::error::ModelError;
use crate::format::Parsed;

const FORMAT: &str = "onnx";

/// Whether a file's first bytes are those of ONNX: field 1, `ir_version`, and one byte of it, which is no zero.
pub fn is_onnx(file: &[u8]) -> bool {
    matches!(file, [0x08, 1..=0x7f, ..])
}

pub fn read(file: &[u8]) -> Result<Parsed, ModelError> {
    let kind = graph::read(file)?;
    Ok(Parsed { kind, format: FORMAT, names: Vec::new() })
}

fn malformed(reason: impl Into<String>) -> ModelError {
    ModelError::Malformed { format: FORMAT, reason: reason.into() }
}

fn unsupported(reason: impl Into<String>) -> ModelError {
    ModelError::Unsupported { format: FORMAT, reason: reason.into() }
}

fn damaged(error: prost::DecodeError) -> ModelError {
    malformed(error.to_string())
}
