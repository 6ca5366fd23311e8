//! Anomaly scores for telemetry: a state for each series, in which a value meets those before it.
//!
//! ```text
//! Settings --Detector::new (checked)--> Detector, one for many series
//! a series' first value: begin() ---------------------v
//! bytes of a key-value store --decode--> State --score(state, time, value)--> score --likelihood--> 0 ..= 1
//!                            <--encode--                                                \--is_anomaly--> flag
//! ```
//!
//! INVARIANT: a value is scored by the state before it and then changes it. Scores depend on the settings and on the values in
//! the order in which they come, on nothing else: a replay gives the same, and so does a state that was written and read. A
//! value that is no finite number, or is beyond those of an f32, is scored NaN and changes nothing. Until a detector is warm a
//! score is 0.

mod encoding;
mod error;
mod half_space;
mod holt_winters;
mod parameters;
mod random_cut;
mod robust_z;
mod settings;
#[cfg(test)]
mod tests;
mod weighted_mean;
mod windows;

pub use error::SeriesError;
pub use parameters::Parameters;
pub use settings::{HalfSpaceSettings, RandomCutSettings, Settings};

pub(crate) use encoding::hash;
use encoding::{Reader, Writer};
use half_space::{HalfSpace, Masses};
use holt_winters::HoltWinters;
use random_cut::{Cuts, RandomCut};
use robust_z::RobustZ;
use weighted_mean::WeightedMean;

/// Deviations of which it is as likely as not that they are an anomaly, by the mapping of `Detector::likelihood`.
const DEVIATIONS_HALF: f64 = 3.0;

/// A detector, for any number of series.
#[derive(Debug, Clone, PartialEq)]
pub struct Detector {
    method: Method,
    /// A hash of what the meaning of a state depends on.
    settings: u32,
}

#[derive(Debug, Clone, PartialEq)]
enum Method {
    RobustZ(Parameters),
    WeightedMean(Parameters),
    HoltWinters(Parameters),
    HalfSpaceTrees(HalfSpace),
    RandomCutForest(RandomCut),
}

/// What a detector knows of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    settings: u32,
    time_ms: i64,
    method: MethodState,
}

#[derive(Debug, Clone, PartialEq)]
enum MethodState {
    RobustZ(RobustZ),
    WeightedMean(WeightedMean),
    HoltWinters(HoltWinters),
    HalfSpaceTrees(Masses),
    RandomCutForest(Cuts),
}

impl Detector {
    /// Errors: the first setting that is out of its bounds.
    pub fn new(settings: Settings) -> Result<Self, SeriesError> {
        settings.check()?;
        let method = match settings {
            Settings::RobustZ { .. } => Method::RobustZ(settings.parameters()),
            Settings::WeightedMean { .. } => Method::WeightedMean(settings.parameters()),
            Settings::HoltWinters { .. } => Method::HoltWinters(settings.parameters()),
            Settings::HalfSpaceTrees(trees) => Method::HalfSpaceTrees(HalfSpace::new(&trees)),
            Settings::RandomCutForest(forest) => Method::RandomCutForest(RandomCut::new(forest)),
        };
        Ok(Self { method, settings: settings.hash() })
    }

    /// What scores a series while its model cannot be had: the robust z-score, which needs nothing but the series.
    pub fn fallback() -> Self {
        Self::new(Settings::robust_z()).expect("the defaults are within the bounds")
    }

    /// The state of a series that had no value.
    pub fn begin(&self) -> State {
        let method = match self.method {
            Method::RobustZ(_) => MethodState::RobustZ(RobustZ::default()),
            Method::WeightedMean(_) => MethodState::WeightedMean(WeightedMean::default()),
            Method::HoltWinters(_) => MethodState::HoltWinters(HoltWinters::default()),
            Method::HalfSpaceTrees(_) => MethodState::HalfSpaceTrees(Masses::default()),
            Method::RandomCutForest(_) => MethodState::RandomCutForest(Cuts::default()),
        };
        State { settings: self.settings, time_ms: i64::MIN, method }
    }

    /// The score of a value, in deviations, of either sign (of half-space trees and random cut forests never below 0): see the
    /// module. `time_ms` is kept.
    ///
    /// # Panics
    /// The state is of a detector with other settings.
    pub fn score(&self, state: &mut State, time_ms: i64, value: impl Into<f64>) -> f64 {
        assert_eq!(state.settings, self.settings, "a state of this detector");
        let x: f64 = value.into();
        // An infinite mean stays infinite, and squares of what an f32 holds are finite in f64.
        if x.is_nan() || x.abs() > f64::from(f32::MAX) {
            return f64::NAN;
        }
        state.time_ms = time_ms;
        match (&self.method, &mut state.method) {
            (Method::RobustZ(parameters), MethodState::RobustZ(state)) => state.step(parameters, x),
            (Method::WeightedMean(parameters), MethodState::WeightedMean(state)) => state.step(parameters, x),
            (Method::HoltWinters(parameters), MethodState::HoltWinters(state)) => state.step(parameters, x),
            (Method::HalfSpaceTrees(trees), MethodState::HalfSpaceTrees(masses)) => trees.step(masses, x),
            (Method::RandomCutForest(forest), MethodState::RandomCutForest(cuts)) => forest.step(cuts, x),
            _ => unreachable!("the hash of the settings has the method in it"),
        }
    }

