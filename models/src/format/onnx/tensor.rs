//! Tensors: initializers, and attributes that are tensors.

use super::proto::{self, data_type};
use super::{malformed, unsupported};
use crate::error::ModelError;

/// A constant. Every element type that is read fits f64 (of integers, those below 2^53).
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub dims: Vec<usize>,
    /// `proto::data_type`.
    pub data_type: i32,
    pub values: Vec<f64>,
}

impl Tensor {
    pub fn read(tensor: &proto::Tensor) -> Result<Self, ModelError> {
        let name = &tensor.name;
        if !tensor.external_data.is_empty() || tensor.data_location != 0 {
            return Err(unsupported(format!("the data of tensor '{name}' is in another file")));
        }
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        let dims = dims.ok_or_else(|| malformed(format!("tensor '{name}' has a negative dimension")))?;
        let values = values(tensor)?;
        if dims.iter().try_fold(1_usize, |count, dim| count.checked_mul(*dim)) != Some(values.len()) {
            return Err(malformed(format!("tensor '{name}' has {} values for dimensions {dims:?}", values.len())));
        }
        Ok(Self { dims, data_type: tensor.data_type, values })
    }

    pub fn to_f32(&self) -> Vec<f32> {
        self.values.iter().map(|value| *value as f32).collect()
    }

    /// The value if there is only one.
    pub fn scalar(&self) -> Option<f64> {
        if let [value] = self.values[..] { Some(value) } else { None }
    }
}

fn values(tensor: &proto::Tensor) -> Result<Vec<f64>, ModelError> {
    let raw = &tensor.raw_data[..];
    let is_raw = !raw.is_empty();
    let values = match tensor.data_type {
        data_type::FLOAT if is_raw => from_raw(raw, |bytes| f64::from(f32::from_le_bytes(bytes))),
        data_type::DOUBLE if is_raw => from_raw(raw, f64::from_le_bytes),
        data_type::INT64 if is_raw => from_raw(raw, |bytes| i64::from_le_bytes(bytes) as f64),
        data_type::INT32 if is_raw => from_raw(raw, |bytes| f64::from(i32::from_le_bytes(bytes))),
        data_type::UINT8 if is_raw => from_raw(raw, |[byte]| f64::from(byte)),
        data_type::FLOAT => Some(tensor.float_data.iter().copied().map(f64::from).collect()),
        data_type::DOUBLE => Some(tensor.double_data.clone()),
        data_type::INT64 => Some(tensor.int64_data.iter().map(|value| *value as f64).collect()),
        data_type::INT32 | data_type::UINT8 => Some(tensor.int32_data.iter().copied().map(f64::from).collect()),
        // Texts, 16-bit floats and the like: only an error if a use of the scores needs them.
        _ => return Err(unsupported(format!("tensor '{}' is of element type {}", tensor.name, tensor.data_type))),
    };
    values.ok_or_else(|| malformed(format!("tensor '{}' is cut short", tensor.name)))
}

fn from_raw<const SIZE: usize>(raw: &[u8], value: impl Fn([u8; SIZE]) -> f64) -> Option<Vec<f64>> {
    let (values, rest) = raw.as_chunks::<SIZE>();
    rest.is_empty().then(|| values.iter().map(|bytes| value(*bytes)).collect())
}
