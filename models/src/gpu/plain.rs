//! What the kernels give, written down as plainly as it can be: networks and nearest rows. Forests have their own reference, and
//! detectors are defined in `series`. Each operation rounds once; nothing is fused.

use crate::network::{Activation, Layer, Network};
pub use crate::series::Parameters as Detector;

/// Margins of a row.
pub fn network(network: &Network, row: &[f32]) -> Vec<f32> {
    let mut values = row.to_vec();
    for layer in &network.layers {
        values = match layer {
            Layer::Dense { weights, bias } => {
                let sum = |(weights, bias): (&[f32], &f32)| {
                    weights.iter().zip(&values).fold(*bias, |sum, (weight, x)| sum + weight * x)
                };
                weights.chunks_exact(values.len()).zip(bias).map(sum).collect()
            }
            Layer::Activation(activation) => values.iter().map(|x| activate(*activation, *x)).collect(),
        };
    }
    values
}

/// Of one value.
pub fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::LeakyRelu { alpha } => {
            if x < 0.0 {
                alpha * x
            } else {
                x
            }
        }
        Activation::Sigmoid => 1.0 / (1.0 + exp(-x)),
        Activation::Tanh => tanh(x),
    }
}

/// See `models/kernels/exp.cuh`.
#[expect(clippy::excessive_precision, clippy::approx_constant, reason = "the constants are Cephes', digit by digit")]
pub fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    if x > 88.722_839_052_068_35 {
        return f32::INFINITY;
    }
    if x < -104.0 {
        return 0.0;
    }
    let whole = (1.442_695_040_888_963_41 * x + 0.5).floor();
    let r = x - whole * 0.693_359_375;
    let r = r - whole * -2.121_944_40e-4;
    let coefficients =
        [1.398_199_950_7e-3, 8.333_451_907_3e-3, 4.166_579_589_4e-2, 1.666_666_545_9e-1, 5.000_000_120_1e-1];
    let p = coefficients.iter().fold(1.987_569_150_0e-4_f32, |p, coefficient| p * r + coefficient);
    let y = p * (r * r) + r + 1.0;
    let power_of_two = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let n = whole as i32;
    y * power_of_two(n / 2) * power_of_two(n - n / 2)
}

#[expect(clippy::excessive_precision, reason = "the constants are Cephes', digit by digit")]
fn tanh(x: f32) -> f32 {
    if x.abs() >= 0.625 {
        let y = 1.0 - 2.0 / (exp(x.abs() + x.abs()) + 1.0);
        return if x < 0.0 { -y } else { y };
    }
    let square = x * x;
    let coefficients = [2.063_908_879_54e-2, -5.373_971_555_31e-2, 1.333_144_220_36e-1, -3.333_328_194_22e-1];
    let p = coefficients.iter().fold(-5.704_988_727_45e-3_f32, |p, coefficient| p * square + coefficient);
    p * square * x + x
}

/// 16 partial sums, the j-th of the products j, j + 16, ..; then j takes j + 8, j + 4, j + 2, j + 1.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    for (at, (a, b)) in a.iter().zip(b).enumerate() {
        sums[at % 16] += a * b;
    }
    for distance in [8, 4, 2, 1] {
        for at in 0..distance {
            sums[at] += sums[at + distance];
        }
    }
    sums[0]
}

/// 1 - a . b / (|a| |b|); 1 if either has no length, infinity if it is no number.
pub fn cosine_distance(a: &[f32], b: &[f32]) -> f32 {
    let product = dot(a, a).sqrt() * dot(b, b).sqrt();
    if product == 0.0 {
        return 1.0;
    }
    let distance = 1.0 - dot(a, b) / product;
    if distance.is_nan() { f32::INFINITY } else { distance }
}

/// The `k` rows that are nearest to a query, each with its distance, the nearest and of equals the lower first.
pub fn nearest(matrix: &[f32], query: &[f32], k: usize) -> Vec<(u32, f32)> {
    let distance = |(row, values): (usize, &[f32])| (row as u32, cosine_distance(query, values));
    let mut all: Vec<_> = matrix.chunks_exact(query.len()).enumerate().map(distance).collect();
    all.sort_by(|a, b| a.1.partial_cmp(&b.1).expect("no distance is NaN").then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}