    /// A score as a number from 0 to 1, the greater the more anomalous: d deviations are |d| / (|d| + 3), so that 3 of them are
    /// 1/2. It grows with |score|, so that thresholds on either flag the same values, as long as an f64 tells them apart (up to
    /// some 10^15 deviations). It is no probability. NaN stays NaN.
    pub fn likelihood(&self, score: f64) -> f64 {
        // Of infinities the quotient would be NaN.
        if score.is_infinite() { 1.0 } else { score.abs() / (score.abs() + DEVIATIONS_HALF) }
    }

    /// Whether a score's likelihood reaches the threshold. A NaN's does not.
    pub fn is_anomaly(&self, score: f64, threshold: f64) -> bool {
        self.likelihood(score) >= threshold
    }

    /// A state from its bytes: see `encoding`. Errors: they are damaged, or not of this detector. Never panics.
    pub fn decode(&self, bytes: &[u8]) -> Result<State, SeriesError> {
        let (mut reader, time_ms) = Reader::new(bytes, self.tag(), self.settings)?;
        let method = match &self.method {
            Method::RobustZ(parameters) => MethodState::RobustZ(RobustZ::decode(&mut reader, parameters)?),
            Method::WeightedMean(_) => MethodState::WeightedMean(WeightedMean::decode(&mut reader)?),
            Method::HoltWinters(parameters) => MethodState::HoltWinters(HoltWinters::decode(&mut reader, parameters)?),
            Method::HalfSpaceTrees(trees) => MethodState::HalfSpaceTrees(trees.decode(&mut reader)?),
            Method::RandomCutForest(forest) => MethodState::RandomCutForest(forest.decode(&mut reader)?),
        };
        reader.finish()?;
        Ok(State { settings: self.settings, time_ms, method })
    }

    /// The definition by which its scores are computed, with its version: it changes when any score does.
    pub fn kernel(&self) -> &'static str {
        match self.method {
            Method::RobustZ(_) => "robust-z-1",
            Method::WeightedMean(_) => "weighted-mean-1",
            Method::HoltWinters(_) => "holt-winters-1",
            Method::HalfSpaceTrees(_) => "half-space-trees-1",
            Method::RandomCutForest(_) => "random-cut-forest-1",
        }
    }

    /// Bytes of memory that a state takes, about and at most: for whoever keeps many of them decoded.
    pub fn state_bytes(&self) -> usize {
        match &self.method {
            Method::RobustZ(parameters) | Method::HoltWinters(parameters) => 128 + 24 * parameters.window,
            Method::WeightedMean(_) => 128,
            Method::HalfSpaceTrees(trees) => trees.state_bytes(),
            Method::RandomCutForest(forest) => forest.state_bytes(),
        }
    }

    fn tag(&self) -> u8 {
        match self.method {
            Method::RobustZ(_) => 1,
            Method::WeightedMean(_) => 2,
            Method::HoltWinters(_) => 3,
            Method::HalfSpaceTrees(_) => 4,
            Method::RandomCutForest(_) => 5,
        }
    }
}

impl State {
    /// Bytes that `Detector::decode` reads.
    pub fn encode(&self) -> Vec<u8> {
        let tag = match &self.method {
            MethodState::RobustZ(_) => 1,
            MethodState::WeightedMean(_) => 2,
            MethodState::HoltWinters(_) => 3,
            MethodState::HalfSpaceTrees(_) => 4,
            MethodState::RandomCutForest(_) => 5,
        };
        let mut writer = Writer::new(tag, self.settings, self.time_ms);
        match &self.method {
            MethodState::RobustZ(state) => state.encode(&mut writer),
            MethodState::WeightedMean(state) => state.encode(&mut writer),
            MethodState::HoltWinters(state) => state.encode(&mut writer),
            MethodState::HalfSpaceTrees(masses) => HalfSpace::encode(masses, &mut writer),
            MethodState::RandomCutForest(cuts) => RandomCut::encode(cuts, &mut writer),
        }
        writer.finish()
    }

    /// Of the last value that changed it; the least i64 if none did. A store can forget series that have long had none.
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }
}
