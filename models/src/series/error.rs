//! What is wrong with a detector's settings, or with the bytes of a state.

use thiserror::Error;

/// One clause for whoever set the detector, or keeps its states.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SeriesError {
    /// The settings make no detector. Stop.
    #[error("the detector cannot be used: {0}")]
    Settings(String),
    /// The state was made with settings that it does not fit. Begin the series anew.
    #[error("the state was made by a detector with other settings")]
    OtherDetector,
    /// The state is of a version that is not read. Begin the series anew, or go back to the release that wrote it.
    #[error("the state has version {0}, which is not read")]
    Version(u8),
    /// The bytes are no state. Begin the series anew.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
}
