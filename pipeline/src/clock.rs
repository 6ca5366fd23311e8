//! The one place that reads the clock. Processors never come here: theirs is the context's, which records it.
//!
//! INVARIANT: whatever decides by time what the runtime does takes it from a `Clock` that it was given, so that a simulation
//! decides what time it is. What is only measured, and waits for another machine, may use `Instant`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock: the machine's, or one that is put forward by hand. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock(Source);

#[derive(Debug, Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(ManualClock),
}

impl Clock {
    /// Milliseconds since the epoch, UTC; 0 if the machine's clock stands before it.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Source::System => now_ms(),
            Source::Manual(manual) => manual.now_ms.load(Ordering::Relaxed),
        }
    }

    /// For intervals: never goes back, and may go on while the machine's time of day is set.
    pub fn now(&self) -> Moment {
        match &self.0 {
            Source::System => Moment::System(Instant::now()),
            Source::Manual(manual) => Moment::Manual(manual.now_ms.load(Ordering::Relaxed)),
        }
    }

    /// How long ago `moment` was, by the clock that told it.
    pub fn since(&self, moment: Moment) -> Duration {
        match (self.now(), moment) {
            (Moment::System(now), Moment::System(then)) => now.saturating_duration_since(then),
            (Moment::Manual(now), Moment::Manual(then)) => {
                Duration::from_millis(u64::try_from(now.saturating_sub(then)).unwrap_or(0))
            }
            _ => Duration::ZERO,
        }
    }

    /// Lets time pass: waits, or puts the clock forward.
    pub fn sleep(&self, duration: Duration) {
        match &self.0 {
            Source::System => std::thread::sleep(duration),
            Source::Manual(manual) => manual.advance(duration),
        }
    }
}

/// A moment of a clock; compared only by `Clock::since`.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    System(Instant),
    /// Milliseconds since the epoch.
    Manual(i64),
}

/// The hand of a clock that does not go by itself.
#[derive(Debug, Clone)]
pub struct ManualClock {
    now_ms: Arc<AtomicI64>,
}

impl ManualClock {
    pub fn new(now_ms: i64) -> Self {
        Self { now_ms: Arc::new(AtomicI64::new(now_ms)) }
    }

    pub fn set(&self, now_ms: i64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    pub fn advance(&self, duration: Duration) {
        self.now_ms.fetch_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2), Ordering::Relaxed);
    }

    /// The clock that this is the hand of.
    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(self.clone()))
    }
}

/// The machine's time, ms since the epoch, UTC; 0 if it stands before it.
#[expect(clippy::disallowed_methods, reason = "everything else asks this function")]
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as i64)
}
