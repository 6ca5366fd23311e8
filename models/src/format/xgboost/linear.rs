//! XGBoost's `gblinear`: a weight for each column and output, and a bias for each output after them.
//!
//! XGBoost adds the products to bias and base score in the order of the columns, in f32. It leaves out what is missing of a row;
//! here a row that misses a value has no margin, which is NaN.

use super::value::Value;
use super::{FORMAT, malformed};
use crate::error::ModelError;
use crate::link::Link;
use crate::network::{Layer, Network};

/// Reads the booster, with base scores that are margins already.
pub fn read(booster: &Value, inputs: usize, base: &[f64], link: Link) -> Result<Network, ModelError> {
    let numbers = booster.field("model")?.numbers("weights")?;
    let outputs = base.len();
    if inputs == 0 || inputs.checked_add(1).and_then(|rows| rows.checked_mul(outputs)) != Some(numbers.len()) {
        return Err(malformed(format!("{} weights of {inputs} features for {outputs} outputs", numbers.len())));
    }
    let (by_column, biases) = numbers.split_at(inputs * outputs);
    let weights: Vec<f32> = (0..outputs)
        .flat_map(|output| by_column.iter().skip(output).step_by(outputs))
        .map(|weight| *weight as f32)
        .collect();
    // XGBoost 3.2 takes the first output's base score for each.
    let base = base.first().copied().unwrap_or_default() as f32;
    let bias: Vec<f32> = biases.iter().map(|bias| *bias as f32 + base).collect();
    let network = Network { inputs, layers: vec![Layer::Dense { weights, bias }], link };
    network.check(FORMAT)?;
    Ok(network)
}
