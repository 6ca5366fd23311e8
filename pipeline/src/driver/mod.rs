//! Runs a service's tasks on the spot, without a broker, threads or a disk: records are piped in, outputs and stores are
//! looked at, commits and failures happen when they are told to. What Kafka Streams calls `TopologyTestDriver`.
//!
//! Tasks, stores, changelog and manifests are the real ones; only the log is a list of records. All tasks commit together,
//! as those of one worker do.
//!
//! ```text
//! write -> process -> commit -> records
//!             ^ \-> abort: back to the last commit, what was processed since is processed again
//!             '-- restart: the same, with the stores opened anew
//! ```

mod log;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::manifest::Manifest;
use engram_schemas::registry::Registry;
use engram_schemas::registry::memory::MemoryRegistry;

use crate::clock::ManualClock;
use crate::committer::{Committer, Done, Failed, Job, Overlap};
use crate::log::{CommitError, LogError, Membership, TopicPartition};
use crate::manifest;
use crate::outbox::{Outbox, SharedOutbox};
use crate::poison::Poison;
use crate::processor::{ProcessError, Service};
use crate::replay::{self, Moment, Past, Program, ReplayError, RerunOptions, Times, Verified};
use crate::restore::Restore;
use crate::status::WorkerStatus;
use crate::store::{Budget, Order, OwnedEntry, Store, StoreError};
use crate::task::{Task, TaskOptions};

pub use log::{MemoryLog, Record};

/// The memory of a driver's RocksDBs.
const BUDGET_BYTES: usize = 4 << 20;
/// Of each store: little, so that tests see it overflow.
const CACHE_BYTES_MAX: usize = 1 << 12;
/// So little that stores of a replay do go into files.
const REPLAY_BYTES_MAX: usize = 1 << 14;
/// Records fetched at once.
const FETCH_RECORDS_MAX: usize = 1_000;

/// A service, driven by hand.
pub struct Driver {
    service: Arc<Service>,
    partitions: i32,
    log: MemoryLog,
    registry: Arc<dyn Registry>,
    budget: Budget,
    cache_bytes_max: usize,
    outbox: SharedOutbox,
    committer: Committer,
    tasks: Vec<Task>,
    /// For each task and input: the committed position, that of the commit under way, and what was fetched until.
    committed: Vec<Vec<i64>>,
    committing: Vec<Vec<i64>>,
    fetched: Vec<Vec<i64>>,
    commit_every: usize,
    since_commit: usize,
    hand: ManualClock,
}

impl Driver {
    /// One task for each of `partitions`. The wall clock stands at 0 until it is put forward.
    pub fn new(service: Service, partitions: i32) -> Result<Self, ProcessError> {
        Self::of(Arc::new(service), partitions)
    }

