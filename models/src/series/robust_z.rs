//! How far a value is from the median of the window before it, in median absolute deviations.
//!
//! (x - median) / (1.4826 MAD). Half of the window may be anomalous before median and MAD follow it, where one value is enough
//! for mean and standard deviation (Iglewicz and Hoaglin, "How to detect and handle outliers", 1993; Leys et al., "Detecting
//! outliers: Do not use standard deviation around the mean, use absolute deviation around the median", 2013).

use std::collections::VecDeque;

use crate::series::encoding::{Reader, Writer};
use crate::series::error::SeriesError;
use crate::series::parameters::Parameters;

/// 1 / the normal distribution's third quartile: makes the median absolute deviation an estimate of sigma.
const MAD_SCALE: f64 = 1.482_602_218_505_601_8;

/// The window's values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RobustZ {
    /// As they came, the oldest first.
    values: VecDeque<f64>,
    /// As they ascend: a median without sorting for each value.
    sorted: Vec<f64>,
}

impl RobustZ {
    /// The score of `x`, which is no NaN.
    pub(crate) fn step(&mut self, parameters: &Parameters, x: f64) -> f64 {
        let count = self.sorted.len();
        let mut score = 0.0;
        if count != 0 && count >= parameters.warm_up {
            let median = median(&self.sorted);
            score = parameters.deviations(x - median, MAD_SCALE * absolute_deviation(&self.sorted, median));
        }
        if count == parameters.window {
            let oldest = self.values.pop_front().expect("a window has a value");
            let at = self.sorted.partition_point(|value| *value < oldest);
            self.sorted.remove(at);
        }
        self.values.push_back(x);
        let at = self.sorted.partition_point(|value| *value < x);
        self.sorted.insert(at, x);
        score
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.numbers(self.values.iter().copied());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, parameters: &Parameters) -> Result<Self, SeriesError> {
        let values = reader.numbers(parameters.window)?;
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        Ok(Self { values: values.into(), sorted })
    }
}

/// The mean of the two middle values of ascending ones.
fn median(sorted: &[f64]) -> f64 {
    let count = sorted.len();
    if count % 2 == 1 { sorted[count / 2] } else { (sorted[count / 2 - 1] + sorted[count / 2]) * 0.5 }
}

/// The median of |value - median|: from the middle outward the deviations of both sides ascend, so they are merged.
fn absolute_deviation(sorted: &[f64], median: f64) -> f64 {
    let count = sorted.len();
    let mut right = sorted.partition_point(|value| *value < median);
    let mut left = right;
    let (mut before, mut at) = (0.0, 0.0);
    for _ in 0..=count / 2 {
        before = at;
        let of_left = if left > 0 { median - sorted[left - 1] } else { f64::INFINITY };
        let of_right = if right < count { sorted[right] - median } else { f64::INFINITY };
        if left > 0 && (right == count || of_left <= of_right) {
            at = of_left;
            left -= 1;
        } else {
            at = of_right;
            right += 1;
        }
    }
    if count % 2 == 1 { at } else { (before + at) * 0.5 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By sorting, for each value.
    fn plain(parameters: &Parameters, series: &[f64]) -> Vec<f64> {
        let sorted_median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            median(&values)
        };
        let score = |(at, x): (usize, &f64)| {
            let window = &series[at.saturating_sub(parameters.window)..at];
            if window.is_empty() || window.len() < parameters.warm_up {
                return 0.0;
            }
            let median = sorted_median(window.to_vec());
            let deviation = sorted_median(window.iter().map(|value| (value - median).abs()).collect());
            (x - median) / (MAD_SCALE * deviation).max(parameters.deviation_min)
        };
        series.iter().enumerate().map(score).collect()
    }

    proptest! {
        #[test]
        fn a_window_that_is_kept_sorted_gives_what_sorting_gives(
            // Few distinct values, so that medians are met and the deviation is 0 at times; and many.
            series in prop_oneof![
                prop::collection::vec((1..5_i32).prop_map(f64::from), 0..120),
                prop::collection::vec(-1e3..1e3_f64, 0..120),
            ],
            window in 1..20_usize,
            warm_up in 0..20_usize,
        ) {
            let warm_up = warm_up.min(window);
            let parameters = Parameters { window, warm_up, alpha: 0.5, beta: 0.5, gamma: 0.5, deviation_min: 1e-3 };
            let mut state = RobustZ::default();
            let scores: Vec<f64> = series.iter().map(|x| state.step(&parameters, *x)).collect();
            prop_assert_eq!(scores, plain(&parameters, &series));
        }
    }

    #[test]
    fn half_of_a_window_may_be_anomalous() {
        let parameters = Parameters { window: 9, warm_up: 9, alpha: 0.5, beta: 0.5, gamma: 0.5, deviation_min: 1e-3 };
        let mut state = RobustZ::default();
        for x in [9.0, 10.0, 11.0, 10.0, 9.0, 1e6, 1e6, 1e6, 1e6] {
            state.step(&parameters, x);
        }
        // The window's median is 11, and the middle one of 2, 1, 0, 1, 2 and four of 999,989 is 2.
        assert_eq!(state.step(&parameters, 13.0), 2.0 / (MAD_SCALE * 2.0));
    }
}
