//! The three detectors that the GPU has as well, over a whole series at once.
//!
//! INVARIANT: the steps beside this file define these detectors, in f64, each operation rounded once and nothing fused;
//! `models/kernels/series.cuh` gives the same scores, bit for bit.

use crate::series::holt_winters::HoltWinters;
use crate::series::robust_z::RobustZ;
use crate::series::weighted_mean::WeightedMean;

/// What those detectors are told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// Values of a robust z-score's window; length of Holt and Winters' season.
    pub window: usize,
    /// Values that a series must have had before it is scored; until then its score is 0. At most a robust z-score's window.
    pub warm_up: usize,
    pub alpha: f64,
    pub beta: f64,
    pub gamma: f64,
    /// Deviations below it count as it: a constant series has none.
    pub deviation_min: f64,
}

impl Parameters {
    /// Scores of a series; a NaN is scored NaN and changes nothing.
    pub fn robust_z(&self, series: &[f32]) -> Vec<f64> {
        let mut state = RobustZ::default();
        scores(series, |x| state.step(self, x))
    }

    /// See `robust_z`.
    pub fn weighted_mean(&self, series: &[f32]) -> Vec<f64> {
        let mut state = WeightedMean::default();
        scores(series, |x| state.step(self, x))
    }

    /// See `robust_z`.
    pub fn holt_winters(&self, series: &[f32]) -> Vec<f64> {
        let mut state = HoltWinters::default();
        scores(series, |x| state.step(self, x))
    }

    /// How far something is from what was expected, in deviations.
    pub(crate) fn deviations(&self, error: f64, deviation: f64) -> f64 {
        error / if deviation > self.deviation_min { deviation } else { self.deviation_min }
    }
}

fn scores(series: &[f32], mut step: impl FnMut(f64) -> f64) -> Vec<f64> {
    let score = |x: &f32| if x.is_nan() { f64::NAN } else { step(f64::from(*x)) };
    series.iter().map(score).collect()
}
