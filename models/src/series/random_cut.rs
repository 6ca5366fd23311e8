//! Random cut forest: by how much a point would change trees that cut the last points at random.
//!
//! Guha, Mishra, Roy and Schrijvers, "Robust random cut forest based anomaly detection on streams", ICML 2016; the forest is the
//! crate `rcf3`'s. A point is the last `shingle` values. Each tree cuts a sample of the points that it has had, in a dimension and
//! at a place drawn by how far the points reach there; how far from the root a point would be cut off says how usual it is.
//!
//! A forest of such trees is 50 KB to some MB, far too much to be written for each value of a series. So it begins anew with
//! each window: grown of the window before, it goes on growing with what it scores. Then it follows from the values of two
//! windows, and those are the state. As with half-space trees the score is by how many deviations the forest's own is above its
//! exponentially weighted mean (`weighted_mean`), and 0 below it.
//!
//! INVARIANT: the forest is what its seed and the values since the window before make of it: one that is grown anew goes on with
//! the same scores.

use rcf3::{Forest, RcfConfig};

use crate::series::encoding::{Reader, Writer};
use crate::series::error::SeriesError;
use crate::series::parameters::Parameters;
use crate::series::settings::RandomCutSettings;
use crate::series::weighted_mean::WeightedMean;
use crate::series::windows::Windows;

/// Scores that are learnt before one counts.
const SCORES_MIN: usize = 32;
/// Deviations of a forest's score, which is mostly from 0.5 to 3, that count as nothing.
const SCORE_DEVIATION_MIN: f64 = 1e-3;

/// Memory of a sampled point, its values aside: two nodes, a place in the sampler and one in the store of points.
const SAMPLED_BYTES: usize = 128;

const IS_POINT: &str = "one finite value is a point of it";

/// A value as the forest has it: cuts do not depend on the scale, and so far from the ends of f32 the reach of points is one, too.
fn point(value: f64) -> [f32; 1] {
    [(value / 256.0) as f32]
}

/// How forests are grown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RandomCut {
    settings: RandomCutSettings,
    /// Of the forest's scores.
    usual: Parameters,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Cuts {
    windows: Windows,
    scores: WeightedMean,
    /// Of both windows' values; `None`: to be grown.
    forest: Option<Box<Forest>>,
}

impl PartialEq for Cuts {
    /// The forest follows from the rest.
    fn eq(&self, other: &Self) -> bool {
        (&self.windows, &self.scores) == (&other.windows, &other.scores)
    }
}

impl RandomCut {
    pub(crate) fn new(settings: RandomCutSettings) -> Self {
        let (alpha, warm_up, deviation_min) = (settings.alpha, SCORES_MIN, SCORE_DEVIATION_MIN);
        let usual = Parameters { window: 0, warm_up, alpha, beta: 0.0, gamma: 0.0, deviation_min };
        Self { settings, usual }
    }

    pub(crate) fn state_bytes(&self) -> usize {
        let RandomCutSettings { trees, sample, window, shingle, .. } = self.settings;
        256 + 16 * window + trees * sample * (SAMPLED_BYTES + 4 * shingle)
    }

    /// The score of `x`, which is no NaN.
    pub(crate) fn step(&self, cuts: &mut Cuts, x: f64) -> f64 {
        let mut score = 0.0;
        if !cuts.windows.reference.is_empty() {
            let Cuts { windows, forest, .. } = cuts;
            let forest = forest.get_or_insert_with(|| Box::new(self.grow(windows)));
            let of_forest = forest.update_and_score(&point(x)).expect(IS_POINT);
            score = cuts.scores.step(&self.usual, of_forest).max(0.0);
        }
        if cuts.windows.push(x, self.settings.window) {
            cuts.forest = None;
        }
        score
    }

    fn grow(&self, windows: &Windows) -> Forest {
        let RandomCutSettings { trees, sample, shingle, seed, .. } = self.settings;
        let config = RcfConfig::new(1).with_num_trees(trees).with_capacity(sample).with_shingle_size(shingle);
        let mut forest = Forest::from_config_seeded(&config, seed).expect("the settings are within their bounds");
        for value in windows.reference.iter().chain(&windows.latest) {
            forest.update(&point(*value)).expect(IS_POINT);
        }
        forest
    }

    pub(crate) fn encode(cuts: &Cuts, writer: &mut Writer) {
        cuts.windows.encode(writer);
        cuts.scores.encode(writer);
    }

    pub(crate) fn decode(&self, reader: &mut Reader<'_>) -> Result<Cuts, SeriesError> {
        let windows = Windows::decode(reader, self.settings.window)?;
        if windows.reference.iter().chain(&windows.latest).any(|value| value.abs() > f64::from(f32::MAX)) {
            return Err(SeriesError::Damaged("a value that was never scored"));
        }
        let scores = WeightedMean::decode(reader)?;
        // The forest is grown with the next value: perhaps there is none.
        Ok(Cuts { windows, scores, forest: None })
    }
}
