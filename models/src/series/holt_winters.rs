//! How far a value is from Holt and Winters' forecast of it, in deviations of such errors.
//!
//! ```text
//! error  = x - (level + trend + season[i])                   score = error / sqrt(variance)
//! level' = alpha (x - season[i]) + (1 - alpha) (level + trend)
//! trend' = beta (level' - level) + (1 - beta) trend
//! season'[i] = gamma (x - level') + (1 - gamma) season[i]
//! variance'  = alpha error^2 + (1 - alpha) variance
//! ```
//!
//! The additive method of Winters, "Forecasting sales by exponentially weighted moving averages", 1960. The first season is
//! taken as it comes: its mean is the level, what remains is the season, and nothing of it is scored.
//!
//! SUBTLE: a season is so many values, not so much time: a series with gaps is out of step after them. Fill them first.

use crate::series::encoding::{Reader, Writer};
use crate::series::error::SeriesError;
use crate::series::parameters::Parameters;

/// The forecast's parts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HoltWinters {
    level: f64,
    trend: f64,
    variance: f64,
    seen: u64,
    /// While the first season lasts, its values as they came.
    season: Vec<f64>,
}

impl HoltWinters {
    /// The score of `x`, which is no NaN.
    pub(crate) fn step(&mut self, parameters: &Parameters, x: f64) -> f64 {
        let period = parameters.window;
        let place = (self.seen % period as u64) as usize;
        self.seen = self.seen.wrapping_add(1);
        if self.season.len() < period {
            self.season.push(x);
            self.level += x;
            if self.season.len() == period {
                self.level /= period as f64;
                self.season.iter_mut().for_each(|value| *value -= self.level);
            }
            return 0.0;
        }
        let Parameters { alpha, beta, gamma, .. } = *parameters;
        let seasonal = self.season[place];
        let carried = self.level + self.trend;
        let error = x - (carried + seasonal);
        let is_scored = self.seen > parameters.warm_up as u64;
        let score = if is_scored { parameters.deviations(error, self.variance.sqrt()) } else { 0.0 };
        let risen = alpha * (x - seasonal) + (1.0 - alpha) * carried;
        self.trend = beta * (risen - self.level) + (1.0 - beta) * self.trend;
        self.season[place] = gamma * (x - risen) + (1.0 - gamma) * seasonal;
        self.variance = alpha * (error * error) + (1.0 - alpha) * self.variance;
        self.level = risen;
        score
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.float(self.level);
        writer.float(self.trend);
        writer.float(self.variance);
        writer.count(self.seen);
        writer.numbers(self.season.iter().copied());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, parameters: &Parameters) -> Result<Self, SeriesError> {
        let (level, trend, variance) = (reader.float()?, reader.float()?, reader.float()?);
        let (seen, season) = (reader.count()?, reader.numbers(parameters.window)?);
        if season.len() as u64 != seen.min(parameters.window as u64) {
            return Err(SeriesError::Damaged("a season of another length than its values make"));
        }
        if variance < 0.0 {
            return Err(SeriesError::Damaged("a variance below 0"));
        }
        Ok(Self { level, trend, variance, seen, season })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_season_with_a_level_is_forecast_once_it_was_seen() {
        let parameters = Parameters { window: 4, warm_up: 4, alpha: 0.5, beta: 0.5, gamma: 0.5, deviation_min: 1.0 };
        let mut state = HoltWinters::default();
        let season = [10.0, 20.0, 40.0, 10.0];
        for x in season.repeat(3) {
            assert_eq!(state.step(&parameters, x), 0.0);
        }
        // The second of the season is expected.
        assert_eq!(state.step(&parameters, 13.0), 3.0);
    }

    #[test]
    fn a_trend_is_learnt() {
        let parameters = Parameters { window: 1, warm_up: 1, alpha: 0.5, beta: 0.5, gamma: 0.0, deviation_min: 1.0 };
        let mut state = HoltWinters::default();
        let scores: Vec<f64> = (0..60).map(|x| state.step(&parameters, f64::from(x))).collect();
        assert!(scores[1] == 1.0 && scores[59].abs() < 1e-3, "{scores:?}");
    }
}
