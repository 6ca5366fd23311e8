//! What a service computes: a processor is a function of its state, one record and its context.

use std::sync::Arc;

use engram_schemas::codec::DecodeError;
use engram_schemas::registry::Registry;
use thiserror::Error;

use crate::collector::{Collector, Origin};
use crate::errors::ErrorPolicy;
use crate::log::{LogError, RecordRef, TopicPartition, TopicSpec};
use crate::store::{Store, StoreError, StoreSpec};
use crate::timers::{Timer, TimerClock, Timers};

/// A service: one consumer group that runs one processor over its input topics.
pub struct Service {
    pub name: &'static str,
    /// Input topics. Partition p of all of them belongs to task p.
    pub inputs: Vec<String>,
    /// Topics that it writes, by the index that `Context::emit` takes.
    pub outputs: Vec<Output>,
    /// All topics that it needs, created where they do not exist. `partitions` 0: as many as its first input.
    pub topics: Vec<TopicSpec>,
    /// The stores of each task, by the index that `Context::store` takes.
    pub stores: Vec<StoreSpec>,
    pub processor: MakeProcessor,
    /// What becomes of records that cannot be processed; set by `with_errors`.
    pub errors: ErrorPolicy,
}

/// Makes the processor of one task.
pub type MakeProcessor = Box<dyn Fn(&TaskSetup) -> Result<Box<dyn Processor>, ProcessError> + Send + Sync>;

/// A topic that a service writes.
#[derive(Debug, Clone)]
pub struct Output {
    pub topic: String,
    /// Full name of the event type, for the CloudEvents headers; `None` writes no headers.
    pub event: Option<&'static str>,
}

/// What a processor is made from.
pub struct TaskSetup {
    pub partition: i32,
    /// Partitions of each of the service's inputs and outputs.
    pub partitions: i32,
    pub registry: Arc<dyn Registry>,
}

/// The logic of one task.
pub trait Processor: Send {
    /// Processes one record. On `Reject` nothing may have been written or emitted for it: check first, then act. After a
    /// panic the task goes back to its last commit, with a processor made anew.
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError>;

    /// Called when a timer comes due that it has set with `Context::schedule`. On `Reject` nothing may have been written
    /// or emitted; the timer is gone.
    fn on_timer(&mut self, _timer: &Timer, _context: &mut Context<'_>) -> Result<(), ProcessError> {
        Ok(())
    }

    /// Called before each commit: the place to emit one update for each entry that changed since the last.
    fn before_commit(&mut self, _context: &mut Context<'_>) -> Result<(), ProcessError> {
        Ok(())
    }

    /// The ids of the schemas that its inputs were written with so far, for the manifest.
    fn schema_ids(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Forgets what is held outside of the stores: the task was set back to its last commit.
    fn reset(&mut self) {}
}

/// A record with its place.
pub struct Input<'a> {
    /// Index into `Service::inputs`.
    pub source: usize,
    pub partition: &'a TopicPartition,
    pub record: RecordRef<'a>,
}

/// What a task gives its processor to work on.
pub(crate) struct Workspace {
    pub stores: Vec<Store>,
    pub collector: Collector,
    pub timers: Timers,
    pub service: &'static str,
    pub partition: i32,
}

impl Workspace {
    pub fn context(&mut self) -> Context<'_> {
        Context {
            stores: &mut self.stores,
            collector: &mut self.collector,
            timers: &mut self.timers,
            service: self.service,
            partition: self.partition,
        }
    }
}

/// What a processor may touch besides its input. Clock, randomness, timers and outputs are recorded, so that a replay sees
/// the same.
pub struct Context<'a> {
    pub(crate) stores: &'a mut [Store],
    pub(crate) collector: &'a mut Collector,
    pub(crate) timers: &'a mut Timers,
    pub(crate) service: &'static str,
    pub(crate) partition: i32,
}

