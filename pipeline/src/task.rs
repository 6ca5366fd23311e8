//! A task: one partition of a service, with its stores and its processor. It has one owner, its worker.
//!
//! ```text
//! open (restore stores) -> running -> prepare_commit -> running, the commit under way -> committed -> running ...
//!                             ^                                                      \-> aborted --'
//!                             '--- dropped at revocation, after a last commit, or at once when lost
//! ```
//!
//! INVARIANT: between two commits nothing but this struct changes: state changes are in the stores' caches, outputs in the
//! outbox. So `aborted` only has to forget (and stores in memory alone, in a replay, to go back).

use std::sync::Arc;

use engram_schemas::manifest::Manifest;
use engram_schemas::registry::Registry;

use crate::changelog;
use crate::clock::Clock;
use crate::collector::{ClockUse, Collector, Traced};
use crate::committer::PreparedTask;
use crate::dead_letter::DeadLetters;
use crate::disposal::{self, Arrival, Disposal, Fault};
use crate::log::{Fetched, LogError, NewRecord, RecordRef, TopicPartition};
use crate::manifest::{self, About, LastCommit, Taken};
use crate::outbox::SharedOutbox;
use crate::poison::{Poison, Verdict};
use crate::processor::{Input, ProcessError, Processor, Service, TaskSetup, Workspace};
use crate::queue::RecordQueue;
use crate::retry::{self, Retries};
use crate::store::{Changes, Files, Store, StoreError, Trace, prefix};
use crate::timers::{self, FIRED_MAX, Fire, TimerClock, Timers};

/// What a task is opened with.
pub struct TaskOptions<'a> {
    pub registry: &'a Arc<dyn Registry>,
    pub outbox: &'a SharedOutbox,
    pub clock: &'a Clock,
    pub cache_bytes_max: usize,
    /// Stores that begin empty are in memory alone, for a replay.
    pub in_memory: bool,
    /// Partitions of the service's inputs.
    pub partitions: i32,
    /// Partitions of the dead-letter topic.
    pub dead_letter_partitions: i32,
}

pub struct Task {
    service: Arc<Service>,
    queues: Vec<RecordQueue>,
    processor: Box<dyn Processor>,
    workspace: Workspace,
    files: Arc<Files>,
    disposal: Disposal,
    /// Index of the retry topic among the inputs, where it is one.
    retry_input: Option<usize>,
    setup: TaskSetup,
    outbox: SharedOutbox,
    changelog: TopicPartition,
    manifest_topic: String,
    taken: Taken,
    /// The commit that what is processed now follows.
    last: LastCommit,
    /// The last commit that is known to have happened: `last`, or the one before while that is under way.
    settled: LastCommit,
    buffer: Vec<u8>,
}

impl Task {
    /// Opens the task on files that are at the end of their changelog; it stands at `positions` of its inputs.
    pub fn open(
        service: &Arc<Service>,
        partition: i32,
        positions: &[(TopicPartition, i64)],
        files: Arc<Files>,
        options: &TaskOptions<'_>,
    ) -> Result<Self, ProcessError> {
        let last = match files.get(LastCommit::KEY)? {
            None => LastCommit::default(),
            Some(bytes) => LastCommit::from_bytes(&bytes).ok_or_else(|| StoreError::Damaged {
                path: files.path().display().to_string(),
                reason: "its last commit is not readable".to_owned(),
            })?,
        };
        let setup = TaskSetup { partition, partitions: options.partitions, registry: Arc::clone(options.registry) };
        let dead_letters = DeadLetters::new(
            options.outbox.clone(),
            options.clock.clone(),
            options.registry,
            service.name,
            partition % options.dead_letter_partitions.max(1),
        )
        .map_err(|error| ProcessError::Retry(error.to_string()))?;
        let (outbox, clock) = (options.outbox.clone(), options.clock.clone());
        let retries = Retries::new(outbox.clone(), clock.clone(), service.name, partition);
        let is_new = last == LastCommit::default();
        let stores = (0..service.stores.len()).map(|index| {
            let mut store = Store::new(prefix(index), Arc::clone(&files), options.cache_bytes_max, is_new);
            if is_new && options.in_memory {
                store.keep_in_memory();
            }
            store
        });
        let stores = stores.collect();
        let mut task = Self {
            processor: (service.processor)(&setup)?,
            queues: positions.iter().map(|(input, position)| RecordQueue::new(input.clone(), *position)).collect(),
            workspace: Workspace {
                stores,
                collector: Collector::new(outbox, clock, service.name, partition, service.outputs.clone()),
                timers: Timers::new(&service.stores, last.stream_time),
                service: service.name,
                partition,
            },
            service: Arc::clone(service),
            files,
            disposal: Disposal { service: service.name, dead_letters, retries },
            retry_input: service.inputs.iter().position(|input| *input == retry::topic(service.name)),
            setup,
            outbox: options.outbox.clone(),
            changelog: TopicPartition::new(changelog::topic(service.name), partition),
            manifest_topic: manifest::topic(service.name),
            taken: Taken::default(),
            last,
            settled: last,
            buffer: Vec::new(),
        };
        task.begin();
        Ok(task)
    }

