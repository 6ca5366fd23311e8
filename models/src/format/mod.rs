//! Model files. Each format has its reader; which one it is, a file's first bytes tell.
//!
//! INVARIANT: a file is hostile until it is read. Every length and index in it is checked, and nothing is allocated by what it
//! claims to hold, but by what it holds.

mod onnx;

use crate::error::ModelError;
use crate::model::Kind;

/// What a reader makes of a file.
pub struct Parsed {
    pub kind: Kind,
    pub format: &'static str,
    /// Names of the columns; empty if the file has none.
    pub names: Vec<String>,
}

/// Reads a file of any format.
pub fn read(file: &[u8]) -> Result<Parsed, ModelError> {
    if onnx::is_onnx(file) {
        return onnx::read(file);
    }
    Err(ModelError::Unrecognized(
        "give XGBoost JSON or UBJSON, LightGBM text, a Treelite checkpoint or ONNX".to_owned(),
    ))
}
