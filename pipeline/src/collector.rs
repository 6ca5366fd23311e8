//! A task's outputs on their way to the log: written into the worker's outbox as they are emitted, counted and digested for
//! the manifest.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;

use engram_schemas::manifest::Batch;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use crate::clock::Clock;
use crate::log::{LogError, NewRecord, TopicPartition};
use crate::outbox::SharedOutbox;
use crate::processor::Output;

/// What an output was made of, as a traced replay tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// What was being processed, and what it read.
    Step,
    /// An entry of the store with this index, by its key.
    Entry(usize, Vec<u8>),
    /// All that has contributed to this key since the last commit (`Context::contributes`).
    Contributions(Vec<u8>),
}

/// What a traced task tells beside its outputs.
#[derive(Debug, Default)]
pub struct Traced {
    /// One for each output.
    pub origins: Vec<Origin>,
    /// Keys that what was processed has contributed to.
    pub contributed: Vec<Vec<u8>>,
    /// Of the outputs to come.
    origin: Option<Origin>,
}

/// Collects what one task writes between two commits.
pub struct Collector {
    outbox: SharedOutbox,
    clock: Clock,
    outputs: Vec<Output>,
    source: String,
    /// The record that was taken last in this commit: what the next output is caused by. `None` at a commit's end, and before
    /// its first record.
    cause: Option<(Arc<str>, i32, i64)>,
    sequence: i64,
    digest: Xxh3,
    written: i64,
    bytes: usize,
    wall_clock: Vec<i64>,
    /// In a replay: what the clock is still to tell.
    recorded: Option<VecDeque<i64>>,
    /// In a replay: how often it was asked for more.
    unrecorded: usize,
    batches: Vec<Batch>,
    /// In a replay: those of the commit that are still to end.
    recorded_batches: Option<VecDeque<Batch>>,
    stream_time: i64,
    seed: i64,
    /// Random numbers told.
    randoms: u64,
    /// `None`: it is not traced.
    traced: Option<Traced>,
    id: String,
    causation: String,
}

/// How a replay has asked the clock, beside how the commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockUse {
    /// Times that it was asked more often.
    pub unrecorded: usize,
    /// Times that it was asked less often, so far.
    pub left: usize,
}

/// What a commit says about the outputs.
pub struct Collected {
    pub outputs: i64,
    pub wall_clock: Vec<i64>,
    pub batches: Vec<Batch>,
    pub stream_time: i64,
    /// 0 if no random number was asked for.
    pub seed: i64,
    pub digest: [u8; 16],
}

impl Collector {
    pub fn new(outbox: SharedOutbox, clock: Clock, service: &str, partition: i32, outputs: Vec<Output>) -> Self {
        Self {
            outbox,
            clock,
            outputs,
            source: format!("engram/{service}/{partition}"),
            cause: None,
            sequence: 0,
            digest: Xxh3::new(),
            written: 0,
            bytes: 0,
            wall_clock: Vec::new(),
            recorded: None,
            unrecorded: 0,
            batches: Vec::new(),
            recorded_batches: None,
            stream_time: i64::MIN,
            seed: 0,
            randoms: 0,
            traced: None,
            id: String::new(),
            causation: String::new(),
        }
    }

    /// Begins the outputs of commit `sequence`, whose digest goes on from the one before it.
    pub fn begin(&mut self, sequence: i64, previous_digest: &[u8; 16]) {
        self.sequence = sequence;
        self.digest.reset();
        self.digest.update(previous_digest);
        self.written = 0;
        self.bytes = 0;
        self.wall_clock.clear();
        self.batches.clear();
        self.stream_time = i64::MIN;
        self.seed = self.digest.digest() as i64 ^ xxh3_64(self.source.as_bytes()) as i64 ^ sequence;
        self.randoms = 0;
    }

    /// Outputs from now on are caused by no one record.
    pub fn caused_by_many(&mut self) {
        self.cause = None;
    }

    /// Outputs from now on are caused by this record.
    pub fn caused_by(&mut self, partition: &TopicPartition, offset: i64) {
        match &mut self.cause {
            Some((topic, number, at)) if Arc::ptr_eq(topic, &partition.topic) => {
                (*number, *at) = (partition.partition, offset);
            }
            cause => *cause = Some((Arc::clone(&partition.topic), partition.partition, offset)),
        }
    }

