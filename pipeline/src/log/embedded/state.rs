//! What the log's owner keeps in memory: topics, where partitions end, and which offsets belong to open transactions.
//!
//! A transaction's records get their offsets when they are flushed, before anyone knows whether it will commit. The
//! records themselves stay with their producer until then, so an abort leaves a hole, and so does a crash.
//!
//! ```text
//! partition:  0 .. stable   committed, or holes
//!             stable .. end reserved by open transactions, with what was committed between them
//! ```
//!
//! INVARIANT: below a `stable` that was ever shown, no record appears any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::buffer::{Buffer, Reserved};
use super::files::Files;
use super::stored;
use super::view::{self, Ends, Place, Topic};
use crate::log::LogError;

pub struct State {
    pub topics: BTreeMap<String, Topic>,
    partitions: HashMap<Place, Partition>,
    producers: HashMap<Arc<str>, Transactional>,
    /// Changes with whatever a reader may be waiting for.
    pub version: u64,
    /// Why nothing can be written any more.
    pub failed: Option<Failure>,
}

/// What happened to a write; what the device holds of it is only known once the log is opened anew.
pub enum Failure {
    Full,
    Other(String),
}

struct Partition {
    end: i64,
    timestamp_max_ms: i64,
    /// The first offset of each run that is reserved and not yet resolved.
    open: BTreeSet<i64>,
    /// Bytes written since it was last compacted.
    bytes_written: usize,
}

/// The producers of one transactional id.
struct Transactional {
    newest: Arc<AtomicU64>,
    open: Vec<(Place, i64)>,
}

/// A producer's right to write under its transactional id, until another one takes it.
#[derive(Clone)]
pub struct Ticket {
    pub id: Arc<str>,
    pub epoch: u64,
    newest: Arc<AtomicU64>,
}

impl Ticket {
    /// Errors: `Fenced`.
    pub fn check(&self) -> Result<(), LogError> {
        if self.newest.load(Ordering::Acquire) == self.epoch {
            return Ok(());
        }
        Err(LogError::Fenced(format!("another producer has taken the transactional id {}", self.id)))
    }
}

impl State {
    /// The state after a start: nothing is open.
    pub fn load(files: &Files) -> Result<Self, LogError> {
        let topics: BTreeMap<String, Topic> = view::stored_topics(files)?.into_iter().collect();
        let mut state = Self {
            topics: BTreeMap::new(),
            partitions: HashMap::new(),
            producers: HashMap::new(),
            version: 0,
            failed: None,
        };
        for (name, topic) in topics {
            state.add_topic(name, topic);
        }
        for (place, partition) in &mut state.partitions {
            let ends = view::stored_ends(files, *place)?;
            (partition.end, partition.timestamp_max_ms) = (ends.end, ends.timestamp_max_ms);
        }
        Ok(state)
    }

    pub fn add_topic(&mut self, name: String, topic: Topic) {
        let Ends { end, timestamp_max_ms, .. } = view::NO_RECORDS;
        for partition in 0..topic.partitions {
            let empty = Partition { end, timestamp_max_ms, open: BTreeSet::new(), bytes_written: 0 };
            self.partitions.insert(Place { topic: topic.id, partition }, empty);
        }
        self.topics.insert(name, topic);
    }

