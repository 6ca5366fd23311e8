//! Tumbling and hopping windows: an aggregate for each key and window.
//!
//! A window holds the records with start <= time < end, and is closed once stream time has reached its end and the grace
//! after it. A record that comes when all of its windows are closed is late.
//!
//! INVARIANT: a window that has been closed is never opened again, so it has one final result.
//!
//! Source: Kafka Streams, "Windowing"; KIP-328 (suppress until closed), KIP-825 (emit strategies).

use std::vec::Drain;

use super::late::Late;
use crate::processor::{Context, Input, ProcessError};
use crate::store::codec::Codec;
use crate::store::{Due, StoreSpec, TimedStore};

/// Windows closed in one step; the next step goes on with the rest.
pub const CLOSED_MAX: usize = 1_000;
/// Hopping windows that a record may be in.
pub const OVERLAP_MAX: i64 = 1_000;

/// Windows of one length that begin at multiples of `advance_ms` since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeWindows {
    size_ms: i64,
    advance_ms: i64,
}

impl TimeWindows {
    /// Each window begins where the one before it ends. `None` unless `size_ms` > 0.
    pub fn tumbling(size_ms: i64) -> Option<Self> {
        Self::hopping(size_ms, size_ms)
    }

    /// `None` unless 0 < `advance_ms` <= `size_ms`, and no time is in more than `OVERLAP_MAX` windows.
    pub fn hopping(size_ms: i64, advance_ms: i64) -> Option<Self> {
        let fits = 0 < advance_ms && advance_ms <= size_ms && (size_ms - 1) / advance_ms < OVERLAP_MAX;
        fits.then_some(Self { size_ms, advance_ms })
    }

    /// The windows that a time is in, the earliest first.
    pub fn of(self, time_ms: i64) -> impl Iterator<Item = Window> {
        let last = time_ms.saturating_sub(time_ms.rem_euclid(self.advance_ms));
        let count = (self.size_ms - 1 - time_ms.rem_euclid(self.advance_ms)) / self.advance_ms;
        (0..=count).rev().map(move |back| Window::new(last.saturating_sub(back * self.advance_ms), self.size_ms))
    }
}

/// A span of event time, ms since the epoch: `start_ms <= time < end_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    pub start_ms: i64,
    pub end_ms: i64,
}

impl Window {
    pub fn new(start_ms: i64, size_ms: i64) -> Self {
        Self { start_ms, end_ms: start_ms.saturating_add(size_ms) }
    }
}

/// What is told of a window (KIP-825).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmitStrategy {
    /// What it is after each record.
    OnWindowUpdate,
    /// Only what it is when it is closed: the last word (`suppress(untilWindowCloses)`).
    OnWindowClose,
}

/// How windows are aggregated, of whatever kind.
#[derive(Debug, Clone, Copy)]
pub struct WindowOptions {
    /// For the metric of late records.
    pub name: &'static str,
    /// How long after its end a window still takes records.
    pub grace_ms: i64,
    pub emit: EmitStrategy,
    pub late: Late,
}

/// The aggregate of a key in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windowed<K, A> {
    pub key: K,
    pub window: Window,
    pub value: A,
}

/// Aggregates by key and window. Its store is a `WindowedAggregate::spec`.
pub struct WindowedAggregate<K, V, A> {
    windows: TimeWindows,
    options: WindowOptions,
    fold: fn(&mut A, &V),
    store: usize,
    /// By key and start; due when closed.
    state: TimedStore<(K, i64), A>,
    closed: Vec<Due<(K, i64), A>>,
    results: Vec<Windowed<K, A>>,
}

impl<K: Codec + Clone, V, A: Codec + Default> WindowedAggregate<K, V, A> {
    pub fn new(store: usize, windows: TimeWindows, options: WindowOptions, fold: fn(&mut A, &V)) -> Self {
        let state = TimedStore::new(0);
        Self { windows, options, fold, store, state, closed: Vec::new(), results: Vec::new() }
    }

    pub fn spec(name: &'static str) -> StoreSpec {
        TimedStore::<(K, i64), A>::spec(name)
    }

    /// Takes a record, moves stream time to it, and tells the results: updates, or what has been closed.
    pub fn add(
        &mut self,
        context: &mut Context<'_>,
        input: &Input<'_>,
        key: &K,
        time_ms: i64,
        value: &V,
    ) -> Result<Drain<'_, Windowed<K, A>>, ProcessError> {
        context.advance_stream_time(time_ms);
        self.results.clear();
        self.close_due(context)?;
        let mut is_late = true;
        for window in self.windows.of(time_ms) {
            let due = window.end_ms.saturating_add(self.options.grace_ms);
            if due <= context.stream_time() {
                continue;
            }
            is_late = false;
            let at = (key.clone(), window.start_ms);
            let store = context.store(self.store);
            let mut total = self.state.get(store, &at)?.map_or_else(A::default, |(_, total)| total);
            (self.fold)(&mut total, value);
            self.state.put(store, &at, due, &total)?;
            if self.options.emit == EmitStrategy::OnWindowUpdate {
                self.results.push(Windowed { key: at.0, window, value: total });
            }
        }
        if is_late {
            self.options.late.send(self.options.name, input, context)?;
        }
        Ok(self.results.drain(..))
    }

    /// Closes what is to be closed by stream time, which others may have moved: at most `CLOSED_MAX` windows.
    pub fn close(&mut self, context: &mut Context<'_>) -> Result<Drain<'_, Windowed<K, A>>, ProcessError> {
        self.results.clear();
        self.close_due(context)?;
        Ok(self.results.drain(..))
    }

    fn close_due(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let now = context.stream_time();
        self.state.take_due(context.store(self.store), now, CLOSED_MAX, &mut self.closed)?;
        for Due { key: (key, start_ms), value, .. } in self.closed.drain(..) {
            if self.options.emit == EmitStrategy::OnWindowClose {
                self.results.push(Windowed { key, window: Window::new(start_ms, self.windows.size_ms), value });
            }
        }
        Ok(())
    }
}