    pub fn partition(&self) -> i32 {
        self.workspace.partition
    }

    /// The input queues, in the order of `Service::inputs`.
    pub fn queues(&self) -> &[RecordQueue] {
        &self.queues
    }

    pub fn add(&mut self, input: usize, fetched: Fetched) {
        self.queues[input].add(fetched);
    }

    /// Processes the next record, if one is buffered: a retried one that is due, or the smallest by (timestamp, topic,
    /// partition, offset). Before it come the timers that stream time has made due. A record that cannot be processed goes
    /// the way of the error policy.
    ///
    /// Errors: `Poisoned` when the record has left the task half changed.
    pub fn process_next(&mut self, poison: &mut Poison) -> Result<bool, ProcessError> {
        if self.fire(TimerClock::StreamTime, self.workspace.timers.stream_time(), FIRED_MAX)? > 0 {
            return Ok(true);
        }
        let Some(source) = self.next_queue() else { return Ok(false) };
        self.process_head(source, poison)?;
        Ok(true)
    }

    /// Processes the record at the head of an input's queue.
    pub(crate) fn process_head(&mut self, source: usize, poison: &mut Poison) -> Result<(), ProcessError> {
        let queue = &self.queues[source];
        let head = queue.head().expect("there is a record");
        let retried = self.retry_input == Some(source);
        let origin = retried.then(|| self.disposal.retries.origin(head.offset, || queue.head_headers())).flatten();
        let arrival = match &origin {
            Some(origin) => Arrival {
                input: self.service.inputs.iter().position(|input| **input == *origin.place.topic),
                place: &origin.place,
                record: RecordRef { offset: origin.offset, timestamp_ms: origin.timestamp_ms, ..head },
                attempt: origin.attempt,
            },
            None => Arrival { input: (!retried).then_some(source), place: &queue.partition, record: head, attempt: 0 },
        };
        self.workspace.collector.caused_by(arrival.place, arrival.record.offset);
        let policy = &self.service.errors;
        let known = poison.verdict(&queue.partition, head.offset).cloned();
        let set_aside = known.as_ref().map(|known| known.cause);
        let verdict = match known.or_else(|| arrival.fault(policy)) {
            Some(verdict) => Some(verdict),
            None => {
                let Arrival { place: partition, record, .. } = arrival;
                let input = Input { source: arrival.input.unwrap_or(source), partition, record };
                let mut context = self.workspace.context();
                match disposal::process(&mut *self.processor, &input, &mut context) {
                    Ok(()) => None,
                    Err(Fault::Rejected { cause, detail }) => Some(Verdict { cause, detail, action: policy.on_reject }),
                    Err(Fault::Unavailable(reason)) => {
                        poison.unavailable(&queue.partition, head.offset, &reason, policy);
                        return Err(ProcessError::Retry(reason));
                    }
                    Err(Fault::Broken { cause, detail }) => {
                        let verdict = Verdict { cause, detail: detail.clone(), action: policy.on_reject };
                        poison.condemn(&queue.partition, head.offset, verdict);
                        self.processor = (self.service.processor)(&self.setup)?;
                        return Err(ProcessError::Poisoned(detail));
                    }
                    Err(Fault::Other(error)) => return Err(error),
                }
            }
        };
        if let Some(verdict) = verdict {
            self.disposal.dispose(policy, &arrival, queue.head_headers(), verdict)?;
        }
        poison.taken(&queue.partition, head.offset);
        if let Some(cause) = set_aside {
            self.taken.set_aside(cause);
        }
        self.taken.take(source);
        self.queues[source].pop();
        Ok(())
    }

