//! What the detectors' kernels give, written down as plainly as it can be. Forests, networks and nearest rows have their own
//! references. Each operation rounds once; nothing is fused.

/// What detectors are told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detector {
    /// Values of a robust z-score's window; length of Holt and Winters' season.
    pub window: usize,
    /// Values that a series must have had before it is scored; until then its score is 0.
    pub warm_up: usize,
    pub alpha: f64,
    pub beta: f64,
    pub gamma: f64,
    /// Deviations below it count as it.
    pub deviation_min: f64,
}

/// 1 / the normal distribution's third quartile.
const MAD_SCALE: f64 = 1.482_602_218_505_601_8;

impl Detector {
    /// Scores of a series: (x - median) / (1.4826 MAD) of the window before x.
    pub fn robust_z(&self, series: &[f32]) -> Vec<f64> {
        let mut window: Vec<f64> = Vec::new();
        let score = |x: &f32| {
            let x = f64::from(*x);
            if x.is_nan() {
                return x;
            }
            let mut score = 0.0;
            if !window.is_empty() && window.len() >= self.warm_up {
                let median = median(window.clone());
                let deviations = window.iter().map(|value| (value - median).abs()).collect();
                score = (x - median) / self.deviation(MAD_SCALE * self::median(deviations));
            }
            if window.len() == self.window {
                window.remove(0);
            }
            window.push(x);
            score
        };
        series.iter().map(score).collect()
    }

    /// By the exponentially weighted mean and variance before x.
    pub fn weighted_mean(&self, series: &[f32]) -> Vec<f64> {
        let (mut mean, mut variance, mut seen) = (0.0, 0.0_f64, 0);
        let score = |x: &f32| {
            let x = f64::from(*x);
            if x.is_nan() {
                return x;
            }
            let mut score = 0.0;
            if seen == 0 {
                mean = x;
            } else {
                let error = x - mean;
                if seen >= self.warm_up {
                    score = error / self.deviation(variance.sqrt());
                }
                let step = self.alpha * error;
                mean += step;
                variance = (1.0 - self.alpha) * (variance + error * step);
            }
            seen += 1;
            score
        };
        series.iter().map(score).collect()
    }

    /// By Holt and Winters' forecast of x.
    pub fn holt_winters(&self, series: &[f32]) -> Vec<f64> {
        let (mut level, mut trend, mut variance, mut seen) = (0.0, 0.0, 0.0_f64, 0);
        let mut season: Vec<f64> = Vec::new();
        let score = |x: &f32| {
            let x = f64::from(*x);
            if x.is_nan() {
                return x;
            }
            seen += 1;
            if season.len() < self.window {
                season.push(x);
                level += x;
                if season.len() == self.window {
                    level /= self.window as f64;
                    season.iter_mut().for_each(|value| *value -= level);
                }
                return 0.0;
            }
            let seasonal = season.get_mut((seen - 1) % self.window).expect("within the season");
            let carried = level + trend;
            let error = x - (carried + *seasonal);
            let score = if seen - 1 < self.warm_up { 0.0 } else { error / self.deviation(variance.sqrt()) };
            let risen = self.alpha * (x - *seasonal) + (1.0 - self.alpha) * carried;
            trend = self.beta * (risen - level) + (1.0 - self.beta) * trend;
            *seasonal = self.gamma * (x - risen) + (1.0 - self.gamma) * *seasonal;
            variance = self.alpha * (error * error) + (1.0 - self.alpha) * variance;
            level = risen;
            score
        };
        series.iter().map(score).collect()
    }

    fn deviation(&self, deviation: f64) -> f64 {
        if deviation > self.deviation_min { deviation } else { self.deviation_min }
    }
}

/// The mean of the two middle values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    if count % 2 == 1 { values[count / 2] } else { (values[count / 2 - 1] + values[count / 2]) * 0.5 }
}
