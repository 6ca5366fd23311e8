//! What a network gives, written down as plainly as it can be: the definition that every device is compared with.

use super::exp::{sigmoid, tanh};
use super::{Activation, Layer, Network};

impl Network {
    /// The margins of a row of `self.inputs` values. What is not a number stays so, whatever its bits.
    pub fn margins(&self, row: &[f32]) -> Vec<f32> {
        let mut values = row.to_vec();
        for layer in &self.layers {
            match layer {
                Layer::Dense { weights, bias } => {
                    let sum = |(weights, bias): (&[f32], &f32)| {
                        weights.iter().zip(&values).fold(*bias, |sum, (weight, x)| sum + weight * x)
                    };
                    values = weights.chunks_exact(values.len()).zip(bias).map(sum).collect();
                }
                Layer::Scale { offset, scale } => {
                    for ((x, offset), scale) in values.iter_mut().zip(offset).zip(scale) {
                        *x = (*x - offset) * scale;
                    }
                }
                Layer::Activation(activation) => values.iter_mut().for_each(|x| *x = activation.apply(*x)),
            }
        }
        values
    }
}

impl Activation {
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Relu if x < 0.0 => 0.0,
            Self::Relu => x,
            Self::LeakyRelu { alpha } if x < 0.0 => alpha * x,
            Self::LeakyRelu { .. } => x,
            Self::Sigmoid => sigmoid(x),
            Self::Tanh => tanh(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Activation, Layer, Network};
    use crate::link::Link;

    #[test]
    fn sums_start_at_the_bias_and_go_by_the_order_of_inputs() {
        let dense = Layer::Dense { weights: vec![1.0, 1.0, 1.0, -2.0, 0.5, 0.0], bias: vec![1e8, 0.25] };
        let relu = Layer::Activation(Activation::Relu);
        let network = Network { inputs: 3, layers: vec![dense, relu], link: Link::Identity };
        // 1e8 + 4 + 4 + -1e8: each 4 is lost on the way, as half a unit of the last place of 1e8 is; from 0 on they would not be.
        assert_eq!(network.margins(&[4.0, 4.0, -1e8]), [0.0, 0.0]);
        assert_eq!(network.margins(&[8.0, -2.0, -1e8]), [8.0, 0.0]);
        assert_eq!(network.outputs(), 2);
    }

    #[test]
    fn scales_move_first() {
        let layers = vec![Layer::Scale { offset: vec![1.0, -1.0], scale: vec![3.0, 0.5] }];
        let network = Network { inputs: 2, layers, link: Link::Identity };
        assert_eq!(network.margins(&[2.0, 2.0]), [3.0, 1.5]);
    }
}
