//! Whether a network is sound.

use super::{Activation, Layer, Network};
use crate::error::ModelError;

/// Values between two layers, inputs and margins among them.
pub const WIDTH_MAX: usize = 1 << 16;
pub const LAYERS_MAX: usize = 1 << 10;
/// Weights of all layers.
pub const WEIGHTS_MAX: usize = 1 << 28;

impl Network {
    /// Refuses what no device could run: shapes that do not fit, and weights that are not finite, which would make of every
    /// row the same. `format` is for the message.
    pub fn check(&self, format: &'static str) -> Result<(), ModelError> {
        let malformed = |reason: String| ModelError::Malformed { format, reason };
        if self.layers.len() > LAYERS_MAX {
            return Err(ModelError::TooLarge(format!("more than {LAYERS_MAX} layers")));
        }
        let is_width = |width: usize| (1..=WIDTH_MAX).contains(&width);
        if !is_width(self.inputs) {
            return Err(malformed(format!("it has {} columns; 1 to {WIDTH_MAX} are taken", self.inputs)));
        }
        let (mut width, mut total) = (self.inputs, 0);
        for (number, layer) in self.layers.iter().enumerate() {
            let (parameters, is_fitting) = match layer {
                Layer::Dense { weights, bias } => {
                    let is_fitting = is_width(bias.len()) && weights.len() == width * bias.len();
                    width = bias.len();
                    ([&weights[..], &bias[..]], is_fitting)
                }
                Layer::Scale { offset, scale } => {
                    ([&offset[..], &scale[..]], offset.len() == width && scale.len() == width)
                }
                Layer::Activation(Activation::LeakyRelu { alpha }) => ([std::slice::from_ref(alpha), &[][..]], true),
                Layer::Activation(_) => ([&[][..]; 2], true),
            };
            if !is_fitting {
                return Err(malformed(format!("layer {number} does not fit its inputs")));
            }
            if !parameters.iter().all(|values| values.iter().all(|value| value.is_finite())) {
                return Err(malformed(format!("layer {number} has a weight that is not finite")));
            }
            total += parameters[0].len();
        }
        if total > WEIGHTS_MAX {
            return Err(ModelError::TooLarge(format!("more than {WEIGHTS_MAX} weights")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Layer, Network};
    use crate::link::Link;

    #[test]
    fn what_does_not_fit_is_refused() {
        let check = |layers: Vec<Layer>| Network { inputs: 2, layers, link: Link::Identity }.check("onnx").is_ok();
        let dense = |weights: &[f32], bias: &[f32]| Layer::Dense { weights: weights.to_vec(), bias: bias.to_vec() };
        assert!(check(vec![]));
        assert!(check(vec![dense(&[1.0; 6], &[0.0; 3]), dense(&[1.0; 3], &[0.0])]));
        assert!(!check(vec![dense(&[1.0; 6], &[0.0; 3]), dense(&[1.0; 2], &[0.0])]));
        assert!(!check(vec![dense(&[1.0; 5], &[0.0; 3])]));
        assert!(!check(vec![dense(&[], &[])]));
        assert!(!check(vec![dense(&[1.0, f32::NAN], &[0.0])]));
        assert!(!check(vec![Layer::Scale { offset: vec![0.0; 2], scale: vec![1.0; 3] }]));
    }
}