impl Context<'_> {
    /// The name of the service.
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// The task's partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The `index`-th store of `Service::stores`.
    pub fn store(&mut self, index: usize) -> &mut Store {
        &mut self.stores[index]
    }

    /// Emits a record to the `output`-th topic of `Service::outputs`, into this task's own partition, so that whatever
    /// this task says of a key stays in order. A null value is a tombstone.
    pub fn emit(&mut self, output: usize, key: &[u8], value: Option<&[u8]>) -> Result<(), ProcessError> {
        self.emit_to(output, self.partition, key, value)
    }

    /// Emits into the given partition.
    pub fn emit_to(
        &mut self,
        output: usize,
        partition: i32,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ProcessError> {
        Ok(self.collector.emit(output, partition, Some(key), value, None)?)
    }

    /// Emits an input's key and value into another partition, with the time at which it was written: there it is taken in
    /// its order among the others.
    pub fn pass_on(&mut self, output: usize, partition: i32, input: &Input<'_>) -> Result<(), ProcessError> {
        let record = &input.record;
        Ok(self.collector.emit(output, partition, record.key, record.value, Some(record.timestamp_ms))?)
    }

    /// Emits with everything given, nulls too: for processors that pass records on as they are.
    pub fn forward(&mut self, output: usize, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), ProcessError> {
        Ok(self.collector.emit(output, self.partition, key, value, None)?)
    }

    /// What changed in a store since the last commit goes out as one record each, through `emit`: (key, new value).
    pub fn for_each_change(
        &mut self,
        index: usize,
        mut emit: impl FnMut(&[u8], Option<&[u8]>, &mut Emitter<'_>) -> Result<(), ProcessError>,
    ) -> Result<(), ProcessError> {
        let mut emitter = Emitter { collector: self.collector, partition: self.partition };
        for (key, value) in self.stores[index].changes() {
            emitter.collector.made_of(|| Origin::Entry(index, key.to_vec()));
            emit(key, value, &mut emitter)?;
        }
        emitter.collector.made_of(|| Origin::Step);
        Ok(())
    }

    /// Tells that what is processed now goes into an output that `before_commit` makes of something that is in no store:
    /// `made_of` names it there by the same key. Only a replay that traces asks for the key.
    pub fn contributes(&mut self, key: impl FnOnce() -> Vec<u8>) {
        self.collector.contributes(key);
    }

    /// In `before_commit`: what is emitted from now on is made of what has contributed to this key.
    pub fn made_of(&mut self, key: impl FnOnce() -> Vec<u8>) {
        self.collector.made_of(|| Origin::Contributions(key()));
    }

    /// The same for what is emitted of an entry of a store.
    pub fn made_of_entry(&mut self, index: usize, key: impl FnOnce() -> Vec<u8>) {
        self.collector.made_of(|| Origin::Entry(index, key()));
    }

    /// What is emitted from now on, until the next record or the commit, says that this record is its cause: for outputs that
    /// are made later than their input is processed.
    pub fn caused_by(&mut self, partition: &TopicPartition, offset: i64) {
        self.collector.caused_by(partition, offset);
    }

    /// What is emitted from now on is made of what is being processed, as it is unless something else was said.
    pub fn made_of_itself(&mut self) {
        self.collector.made_of(|| Origin::Step);
    }

    /// Milliseconds since the epoch, UTC, as recorded in the manifest.
    pub fn wall_clock_ms(&mut self) -> i64 {
        self.collector.wall_clock_ms()
    }

    /// The batch that ends next, where that is settled, as in a replay: its model, and with how many rows. A batch of another
    /// model waits for it. `None`: the processor decides.
    pub fn recorded_batch(&self) -> Option<(&str, i64)> {
        self.collector.recorded_batch()
    }

    /// Whether a commit is made again, so that `recorded_batch` tells of all that there were.
    pub fn is_made_again(&self) -> bool {
        self.collector.is_made_again()
    }

    /// Ends a batch of rows that a model scores: it goes into the manifest. `is_fallback` finds out whether something must
    /// stand in for the model, which depends on more than the log; a replay is told instead what came of it then. Returns that.
    /// All batches end in `before_commit` at the latest.
    pub fn end_batch(&mut self, model: &str, hash: &str, rows: i64, is_fallback: impl FnOnce() -> bool) -> bool {
        self.collector.end_batch(model, hash, rows, is_fallback)
    }

    /// The same sequence of numbers for the same commit, whoever makes it: for sampling, never for secrets.
    pub fn random(&mut self) -> u64 {
        self.collector.random()
    }

    /// The latest event time that this task was told of, by `advance_stream_time`, in all its life; `i64::MIN` before the
    /// first.
    pub fn stream_time(&self) -> i64 {
        self.timers.stream_time()
    }

    /// Tells how far event time has come in this task. It never goes back. Timers that are due by it fire before the next
    /// record is taken.
    pub fn advance_stream_time(&mut self, time_ms: i64) {
        self.collector.stream_time(time_ms);
        self.timers.advance_stream_time(time_ms);
    }

    /// Sets a timer, in place of the one of the same clock, kind and key if there is one: `Processor::on_timer` is called
    /// at `at_ms` (ms since the epoch) or, if that has passed, as soon as the clock moves on. The service must have the
    /// store `timers::spec()`.
    pub fn schedule(&mut self, clock: TimerClock, kind: u16, key: &[u8], at_ms: i64) -> Result<(), ProcessError> {
        self.timers.schedule(self.stores, clock, kind, key, at_ms)
    }

    /// Takes a timer back; returns whether there was one.
    pub fn cancel(&mut self, clock: TimerClock, kind: u16, key: &[u8]) -> Result<bool, ProcessError> {
        self.timers.cancel(self.stores, clock, kind, key)
    }
}

/// The emitting half of a context, while a store is being read.
pub struct Emitter<'a> {
    collector: &'a mut Collector,
    partition: i32,
}

impl Emitter<'_> {
    /// As `Context::emit`.
    pub fn emit(&mut self, output: usize, key: &[u8], value: Option<&[u8]>) -> Result<(), ProcessError> {
        Ok(self.collector.emit(output, self.partition, Some(key), value, None)?)
    }

    /// As `Context::emit_to`.
    pub fn emit_to(
        &mut self,
        output: usize,
        partition: i32,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ProcessError> {
        Ok(self.collector.emit(output, partition, Some(key), value, None)?)
    }
}

/// Why a record was not processed.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// The record is at fault: it goes the way of the error policy, by default to the dead letters.
    #[error("{detail}")]
    Reject {
        /// Stable, for machines: `unknown-schema-id`, `not-finite`, ...
        cause: &'static str,
        detail: String,
    },
    /// What the service is asked to do does not go with what it has done: stop and tell the user.
    #[error("{0}")]
    Refused(String),
    /// Something that the record needs cannot be had at present: try it again later.
    #[error("cannot process for now: {0}")]
    Retry(String),
    /// A record has left the task half changed, and is known now (`poison`): back to the last commit.
    #[error("{0}")]
    Poisoned(String),
    /// The processor has panicked between two records.
    #[error("the processor has panicked: {0}")]
    Panicked(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl ProcessError {
    pub fn reject(cause: &'static str, detail: impl Into<String>) -> Self {
        Self::Reject { cause, detail: detail.into() }
    }
}

impl From<DecodeError> for ProcessError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Registry(error) => Self::Retry(error.to_string()),
            error => Self::reject(error.code(), error.to_string()),
        }
    }
}
