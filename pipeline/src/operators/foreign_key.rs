//! Joins of two tables by a foreign key: each left row names the key of the right row that it goes with.
//!
//! The two rows may live in different tasks, so the tasks talk through an internal topic that is an input of the service too:
//!
//! ```text
//! task of the left row                          task of the right row
//! left row changes      -- Subscribe -------->  remembers who wants its row
//!                       -- Unsubscribe ------>  (to the task of the row named before)
//!                       <--------- Response --  at once, and whenever the right row changes
//! result, if the left row is still the one that asked
//! ```
//!
//! That a response belongs to the left row as it is now is told by the hash of the row, which goes with the question and
//! comes back with the answer: those of rows that have changed since are dropped.
//!
//! Source: KIP-213.

use std::vec::Drain;

use xxhash_rust::xxh3::xxh3_64;

use super::table_join::TableJoinKind;
use super::value::ValueStore;
use crate::log::partitioner::partition_for;
use crate::log::{Cleanup, TopicSpec};
use crate::processor::{Context, Input, ProcessError};
use crate::service::TOPIC_MESSAGE_BYTES_MAX;
use crate::store::StoreSpec;
use crate::store::codec::{Codec, read_whole, to_bytes};

/// A change of the joined table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignJoined<K, L, R> {
    pub key: K,
    /// The row; `None`: there is none any more.
    pub row: Option<(L, Option<R>)>,
}

/// What is joined, and how.
pub struct ForeignKeyOptions<F, L> {
    pub kind: TableJoinKind,
    /// The key of the right row that a left row goes with, if any.
    pub foreign_key: fn(&L) -> Option<F>,
    /// The key of the right topic's records as their producer writes it, by which it chose their partitions.
    pub record_key: fn(&F) -> Vec<u8>,
    /// Index of the internal topic among the service's outputs.
    pub output: usize,
    /// Partitions of the service's inputs.
    pub partitions: i32,
    /// Indexes of the stores: left rows, right rows, subscriptions.
    pub stores: [usize; 3],
}

/// Joins two tables by a foreign key.
pub struct ForeignKeyJoin<K, F, L, R> {
    options: ForeignKeyOptions<F, L>,
    /// With whether a result is out for it.
    lefts: ValueStore<K, (bool, L)>,
    rights: ValueStore<F, R>,
    /// Who wants a right row: the task to answer, and the hash to answer with.
    subscriptions: ValueStore<(F, K), (i32, u64)>,
    results: Vec<ForeignJoined<K, L, R>>,
    buffer: Vec<u8>,
}

/// What the tasks tell each other.
#[derive(Debug, Clone, PartialEq)]
enum Message<K, F, R> {
    Subscribe { foreign: F, key: K, task: i32, hash: u64 },
    Unsubscribe { foreign: F, key: K },
    Response { key: K, hash: u64, right: Option<R> },
}

/// The internal topic of a service's join: an input and an output (`event: None`) of the service.
pub fn topic(service: &str, join: &str) -> TopicSpec {
    TopicSpec {
        name: format!("engram-{service}-{join}-subscriptions"),
        partitions: 0,
        cleanup: Cleanup::Keep,
        max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
    }
}

