//! Rates by the Generic Cell Rate Algorithm (ITU-T I.371), as the crate `governor` has it, by the injected clock.

use std::num::NonZeroU32;
use std::time::Duration;

use engram_pipeline::clock::{Clock, Moment};
use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};

/// The rate of one thing.
pub(crate) type Bucket = RateLimiter<NotKeyed, InMemoryState, Ticks, NoOpMiddleware<Nanos>>;
/// The rates of many, by key.
pub(super) type Buckets<K> = RateLimiter<K, HashMapStateStore<K>, Ticks, NoOpMiddleware<Nanos>>;

/// The injected clock as `governor` reads it: nanoseconds since it was made.
#[derive(Clone)]
pub(crate) struct Ticks {
    clock: Clock,
    start: Moment,
}

impl governor::clock::Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.clock.since(self.start).into()
    }
}

impl Ticks {
    pub(super) fn new(clock: Clock) -> Self {
        Self { start: clock.now(), clock }
    }
}

pub(crate) fn bucket(per_second: NonZeroU32, burst: NonZeroU32, clock: Clock) -> Bucket {
    RateLimiter::direct_with_clock(Quota::per_second(per_second).allow_burst(burst), Ticks::new(clock))
}

pub(super) fn buckets<K: std::hash::Hash + Eq + Clone>(
    per_second: NonZeroU32,
    burst: NonZeroU32,
    clock: Clock,
) -> Buckets<K> {
    RateLimiter::hashmap_with_clock(Quota::per_second(per_second).allow_burst(burst), Ticks::new(clock))
}

/// How long until it is worth trying again.
pub(super) fn wait(until: &NotUntil<Nanos>, ticks: &Ticks) -> Duration {
    until.wait_time_from(ticks.now())
}

/// A setting that was checked to be 1 or more.
pub(super) fn at_least_one(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN)
}
