//! Timers: what a processor wants to be called for at a time, by stream time or by the wall clock.
//!
//! They are state: the store `timers` of the service holds them, so they survive restarts and go back with an abort.
//!
//! ```text
//! schedule -> store -> due before the next record is taken -> Processor::on_timer
//! ```
//!
//! Timers by stream time are fired before the record that follows the one that moved stream time, in the order of (time,
//! kind, key), so they depend on nothing but the inputs. Those by the wall clock are fired between two records, and the
//! manifest says between which and what the clock said, so that a replay fires the same.
//!
//! INVARIANT: a timer is taken out of the store in the commit in which it is fired.

use engram_schemas::manifest::Firing;
use serde_json::{Value, json};

use crate::processor::{Context, ProcessError, Processor};
use crate::store::{Due, Store, StoreError, StoreSpec, TimedStore};

/// The name of the store that a service with timers has.
pub const STORE: &str = "timers";

/// Timers fired at once: commits, and for those of the wall clock other records, come between.
pub(crate) const FIRED_MAX: usize = 1_000;

/// What a timer goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerClock {
    /// The latest event time that the task has been told of.
    StreamTime,
    /// The machine's clock, looked at about 20 times a second.
    WallClock,
}

impl TimerClock {
    /// Its part of the store.
    fn space(self) -> u8 {
        match self {
            Self::StreamTime => b's',
            Self::WallClock => b'w',
        }
    }
}

/// A timer that has fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    pub clock: TimerClock,
    /// When it was to fire, ms since the epoch; it never fires before.
    pub due_ms: i64,
    /// The processor's own number for what it is about.
    pub kind: u16,
    pub key: Vec<u8>,
}

/// The store of timers, for `Service::stores`.
pub fn spec() -> StoreSpec {
    StoreSpec::new(STORE, describe)
}

type Waiting = TimedStore<(u16, Vec<u8>), ()>;

/// A task's stream time and timers.
pub struct Timers {
    /// Index of their store; `None` where the service has none.
    store: Option<usize>,
    by_stream_time: Waiting,
    by_wall_clock: Waiting,
    stream_time: i64,
    fired: Vec<Firing>,
}

impl Timers {
    pub fn new(stores: &[StoreSpec], stream_time: i64) -> Self {
        Self {
            store: stores.iter().position(|store| store.name == STORE),
            by_stream_time: Waiting::new(TimerClock::StreamTime.space()),
            by_wall_clock: Waiting::new(TimerClock::WallClock.space()),
            stream_time,
            fired: Vec::new(),
        }
    }

    /// The latest event time; `i64::MIN` before the first.
    pub fn stream_time(&self) -> i64 {
        self.stream_time
    }

    pub fn advance_stream_time(&mut self, time_ms: i64) {
        self.stream_time = self.stream_time.max(time_ms);
    }

    /// Back to what the last commit said.
    pub fn aborted(&mut self, stream_time: i64) {
        self.stream_time = stream_time;
        self.fired.clear();
    }

    /// Some were fired since the last commit.
    pub fn have_fired(&self) -> bool {
        !self.fired.is_empty()
    }

    /// What was fired since the last commit, for its manifest.
    pub fn take_fired(&mut self) -> Vec<Firing> {
        std::mem::take(&mut self.fired)
    }

    /// One timer for each (clock, kind, key): another for the same replaces it.
    pub(crate) fn schedule(
        &mut self,
        stores: &mut [Store],
        clock: TimerClock,
        kind: u16,
        key: &[u8],
        at_ms: i64,
    ) -> Result<(), ProcessError> {
        let due = match clock {
            // So that a timer that sets itself again for a time that has passed waits for stream time to move on.
            TimerClock::StreamTime => at_ms.max(self.stream_time.saturating_add(1)),
            TimerClock::WallClock => at_ms,
        };
        let store = &mut stores[self.index()?];
        Ok(self.waiting(clock).put(store, &(kind, key.to_vec()), due, &())?)
    }

    pub(crate) fn cancel(
        &mut self,
        stores: &mut [Store],
        clock: TimerClock,
        kind: u16,
        key: &[u8],
    ) -> Result<bool, ProcessError> {
        let store = &mut stores[self.index()?];
        Ok(self.waiting(clock).delete(store, &(kind, key.to_vec()))?)
    }

    /// Takes the first timer that is due out of the store.
    fn take_due(&mut self, stores: &mut [Store], clock: TimerClock, now: i64) -> Result<Option<Timer>, StoreError> {
        let Some(index) = self.store else { return Ok(None) };
        let mut taken = Vec::new();
        self.waiting(clock).take_due(&mut stores[index], now, 1, &mut taken)?;
        Ok(taken.pop().map(|Due { due, key: (kind, key), .. }| Timer { clock, due_ms: due, kind, key }))
    }

    /// A replay has to be told of those by the wall clock, one by one; of the others only how many came before, between and
    /// after these.
    fn note(&mut self, firing: Firing) {
        match self.fired.last_mut() {
            Some(known) if !known.wall_clock && !firing.wall_clock => {
                *known = Firing { count: known.count + firing.count, ..firing };
            }
            _ => self.fired.push(firing),
        }
    }

    fn index(&self) -> Result<usize, ProcessError> {
        self.store.ok_or_else(|| {
            ProcessError::Refused(format!(
                "a timer was set, but the service has no store {STORE:?}: add timers::spec() to its stores"
            ))
        })
    }

    fn waiting(&mut self, clock: TimerClock) -> &mut Waiting {
        match clock {
            TimerClock::StreamTime => &mut self.by_stream_time,
            TimerClock::WallClock => &mut self.by_wall_clock,
        }
    }
}

/// Which timers are to fire: at most so many of those that are due at `now` by their clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fire {
    pub clock: TimerClock,
    pub now: i64,
    pub most: usize,
}

/// Fires timers; returns how many. `taken` is the number of records that the commit has taken until now.
pub(crate) fn fire(
    processor: &mut dyn Processor,
    context: &mut Context<'_>,
    Fire { clock, now, most }: Fire,
    taken: i64,
) -> Result<usize, ProcessError> {
    let mut count = 0;
    while count < most {
        let Some(timer) = context.timers.take_due(context.stores, clock, now)? else { break };
        count += 1;
        match processor.on_timer(&timer, context) {
            Ok(()) => {}
            Err(ProcessError::Reject { cause, detail }) => {
                let service = context.service();
                tracing::warn!(service, kind = timer.kind, cause, detail, "a timer was rejected, and is gone");
                metrics::counter!("engram_rejected_timers_total", "service" => service, "cause" => cause).increment(1);
            }
            Err(error) => return Err(error),
        }
    }
    if count > 0 {
        context.timers.note(Firing {
            after: taken,
            wall_clock: clock == TimerClock::WallClock,
            time: now,
            count: count as i64,
        });
    }
    Ok(count)
}

fn describe(key: &[u8], value: &[u8]) -> (Value, Value) {
    let (shown, due) = (Waiting::spec(STORE).describe)(key, value);
    let clock = match key.first() {
        Some(b's') => "stream time",
        _ => "wall clock",
    };
    (json!({"clock": clock, "timer": shown}), due)
}