impl<K, F, L, R> ForeignKeyJoin<K, F, L, R>
where
    K: Codec + Clone,
    F: Codec + Clone + PartialEq,
    L: Codec + Clone,
    R: Codec + Clone,
{
    pub fn new(options: ForeignKeyOptions<F, L>) -> Self {
        let [lefts, rights, subscriptions] = options.stores;
        Self {
            options,
            lefts: ValueStore::new(lefts),
            rights: ValueStore::new(rights),
            subscriptions: ValueStore::new(subscriptions),
            results: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// In the order of `ForeignKeyOptions::stores`.
    pub fn specs(names: [&'static str; 3]) -> [StoreSpec; 3] {
        let [lefts, rights, subscriptions] = names;
        [
            ValueStore::<K, (bool, L)>::spec(lefts),
            ValueStore::<F, R>::spec(rights),
            ValueStore::<(F, K), (i32, u64)>::spec(subscriptions),
        ]
    }

    /// Takes a record of the left table; `None` deletes the row.
    pub fn left(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        row: Option<L>,
    ) -> Result<Drain<'_, ForeignJoined<K, L, R>>, ProcessError> {
        self.results.clear();
        let before = self.lefts.get(context, key)?;
        let was_out = before.as_ref().is_some_and(|(is_out, _)| *is_out);
        let old = before.and_then(|(_, row)| (self.options.foreign_key)(&row));
        let new = row.as_ref().and_then(self.options.foreign_key);
        if let Some(old) = old.filter(|old| Some(old) != new.as_ref()) {
            let task = self.task_of(&old);
            self.send(context, task, &Message::Unsubscribe { foreign: old, key: key.clone() })?;
        }
        match (row, new) {
            (None, _) => {
                self.lefts.delete(context, key)?;
                self.result(key, None, was_out);
            }
            (Some(row), None) => {
                let goes_out = self.options.kind == TableJoinKind::Left;
                self.lefts.put(context, key, &(goes_out, row.clone()))?;
                self.result(key, goes_out.then_some((row, None)), was_out);
            }
            (Some(row), Some(foreign)) => {
                let hash = xxh3_64(&to_bytes(&row));
                self.lefts.put(context, key, &(was_out, row))?;
                let (to, task) = (self.task_of(&foreign), context.partition());
                self.send(context, to, &Message::Subscribe { foreign, key: key.clone(), task, hash })?;
            }
        }
        Ok(self.results.drain(..))
    }

    /// Takes a record of the right table; `None` deletes the row. The results come with the responses to it.
    pub fn right(&mut self, context: &mut Context<'_>, key: &F, row: Option<R>) -> Result<(), ProcessError> {
        match &row {
            Some(row) => self.rights.put(context, key, row)?,
            None => self.rights.delete(context, key)?,
        }
        let mut wanted = Vec::new();
        self.subscriptions.with_first(context, key, |(_, key), (task, hash)| {
            wanted.push((key, task, hash));
            true
        })?;
        for (key, task, hash) in wanted {
            self.send(context, task, &Message::Response { key, hash, right: row.clone() })?;
        }
        Ok(())
    }

    /// Takes a record of the internal topic.
    pub fn internal(
        &mut self,
        context: &mut Context<'_>,
        input: &Input<'_>,
    ) -> Result<Drain<'_, ForeignJoined<K, L, R>>, ProcessError> {
        self.results.clear();
        let message = input.record.value.and_then(read_whole::<Message<K, F, R>>);
        match message.ok_or_else(|| ProcessError::reject("malformed", "this is no message between two tasks"))? {
            Message::Subscribe { foreign, key, task, hash } => {
                self.subscriptions.put(context, &(foreign.clone(), key.clone()), &(task, hash))?;
                let right = self.rights.get(context, &foreign)?;
                self.send(context, task, &Message::Response { key, hash, right })?;
            }
            Message::Unsubscribe { foreign, key } => self.subscriptions.delete(context, &(foreign, key))?,
            Message::Response { key, hash, right } => self.answered(context, &key, hash, right)?,
        }
        Ok(self.results.drain(..))
    }

    fn answered(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        hash: u64,
        right: Option<R>,
    ) -> Result<(), ProcessError> {
        let Some((was_out, left)) = self.lefts.get(context, key)? else { return Ok(()) };
        if xxh3_64(&to_bytes(&left)) != hash {
            return Ok(());
        }
        let goes_out = right.is_some() || self.options.kind == TableJoinKind::Left;
        if goes_out != was_out {
            self.lefts.put(context, key, &(goes_out, left.clone()))?;
        }
        self.result(key, goes_out.then_some((left, right)), was_out);
        Ok(())
    }

    /// That there is no row is told only where there was one.
    fn result(&mut self, key: &K, row: Option<(L, Option<R>)>, was_out: bool) {
        if was_out || row.is_some() {
            self.results.push(ForeignJoined { key: key.clone(), row });
        }
    }

    fn task_of(&self, foreign: &F) -> i32 {
        partition_for(&(self.options.record_key)(foreign), self.options.partitions)
    }

    fn send(&mut self, context: &mut Context<'_>, task: i32, message: &Message<K, F, R>) -> Result<(), ProcessError> {
        self.buffer.clear();
        message.write(&mut self.buffer);
        let key = match message {
            Message::Subscribe { key, .. } | Message::Unsubscribe { key, .. } | Message::Response { key, .. } => key,
        };
        context.emit_to(self.options.output, task, &to_bytes(key), Some(&self.buffer))
    }
}

/// Its kind (u8), then its fields in order.
impl<K: Codec, F: Codec, R: Codec> Codec for Message<K, F, R> {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Subscribe { foreign, key, task, hash } => {
                0_u8.write(bytes);
                foreign.write(bytes);
                key.write(bytes);
                task.write(bytes);
                hash.write(bytes);
            }
            Self::Unsubscribe { foreign, key } => {
                1_u8.write(bytes);
                foreign.write(bytes);
                key.write(bytes);
            }
            Self::Response { key, hash, right } => {
                2_u8.write(bytes);
                key.write(bytes);
                hash.write(bytes);
                right.write(bytes);
            }
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(match u8::read(bytes)? {
            0 => Self::Subscribe {
                foreign: F::read(bytes)?,
                key: K::read(bytes)?,
                task: i32::read(bytes)?,
                hash: u64::read(bytes)?,
            },
            1 => Self::Unsubscribe { foreign: F::read(bytes)?, key: K::read(bytes)? },
            2 => Self::Response { key: K::read(bytes)?, hash: u64::read(bytes)?, right: Option::<R>::read(bytes)? },
            _ => return None,
        })
    }

    fn describe(&self) -> serde_json::Value {
        match self {
            Self::Subscribe { foreign, key, .. } => {
                serde_json::json!({"subscribe": [foreign.describe(), key.describe()]})
            }
            Self::Unsubscribe { foreign, key } => {
                serde_json::json!({"unsubscribe": [foreign.describe(), key.describe()]})
            }
            Self::Response { key, right, .. } => serde_json::json!({"response": [key.describe(), right.describe()]}),
        }
    }
}
