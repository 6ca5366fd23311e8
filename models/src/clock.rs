//! Time that only measures: it is injected, so that tests decide what it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time since some beginning. It never goes back.
pub trait Clock: Send + Sync {
    fn now(&self) -> Duration;
}

/// The system's.
#[derive(Debug, Clone, Copy)]
pub struct Monotonic(Instant);

/// A test's: it stands until it is moved.
#[derive(Debug, Default)]
pub struct Manual(AtomicU64);

impl Default for Monotonic {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Manual {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for Manual {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
