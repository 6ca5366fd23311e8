//! Joins of two streams: records of the same key whose times are close.
//!
//! A left record at t meets the right ones from t - before to t + after. Each record waits until stream time has passed the
//! latest time that it could meet, and the grace; then it is closed, and if it has met none and the kind of join says so,
//! it goes out alone: once, and never too early. A record is late when all that it could have met are closed.
//!
//! INVARIANT: a pair is told once, by the later of its two records to arrive, and only while the earlier is not closed. So
//! no record goes out alone and in a pair.
//!
//! Source: Kafka Streams, KStream-KStream joins, KIP-633.

use std::vec::Drain;

use super::late::Late;
use super::sliding::free_number;
use super::windows::CLOSED_MAX;
use crate::processor::{Context, Input, ProcessError};
use crate::store::codec::{Codec, to_bytes};
use crate::store::{Due, Order, StoreSpec, TimedStore};

/// Which records go out alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    /// None.
    Inner,
    /// Those of the left stream.
    Left,
    /// Those of both.
    Outer,
}

#[derive(Debug, Clone, Copy)]
pub struct StreamJoinOptions {
    /// For the metric of late records.
    pub name: &'static str,
    pub kind: JoinKind,
    /// How long before a left record a right one may be,
    pub before_ms: i64,
    /// and how long after it. `before_ms + after_ms` must not be negative.
    pub after_ms: i64,
    pub grace_ms: i64,
    pub late: Late,
}

/// A pair, or a record alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined<K, L, R> {
    pub key: K,
    /// The later of the two.
    pub time_ms: i64,
    pub left: Option<L>,
    pub right: Option<R>,
}

/// Joins two streams. Its stores are a `left_spec` and a `right_spec`.
pub struct StreamJoin<K, L, R> {
    options: StreamJoinOptions,
    left: Side<K, L>,
    right: Side<K, R>,
    results: Vec<Joined<K, L, R>>,
}

/// Key, time and number of a record.
type Place<K> = (K, i64, u32);
/// The records of a side, each with whether it has met another.
type Waiting<K, V> = TimedStore<Place<K>, (bool, V)>;

/// What waits on one side.
struct Side<K, V> {
    store: usize,
    waiting: Waiting<K, V>,
    /// The times that a record at 0 meets.
    reach: (i64, i64),
    grace_ms: i64,
    alone: bool,
    closed: Vec<Due<Place<K>, (bool, V)>>,
}

impl<K: Codec + Clone, L: Codec + Clone, R: Codec + Clone> StreamJoin<K, L, R> {
    pub fn new(left_store: usize, right_store: usize, options: StreamJoinOptions) -> Self {
        let StreamJoinOptions { kind, before_ms, after_ms, grace_ms, .. } = options;
        Self {
            options,
            left: Side::new(left_store, (-before_ms, after_ms), grace_ms, kind != JoinKind::Inner),
            right: Side::new(right_store, (-after_ms, before_ms), grace_ms, kind == JoinKind::Outer),
            results: Vec::new(),
        }
    }

    pub fn left_spec(name: &'static str) -> StoreSpec {
        Waiting::<K, L>::spec(name)
    }

    pub fn right_spec(name: &'static str) -> StoreSpec {
        Waiting::<K, R>::spec(name)
    }

