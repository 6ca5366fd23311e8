//! What a user says of a detector, its defaults and its bounds.

use serde::{Deserialize, Serialize};

use crate::series::encoding::hash;
use crate::series::error::SeriesError;
use crate::series::half_space::{DEPTH_MAX, SHINGLE_MAX};
use crate::series::parameters::Parameters;

/// Values that a window or a season may have: as many as the kernels' (`WINDOW_MAX`).
const WINDOW_MAX: usize = 4096;
const TREES_MAX: usize = 256;
/// Points of a random cut tree.
const SAMPLE_MAX: usize = 1024;

/// A detector's settings. See each detector's file for what they do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Settings {
    RobustZ {
        #[serde(default = "defaults::window")]
        window: usize,
        #[serde(default = "defaults::warm_up")]
        warm_up: usize,
        #[serde(default = "defaults::deviation_min")]
        deviation_min: f64,
    },
    WeightedMean {
        #[serde(default = "defaults::alpha")]
        alpha: f64,
        #[serde(default = "defaults::warm_up")]
        warm_up: usize,
        #[serde(default = "defaults::deviation_min")]
        deviation_min: f64,
    },
    HoltWinters {
        /// Values of a season: nobody else knows.
        season: usize,
        #[serde(default = "defaults::alpha")]
        alpha: f64,
        #[serde(default = "defaults::beta")]
        beta: f64,
        #[serde(default = "defaults::gamma")]
        gamma: f64,
        /// Without it two seasons: of the first it takes what is usual, in the second it learns by how much it errs.
        warm_up: Option<usize>,
        #[serde(default = "defaults::deviation_min")]
        deviation_min: f64,
    },
    HalfSpaceTrees(HalfSpaceSettings),
    RandomCutForest(RandomCutSettings),
}

/// Of what a user does not say; the rates are those that did well on NAB's series.
mod defaults {
    pub fn window() -> usize {
        256
    }

    pub fn warm_up() -> usize {
        32
    }

    pub fn deviation_min() -> f64 {
        1e-6
    }

    pub fn alpha() -> f64 {
        0.03
    }

    pub fn beta() -> f64 {
        0.001
    }

    pub fn gamma() -> f64 {
        0.2
    }
}

/// Of half-space trees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HalfSpaceSettings {
    pub trees: usize,
    /// Levels of each.
    pub depth: u32,
    /// Values of a window; as many are kept, twice.
    pub window: usize,
    /// Values of a point.
    pub shingle: usize,
    pub seed: u64,
    /// Between which values they are, if that is known; else it is taken from each window.
    pub range: Option<(f64, f64)>,
    /// Weight of the latest point in what is usual.
    pub alpha: f64,
}

impl Default for HalfSpaceSettings {
    /// Trees, depth and window are the paper's.
    fn default() -> Self {
        Self { trees: 25, depth: 15, window: 250, shingle: 2, seed: 1, range: None, alpha: 0.03 }
    }
}

/// Of a random cut forest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomCutSettings {
    pub trees: usize,
    /// Points of each.
    pub sample: usize,
    /// Values of a window; as many are kept, twice.
    pub window: usize,
    /// Values of a point.
    pub shingle: usize,
    pub seed: u64,
    /// Weight of the latest point in what is usual.
    pub alpha: f64,
}

impl Default for RandomCutSettings {
    fn default() -> Self {
        Self { trees: 30, sample: 128, window: 256, shingle: 4, seed: 1, alpha: 0.03 }
    }
}

impl Settings {
    /// Of the detector that needs no thought; the fallback.
    pub fn robust_z() -> Self {
        let (window, warm_up, deviation_min) = (defaults::window(), defaults::warm_up(), defaults::deviation_min());
        Self::RobustZ { window, warm_up, deviation_min }
    }

