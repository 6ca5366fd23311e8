//! What computes margins: the CPU, or a GPU. A device loads a model and gives a scorer of it; the scorer takes batches.
//!
//! INVARIANT: all devices' margins are those of the reference, bit for bit, where a NaN is any NaN. What a device cannot do so,
//! it refuses to load.

mod cpu;
mod plain;

use std::sync::Arc;

use arrow::array::Float32Array;
use thiserror::Error;

use crate::gpu::pinned::Pool;
use crate::model::Model;

pub use cpu::CpuDevice;
pub use plain::PlainDevice;

/// A CPU or a GPU.
pub trait Device: Send + Sync {
    /// As it is shown: "cpu", "NVIDIA H100 (0)".
    fn name(&self) -> String;

    fn memory(&self) -> Memory;

    /// Memory from which it takes columns as they are; `None` if any is as good.
    fn pinned(&self) -> Option<&Arc<Pool>> {
        None
    }

    /// Makes a model ready. What it takes of the device's memory is free again when the scorer is dropped.
    fn load(&self, model: &Model) -> Result<Box<dyn Scorer>, DeviceError>;
}

/// A model on a device.
pub trait Scorer: Send {
    /// Scores a batch: a column for each feature, all of one length, where a null or a NaN is missing. Returns the margins row
    /// by row. The batch is the caller's still, so that another scorer can have it if this one fails.
    fn score(&mut self, columns: &[Float32Array]) -> Result<Vec<f64>, DeviceError>;
}

/// Bytes of a device's memory that models and batches may have, and have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub limit: usize,
    pub used: usize,
}

/// Why a device gives no margins. The batch can be scored by another.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// It may succeed later, or with less.
    #[error("out of memory of the device: {asked} bytes asked for, {free} free")]
    OutOfMemory { asked: usize, free: usize },
    /// The device did not finish in time. What it was doing is lost.
    #[error("the device did not finish within {after_ms} ms")]
    Timeout { after_ms: u64 },
    /// Every further call fails as well, until models are loaded anew.
    #[error("the device is lost: {0}")]
    Sticky(String),
    /// What was loaded went when the device was started anew. It must be loaded again.
    #[error("what was loaded went with the device")]
    Gone,
    /// The model or the batch is not for this device; nothing is wrong with it.
    #[error("the device cannot run it: {0}")]
    Unsupported(String),
    /// There is no such device.
    #[error("there is no device: {0}")]
    Absent(String),
}

/// Whether margins are the same, bit for bit, where a NaN is any NaN.
pub fn is_same(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
}

/// Rows of a batch. Errors: what is wrong with a batch of so many features.
pub fn rows_of(columns: &[Float32Array], features: usize) -> Result<usize, DeviceError> {
    if columns.len() != features {
        return Err(DeviceError::Unsupported(format!("{} columns for {features} features", columns.len())));
    }
    let rows = columns.first().map_or(0, Float32Array::len);
    if columns.iter().any(|column| column.len() != rows) {
        return Err(DeviceError::Unsupported("columns of different lengths".to_owned()));
    }
    Ok(rows)
}