    /// Fires timers that are due at `now_ms` by the wall clock. Returns how many.
    pub fn fire_wall_clock(&mut self, now_ms: i64) -> Result<usize, ProcessError> {
        self.fire(TimerClock::WallClock, now_ms, FIRED_MAX)
    }

    /// Fires at most `most` of the timers that are due at `now_ms`. Returns how many.
    pub(crate) fn fire(&mut self, clock: TimerClock, now_ms: i64, most: usize) -> Result<usize, ProcessError> {
        let mut context = self.workspace.context();
        let records = self.taken.records();
        disposal::in_timer(self.service.name, || {
            timers::fire(&mut *self.processor, &mut context, Fire { clock, now: now_ms, most }, records)
        })
    }

    /// Records processed since the last commit.
    pub fn uncommitted_records(&self) -> i64 {
        self.taken.records()
    }

    /// There is something to commit, if only a position.
    pub fn is_dirty(&self) -> bool {
        self.taken.moved(&self.queues) || self.workspace.timers.have_fired()
    }

    /// Since the last commit.
    pub fn have_timers_fired(&self) -> bool {
        self.workspace.timers.have_fired()
    }

    /// A store as it is now, with what is not committed.
    pub fn store(&mut self, index: usize) -> &mut Store {
        &mut self.workspace.stores[index]
    }

    /// Event time so far; `i64::MIN` before the first.
    pub(crate) fn stream_time(&self) -> i64 {
        self.workspace.timers.stream_time()
    }

    /// For a replay: begins to note what is read, written and emitted, or stops.
    pub(crate) fn trace(&mut self, on: bool) {
        self.workspace.stores.iter_mut().for_each(|store| store.trace(on));
        self.workspace.collector.trace(on);
    }

    /// What was noted since the last time: of each store, and of the outputs.
    pub(crate) fn take_traces(&mut self) -> (Vec<Trace>, Traced) {
        (self.workspace.stores.iter_mut().map(Store::take_trace).collect(), self.workspace.collector.take_traced())
    }

    /// For a replay: what the processor's clock is to tell until the commit, and where batches end.
    pub(crate) fn recorded(&mut self, manifest: &Manifest) {
        self.workspace.collector.recorded_clock(&manifest.wall_clock);
        self.workspace.collector.recorded_batches(&manifest.batches);
    }

    /// How the processor has asked its clock in a replay.
    pub(crate) fn clock_use(&self) -> ClockUse {
        self.workspace.collector.clock_use()
    }

    /// Bytes emitted since the last commit.
    pub fn uncommitted_bytes(&self) -> usize {
        self.workspace.collector.bytes()
    }

    /// The database of its stores but those in memory.
    pub fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// All that the inputs hold was processed.
    pub fn is_at_end(&self) -> bool {
        self.queues.iter().all(RecordQueue::is_at_end)
    }

