//! Sliding windows: for each record, the aggregate of the records up to `difference_ms` before it, and of those up to as
//! long after it. So every set of records that lie no further than that apart, and could not be made larger at the
//! end where a record bounds it, has its window, however the records came.
//!
//! ```text
//! a record at t    its left window  [t - difference, t]           both ends included
//!                  its right window [t + 1, t + 1 + difference]   if there is a record in it
//! ```
//!
//! Windows of two records that begin at the same time are one. A window is closed once stream time has passed its last
//! millisecond and the grace after it; a record is late when no window with it can be open.
//!
//! The records are kept, and each window is folded from them in the order of event time. Kafka Streams keeps an
//! aggregate for each window instead, and folds in the order of arrival.
//!
//! Source: KIP-450.

use std::marker::PhantomData;
use std::vec::Drain;

use super::windows::{CLOSED_MAX, EmitStrategy, Window, WindowOptions, Windowed};
use crate::processor::{Context, Input, ProcessError};
use crate::store::codec::{Codec, to_bytes};
use crate::store::{Due, Order, Store, StoreError, StoreSpec, TimedStore, unreadable};

/// In one store: the windows, and the records.
const WINDOWS: u8 = b'w';
const RECORDS: u8 = b'r';

/// Aggregates by key over sliding windows. Its store is a `SlidingAggregate::spec`.
pub struct SlidingAggregate<K, V, A> {
    difference_ms: i64,
    options: WindowOptions,
    fold: fn(&mut A, &V),
    store: usize,
    /// By key and start; due when closed.
    windows: TimedStore<(K, i64), ()>,
    /// By key, time and number; due when the last window that could hold it is closed.
    records: TimedStore<(K, i64, u32), V>,
    closed: Vec<Due<(K, i64), ()>>,
    outdated: Vec<Due<(K, i64, u32), V>>,
    results: Vec<Windowed<K, A>>,
    aggregate: PhantomData<fn() -> A>,
}

impl<K: Codec + Clone, V: Codec, A: Default> SlidingAggregate<K, V, A> {
    /// `difference_ms` must not be negative.
    pub fn new(store: usize, difference_ms: i64, options: WindowOptions, fold: fn(&mut A, &V)) -> Self {
        Self {
            difference_ms,
            options,
            fold,
            store,
            windows: TimedStore::new(WINDOWS),
            records: TimedStore::new(RECORDS),
            closed: Vec::new(),
            outdated: Vec::new(),
            results: Vec::new(),
            aggregate: PhantomData,
        }
    }

    pub fn spec(name: &'static str) -> StoreSpec {
        StoreSpec::new(name, describe::<K, V>)
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
        let now = context.stream_time();
        let outdated = self.closes_at(time_ms);
        if outdated <= now {
            self.options.late.send(self.options.name, input, context)?;
            return Ok(self.results.drain(..));
        }
        let store = context.store(self.store);
        let number = free_number(&mut self.records, store, |number| (key.clone(), time_ms, number))?;
        self.records.put(store, &(key.clone(), time_ms, number), outdated, value)?;
        for start in [time_ms.saturating_sub(self.difference_ms), time_ms.saturating_add(1)] {
            let due = self.closes_at(start);
            if due > now {
                self.windows.put(store, &(key.clone(), start), due, &())?;
            }
        }
        if self.options.emit == EmitStrategy::OnWindowUpdate {
            for start in self.open_windows_of(store, key, time_ms, now)? {
                self.tell(store, key.clone(), start)?;
            }
        }
        Ok(self.results.drain(..))
    }

    /// Closes what is to be closed by stream time, which others may have moved: at most `CLOSED_MAX` windows.
    pub fn close(&mut self, context: &mut Context<'_>) -> Result<Drain<'_, Windowed<K, A>>, ProcessError> {
        self.results.clear();
        self.close_due(context)?;
        Ok(self.results.drain(..))
    }

    /// When the window that begins at `start_ms` is closed; it is the last one with a record of that time.
    fn closes_at(&self, start_ms: i64) -> i64 {
        start_ms.saturating_add(self.difference_ms).saturating_add(1).saturating_add(self.options.grace_ms)
    }

    fn close_due(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let now = context.stream_time();
        let store = context.store(self.store);
        self.windows.take_due(store, now, CLOSED_MAX, &mut self.closed)?;
        for Due { key: (key, start), .. } in std::mem::take(&mut self.closed) {
            if self.options.emit == EmitStrategy::OnWindowClose {
                self.tell(store, key, start)?;
            }
        }
        // A record stays until its last window has been taken: those that begin when it was, or before.
        let last = self.windows.earliest(store).saturating_sub(1).min(now);
        self.records.take_due(store, last, CLOSED_MAX, &mut self.outdated)?;
        self.outdated.clear();
        Ok(())
    }

    fn open_windows_of(&mut self, store: &mut Store, key: &K, time_ms: i64, now: i64) -> Result<Vec<i64>, StoreError> {
        let from = to_bytes(&(key.clone(), time_ms.saturating_sub(self.difference_ms)));
        let to = to_bytes(&(key.clone(), time_ms.saturating_add(1)));
        let mut open = Vec::new();
        self.windows.range(store, &from, &to, Order::Ascending, |(_, start), due, ()| {
            if due > now {
                open.push(start);
            }
            true
        })?;
        Ok(open)
    }

    /// The window as its records make it, if it has any.
    fn tell(&mut self, store: &mut Store, key: K, start_ms: i64) -> Result<(), StoreError> {
        let window = Window::new(start_ms, self.difference_ms.saturating_add(1));
        let from = to_bytes(&(key.clone(), start_ms));
        let to = to_bytes(&(key.clone(), window.end_ms));
        let (fold, mut total) = (self.fold, None);
        self.records.range(store, &from, &to, Order::Ascending, |_, _, value| {
            fold(total.get_or_insert_with(A::default), &value);
            true
        })?;
        self.results.extend(total.map(|value| Windowed { key, window, value }));
        Ok(())
    }
}

/// The number after those that there are: of what has the same key and time, all come due at once and the first goes first,
/// so that the first being free means that all are.
pub(super) fn free_number<K: Codec, V: Codec>(
    entries: &mut TimedStore<K, V>,
    store: &mut Store,
    key: impl Fn(u32) -> K,
) -> Result<u32, StoreError> {
    if entries.get(store, &key(0))?.is_none() {
        return Ok(0);
    }
    let (from, to) = (to_bytes(&key(0)), to_bytes(&key(u32::MAX)));
    let mut count = 0;
    entries.range(store, &from, &to, Order::Descending, |last, _, _| {
        let bytes = to_bytes(&last);
        count = bytes.last_chunk().map_or(0, |number| u32::from_be_bytes(*number)) + 1;
        false
    })?;
    if count == 0 { Err(unreadable("a number")) } else { Ok(count) }
}

fn describe<K: Codec, V: Codec>(key: &[u8], value: &[u8]) -> (serde_json::Value, serde_json::Value) {
    match key.first() {
        Some(&WINDOWS) => (TimedStore::<(K, i64), ()>::spec("").describe)(key, value),
        _ => (TimedStore::<(K, i64, u32), V>::spec("").describe)(key, value),
    }
}