    /// Errors: the first that is out of its bounds.
    pub(crate) fn check(&self) -> Result<(), SeriesError> {
        match *self {
            Self::RobustZ { window, warm_up, deviation_min } => {
                within("window", window, 1, WINDOW_MAX)?;
                // A longer one would never end.
                within("warm_up", warm_up, 0, window)?;
                positive("deviation_min", deviation_min)
            }
            Self::WeightedMean { alpha, deviation_min, .. } => {
                part("alpha", alpha)?;
                positive("deviation_min", deviation_min)
            }
            Self::HoltWinters { season, alpha, beta, gamma, deviation_min, .. } => {
                within("season", season, 1, WINDOW_MAX)?;
                [("alpha", alpha), ("beta", beta), ("gamma", gamma)].into_iter().try_for_each(|(n, x)| part(n, x))?;
                positive("deviation_min", deviation_min)
            }
            Self::HalfSpaceTrees(HalfSpaceSettings { trees, depth, window, shingle, range, alpha, .. }) => {
                part("alpha", alpha)?;
                within("trees", trees, 1, TREES_MAX)?;
                within("depth", depth as usize, 1, DEPTH_MAX as usize)?;
                within("window", window, 2, WINDOW_MAX)?;
                within("shingle", shingle, 1, SHINGLE_MAX.min(window))?;
                match range {
                    Some((low, high)) if !(low < high && (high - low).is_finite()) => {
                        Err(SeriesError::Settings(format!("range is {low} to {high}, and must be finite and ascend")))
                    }
                    _ => Ok(()),
                }
            }
            Self::RandomCutForest(RandomCutSettings { trees, sample, window, shingle, alpha, .. }) => {
                part("alpha", alpha)?;
                within("trees", trees, 1, TREES_MAX)?;
                within("sample", sample, 8, SAMPLE_MAX)?;
                within("window", window, 2, WINDOW_MAX)?;
                within("shingle", shingle, 1, SHINGLE_MAX.min(window))
            }
        }
    }

    /// Of those detectors that have them; what a detector has no use for is 0.
    pub(crate) fn parameters(&self) -> Parameters {
        let none = Parameters { window: 0, warm_up: 0, alpha: 0.0, beta: 0.0, gamma: 0.0, deviation_min: 0.0 };
        match *self {
            Self::RobustZ { window, warm_up, deviation_min } => Parameters { window, warm_up, deviation_min, ..none },
            Self::WeightedMean { alpha, warm_up, deviation_min } => {
                Parameters { alpha, warm_up, deviation_min, ..none }
            }
            Self::HoltWinters { season, alpha, beta, gamma, warm_up, deviation_min } => {
                let warm_up = warm_up.unwrap_or(2 * season);
                Parameters { window: season, warm_up, alpha, beta, gamma, deviation_min }
            }
            Self::HalfSpaceTrees(_) | Self::RandomCutForest(_) => none,
        }
    }

    /// Of what the meaning of a state depends on. Rates, warm-ups and trees may change and states be kept.
    pub(crate) fn hash(&self) -> u32 {
        let of: [u64; 2] = match *self {
            Self::RobustZ { window, .. } => [1, window as u64],
            Self::WeightedMean { .. } => [2, 0],
            Self::HoltWinters { season, .. } => [3, season as u64],
            Self::HalfSpaceTrees(HalfSpaceSettings { window, .. }) => [4, window as u64],
            Self::RandomCutForest(RandomCutSettings { window, .. }) => [5, window as u64],
        };
        hash(&of.map(u64::to_le_bytes).concat())
    }
}

fn within(name: &str, value: usize, min: usize, max: usize) -> Result<(), SeriesError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(SeriesError::Settings(format!("{name} is {value}, and must be from {min} to {max}")))
}

/// A rate: at 0 a detector would never learn, above 1 it would overshoot.
fn part(name: &str, value: f64) -> Result<(), SeriesError> {
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(SeriesError::Settings(format!("{name} is {value}, and must be above 0 and below 1")))
}

fn positive(name: &str, value: f64) -> Result<(), SeriesError> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(SeriesError::Settings(format!("{name} is {value}, and must be a finite number above 0")))
}
