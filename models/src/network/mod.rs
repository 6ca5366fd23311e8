//! Linear models and perceptrons: matrices and activations, one after the other.
//!
//! INVARIANT: a `Network` that `check` has passed is sound: each layer fits what the one before it gives, and every weight is
//! finite. Readers call it last; devices rely on it.

pub mod exp;

mod check;
mod reference;

use crate::link::Link;

pub use check::{LAYERS_MAX, WEIGHTS_MAX, WIDTH_MAX};

/// Layers over columns of f32; a row's margins are what the last one gives, in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Columns of the input.
    pub inputs: usize,
    pub layers: Vec<Layer>,
    pub link: Link,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// y = W x + b, each sum from its bias on in the order of x, multiplied and added apart (no fused multiply-add).
    Dense {
        /// outputs x inputs, row by row.
        weights: Vec<f32>,
        /// One for each output.
        bias: Vec<f32>,
    },
    /// y = (x - offset) * scale, of each value with its own.
    Scale {
        offset: Vec<f32>,
        scale: Vec<f32>,
    },
    Activation(Activation),
}

/// Of each value; `exp` says how, to the bit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    Relu,
    LeakyRelu { alpha: f32 },
    Sigmoid,
    Tanh,
}

impl Network {
    /// Margins of a row.
    pub fn outputs(&self) -> usize {
        let dense = self.layers.iter().rev().find_map(|layer| match layer {
            Layer::Dense { bias, .. } => Some(bias.len()),
            Layer::Scale { .. } | Layer::Activation(_) => None,
        });
        dense.unwrap_or(self.inputs)
    }
}
