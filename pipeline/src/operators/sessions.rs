//! Session windows: the records of a key, each within the gap of the next, in whatever order they come.
//!
//! A session is closed once stream time has passed its last record, the gap and the grace: until then a record could join
//! it. A record is late when the session that it would be in is closed.
//!
//! INVARIANT: a key's sessions in the store are more than the gap apart.
//!
//! Source: Kafka Streams, session windows (KIP-94), whose `closeTime` this is.

use std::vec::Drain;

use super::windows::{CLOSED_MAX, EmitStrategy, Window, WindowOptions, Windowed};
use crate::processor::{Context, Input, ProcessError};
use crate::store::codec::{Codec, to_bytes};
use crate::store::{Due, Order, StoreSpec, TimedStore};

/// How records and sessions come together.
pub struct SessionFold<V, A> {
    pub fold: fn(&mut A, &V),
    /// Of two sessions that a record has joined, the earlier takes the later in.
    pub merge: fn(&mut A, A),
}

/// Aggregates by key and session. Its store is a `SessionAggregate::spec`.
pub struct SessionAggregate<K, V, A> {
    gap_ms: i64,
    options: WindowOptions,
    fold: SessionFold<V, A>,
    store: usize,
    /// By key and first time; with the last time.
    sessions: TimedStore<(K, i64), (i64, A)>,
    closed: Vec<Due<(K, i64), (i64, A)>>,
    results: Vec<Windowed<K, Option<A>>>,
}

impl<K: Codec + Clone, V, A: Codec + Default> SessionAggregate<K, V, A> {
    /// Two records of a key are in one session if they are at most `gap_ms` apart.
    pub fn new(store: usize, gap_ms: i64, options: WindowOptions, fold: SessionFold<V, A>) -> Self {
        let sessions = TimedStore::new(0);
        Self { gap_ms, options, fold, store, sessions, closed: Vec::new(), results: Vec::new() }
    }

    pub fn spec(name: &'static str) -> StoreSpec {
        TimedStore::<(K, i64), (i64, A)>::spec(name)
    }

    /// Takes a record, moves stream time to it, and tells the results: updates, or what has been closed. An update of a
    /// session that has grown takes those back that it has grown from: their value is `None`.
    ///
    /// A session's window begins with its first record and ends right after its last.
    pub fn add(
        &mut self,
        context: &mut Context<'_>,
        input: &Input<'_>,
        key: &K,
        time_ms: i64,
        value: &V,
    ) -> Result<Drain<'_, Windowed<K, Option<A>>>, ProcessError> {
        context.advance_stream_time(time_ms);
        self.results.clear();
        self.close_due(context)?;
        let now = context.stream_time();
        let mut joined = self.near(context, key, time_ms, now)?;
        if joined.is_empty() && self.closes_at(time_ms) <= now {
            self.options.late.send(self.options.name, input, context)?;
            return Ok(self.results.drain(..));
        }
        // The earliest first, and each later one into it.
        joined.reverse();
        let before: Vec<(i64, i64)> = joined.iter().map(|(start, end, _)| (*start, *end)).collect();
        let start = before.first().map_or(time_ms, |(start, _)| *start).min(time_ms);
        let end = before.last().map_or(time_ms, |(_, end)| *end).max(time_ms);
        let total = joined.into_iter().map(|(_, _, total)| total).reduce(|mut all, later| {
            (self.fold.merge)(&mut all, later);
            all
        });
        let mut total = total.unwrap_or_default();
        (self.fold.fold)(&mut total, value);
        let store = context.store(self.store);
        for &(old_start, old_end) in &before {
            if old_start != start {
                self.sessions.delete(store, &(key.clone(), old_start))?;
            }
            if self.options.emit == EmitStrategy::OnWindowUpdate && (old_start, old_end) != (start, end) {
                self.results.push(Windowed { key: key.clone(), window: window(old_start, old_end), value: None });
            }
        }
        let entry = (end, total);
        self.sessions.put(store, &(key.clone(), start), self.closes_at(end), &entry)?;
        if self.options.emit == EmitStrategy::OnWindowUpdate {
            self.results.push(Windowed { key: key.clone(), window: window(start, end), value: Some(entry.1) });
        }
        Ok(self.results.drain(..))
    }

    /// Closes what is to be closed by stream time, which others may have moved: at most `CLOSED_MAX` sessions.
    pub fn close(&mut self, context: &mut Context<'_>) -> Result<Drain<'_, Windowed<K, Option<A>>>, ProcessError> {
        self.results.clear();
        self.close_due(context)?;
        Ok(self.results.drain(..))
    }

    fn closes_at(&self, end_ms: i64) -> i64 {
        end_ms.saturating_add(self.gap_ms).saturating_add(self.options.grace_ms).saturating_add(1)
    }

    fn close_due(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let now = context.stream_time();
        self.sessions.take_due(context.store(self.store), now, CLOSED_MAX, &mut self.closed)?;
        for Due { key: (key, start), value: (end, total), .. } in self.closed.drain(..) {
            if self.options.emit == EmitStrategy::OnWindowClose {
                self.results.push(Windowed { key, window: window(start, end), value: Some(total) });
            }
        }
        Ok(())
    }

    /// The open sessions within the gap of a time, (start, end, aggregate), the latest first: going backwards, the first
    /// that ends too early ends the search.
    fn near(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        time_ms: i64,
        now: i64,
    ) -> Result<Vec<(i64, i64, A)>, ProcessError> {
        let from = to_bytes(&(key.clone(), i64::MIN));
        let to = to_bytes(&(key.clone(), time_ms.saturating_add(self.gap_ms).saturating_add(1)));
        let (mut found, earliest_end) = (Vec::new(), time_ms.saturating_sub(self.gap_ms));
        let store = context.store(self.store);
        self.sessions.range(store, &from, &to, Order::Descending, |(_, start), due, (end, total)| {
            if end < earliest_end {
                return false;
            }
            if due > now {
                found.push((start, end, total));
            }
            true
        })?;
        Ok(found)
    }
}

fn window(start_ms: i64, end_ms: i64) -> Window {
    Window { start_ms, end_ms: end_ms.saturating_add(1) }
}