    /// `timestamp_ms` of `None` is the moment of writing.
    pub fn emit(
        &mut self,
        output: usize,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: Option<i64>,
    ) -> Result<(), LogError> {
        let Output { topic, event } = &self.outputs[output];
        self.digest.update(&(output as u32).to_be_bytes());
        self.digest.update(&partition.to_be_bytes());
        digest_bytes(&mut self.digest, key);
        digest_bytes(&mut self.digest, value);
        let record = NewRecord { topic, partition, timestamp_ms, key, value, headers: &[] };
        let mut outbox = self.outbox.borrow_mut();
        match event {
            Some(event) if outbox.keeps_headers() => {
                self.id.clear();
                write!(self.id, "{}-{}", self.sequence, self.written).expect("strings take everything");
                self.causation.clear();
                if let Some((topic, partition, offset)) = &self.cause {
                    write!(self.causation, "{topic}/{partition}/{offset}").expect("strings take everything");
                }
                let headers: [(&str, Option<&[u8]>); 5] = [
                    ("ce_specversion", Some(b"1.0")),
                    ("ce_id", Some(self.id.as_bytes())),
                    ("ce_type", Some(event.as_bytes())),
                    ("ce_source", Some(self.source.as_bytes())),
                    ("causation", Some(self.causation.as_bytes())),
                ];
                // What is made of many records, as one update for all that a commit has changed, has no single cause.
                let headers = if self.cause.is_some() { &headers[..] } else { &headers[..4] };
                outbox.write(&NewRecord { headers, ..record }, false)?;
            }
            _ => outbox.write(&record, false)?,
        }
        if let Some(traced) = &mut self.traced {
            traced.origins.push(traced.origin.clone().unwrap_or(Origin::Step));
        }
        self.written += 1;
        self.bytes += key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        Ok(())
    }

    /// Takes a state change into the digest; deletions count.
    pub fn digest_change(&mut self, key: &[u8], value: Option<&[u8]>) {
        digest_bytes(&mut self.digest, Some(key));
        digest_bytes(&mut self.digest, value);
    }

    /// Bytes emitted since `begin`.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn wall_clock_ms(&mut self) -> i64 {
        let now = match &mut self.recorded {
            None => self.clock.now_ms(),
            Some(recorded) => recorded.pop_front().unwrap_or_else(|| {
                self.unrecorded += 1;
                self.clock.now_ms()
            }),
        };
        self.wall_clock.push(now);
        now
    }

    /// Begins to note what each output is made of, or stops.
    pub fn trace(&mut self, on: bool) {
        self.traced = on.then(Traced::default);
    }

    /// What was noted since the last time; nothing unless it is traced.
    pub fn take_traced(&mut self) -> Traced {
        self.traced.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What the outputs to come are made of.
    pub fn made_of(&mut self, origin: impl FnOnce() -> Origin) {
        if let Some(traced) = &mut self.traced {
            traced.origin = Some(origin());
        }
    }

    pub fn contributes(&mut self, key: impl FnOnce() -> Vec<u8>) {
        if let Some(traced) = &mut self.traced {
            traced.contributed.push(key());
        }
    }

    /// From now on the clock tells these, as it did when they were recorded.
    pub fn recorded_clock(&mut self, readings: &[i64]) {
        self.recorded = Some(readings.iter().copied().collect());
        self.unrecorded = 0;
    }

    /// How the clock was asked since `recorded_clock`.
    pub fn clock_use(&self) -> ClockUse {
        ClockUse { unrecorded: self.unrecorded, left: self.recorded.as_ref().map_or(0, VecDeque::len) }
    }

    /// From now on batches end where these do.
    pub fn recorded_batches(&mut self, batches: &[Batch]) {
        self.recorded_batches = Some(batches.iter().cloned().collect());
    }

    /// See `Context::recorded_batch`.
    pub fn recorded_batch(&self) -> Option<(&str, i64)> {
        self.recorded_batches.as_ref()?.front().map(|batch| (batch.model.as_str(), batch.rows))
    }

    /// See `Context::is_made_again`.
    pub fn is_made_again(&self) -> bool {
        self.recorded_batches.is_some()
    }

    /// See `Context::end_batch`.
    pub fn end_batch(&mut self, model: &str, hash: &str, rows: i64, is_fallback: impl FnOnce() -> bool) -> bool {
        let recorded =
            self.recorded_batches.as_mut().and_then(|batches| batches.pop_front_if(|next| next.model == model));
        let is_fallback = recorded.map_or_else(is_fallback, |batch| batch.is_fallback);
        self.batches.push(Batch { model: model.to_owned(), hash: hash.to_owned(), rows, is_fallback });
        is_fallback
    }

    /// The next number of the commit's sequence, which the seed in its manifest gives again: the xxh3 of its index.
    ///
    /// The seed follows from the history until this commit, so that one that is aborted and made again draws the same.
    pub fn random(&mut self) -> u64 {
        self.randoms += 1;
        xxh3_64_with_seed(&self.randoms.to_be_bytes(), self.seed as u64)
    }

    pub fn stream_time(&mut self, time_ms: i64) {
        self.stream_time = self.stream_time.max(time_ms);
    }

    pub fn collected(&mut self) -> Collected {
        Collected {
            outputs: self.written,
            wall_clock: std::mem::take(&mut self.wall_clock),
            batches: std::mem::take(&mut self.batches),
            stream_time: self.stream_time,
            seed: if self.randoms > 0 { self.seed } else { 0 },
            digest: self.digest.digest128().to_be_bytes(),
        }
    }
}

/// Null, empty and absent bytes are told apart, and no two sequences of fields look alike.
fn digest_bytes(digest: &mut Xxh3, bytes: Option<&[u8]>) {
    match bytes {
        None => digest.update(&u64::MAX.to_be_bytes()),
        Some(bytes) => {
            digest.update(&(bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        }
    }
}
