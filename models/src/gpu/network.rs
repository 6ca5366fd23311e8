//! A network as the kernels of `models/kernels/network.cu` read it: a step for each dense layer with the activation that
//! follows it, and one for each activation that follows none.

use super::abi::{DENSE_OUTPUTS, DenseArgs};
use super::image::Image;
use crate::network::{Activation, Layer, Network};

/// A network, laid out.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkImage {
    pub image: Image,
    pub steps: Vec<Step>,
    pub inputs: usize,
    pub outputs: usize,
    /// The widest result of a step.
    pub width_max: usize,
}

/// A kernel's call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub inputs: usize,
    pub outputs: usize,
    /// Where its weights and bias are, if it has such.
    dense: Option<(usize, usize)>,
    activation: u32,
    alpha: f32,
}

impl NetworkImage {
    pub fn new(network: &Network) -> Self {
        let mut image = Image::default();
        let mut steps: Vec<Step> = Vec::new();
        let mut width = network.inputs;
        for layer in &network.layers {
            match layer {
                Layer::Dense { weights, bias } => {
                    let dense = Some((image.push_f32(weights), image.push_f32(bias)));
                    let outputs = bias.len();
                    steps.push(Step { inputs: width, outputs, dense, activation: 0, alpha: 0.0 });
                    width = outputs;
                }
                Layer::Activation(activation) => {
                    let (activation, alpha) = bits(*activation);
                    match steps.last_mut() {
                        Some(step) if step.activation == 0 => (step.activation, step.alpha) = (activation, alpha),
                        _ => steps.push(Step { inputs: width, outputs: width, dense: None, activation, alpha }),
                    }
                }
            }
        }
        if steps.is_empty() {
            steps.push(Step { inputs: width, outputs: width, dense: None, activation: 0, alpha: 0.0 });
        }
        let width_max = steps.iter().map(|step| step.outputs).max().unwrap_or(width);
        Self { image, steps, inputs: network.inputs, outputs: width, width_max }
    }
}

impl Step {
    /// The kernel's name.
    pub fn kernel(&self) -> &'static str {
        if self.dense.is_some() { "network_dense" } else { "network_activation" }
    }

    /// Blocks of its grid in y, one for the outputs that a thread computes.
    pub fn blocks(&self) -> usize {
        if self.dense.is_some() { self.outputs.div_ceil(DENSE_OUTPUTS) } else { self.outputs }
    }

    /// A call: from the columns at `x` to those at `y`, `stride` values apart.
    pub fn args(&self, image: u64, x: u64, y: u64, stride: usize, rows: usize) -> DenseArgs {
        let (weights, bias) = self.dense.unwrap_or_default();
        DenseArgs {
            x,
            y,
            weights: image + weights as u64,
            bias: image + bias as u64,
            stride: stride as u64,
            rows: rows as u32,
            inputs: self.inputs as u32,
            outputs: self.outputs as u32,
            activation: self.activation,
            alpha: self.alpha,
            unused: 0,
        }
    }
}

fn bits(activation: Activation) -> (u32, f32) {
    match activation {
        Activation::Relu => (1, 0.0),
        Activation::LeakyRelu { alpha } => (2, alpha),
        Activation::Sigmoid => (3, 0.0),
        Activation::Tanh => (4, 0.0),
    }
}
