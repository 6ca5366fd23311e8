//! The process that owns the log: the only one that writes to it.
//!
//! Locks are taken in this order: `writing`, the coordinator's, `state`. `writing` is held from the checks of a commit
//! until its batch is on the device, so whoever takes it sees no pending commit (KIP-447) and batches reach RocksDB in
//! the order of the partition ends that they carry. Readers take only `state`, which nobody holds while a device works.
//!
//! INVARIANT: a commit is one durable batch: its records, the partitions' ends, the group's positions.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rocksdb::WriteBatch;

use super::buffer::{Buffer, Reserved};
use super::compaction::{Compactor, Job};
use super::files::{Files, Write};
use super::group::Coordinator;
use super::state::{Failure, State, Ticket};
use super::view::{Ends, Place, Topic, View};
use super::{keys, stored, view};
use crate::clock::Clock;
use crate::log::{Cleanup, CommitError, GroupInfo, GroupPositions, LogError, TopicPartition};

/// A compacted partition is gone through again after as many bytes were written to it.
const COMPACTION_BYTES: usize = 64 << 20;

pub struct Owner {
    pub clock: Clock,
    /// Dropped first: it uses the files.
    compactor: Compactor,
    pub coordinator: Coordinator,
    files: Arc<Files>,
    writing: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Owner {
    pub fn new(files: Files, clock: Clock) -> Result<Self, LogError> {
        let files = Arc::new(files);
        let state = State::load(&files)?;
        // What was open when the log was last used will never be resolved otherwise.
        let mut batch = WriteBatch::default();
        for place in state.places() {
            put_ends(&mut batch, place, state.ends(place));
        }
        files.write(batch, Write::Lazy)?;
        let mut jobs = Vec::new();
        for topic in state.topics.values().filter(|topic| topic.cleanup == Cleanup::Compact) {
            for partition in 0..topic.partitions {
                let place = Place { topic: topic.id, partition };
                jobs.extend(state.ends(place).map(|ends| Job { place, stable: ends.stable }));
            }
        }
        let compactor = Compactor::start(Arc::clone(&files), jobs);
        Ok(Self {
            compactor,
            coordinator: Coordinator::new(clock.clone()),
            clock,
            files,
            writing: Mutex::new(()),
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    pub fn groups(&self) -> Result<Vec<GroupInfo>, LogError> {
        let mut groups = view::groups(self)?;
        groups.extend(self.coordinator.groups().into_iter().map(|group| (group.name.clone(), group)));
        Ok(groups.into_values().collect())
    }

    pub fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        let _no_commit_pending = self.writing();
        partitions.iter().map(|partition| view::committed(self, group, partition)).collect()
    }

    /// Makes the caller the one producer of a transactional id; what an earlier one left open is aborted.
    pub fn fence(&self, id: &str) -> Result<Ticket, LogError> {
        let _writing = self.writing();
        let stored = self.stored_epoch(id)?;
        let epoch = {
            let mut state = self.state();
            self.check_writable(&state)?;
            state.epoch(id, stored) + 1
        };
        let mut batch = WriteBatch::default();
        batch.put(keys::producer(id), epoch.to_be_bytes());
        self.apply(batch).map_err(into_log_error)?;
        let mut state = self.state();
        let left_open = state.fence(id, epoch);
        let ticket = state.ticket(id, epoch, epoch);
        drop(state);
        self.give_up(None, &left_open);
        Ok(ticket)
    }

    /// The right that a producer in another process was given.
    pub fn ticket(&self, id: &str, epoch: u64) -> Result<Ticket, LogError> {
        let stored = self.stored_epoch(id)?;
        Ok(self.state().ticket(id, epoch, stored))
    }

    /// Gives offsets to a transaction's records.
    ///
    /// Errors: `Fenced`, `Refused`, `Full`; nothing was reserved then.
    pub fn reserve(&self, ticket: &Ticket, buffer: Buffer) -> Result<Vec<Reserved>, LogError> {
        let mut state = self.state();
        self.check_writable(&state)?;
        ticket.check()?;
        state.reserve(Some(ticket), buffer)
    }

    /// Commits records and positions; all or nothing, and on an error nothing of it stays reserved. Answers the
    /// reserved runs, by which the caller knows their offsets.
    pub fn write(
        &self,
        ticket: Option<&Ticket>,
        mut runs: Vec<Reserved>,
        buffer: Buffer,
        positions: Option<GroupPositions<'_>>,
    ) -> Result<Vec<Reserved>, CommitError> {
        let _writing = self.writing();
        let outcome = self.prepare(ticket, &mut runs, buffer, positions).and_then(|batch| self.apply(batch));
        let resolved = resolved(&runs);
        match outcome {
            Ok(()) => {
                self.change(|state| state.resolve(ticket, &resolved));
                self.compact_where_due(&runs);
                Ok(runs)
            }
            Err(error) => {
                self.give_up(ticket, &resolved);
                Err(error)
            }
        }
    }

    /// Gives up what a transaction has reserved; it becomes a hole.
    pub fn abort(&self, ticket: &Ticket, runs: &[Reserved]) {
        let _writing = self.writing();
        self.give_up(Some(ticket), &resolved(runs));
    }

    fn prepare(
        &self,
        ticket: Option<&Ticket>,
        runs: &mut Vec<Reserved>,
        buffer: Buffer,
        positions: Option<GroupPositions<'_>>,
    ) -> Result<WriteBatch, CommitError> {
        if let Some(positions) = &positions {
            self.coordinator.check(positions.group, positions.membership)?;
        }
        let mut batch = WriteBatch::default();
        let ends: Vec<(Place, Option<Ends>)> = {
            let mut state = self.state();
            self.check_writable(&state)?;
            if let Some(ticket) = ticket {
                ticket.check().map_err(|fenced| CommitError::Fenced(fenced.to_string()))?;
            }
            for (partition, position) in positions.iter().flat_map(|positions| positions.positions) {
                let place = state.topic(&partition.topic)?.place(&partition.topic, partition.partition)?;
                let group = positions.map_or("", |positions| positions.group);
                batch.put(keys::position(group, place.topic, place.partition), position.to_be_bytes());
            }
            runs.extend(state.reserve(ticket, buffer)?);
            let resolved = resolved(runs);
            let mine =
                |place: Place| resolved.iter().filter(move |run| run.0 == place).map(|run| run.1).collect::<Vec<_>>();
            runs.iter().map(|run| (run.place, state.ends_after(run.place, &mine(run.place)))).collect()
        };
        if let Some((run, _)) = runs.iter().zip(&ends).find(|(_, (_, ends))| ends.is_none()) {
            return Err(view::no_topic(&run.partition.topic).into());
        }
        ends.into_iter().for_each(|(place, ends)| put_ends(&mut batch, place, ends));
        runs.iter().for_each(|run| put_records(&mut batch, run));
        Ok(batch)
    }

    /// Writes a batch durably. After a failure nothing more is written: whether the batch is on the device is only known
    /// when the log is opened anew, and nothing may be written on the assumption that it is not.
    pub(super) fn apply(&self, batch: WriteBatch) -> Result<(), CommitError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.files.write(batch, Write::Durable).map_err(|error| match error {
            LogError::Full(_) => {
                self.state().failed = Some(Failure::Full);
                error.into()
            }
            error => {
                let text = with_source(&error);
                self.state().failed = Some(Failure::Other(text.clone()));
                CommitError::Unknown(text)
            }
        })
    }

    /// Makes reserved runs holes. The ends are written for those who read beside; only a later commit needs them.
    fn give_up(&self, ticket: Option<&Ticket>, runs: &[(Place, i64)]) {
        if runs.is_empty() {
            return;
        }
        let mut batch = WriteBatch::default();
        let mut failed = false;
        self.change(|state| {
            state.resolve(ticket, runs);
            runs.iter().for_each(|(place, _)| put_ends(&mut batch, *place, state.ends(*place)));
            failed = state.failed.is_some();
        });
        if failed {
            return;
        }
        if let Err(error) = self.files.write(batch, Write::Lazy) {
            tracing::warn!(error = %with_source(&error), "the ends of an aborted transaction could not be written");
        }
    }

    fn compact_where_due(&self, runs: &[Reserved]) {
        let mut state = self.state();
        for run in runs {
            let topic = state.topics.get(&*run.partition.topic);
            let compacted = topic.is_some_and(|topic| topic.cleanup == Cleanup::Compact);
            if compacted && state.count_written(run.place, run.records.payloads.len(), COMPACTION_BYTES) {
                let stable = state.ends(run.place).map_or(view::FIRST_OFFSET, |ends| ends.stable);
                self.compactor.request(Job { place: run.place, stable });
            }
        }
    }

    fn stored_epoch(&self, id: &str) -> Result<u64, LogError> {
        Ok(self.files.get_i64(&keys::producer(id))?.map_or(0, i64::cast_unsigned))
    }

    pub(super) fn check_writable(&self, state: &State) -> Result<(), LogError> {
        match &state.failed {
            None => Ok(()),
            Some(Failure::Full) => Err(LogError::Full(self.files.dir().to_owned())),
            Some(Failure::Other(reason)) => Err(LogError::failed(
                format!("the log in {} takes no more writes until it is opened anew", self.files.dir()),
                reason.clone(),
            )),
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        state.version += 1;
        self.changed.notify_all();
    }

    pub(super) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View for Owner {
    fn files(&self) -> &Files {
        &self.files
    }

    fn topics(&self) -> Result<Vec<(String, Topic)>, LogError> {
        Ok(self.state().topics.iter().map(|(name, topic)| (name.clone(), *topic)).collect())
    }

    fn topic(&self, name: &str) -> Result<Option<Topic>, LogError> {
        Ok(self.state().topics.get(name).copied())
    }

    fn ends(&self, place: Place) -> Result<Ends, LogError> {
        let ends = self.state().ends(place);
        ends.ok_or_else(|| LogError::Refused("this topic was deleted: stop what reads it".to_owned()))
    }

    fn version(&self) -> u64 {
        self.state().version
    }

    fn wait(&self, version: u64, deadline: Instant) {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let unchanged = |state: &mut State| state.version == version;
        let woken = self.changed.wait_timeout_while(self.state(), remaining, unchanged);
        drop(woken.unwrap_or_else(PoisonError::into_inner));
    }
}

/// What a commit's error is for a call that does not commit.
pub fn into_log_error(error: CommitError) -> LogError {
    match error {
        CommitError::Log(error) => error,
        CommitError::Fenced(reason) => LogError::Fenced(reason),
        CommitError::Aborted(reason) | CommitError::Unknown(reason) => {
            LogError::failed("cannot write to the log", reason)
        }
    }
}

fn resolved(runs: &[Reserved]) -> Vec<(Place, i64)> {
    runs.iter().map(|run| (run.place, run.first)).collect()
}

fn put_ends(batch: &mut WriteBatch, place: Place, ends: Option<Ends>) {
    if let Some(ends) = ends {
        batch.put(keys::partition(place.topic, place.partition), ends.encode());
    }
}

fn put_records(batch: &mut WriteBatch, run: &Reserved) {
    let (mut offset, mut timestamp_max_ms) = (run.first, run.timestamp_max_ms);
    let mut value = Vec::new();
    for payload in run.records.payloads() {
        timestamp_max_ms = timestamp_max_ms.max(stored::payload_timestamp(payload));
        stored::encode(&mut value, offset, timestamp_max_ms, payload);
        batch.put(keys::record(run.place.topic, run.place.partition, offset), &value);
        offset += 1;
    }
}

/// An error with its cause, in one line.
fn with_source(error: &LogError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