    /// The same for a service that others share.
    pub fn of(service: Arc<Service>, partitions: i32) -> Result<Self, ProcessError> {
        let hand = ManualClock::new(0);
        let log = MemoryLog::new(hand.clock());
        let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::default());
        let manifests = Encoder::register(&*registry, &manifest::topic(service.name))
            .map_err(|error| ProcessError::Retry(error.to_string()))?;
        let tasks = usize::try_from(partitions).unwrap_or(0);
        let positions = vec![vec![0; service.inputs.len()]; tasks];
        let mut driver = Self {
            service,
            partitions,
            outbox: Rc::new(RefCell::new(Outbox::new(Box::new(log.clone())))),
            committer: Committer::start(Arc::new(manifests), Overlap::Off, "driver")?,
            log,
            registry,
            budget: Budget::in_memory(BUDGET_BYTES)?,
            cache_bytes_max: CACHE_BYTES_MAX,
            tasks: Vec::new(),
            committed: positions.clone(),
            committing: positions.clone(),
            fetched: positions,
            commit_every: usize::MAX,
            since_commit: 0,
            hand,
        };
        driver.open()?;
        Ok(driver)
    }

    /// Commits by itself whenever so many records, or timers, were processed.
    pub fn commit_every(&mut self, records: usize) {
        self.commit_every = records;
    }

    pub fn service(&self) -> Arc<Service> {
        Arc::clone(&self.service)
    }

    /// The registry that the tasks use.
    pub fn registry(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.registry)
    }

    /// Writes a record into a topic, to be processed by `process`.
    pub fn write(&mut self, topic: &str, partition: i32, key: Option<&[u8]>, value: Option<&[u8]>, timestamp_ms: i64) {
        let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        self.log.append(topic, Record { partition, offset: 0, timestamp_ms, key, value, headers: Vec::new() });
    }

    /// Writes a record and processes it.
    pub fn pipe(
        &mut self,
        topic: &str,
        partition: i32,
        key: &[u8],
        value: &[u8],
        timestamp_ms: i64,
    ) -> Result<(), ProcessError> {
        self.write(topic, partition, Some(key), Some(value), timestamp_ms);
        self.process().map(drop)
    }

    /// Processes all that there is; returns how many records, and timers by stream time. What the tasks write is there
    /// for others, and for themselves, once it is committed.
    pub fn process(&mut self) -> Result<usize, ProcessError> {
        let mut all = 0;
        loop {
            let before = all;
            for number in 0..self.tasks.len() {
                self.fetch(number);
                while self.tasks[number].process_next(&mut Poison::default())? {
                    all += 1;
                    self.since_commit += 1;
                    if self.since_commit >= self.commit_every {
                        self.commit()?;
                    }
                }
            }
            if all == before {
                return Ok(all);
            }
        }
    }

    /// Processes so many records of a task that there are, with the timers that come before each, and nothing after.
    pub fn process_records(&mut self, partition: i32, count: i64) -> Result<(), ProcessError> {
        let number = usize::try_from(partition).unwrap_or(0);
        self.fetch(number);
        let end = self.tasks[number].uncommitted_records() + count;
        while self.tasks[number].uncommitted_records() < end {
            if !self.tasks[number].process_next(&mut Poison::default())? {
                self.fetch(number);
                if !self.tasks[number].process_next(&mut Poison::default())? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Processes and commits until nothing new comes of it.
    pub fn run(&mut self) -> Result<(), ProcessError> {
        self.commit()?;
        while self.process()? > 0 {
            self.commit()?;
        }
        Ok(())
    }

    /// Puts the wall clock forward, and fires the timers that are due by it.
    pub fn advance_wall_clock(&mut self, duration: Duration) -> Result<(), ProcessError> {
        self.hand.advance(duration);
        let now_ms = self.hand.clock().now_ms();
        for task in &mut self.tasks {
            while task.fire_wall_clock(now_ms)? > 0 {}
        }
        Ok(())
    }

    /// Begins a commit of what was processed, which then is under way until `commit`, which makes it happen, or `abort`. What
    /// is processed meanwhile belongs to the next, as it does in a worker.
    pub fn begin_commit(&mut self) -> Result<(), ProcessError> {
        self.settle()?;
        let mut tasks = Vec::new();
        for task in &mut self.tasks {
            tasks.extend(task.prepare_commit()?);
        }
        let position = |task: &Task| task.queues().iter().map(|queue| queue.position()).collect();
        self.committing = self.tasks.iter().map(position).collect();
        self.since_commit = 0;
        let producer = self.outbox.borrow_mut().lend();
        let (group, membership) = (self.service.name.to_owned(), Membership(Arc::from([])));
        Ok(self.committer.submit(Job { producer, group, membership, positions: Vec::new(), tasks })?)
    }

    /// Sees the commit under way through, and commits what was processed since.
    pub fn commit(&mut self) -> Result<(), ProcessError> {
        self.begin_commit()?;
        self.settle()
    }

    /// Takes back what was processed since the last commit that happened, as an aborted transaction does.
    pub fn abort(&mut self) -> Result<(), ProcessError> {
        self.lose()?;
        for number in 0..self.tasks.len() {
            let positions = self.positions(number);
            self.tasks[number].aborted(&positions);
        }
        self.fetched.clone_from(&self.committed);
        self.since_commit = 0;
        Ok(())
    }

    /// The commit under way happens.
    fn settle(&mut self) -> Result<(), ProcessError> {
        let Some(Done { producer, outcome, .. }) = self.committer.wait()? else { return Ok(()) };
        match outcome {
            Ok(()) => {}
            Err(Failed::Apply(error)) => return Err(error),
            Err(Failed::Commit(CommitError::Log(error))) => return Err(error.into()),
            Err(Failed::Commit(error)) => return Err(LogError::failed("a driver's commit failed", error).into()),
        }
        self.tasks.iter_mut().for_each(Task::committed);
        self.committed.clone_from(&self.committing);
        Ok(self.outbox.borrow_mut().give_back(producer)?)
    }

    /// The commit under way does not happen, and what was written since never was.
    fn lose(&mut self) -> Result<(), ProcessError> {
        if self.committer.is_under_way() {
            self.log.abort_next();
            if let Some(Done { producer, .. }) = self.committer.wait()? {
                self.outbox.borrow_mut().give_back_after_abort(producer);
            }
        }
        Ok(self.outbox.borrow_mut().abort()?)
    }

    /// Drops the tasks and opens them anew, with their stores as they lie.
    pub fn restart(&mut self) -> Result<(), ProcessError> {
        self.lose()?;
        self.tasks.clear();
        self.open()
    }

    /// Restarts with nothing but the changelogs.
    pub fn restart_elsewhere(&mut self) -> Result<(), ProcessError> {
        self.lose()?;
        self.tasks.clear();
        self.budget = Budget::in_memory(BUDGET_BYTES)?;
        self.open()
    }

    /// The committed records of a topic, by partition and offset.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        self.log.records(topic)
    }

    /// The log, to write and to damage.
    pub fn log(&self) -> &MemoryLog {
        &self.log
    }

    /// Makes again all that was committed, with this service or, for `None`, the driver's own, and compares.
    pub fn replay(&self, with: Option<&Arc<Service>>) -> Result<Verified, ReplayError> {
        let budget = Budget::in_memory(BUDGET_BYTES)?;
        let rerun = self.rerun(with.unwrap_or(&self.service), &budget);
        let tasks: Vec<_> = (0..self.partitions).map(|task| Past { rerun, snapshots: None, task }).collect();
        let times = Times { from_ms: i64::MIN, to_ms: i64::MAX };
        replay::verify(&tasks, times, &folder(), |_, _| true)
    }

    /// What each store of a record's task held right after that record, by a replay.
    pub fn entries_at(&self, place: &TopicPartition, offset: i64) -> Result<Vec<Vec<OwnedEntry>>, ReplayError> {
        let budget = Budget::in_memory(BUDGET_BYTES)?;
        let past = Past { rerun: self.rerun(&self.service, &budget), snapshots: None, task: place.partition };
        let mut rerun = past.at(&Moment::Record(place.clone(), offset), &folder())?;
        let stores = 0..self.service.stores.len();
        stores.map(|index| Ok(all_entries(rerun.store(index))?)).collect()
    }

    fn rerun<'a>(&'a self, service: &'a Arc<Service>, budget: &'a Budget) -> RerunOptions<'a> {
        RerunOptions {
            service,
            log: &self.log,
            registry: &self.registry,
            budget,
            partitions: self.partitions,
            dead_letter_partitions: self.partitions,
            memory_bytes_max: REPLAY_BYTES_MAX,
            program: Program::Same,
            stop: None,
        }
    }

    /// The manifests of a task's commits.
    pub fn manifests(&self, partition: i32) -> Vec<Manifest> {
        let mut decoder = Decoder::new(self.registry());
        let records = self.log.records(&manifest::topic(self.service.name));
        let own = records.iter().filter(|record| record.partition == partition);
        own.filter_map(|record| decoder.decode(record.value.as_deref()?).ok()).collect()
    }

    /// What a task's store holds, committed or not. Panics if the service has no store of that name.
    pub fn entries(&mut self, partition: i32, store: &str) -> Result<Vec<OwnedEntry>, StoreError> {
        let index = self.store_index(store);
        all_entries(self.tasks[usize::try_from(partition).unwrap_or(0)].store(index))
    }

    /// The same as `engram state` shows it.
    pub fn described(
        &mut self,
        partition: i32,
        store: &str,
    ) -> Result<Vec<(serde_json::Value, serde_json::Value)>, StoreError> {
        let describe = self.service.stores[self.store_index(store)].describe;
        Ok(self.entries(partition, store)?.iter().map(|(key, value)| describe(key, value)).collect())
    }

    fn store_index(&self, name: &str) -> usize {
        let found = self.service.stores.iter().position(|store| store.name == name);
        found.unwrap_or_else(|| panic!("service {} has no store {name}", self.service.name))
    }

    fn open(&mut self) -> Result<(), ProcessError> {
        let numbers: Vec<i32> = (0..self.committed.len() as i32).collect();
        let (clock, status, stores) = (self.hand.clock(), WorkerStatus::default(), folder());
        let restore = Restore {
            service: self.service.name,
            log: &self.log,
            clock: &clock,
            budget: &self.budget,
            stores: &stores,
            snapshots: None,
            standby: None,
            status: &status,
            threads: false,
        };
        let opened = restore.open_all(&numbers, || Ok::<_, ProcessError>(true))?.expect("nobody breaks it off");
        for (number, opened) in opened.into_iter().enumerate() {
            let task = Task::open(
                &self.service,
                number as i32,
                &self.positions(number),
                opened.files,
                &TaskOptions {
                    registry: &self.registry,
                    outbox: &self.outbox,
                    clock: &clock,
                    cache_bytes_max: self.cache_bytes_max,
                    in_memory: false,
                    partitions: self.partitions,
                    dead_letter_partitions: self.partitions,
                },
            )?;
            self.tasks.push(task);
        }
        self.fetched.clone_from(&self.committed);
        self.since_commit = 0;
        Ok(())
    }

    fn positions(&self, number: usize) -> Vec<(TopicPartition, i64)> {
        let inputs = self.service.inputs.iter().zip(&self.committed[number]);
        inputs.map(|(topic, position)| (TopicPartition::new(topic.as_str(), number as i32), *position)).collect()
    }

    fn fetch(&mut self, number: usize) {
        for (input, topic) in self.service.inputs.iter().enumerate() {
            let place = TopicPartition::new(topic.as_str(), number as i32);
            let position = &mut self.fetched[number][input];
            let fetched = self.log.fetch(&place, *position, FETCH_RECORDS_MAX);
            *position += fetched.records.as_ref().map_or(0, |batch| batch.len()) as i64;
            self.tasks[number].add(input, fetched);
        }
    }
}

fn all_entries(store: &mut Store) -> Result<Vec<OwnedEntry>, StoreError> {
    let mut entries = Vec::new();
    store.range(&[], &[u8::MAX; 32], Order::Ascending, |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        true
    })?;
    Ok(entries)
}

/// RocksDB's binding creates the folder on the disk even where the database lies in memory.
fn folder() -> PathBuf {
    std::env::temp_dir().join("engram-driver")
}
