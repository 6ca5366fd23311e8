//! A circuit breaker: keeps batches from a device that fails, and tries it again after a while.
//!
//! ```text
//!            failures_max in a row, or one that is grave
//!   Closed ----------------------------------------------> Open
//!     ^                                                   |    ^
//!     | the probe succeeds                    open, later |    | the probe fails
//!     '---------------------- HalfOpen <------------------'    |
//!                                 '----------------------------'
//! ```
//!
//! After Nygard, "Release It!" (2007). Time is told to it.

use std::time::Duration;

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open it.
    pub failures_max: u32,
    /// How long it stays open.
    pub open: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { failures_max: 3, open: Duration::from_secs(60) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed { failures: u32 },
    Open { since: Duration },
    HalfOpen,
}

/// What a batch may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Go to the device.
    Use,
    /// Go elsewhere, after trying the device with something whose result is known. It must be told how that went.
    Probe,
    /// Go elsewhere.
    Refuse,
}

/// How much a failure says about those to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gravity {
    /// The next call may succeed.
    Passing,
    /// No call will.
    Grave,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    settings: Settings,
    state: State,
}

impl Breaker {
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed { failures: 0 } }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Asks for a batch.
    pub fn permit(&mut self, now: Duration) -> Permit {
        match self.state {
            State::Closed { .. } => Permit::Use,
            State::Open { since } if now.saturating_sub(since) >= self.settings.open => {
                self.state = State::HalfOpen;
                Permit::Probe
            }
            // There is one probe at a time.
            State::Open { .. } | State::HalfOpen => Permit::Refuse,
        }
    }

    /// A batch or the probe succeeded. What was under way while it opened does not close it.
    pub fn succeeded(&mut self) {
        if !matches!(self.state, State::Open { .. }) {
            self.state = State::Closed { failures: 0 };
        }
    }

    /// A batch or the probe failed.
    pub fn failed(&mut self, gravity: Gravity, now: Duration) {
        match self.state {
            State::Closed { failures } if gravity == Gravity::Passing && failures + 1 < self.settings.failures_max => {
                self.state = State::Closed { failures: failures + 1 };
            }
            State::Closed { .. } | State::HalfOpen => self.state = State::Open { since: now },
            State::Open { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_a_probe() {
        let mut breaker = Breaker::new(Settings::default());
        for at in [1, 2] {
            breaker.failed(Gravity::Passing, at * SECOND);
            assert_eq!(breaker.permit(at * SECOND), Permit::Use);
        }
        breaker.succeeded();
        for at in [3, 4, 5] {
            assert_eq!(breaker.permit(at * SECOND), Permit::Use, "a success had been between");
            breaker.failed(Gravity::Passing, at * SECOND);
        }
        assert_eq!(breaker.state(), State::Open { since: 5 * SECOND });
        assert_eq!(breaker.permit(64 * SECOND), Permit::Refuse);
        assert_eq!(breaker.permit(65 * SECOND), Permit::Probe);
        assert_eq!(breaker.permit(65 * SECOND), Permit::Refuse, "one probe at a time");
        breaker.failed(Gravity::Passing, 66 * SECOND);
        assert_eq!(breaker.permit(125 * SECOND), Permit::Refuse, "a probe that fails opens it for as long again");
        assert_eq!(breaker.permit(126 * SECOND), Permit::Probe);
        breaker.succeeded();
        assert_eq!(breaker.permit(127 * SECOND), Permit::Use);
    }

    #[test]
    fn a_grave_failure_opens_it_at_once_and_a_late_success_does_not_close_it() {
        let mut breaker = Breaker::new(Settings::default());
        breaker.failed(Gravity::Grave, SECOND);
        breaker.succeeded();
        breaker.failed(Gravity::Grave, 30 * SECOND);
        assert_eq!(breaker.state(), State::Open { since: SECOND }, "nor does a late failure keep it open for longer");
    }
}
