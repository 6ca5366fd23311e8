//! Layers of perceptrons: what Gemm, MatMul and Add take.

use super::attributes::Attributes;
use super::tensor::Tensor;
use super::{malformed, unsupported};
use crate::error::ModelError;
use crate::network::Layer;

/// alpha x W + beta b.
pub fn gemm(attributes: &mut Attributes, weights: &Tensor, bias: Option<&Tensor>) -> Result<Layer, ModelError> {
    let (alpha, beta) = (attributes.float("alpha", 1.0)?, attributes.float("beta", 1.0)?);
    if attributes.int("transA", 0)? != 0 {
        return Err(unsupported("a Gemm of transposed columns"));
    }
    let is_transposed = attributes.int("transB", 0)? != 0;
    let mut weights = matrix(weights, is_transposed)?;
    weights.values.iter_mut().for_each(|weight| *weight *= alpha);
    let mut bias = bias.map_or(Ok(vec![0.0; weights.rows]), |bias| row(bias, weights.rows))?;
    bias.iter_mut().for_each(|bias| *bias *= beta);
    Ok(Layer::Dense { weights: weights.values, bias })
}

/// x W.
pub fn matmul(weights: &Tensor) -> Result<Layer, ModelError> {
    let weights = matrix(weights, false)?;
    Ok(Layer::Dense { bias: vec![0.0; weights.rows], weights: weights.values })
}

/// Weights by output.
struct Matrix {
    rows: usize,
    values: Vec<f32>,
}

fn matrix(tensor: &Tensor, is_by_output: bool) -> Result<Matrix, ModelError> {
    let [first, second] = tensor.dims[..] else {
        return Err(unsupported(format!("weights of dimensions {:?}", tensor.dims)));
    };
    if first == 0 || second == 0 {
        return Err(malformed("a layer without weights"));
    }
    let values = tensor.to_f32();
    if is_by_output {
        return Ok(Matrix { rows: first, values });
    }
    let values = (0..second).flat_map(|output| values[output..].iter().step_by(second).copied()).collect();
    Ok(Matrix { rows: second, values })
}

/// A tensor that is added to each row: one value of each column, or one of all.
pub fn row(tensor: &Tensor, width: usize) -> Result<Vec<f32>, ModelError> {
    let is_row = tensor.dims.iter().rev().skip(1).all(|dim| *dim == 1);
    match tensor.scalar() {
        Some(value) if is_row => Ok(vec![value as f32; width]),
        None if is_row && tensor.dims.last() == Some(&width) => Ok(tensor.to_f32()),
        _ => Err(unsupported(format!("a tensor of dimensions {:?} added to {width} columns", tensor.dims))),
    }
}