    /// Writes the last outputs and the changelog into the transaction, one changelog record for each changed key; what is
    /// processed from here on belongs to the next commit. `None`: no record was processed, and no timer fired.
    pub fn prepare_commit(&mut self) -> Result<Option<PreparedTask>, ProcessError> {
        if self.taken.records() == 0 && !self.workspace.timers.have_fired() {
            self.taken.begin(&self.queues);
            return Ok(None);
        }
        self.workspace.collector.caused_by_many();
        let mut context = self.workspace.context();
        if let Err(error) = disposal::before_commit(&mut *self.processor, &mut context) {
            if matches!(error, ProcessError::Panicked(_)) {
                self.processor = (self.service.processor)(&self.setup)?;
            }
            return Err(error);
        }
        let (mut changes, state_changes) = self.collect_changes()?;
        let collected = self.workspace.collector.collected();
        let this = LastCommit {
            sequence: self.last.sequence + 1,
            digest: collected.digest,
            stream_time: self.workspace.timers.stream_time(),
        };
        self.write_changelog(LastCommit::KEY, Some(&this.to_bytes()))?;
        changes.set(LastCommit::KEY, Some(&this.to_bytes()));
        changes.set_inputs(this.sequence, self.queues.iter().map(|queue| (&*queue.partition.topic, queue.position())));
        let schema_ids: Vec<i32> = self.processor.schema_ids().into_iter().map(|id| id as i32).collect();
        let about = About {
            service: self.service.name,
            partition: self.workspace.partition,
            changelog: &self.changelog.topic,
            state_changes,
            previous: self.last,
            this,
            schema_ids: &schema_ids,
            firings: &self.workspace.timers.take_fired(),
        };
        let manifest = manifest::manifest(&about, &mut self.taken, &self.queues, collected);
        self.workspace.stores.iter_mut().for_each(Store::freeze);
        self.last = this;
        self.begin();
        Ok(Some(PreparedTask {
            changelog: self.changelog.clone(),
            manifest,
            manifest_topic: self.manifest_topic.clone(),
            files: Arc::clone(&self.files),
            changes,
        }))
    }

    /// Writes the changes of the stores into the transaction and the digest, and gathers those that are for RocksDB: in
    /// key order, in which it takes them much faster.
    fn collect_changes(&mut self) -> Result<(Changes, i64), LogError> {
        let (mut gathered, mut count) = (Changes::default(), 0);
        for store in &self.workspace.stores {
            for (key, value) in store.sorted_changes() {
                self.buffer.clear();
                self.buffer.push(store.prefix());
                self.buffer.extend_from_slice(key);
                self.workspace.collector.digest_change(&self.buffer, value);
                self.write_changelog(&self.buffer, value)?;
                if !store.is_in_memory() {
                    gathered.set(&self.buffer, value);
                }
                count += 1;
            }
        }
        Ok((gathered, count))
    }

    /// Moves stores in memory that have outgrown it into RocksDB. To be called between commits.
    pub(crate) fn limit_memory(&mut self, bytes_max: usize) -> Result<(), ProcessError> {
        for store in &mut self.workspace.stores {
            if let Some(entries) = store.outgrow(bytes_max) {
                self.files.write(entries)?;
            }
        }
        Ok(())
    }

    /// The commit under way has happened, and its changes are in RocksDB, where they are for it.
    pub fn committed(&mut self) {
        self.workspace.stores.iter_mut().for_each(Store::committed);
        self.settled = self.last;
    }

    /// The transaction was aborted: back to the last commit that happened.
    pub fn aborted(&mut self, positions: &[(TopicPartition, i64)]) {
        self.last = self.settled;
        self.workspace.stores.iter_mut().for_each(Store::aborted);
        self.workspace.timers.aborted(self.last.stream_time);
        self.processor.reset();
        self.queues = positions.iter().map(|(input, position)| RecordQueue::new(input.clone(), *position)).collect();
        self.begin();
    }

    fn begin(&mut self) {
        self.taken.begin(&self.queues);
        self.workspace.collector.caused_by_many();
        self.workspace.collector.begin(self.last.sequence + 1, &self.last.digest);
    }

    fn next_queue(&mut self) -> Option<usize> {
        if let [queue] = self.queues.as_slice() {
            return queue.head().map(|_| 0);
        }
        // What has waited for its time is behind all others already; what waits still must not hold them up.
        if let Some(retry) = self.retry_input
            && let Some(record) = self.queues[retry].head()
            && self.disposal.retries.is_due(record.offset, || self.queues[retry].head_headers())
        {
            return Some(retry);
        }
        let others = self.queues.iter().enumerate().filter(|(source, _)| Some(*source) != self.retry_input);
        let heads = others.filter_map(|(source, queue)| {
            let record = queue.head()?;
            Some(((record.timestamp_ms, &queue.partition, record.offset), source))
        });
        heads.min().map(|(_, source)| source)
    }

    fn write_changelog(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), LogError> {
        let record = NewRecord {
            topic: &self.changelog.topic,
            partition: self.workspace.partition,
            timestamp_ms: None,
            key: Some(key),
            value,
            headers: &[],
        };
        self.outbox.borrow_mut().write(&record, true)
    }
}
