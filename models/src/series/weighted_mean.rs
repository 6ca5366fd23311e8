//! How far a value is from the exponentially weighted mean of those before it, in deviations that are weighted alike.
//!
//! ```text
//! score = (x - mean) / sqrt(variance)
//! mean' = mean + alpha (x - mean)        variance' = (1 - alpha) (variance + alpha (x - mean)^2)
//! ```
//!
//! Finch, "Incremental calculation of weighted mean and variance", 2009; the chart is Roberts', 1959.

use crate::series::encoding::{Reader, Writer};
use crate::series::error::SeriesError;
use crate::series::parameters::Parameters;

/// Of the values so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WeightedMean {
    mean: f64,
    variance: f64,
    seen: u64,
}

impl WeightedMean {
    /// The score of `x`, which is no NaN.
    pub(crate) fn step(&mut self, parameters: &Parameters, x: f64) -> f64 {
        let mut score = 0.0;
        if self.seen == 0 {
            self.mean = x;
        } else {
            let error = x - self.mean;
            if self.seen >= parameters.warm_up as u64 {
                score = parameters.deviations(error, self.variance.sqrt());
            }
            let step = parameters.alpha * error;
            self.mean += step;
            self.variance = (1.0 - parameters.alpha) * (self.variance + error * step);
        }
        self.seen = self.seen.saturating_add(1);
        score
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.float(self.mean);
        writer.float(self.variance);
        writer.count(self.seen);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, SeriesError> {
        let state = Self { mean: reader.float()?, variance: reader.float()?, seen: reader.count()? };
        if state.variance < 0.0 { Err(SeriesError::Damaged("a variance below 0")) } else { Ok(state) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_the_formula() {
        let parameters = Parameters { window: 1, warm_up: 2, alpha: 0.5, beta: 0.0, gamma: 0.0, deviation_min: 0.25 };
        let mut state = WeightedMean::default();
        // mean 4, variance 0; then 4 + 2 and 0.5 (0 + 4 2); then the deviation is 2, and 9 is 3 from 6.
        assert_eq!([4.0, 8.0, 9.0].map(|x| state.step(&parameters, x)), [0.0, 0.0, 1.5]);
    }

    #[test]
    fn a_constant_series_has_the_least_deviation() {
        let parameters = Parameters { window: 1, warm_up: 1, alpha: 0.5, beta: 0.0, gamma: 0.0, deviation_min: 0.25 };
        let mut state = WeightedMean::default();
        assert_eq!([4.0, 4.0, 5.0].map(|x| state.step(&parameters, x)), [0.0, 0.0, 4.0]);
    }
}
