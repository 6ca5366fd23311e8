//! A task's commits, as its manifests tell them: found by binary search, read one after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engram_schemas::codec::Decoder;
use engram_schemas::manifest::Manifest;
use engram_schemas::registry::Registry;

use super::ReplayError;
use crate::log::{Consumer, Log, OffsetRange, TopicPartition};
use crate::manifest;

const FETCH_RECORDS_MAX: usize = 500;
const WAIT_MAX: Duration = Duration::from_millis(20);
/// Longest wait for the log to hand out what it says it has.
const STALL_MAX: Duration = Duration::from_secs(60);

/// A commit that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Where its manifest is, in the task's partition of the manifests.
    pub offset: i64,
    /// When its manifest was written: just before it was committed, ms since the epoch.
    pub time_ms: i64,
    pub manifest: Manifest,
}

/// The commits of one task that the log still tells of.
///
/// INVARIANT: each commit follows the one before it: sequences without a gap, a digest that goes on from the last.
pub struct History {
    partition: TopicPartition,
    range: OffsetRange,
    reader: Box<dyn Consumer>,
    decoder: Decoder,
    /// Read and not yet asked for; the next offset to read.
    ahead: VecDeque<Commit>,
    position: i64,
}

impl History {
    /// As it is now: commits that follow are not seen. Nothing is read yet.
    pub fn open(log: &dyn Log, registry: &Arc<dyn Registry>, service: &str, task: i32) -> Result<Self, ReplayError> {
        let partition = TopicPartition::new(manifest::topic(service), task);
        let range = log.offsets(std::slice::from_ref(&partition))?[0];
        let (reader, decoder) = (log.reader()?, Decoder::new(Arc::clone(registry)));
        let mut history = Self { partition, range, reader, decoder, ahead: VecDeque::new(), position: -1 };
        history.seek(range.first)?;
        Ok(history)
    }

    /// The first commit for which `reached` holds; once it holds, it holds for all that follow. `read` goes on behind it.
    pub fn find(&mut self, reached: impl Fn(&Commit) -> bool) -> Result<Option<Commit>, ReplayError> {
        let (mut low, mut high) = (self.range.first, self.range.stable);
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            self.seek(middle)?;
            match self.read()? {
                Some(commit) if !reached(&commit) => low = commit.offset + 1,
                // Between `middle` and the commit there is none.
                Some(commit) => (high, found) = (middle, Some(commit)),
                None => high = middle,
            }
        }
        if let Some(commit) = &found {
            self.seek(commit.offset + 1)?;
        }
        Ok(found)
    }

    /// The first commit that the log still tells of.
    pub fn first(&mut self) -> Result<Option<Commit>, ReplayError> {
        self.seek(self.range.first)?;
        self.read()
    }

    /// Goes on behind commit `sequence`.
    pub fn after(&mut self, sequence: i64) -> Result<(), ReplayError> {
        match self.find(|commit| commit.manifest.sequence > sequence)? {
            Some(commit) => self.seek(commit.offset),
            None => self.seek(self.range.stable),
        }
    }

    /// The next commit; `None` at the end.
    pub fn read(&mut self) -> Result<Option<Commit>, ReplayError> {
        let mut progress = Instant::now();
        while self.ahead.is_empty() && self.position < self.range.stable {
            let fetched = self.reader.fetch(0, FETCH_RECORDS_MAX)?;
            let before = self.position;
            if let Some(batch) = fetched.records {
                for index in 0..batch.len() {
                    let record = batch.record(index);
                    self.position = record.offset + 1;
                    if record.offset >= self.range.stable {
                        break;
                    }
                    let value = record.value.unwrap_or_default();
                    let manifest = self.decoder.decode(value).map_err(|error| {
                        let place = format!("{}/{}", self.partition, record.offset);
                        ReplayError::Impossible(format!("the manifest at {place} cannot be read: {error}"))
                    })?;
                    self.ahead.push_back(Commit { offset: record.offset, time_ms: record.timestamp_ms, manifest });
                }
            }
            self.position = self.position.max(fetched.end.unwrap_or(self.position));
            if self.position > before {
                progress = Instant::now();
            } else if progress.elapsed() > STALL_MAX {
                let seconds = STALL_MAX.as_secs();
                return Err(ReplayError::Impossible(format!(
                    "the log does not hand out {}/{} within {seconds} s",
                    self.partition, self.position
                )));
            } else {
                self.reader.wait(WAIT_MAX)?;
            }
        }
        Ok(self.ahead.pop_front())
    }

    fn seek(&mut self, offset: i64) -> Result<(), ReplayError> {
        if self.ahead.front().map_or(self.position, |commit| commit.offset) == offset {
            return Ok(());
        }
        self.ahead.clear();
        self.reader.assign(&[(self.partition.clone(), offset)])?;
        self.position = offset;
        Ok(())
    }
}
