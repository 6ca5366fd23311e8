//! A task: one partition of a service, with its stores and its processor. It has one owner, its worker.
//!
//! ```text
//! open (restore stores) -> running -> prepare_commit -> write_manifest -> committed -> running ...
//!                             ^                                       \-> aborted --'
//!                             '--- dropped at revocation, after a last commit, or at once when lost
//! ```
//!
//! INVARIANT: between two commits nothing but this struct changes: state changes are in the stores' caches, outputs in the
//! open transaction. So `aborted` only has to forget.

use std::sync::Arc;

use engram_schemas::codec::Encoder;
use engram_schemas::manifest::Manifest;
use engram_schemas::registry::Registry;

use crate::changelog;
use crate::collector::{Collector, SharedProducer};
use crate::dead_letter::{Cause, DeadLetters, RECORD_BYTES_MAX};
use crate::log::{Fetched, LogError, NewRecord, TopicPartition};
use crate::manifest::{self, About, LastCommit, Taken};
use crate::processor::{Context, Input, ProcessError, Processor, Service, TaskSetup};
use crate::queue::RecordQueue;
use crate::store::{Changes, Files, Store, StoreError, prefix};

/// What a task is opened with.
pub struct TaskOptions<'a> {
    pub registry: &'a Arc<dyn Registry>,
    pub producer: &'a SharedProducer,
    pub cache_bytes_max: usize,
    /// Partitions of the service's inputs.
    pub partitions: i32,
    /// Partitions of the dead-letter topic.
    pub dead_letter_partitions: i32,
}

pub struct Task {
    service: Arc<Service>,
    partition: i32,
    queues: Vec<RecordQueue>,
    processor: Box<dyn Processor>,
    stores: Vec<Store>,
    files: Arc<Files>,
    collector: Collector,
    dead_letters: DeadLetters,
    producer: SharedProducer,
    manifests: Encoder<Manifest>,
    changelog_topic: String,
    manifest_topic: String,
    taken: Taken,
    last: LastCommit,
    /// The commit being prepared.
    next: Option<Prepared>,
    buffer: Vec<u8>,
}

