//! Replay: what a task did, done again from its manifests, and the state that it had at any moment.
//!
//! ```text
//! manifests (history) --which commits-->  base: the newest snapshot before them, or nothing
//!                                           | rerun: inputs in the recorded order, recorded clock and timers
//!                                           v
//!                                         state, outputs and digest: compared with the manifests
//! ```
//!
//! INVARIANT: nothing here disturbs the running system. It reads the log as any consumer without a group does, commits
//! nothing, opens no transaction and registers no schema; stores are its own, in a folder that it was given.

mod bisect;
mod captured;
mod cause;
mod history;
mod past;
mod registry;
mod rerun;
mod steps;
mod verify;
mod why;

use thiserror::Error;

use crate::log::LogError;
use crate::processor::ProcessError;
use crate::snapshot::SnapshotError;
use crate::store::StoreError;

pub use bisect::{Bisected, First, State, bisect};
pub use captured::{Captured, Written, WrittenRef};
pub use cause::{MadeOf, OutputId, made_of};
pub use history::{Commit, History};
pub use past::{Moment, Past, TaskHistory, Walk};
pub use registry::ReadOnlyRegistry;
pub use rerun::{MEMORY_BYTES_MAX, Program, Remade, Rerun, RerunOptions};
pub use steps::{Cause, Change, Emitted, Step, TakenRecord};
pub use verify::{Difference, Differs, Times, Verified, at_once, run_again, verify};
pub use why::{Effects, EntryKey, Made, RecordPlace};

/// Why a past cannot be had.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// What it takes is gone, or was never there; it says what.
    #[error("{0}")]
    Impossible(String),
    #[error("stopped")]
    Stopped,
    /// An input record that the task has not come to.
    #[error("no commit has taken {0} yet")]
    NotTaken(String),
    /// The manifests of that time were deleted, and no snapshot of it is left.
    #[error("{what}")]
    TooEarly {
        what: String,
        /// When the first commit happened whose state can be had, ms since the epoch, if there is one.
        earliest_ms: Option<i64>,
    },
    /// The task does not do what it did.
    #[error("commit {sequence} comes out otherwise: {what}")]
    Strayed { sequence: i64, what: String },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}
