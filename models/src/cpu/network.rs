//! Networks on the CPU: a block of rows goes through a layer together, value by value, so that the rows fill a vector unit.
//! Within a row, sums keep the order of the reference.

use super::Columns;
use crate::network::{Layer, Network};

/// Rows of a block.
const LANES: usize = 64;

/// One value of each row of a block.
type Lanes = [f32; LANES];

/// A network made ready for the CPU.
pub struct NetworkProgram {
    network: Network,
}

impl NetworkProgram {
    /// Of a network that `Network::check` has passed.
    pub fn new(network: &Network) -> Self {
        Self { network: network.clone() }
    }

    /// The margins of a batch, row by row, by so many threads at most.
    /// Panics if there are fewer columns than the network has inputs.
    pub fn margins_by(&self, threads: usize, columns: &Columns<'_>) -> Vec<f32> {
        let width = self.network.outputs();
        let mut out = vec![0.0; columns.rows() * width];
        let share = columns.rows().div_ceil(threads.max(1)).next_multiple_of(LANES).max(LANES);
        if columns.rows() <= share {
            self.run(columns, 0, &mut out);
            return out;
        }
        std::thread::scope(|scope| {
            for (number, out) in out.chunks_mut(share * width).enumerate() {
                scope.spawn(move || self.run(columns, number * share, out));
            }
        });
        out
    }

    fn run(&self, columns: &Columns<'_>, start: usize, out: &mut [f32]) {
        let width = self.network.outputs();
        let (mut values, mut next): (Vec<Lanes>, Vec<Lanes>) = (Vec::new(), Vec::new());
        for (block, out) in out.chunks_mut(LANES * width).enumerate() {
            let rows = out.len() / width;
            values.clear();
            values.resize(self.network.inputs, [0.0; LANES]);
            for (feature, lanes) in values.iter_mut().enumerate() {
                columns.column(feature as u32).copy(start + block * LANES, &mut lanes[..rows]);
            }
            for layer in &self.network.layers {
                step(layer, &mut values, &mut next);
            }
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                out.iter_mut().zip(&values).for_each(|(to, lanes)| *to = lanes[row]);
            }
        }
    }
}

/// A layer of a block.
fn step(layer: &Layer, values: &mut Vec<Lanes>, next: &mut Vec<Lanes>) {
    match layer {
        Layer::Dense { weights, bias } => {
            next.clear();
            for (weights, bias) in weights.chunks_exact(values.len()).zip(bias) {
                let mut sums = [*bias; LANES];
                for (weight, lanes) in weights.iter().zip(&*values) {
                    sums.iter_mut().zip(lanes).for_each(|(sum, x)| *sum += weight * x);
                }
                next.push(sums);
            }
            std::mem::swap(values, next);
        }
        Layer::Scale { offset, scale } => {
            for ((lanes, offset), scale) in values.iter_mut().zip(offset).zip(scale) {
                lanes.iter_mut().for_each(|x| *x = (*x - offset) * scale);
            }
        }
        Layer::Activation(activation) => {
            values.iter_mut().flatten().for_each(|x| *x = activation.apply(*x));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::NetworkProgram;
    use crate::cpu::{Column, Columns};
    use crate::link::Link;
    use crate::network::{Activation, Layer, Network};

    fn network(random: &mut StdRng) -> Network {
        let inputs = random.random_range(1..9);
        let (mut layers, mut width) = (Vec::new(), inputs);
        for _ in 0..random.random_range(0..6) {
            let mut values = |count: usize| (0..count).map(|_| random.random_range(-2.0..2.0)).collect::<Vec<f32>>();
            let kind = values(1)[0];
            layers.push(if kind < 0.0 {
                let outputs = 1 + (-kind * 4.0) as usize;
                let dense = Layer::Dense { weights: values(outputs * width), bias: values(outputs) };
                width = outputs;
                dense
            } else if kind < 0.4 {
                Layer::Scale { offset: values(width), scale: values(width) }
            } else {
                let alpha = values(1)[0];
                let all = [Activation::Relu, Activation::LeakyRelu { alpha }, Activation::Sigmoid, Activation::Tanh];
                Layer::Activation(all[((kind - 0.4) * 2.5) as usize % 4])
            });
        }
        Network { inputs, layers, link: Link::Identity }
    }

    proptest! {
        #[test]
        fn margins_are_those_of_the_reference(seed in any::<u64>(), rows in 0..300_usize, threads in 1..4_usize) {
            let mut random = StdRng::seed_from_u64(seed);
            let network = network(&mut random);
            let mut value = || match random.random_range(0..10) {
                0 => f32::NAN,
                1 => f32::from_bits(random.random()),
                _ => random.random_range(-3.0..3.0),
            };
            let columns: Vec<Vec<f32>> = (0..network.inputs).map(|_| (0..rows).map(|_| value()).collect()).collect();
            let batch = Columns::new(columns.iter().map(|column| Column::from(column.as_slice())).collect());
            let margins = NetworkProgram::new(&network).margins_by(threads, &batch);
            for row in 0..rows {
                let expected = network.margins(&columns.iter().map(|column| column[row]).collect::<Vec<_>>());
                for (margin, expected) in margins[row * expected.len()..].iter().zip(&expected) {
                    prop_assert!(
                        margin.to_bits() == expected.to_bits() || margin.is_nan() && expected.is_nan(),
                        "row {row}: {margin} is not {expected}"
                    );
                }
            }
        }
    }
}