struct Prepared {
    this: LastCommit,
    collected: crate::collector::Collected,
    state_changes: i64,
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
        let manifest_topic = manifest::topic(service.name);
        let register = |error: engram_schemas::registry::RegistryError| ProcessError::Retry(error.to_string());
        let manifests = Encoder::register(&**options.registry, &manifest_topic).map_err(register)?;
        let dead_letters = DeadLetters::new(
            options.producer.clone(),
            options.registry,
            service.name,
            partition % options.dead_letter_partitions.max(1),
        )
        .map_err(register)?;
        let stores = (0..service.stores.len())
            .map(|index| Store::new(prefix(index), Arc::clone(&files), options.cache_bytes_max))
            .collect();
        let mut task = Self {
            processor: (service.processor)(&setup)?,
            service: Arc::clone(service),
            partition,
            queues: positions.iter().map(|(input, position)| RecordQueue::new(input.clone(), *position)).collect(),
            stores,
            files,
            collector: Collector::new(options.producer.clone(), service.name, partition, service.outputs.clone()),
            dead_letters,
            producer: options.producer.clone(),
            manifests,
            changelog_topic: changelog::topic(service.name),
            manifest_topic,
            taken: Taken::default(),
            last,
            next: None,
            buffer: Vec::new(),
        };
        task.begin();
        Ok(task)
    }

    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The input queues, in the order of `Service::inputs`.
    pub fn queues(&self) -> &[RecordQueue] {
        &self.queues
    }

    pub fn add(&mut self, input: usize, fetched: Fetched) {
        self.queues[input].add(fetched);
    }

    /// Processes the next record, if one is buffered: the smallest by (timestamp, topic, partition, offset).
    pub fn process_next(&mut self) -> Result<bool, ProcessError> {
        let Some(source) = self.next_queue() else { return Ok(false) };
        let queue = &self.queues[source];
        let record = queue.head().expect("next_queue found a record");
        self.collector.caused_by(&queue.partition, record.offset);
        let size = record.size();
        let outcome = if size > RECORD_BYTES_MAX {
            Err(ProcessError::reject("too-large", format!("{size} bytes are more than {RECORD_BYTES_MAX}")))
        } else {
            let input = Input { source, partition: &queue.partition, record };
            let mut context =
                Context { stores: &mut self.stores, collector: &mut self.collector, partition: self.partition };
            self.processor.process(&input, &mut context)
        };
        match outcome {
            Ok(()) => {}
            Err(ProcessError::Reject { cause, detail }) => {
                let cause = Cause { code: cause, detail: &detail };
                self.dead_letters.send(&queue.partition, record, queue.head_headers(), &cause)?;
            }
            Err(error) => return Err(error),
        }
        self.taken.take(source);
        self.queues[source].pop();
        Ok(true)
    }

    /// Records processed since the last commit.
    pub fn uncommitted_records(&self) -> i64 {
        self.taken.records()
    }

    /// There is something to commit, if only a position.
    pub fn is_dirty(&self) -> bool {
        self.taken.moved(&self.queues)
    }

    /// Bytes emitted since the last commit.
    pub fn uncommitted_bytes(&self) -> usize {
        self.collector.bytes()
    }

    /// All that the inputs hold was processed.
    pub fn is_at_end(&self) -> bool {
        self.queues.iter().all(RecordQueue::is_at_end)
    }

    /// Writes the last outputs and the changelog into the transaction. One changelog record for each changed key.
    pub fn prepare_commit(&mut self) -> Result<(), ProcessError> {
        if self.taken.records() == 0 {
            return Ok(());
        }
        let mut context =
            Context { stores: &mut self.stores, collector: &mut self.collector, partition: self.partition };
        self.processor.before_commit(&mut context)?;
        let mut state_changes = 0;
        for store in &self.stores {
            for (key, value) in store.changes() {
                self.buffer.clear();
                self.buffer.push(store.prefix());
                self.buffer.extend_from_slice(key);
                self.collector.digest_change(&self.buffer, value);
                self.write_changelog(&self.buffer, value)?;
                state_changes += 1;
            }
        }
        let collected = self.collector.collected();
        let this = LastCommit { sequence: self.last.sequence + 1, digest: collected.digest };
        self.write_changelog(LastCommit::KEY, Some(&this.to_bytes()))?;
        self.next = Some(Prepared { this, collected, state_changes });
        Ok(())
    }

    /// Writes the manifest into the transaction, now that the end of the changelog is known.
    pub fn write_manifest(&mut self, changelog_ends: &[(TopicPartition, i64)]) -> Result<(), ProcessError> {
        let Some(prepared) = &mut self.next else { return Ok(()) };
        let schema_ids: Vec<i32> = self.processor.schema_ids().into_iter().map(|id| id as i32).collect();
        let about = About {
            service: self.service.name,
            partition: self.partition,
            changelog: &self.changelog_topic,
            changelog_end: changelog_end(changelog_ends, &self.changelog_topic, self.partition)?,
            state_changes: prepared.state_changes,
            previous: self.last,
            this: prepared.this,
            schema_ids: &schema_ids,
        };
        let collected = crate::collector::Collected {
            wall_clock: std::mem::take(&mut prepared.collected.wall_clock),
            ..prepared.collected
        };
        let manifest = manifest::manifest(&about, &mut self.taken, &self.queues, collected);
        self.manifests
            .encode(&manifest, &mut self.buffer)
            .map_err(|error| LogError::failed("cannot encode a manifest", error))?;
        let record = NewRecord {
            topic: &self.manifest_topic,
            partition: self.partition,
            timestamp_ms: None,
            key: None,
            value: Some(&self.buffer),
            headers: &[],
        };
        Ok(self.producer.borrow_mut().write(&record, false)?)
    }

    /// The transaction has been committed: the changes go to RocksDB, in one batch with the changelog position.
    pub fn committed(&mut self, changelog_ends: &[(TopicPartition, i64)]) -> Result<(), ProcessError> {
        if let Some(prepared) = self.next.take() {
            let mut changes = Changes::default();
            for store in &self.stores {
                // In key order, in which RocksDB takes them much faster.
                let mut sorted: Vec<_> = store.changes().collect();
                sorted.sort_unstable_by_key(|(key, _)| *key);
                for (key, value) in sorted {
                    self.buffer.clear();
                    self.buffer.push(store.prefix());
                    self.buffer.extend_from_slice(key);
                    changes.set(&self.buffer, value);
                }
            }
            changes.set(LastCommit::KEY, Some(&prepared.this.to_bytes()));
            let inputs = self.queues.iter().map(|queue| (&*queue.partition.topic, queue.position()));
            changes.set_inputs(prepared.this.sequence, inputs);
            self.files.apply(changes, changelog_end(changelog_ends, &self.changelog_topic, self.partition)?)?;
            self.stores.iter_mut().for_each(Store::committed);
            self.last = prepared.this;
        }
        self.begin();
        Ok(())
    }

    /// The transaction was aborted: back to the last commit.
    pub fn aborted(&mut self, positions: &[(TopicPartition, i64)]) {
        self.next = None;
        self.stores.iter_mut().for_each(Store::aborted);
        self.processor.reset();
        self.queues = positions.iter().map(|(input, position)| RecordQueue::new(input.clone(), *position)).collect();
        self.begin();
    }

    fn begin(&mut self) {
        self.taken.begin(&self.queues);
        self.collector.begin(self.last.sequence + 1, &self.last.digest);
    }

    fn next_queue(&self) -> Option<usize> {
        if let [queue] = self.queues.as_slice() {
            return queue.head().map(|_| 0);
        }
        let heads = self.queues.iter().enumerate().filter_map(|(source, queue)| {
            let record = queue.head()?;
            Some(((record.timestamp_ms, &queue.partition, record.offset), source))
        });
        heads.min().map(|(_, source)| source)
    }

    fn write_changelog(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), LogError> {
        let record = NewRecord {
            topic: &self.changelog_topic,
            partition: self.partition,
            timestamp_ms: None,
            key: Some(key),
            value,
            headers: &[],
        };
        self.producer.borrow_mut().write(&record, true)
    }
}

fn changelog_end(ends: &[(TopicPartition, i64)], topic: &str, partition: i32) -> Result<i64, LogError> {
    let found = ends.iter().find(|(place, _)| &*place.topic == topic && place.partition == partition);
    found.map(|(_, end)| *end).ok_or_else(|| {
        LogError::failed("cannot commit", format!("the log did not tell the end of {topic}/{partition}"))
    })
}
