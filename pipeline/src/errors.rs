//! What a service does with a record that it cannot process. The choice is the user's, by configuration; `disposal`
//! carries it out, `poison` finds out which record is at fault where no error says so.
//!
//! ```text
//! the record is at fault (`Reject`, a panic) ----------------> on_reject:      dead letter | retry | stop
//! what it needs is not to be had (`Retry`) -> in_place_max --> on_unavailable: wait | dead letter | retry | stop
//!                                                  retry: attempts_max times, then a dead letter
//! ```

use crate::log::{Log, LogError};
use crate::processor::Service;
use crate::retry;

/// What becomes of a record that could not be processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It goes to the dead letters, and the service goes on.
    DeadLetter,
    /// It comes again later, through the service's retry topic; the others of its key do not wait for it.
    Retry,
    /// The service stops before it.
    Stop,
}

impl Action {
    /// For records to which coming again would not help.
    pub fn not_retried(self) -> Self {
        if self == Self::Retry { Self::DeadLetter } else { self }
    }
}

/// A service's error policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// For `ProcessError::Reject`, and for records that the processor panics on.
    pub on_reject: Action,
    /// For `ProcessError::Retry`; `None` tries for ever, and everything behind the record waits.
    pub on_unavailable: Option<Action>,
    /// Tries on the spot before `on_unavailable`, each from the last commit.
    pub in_place_max: u32,
    /// Times that a record comes again before it is a dead letter.
    pub attempts_max: u32,
    /// Until the first of these; doubled for each that follows.
    pub backoff_ms: i64,
    pub backoff_ms_max: i64,
}

impl Default for ErrorPolicy {
    fn default() -> Self {
        Self {
            on_reject: Action::DeadLetter,
            on_unavailable: None,
            in_place_max: 5,
            attempts_max: 5,
            backoff_ms: 1_000,
            backoff_ms_max: 300_000,
        }
    }
}

impl ErrorPolicy {
    /// Records may go to the retry topic.
    pub fn retries(&self) -> bool {
        self.on_reject == Action::Retry || self.on_unavailable == Some(Action::Retry)
    }
}

impl Service {
    /// Gives the service its error policy. The retry topic becomes its last input where the policy needs it, or where it is
    /// in the log already: what waits there is not left behind when the policy changes.
    pub fn with_errors(mut self, policy: ErrorPolicy, log: &dyn Log) -> Result<Self, LogError> {
        let topic = retry::topic(self.name);
        let has_retries = policy.retries() || log.topics()?.iter().any(|known| known.name == topic);
        if has_retries && !self.inputs.contains(&topic) {
            self.inputs.push(topic);
        }
        self.errors = policy;
        Ok(self)
    }
}
