//! What can go wrong with a log, by what the caller does about it.

use thiserror::Error;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// An error of the log.
#[derive(Debug, Error)]
pub enum LogError {
    /// The log cannot be reached at present: retry with backoff, or tell the user.
    #[error("cannot reach the log at {address}: {reason}")]
    Unreachable { address: String, reason: String },
    /// The caller asked for something that cannot be; `0` says what to change.
    #[error("{0}")]
    Refused(String),
    /// A record is larger than its topic or the log takes: write a smaller one; the others can be written.
    #[error("{0}")]
    TooLarge(String),
    /// Another producer with this transactional id, or another member, has taken over: abort the task and start anew.
    #[error("fenced: {0}")]
    Fenced(String),
    /// No room on the device that holds the log: stop, nothing was written.
    #[error("no space left on the device that holds {0}: free some space, then start again; nothing was lost")]
    Full(String),
    /// What is stored cannot be right.
    #[error("{what} is damaged: {reason}")]
    Corrupt { what: String, reason: String },
    /// Anything else from the log's client: abort the task and start anew.
    #[error("{doing}")]
    Failed { doing: String, source: Source },
}

impl LogError {
    /// Wraps an error of the log's client with what was being done.
    pub fn failed(doing: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Failed { doing: doing.into(), source: source.into() }
    }
}

/// Why a commit did not succeed.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The transaction has been aborted: drop what belongs to it, rewind to the committed positions, go on.
    #[error("the transaction was aborted: {0}")]
    Aborted(String),
    /// Another has taken over this task: drop it, commit nothing.
    #[error("fenced: {0}")]
    Fenced(String),
    /// It may or may not have been committed: drop the task and the producer, and start anew from the log.
    #[error("the outcome of the commit is unknown: {0}")]
    Unknown(String),
    /// The log itself failed before anything was committed.
    #[error(transparent)]
    Log(#[from] LogError),
}