    /// Takes a record of the left stream, moves stream time to it, and tells what went out alone, then its pairs in the
    /// order of the others' times.
    pub fn left(
        &mut self,
        context: &mut Context<'_>,
        input: &Input<'_>,
        key: &K,
        time_ms: i64,
        value: L,
    ) -> Result<Drain<'_, Joined<K, L, R>>, ProcessError> {
        context.advance_stream_time(time_ms);
        self.results.clear();
        self.close_due(context)?;
        if self.is_late(&self.left, time_ms, context.stream_time()) {
            self.options.late.send(self.options.name, input, context)?;
            return Ok(self.results.drain(..));
        }
        let met = self.right.meet(context, key, self.left.reach, time_ms)?;
        let has_met = !met.is_empty();
        for (other_ms, other) in met {
            let (left, right) = (Some(value.clone()), Some(other));
            self.results.push(Joined { key: key.clone(), time_ms: time_ms.max(other_ms), left, right });
        }
        if let Some(value) = self.left.wait(context, key, time_ms, has_met, value)? {
            self.results.push(Joined { key: key.clone(), time_ms, left: Some(value), right: None });
        }
        Ok(self.results.drain(..))
    }

    /// As `left`, of the right stream.
    pub fn right(
        &mut self,
        context: &mut Context<'_>,
        input: &Input<'_>,
        key: &K,
        time_ms: i64,
        value: R,
    ) -> Result<Drain<'_, Joined<K, L, R>>, ProcessError> {
        context.advance_stream_time(time_ms);
        self.results.clear();
        self.close_due(context)?;
        if self.is_late(&self.right, time_ms, context.stream_time()) {
            self.options.late.send(self.options.name, input, context)?;
            return Ok(self.results.drain(..));
        }
        let met = self.left.meet(context, key, self.right.reach, time_ms)?;
        let has_met = !met.is_empty();
        for (other_ms, other) in met {
            let (left, right) = (Some(other), Some(value.clone()));
            self.results.push(Joined { key: key.clone(), time_ms: time_ms.max(other_ms), left, right });
        }
        if let Some(value) = self.right.wait(context, key, time_ms, has_met, value)? {
            self.results.push(Joined { key: key.clone(), time_ms, left: None, right: Some(value) });
        }
        Ok(self.results.drain(..))
    }

    /// Closes what is to be closed by stream time, which others may have moved: at most `CLOSED_MAX` records of each side.
    pub fn close(&mut self, context: &mut Context<'_>) -> Result<Drain<'_, Joined<K, L, R>>, ProcessError> {
        self.results.clear();
        self.close_due(context)?;
        Ok(self.results.drain(..))
    }

    /// It is closed, and so is all that it could have met.
    fn is_late<V>(&self, side: &Side<K, V>, time_ms: i64, now: i64) -> bool
    where
        K: Codec + Clone,
        V: Codec,
    {
        let StreamJoinOptions { before_ms, after_ms, grace_ms, .. } = self.options;
        let last = time_ms.saturating_add(before_ms).saturating_add(after_ms).saturating_add(grace_ms);
        last < now && side.closes_at(time_ms) <= now
    }

    fn close_due(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        self.left.take_closed(context)?;
        for Due { key: (key, time_ms, _), value: (has_met, value), .. } in self.left.closed.drain(..) {
            if self.left.alone && !has_met {
                self.results.push(Joined { key, time_ms, left: Some(value), right: None });
            }
        }
        self.right.take_closed(context)?;
        for Due { key: (key, time_ms, _), value: (has_met, value), .. } in self.right.closed.drain(..) {
            if self.right.alone && !has_met {
                self.results.push(Joined { key, time_ms, left: None, right: Some(value) });
            }
        }
        Ok(())
    }
}

impl<K: Codec + Clone, V: Codec> Side<K, V> {
    fn new(store: usize, reach: (i64, i64), grace_ms: i64, alone: bool) -> Self {
        Self { store, waiting: Waiting::new(0), reach, grace_ms, alone, closed: Vec::new() }
    }

    fn closes_at(&self, time_ms: i64) -> i64 {
        time_ms.saturating_add(self.reach.1).saturating_add(self.grace_ms).saturating_add(1)
    }

    fn take_closed(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let now = context.stream_time();
        Ok(self.waiting.take_due(context.store(self.store), now, CLOSED_MAX, &mut self.closed)?)
    }

    /// What waits here, is not closed, and is within `reach` of a record of the other side; they have met then.
    fn meet(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        reach: (i64, i64),
        time_ms: i64,
    ) -> Result<Vec<(i64, V)>, ProcessError> {
        let now = context.stream_time();
        let store = context.store(self.store);
        let from = to_bytes(&(key.clone(), time_ms.saturating_add(reach.0)));
        let to = to_bytes(&(key.clone(), time_ms.saturating_add(reach.1).saturating_add(1)));
        let (mut met, mut first_met) = (Vec::new(), Vec::new());
        self.waiting.range(store, &from, &to, Order::Ascending, |(key, other_ms, number), due, (has_met, value)| {
            if due > now {
                if !has_met {
                    first_met.push((key, other_ms, number));
                }
                met.push((other_ms, value));
            }
            true
        })?;
        if self.alone {
            for key in first_met {
                if let Some((due, (_, value))) = self.waiting.get(store, &key)? {
                    self.waiting.put(store, &key, due, &(true, value))?;
                }
            }
        }
        Ok(met)
    }

    /// Lets a record wait for others. One that is closed already cannot: it comes back if it has to go out alone.
    fn wait(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        time_ms: i64,
        has_met: bool,
        value: V,
    ) -> Result<Option<V>, ProcessError> {
        let due = self.closes_at(time_ms);
        if due <= context.stream_time() {
            return Ok((self.alone && !has_met).then_some(value));
        }
        let store = context.store(self.store);
        let number = free_number(&mut self.waiting, store, |number| (key.clone(), time_ms, number))?;
        self.waiting.put(store, &(key.clone(), time_ms, number), due, &(has_met, value))?;
        Ok(None)
    }
}
