//! A commit, step by step: each record that it took and each timer that it fired, with what came of it.

use super::Written;
use crate::collector::Origin;
use crate::log::TopicPartition;
use crate::queue::RecordQueue;
use crate::timers::TimerClock;

/// What made a task do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cause {
    #[default]
    Record,
    /// One timer by stream time, or all that the wall clock has made due at once.
    Timer(TimerClock),
    /// The end of the commit: updates for what its records have changed.
    Commit,
}

/// One thing that a task did.
#[derive(Debug, Default)]
pub struct Step {
    pub cause: Cause,
    /// Of `Cause::Record`.
    pub record: Option<TakenRecord>,
    /// The entries of stores that are not as before, by store and key.
    pub changes: Vec<Change>,
    /// The entries that were read: index of the store, key.
    pub reads: Vec<(usize, Vec<u8>)>,
    /// What of the commit's end it contributes to, see `Origin::Contributions`.
    pub contributed: Vec<Vec<u8>>,
    pub outputs: Vec<Emitted>,
    pub dead_letters: Vec<Written>,
}

/// A record that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenRecord {
    pub partition: TopicPartition,
    pub offset: i64,
    /// Milliseconds since the epoch, UTC.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

impl TakenRecord {
    /// The next of a queue, which has one.
    pub(crate) fn head(queue: &RecordQueue) -> Self {
        let record = queue.head().expect("there is a record");
        Self {
            partition: queue.partition.clone(),
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
        }
    }
}

/// An entry of a store, before and after; `None`: there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Index of the store.
    pub store: usize,
    pub key: Vec<u8>,
    pub before: Option<Vec<u8>>,
    pub after: Option<Vec<u8>>,
}

/// An output of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// Its number among the commit's outputs: the second part of its `ce_id`.
    pub index: usize,
    pub record: Written,
    pub origin: Origin,
}