    pub fn remove_topic(&mut self, name: &str) {
        if let Some(topic) = self.topics.remove(name) {
            self.partitions.retain(|place, _| place.topic != topic.id);
        }
    }

    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.partitions.keys().copied()
    }

    pub fn topic(&self, name: &str) -> Result<&Topic, LogError> {
        self.topics.get(name).ok_or_else(|| view::no_topic(name))
    }

    /// `None` once the topic is deleted.
    pub fn ends(&self, place: Place) -> Option<Ends> {
        self.partitions.get(&place).map(|partition| partition.ends_without(&[]))
    }

    /// The partition's ends once the run that begins at `first` is resolved.
    pub fn ends_after(&self, place: Place, resolved: &[i64]) -> Option<Ends> {
        self.partitions.get(&place).map(|partition| partition.ends_without(resolved))
    }

    /// The right to write under a transactional id. `stored` is the epoch that the log has for it.
    pub fn ticket(&mut self, id: &str, epoch: u64, stored: u64) -> Ticket {
        let transactional = self.transactional(id, stored);
        Ticket { id: id.into(), epoch, newest: Arc::clone(&transactional.newest) }
    }

    /// The epoch that is now the newest of a transactional id.
    pub fn epoch(&mut self, id: &str, stored: u64) -> u64 {
        self.transactional(id, stored).newest.load(Ordering::Acquire)
    }

    /// Fences the producers before this epoch; answers the runs that they left open.
    pub fn fence(&mut self, id: &str, epoch: u64) -> Vec<(Place, i64)> {
        let transactional = self.transactional(id, epoch);
        transactional.newest.store(epoch, Ordering::Release);
        std::mem::take(&mut transactional.open)
    }

    fn transactional(&mut self, id: &str, stored: u64) -> &mut Transactional {
        self.producers
            .entry(id.into())
            .or_insert_with(|| Transactional { newest: Arc::new(AtomicU64::new(stored)), open: Vec::new() })
    }

    /// Gives offsets to records, as a run of each partition that stays open until it is resolved.
    ///
    /// Errors: `Refused` if a topic or partition is not there (any more); then nothing was reserved.
    pub fn reserve(&mut self, ticket: Option<&Ticket>, buffer: Buffer) -> Result<Vec<Reserved>, LogError> {
        let mut found = Vec::new();
        for (partition, records) in buffer.into_partitions() {
            let place = self.topic(&partition.topic)?.place(&partition.topic, partition.partition)?;
            found.push((partition, place, records));
        }
        let mut reserved = Vec::with_capacity(found.len());
        for (partition, place, records) in found {
            let state = self.partitions.get_mut(&place).expect("a topic's partitions are there as long as it is");
            let (first, timestamp_max_ms) = (state.end, state.timestamp_max_ms);
            state.open.insert(first);
            state.end += records.ends.len() as i64;
            let newest = records.payloads().map(stored::payload_timestamp).max();
            state.timestamp_max_ms = timestamp_max_ms.max(newest.unwrap_or(i64::MIN));
            reserved.push(Reserved { partition, place, first, timestamp_max_ms, records });
        }
        if let Some(ticket) = ticket {
            let open = reserved.iter().map(|run| (run.place, run.first));
            self.transactional(&ticket.id, ticket.epoch).open.extend(open);
        }
        Ok(reserved)
    }

    /// Resolves runs: they were committed, or never will be.
    pub fn resolve(&mut self, ticket: Option<&Ticket>, runs: &[(Place, i64)]) {
        for (place, first) in runs {
            if let Some(partition) = self.partitions.get_mut(place) {
                partition.open.remove(first);
            }
        }
        if let Some(transactional) = ticket.and_then(|ticket| self.producers.get_mut(&ticket.id)) {
            transactional.open.retain(|run| !runs.contains(run));
        }
    }

    /// Counts written bytes; answers whether it is time to compact, and then counts anew.
    pub fn count_written(&mut self, place: Place, bytes: usize, bytes_max: usize) -> bool {
        let Some(partition) = self.partitions.get_mut(&place) else { return false };
        partition.bytes_written += bytes;
        let due = partition.bytes_written > bytes_max;
        if due {
            partition.bytes_written = 0;
        }
        due
    }
}

impl Partition {
    fn ends_without(&self, resolved: &[i64]) -> Ends {
        let stable = self.open.iter().find(|first| !resolved.contains(first)).copied().unwrap_or(self.end);
        Ends { stable, end: self.end, timestamp_max_ms: self.timestamp_max_ms }
    }
}
