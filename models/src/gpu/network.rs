//! A network as the kernels of `models/kernels/network.cu` read it: a step for each dense layer and each scale, with the
//! activation that follows it, and one for each activation that follows none.

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
    before: Before,
    activation: u32,
    alpha: f32,
}

/// What a step does before its activation, by the parameters at these places of the image.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    Dense { weights: usize, bias: usize },
    Scale { offset: usize, scale: usize },
    Nothing,
}

impl NetworkImage {
    pub fn new(network: &Network) -> Self {
        let mut image = Image::default();
        let mut steps: Vec<Step> = Vec::new();
        let mut width = network.inputs;
        for layer in &network.layers {
            match layer {
                Layer::Dense { weights, bias } => {
                    let before = Before::Dense { weights: image.push_f32(weights), bias: image.push_f32(bias) };
                    steps.push(Step::new(width, bias.len(), before));
                    width = bias.len();
                }
                Layer::Scale { offset, scale } => {
                    let before = Before::Scale { offset: image.push_f32(offset), scale: image.push_f32(scale) };
                    steps.push(Step::new(width, width, before));
                }
                Layer::Activation(activation) => {
                    let (activation, alpha) = bits(*activation);
                    match steps.last_mut() {
                        Some(step) if step.activation == 0 => (step.activation, step.alpha) = (activation, alpha),
                        _ => steps.push(Step { activation, alpha, ..Step::new(width, width, Before::Nothing) }),
                    }
                }
            }
        }
        if steps.is_empty() {
            steps.push(Step::new(width, width, Before::Nothing));
        }
        let width_max = steps.iter().map(|step| step.outputs).max().unwrap_or(width);
        Self { image, steps, inputs: network.inputs, outputs: width, width_max }
    }
}

impl Step {
    fn new(inputs: usize, outputs: usize, before: Before) -> Self {
        Self { inputs, outputs, before, activation: 0, alpha: 0.0 }
    }

    /// The kernel's name.
    pub fn kernel(&self) -> &'static str {
        match self.before {
            Before::Dense { .. } => "network_dense",
            Before::Scale { .. } => "network_scale",
            Before::Nothing => "network_activation",
        }
    }

    /// Blocks of its grid in y, one for the outputs that a thread computes.
    pub fn blocks(&self) -> usize {
        if matches!(self.before, Before::Dense { .. }) { self.outputs.div_ceil(DENSE_OUTPUTS) } else { self.outputs }
    }

    /// A call: from the columns at `x` to those at `y`, `stride` values apart.
    pub fn args(&self, image: u64, x: u64, y: u64, stride: usize, rows: usize) -> DenseArgs {
        let (weights, bias) = match self.before {
            Before::Dense { weights, bias } => (weights, bias),
            Before::Scale { offset, scale } => (scale, offset),
            Before::Nothing => (0, 0),
        };
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
