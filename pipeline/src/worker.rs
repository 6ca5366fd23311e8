//! A worker: one thread with one consumer, one producer and the tasks of the partitions that the group gave it.
//!
//! Its loop, downward: serve the group, fetch, process, commit. All its tasks commit together, in one transaction.
//!
//! INVARIANT: stores are changed only after the transaction that carries their changelog and positions has committed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engram_schemas::registry::Registry;

use crate::collector::SharedProducer;
use crate::dead_letter;
use crate::log::{
    CommitError, GroupConsumer, GroupPositions, Log, LogError, MemberOptions, ProducerOptions, Rebalance,
    TopicPartition,
};
use crate::processor::{ProcessError, Service};
use crate::restore::Restore;
use crate::snapshot::Snapshots;
use crate::standby::Standby;
use crate::status::WorkerStatus;
use crate::store::{Budget, StoreError};
use crate::task::{Task, TaskOptions};

/// Records taken from a partition's fetch buffer at once.
const FETCH_RECORDS_MAX: usize = 1_000;
/// A task's input queue is filled up again when it holds fewer records than this.
const QUEUE_RECORDS_MIN: usize = 1_000;
/// Nor is it while it holds so many bytes: one fetch more is at most what the log's client has read ahead.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Records of one task between two looks at the group and the other tasks.
const SLICE_RECORDS: usize = 1_000;
/// Longest wait for records; the group is served at least this often.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a commit promises (Kafka Streams' `processing.guarantee`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Outputs, state and positions are committed in one transaction (`exactly_once_v2`).
    ExactlyOnce,
    /// Positions follow the outputs: after a failure records may be processed again.
    AtLeastOnce,
}

/// When to commit.
#[derive(Debug, Clone, Copy)]
pub struct CommitOptions {
    pub guarantee: Guarantee,
    pub interval: Duration,
    /// Commit earlier when so many records were processed,
    pub records_max: i64,
    /// or so many bytes were emitted.
    pub bytes_max: usize,
}

impl Default for CommitOptions {
    fn default() -> Self {
        Self {
            guarantee: Guarantee::ExactlyOnce,
            interval: Duration::from_millis(100),
            records_max: 100_000,
            bytes_max: 16 << 20,
        }
    }
}

/// How long the parts of a commit took.
#[derive(Debug, Clone, Copy, Default)]
pub struct CommitTimes {
    /// Last outputs and changelog: the processor's own work.
    pub prepare: Duration,
    /// Until all records but the manifests, and the positions, were in the log.
    pub flush: Duration,
    /// Manifests and the transaction's end.
    pub transaction: Duration,
}

/// Called after each commit with its records and the time that it took.
pub type OnCommit = Arc<dyn Fn(u64, CommitTimes) + Send + Sync>;

/// Everything a worker needs.
#[derive(Clone)]
pub struct WorkerOptions {
    pub service: Arc<Service>,
    pub log: Arc<dyn Log>,
    pub registry: Arc<dyn Registry>,
    pub budget: Arc<Budget>,
    /// Folder of the service's stores.
    pub stores: PathBuf,
    /// Where the stores are copied to, and restored from.
    pub snapshots: Option<Arc<Snapshots>>,
    /// Warm copies of the tasks that others run.
    pub standby: Option<Arc<Standby>>,
    pub cache_bytes_max: usize,
    /// The consumer group; the service's name by default.
    pub group: String,
    /// Unique among all workers of the group, and the same after a restart: by it the log knows a worker again.
    pub instance: String,
    /// Static membership (KIP-345): a worker that comes back within the session timeout keeps its partitions.
    pub static_membership: bool,
    pub commit: CommitOptions,
    pub on_commit: Option<OnCommit>,
    pub stop: Arc<AtomicBool>,
    pub status: Arc<WorkerStatus>,
}

/// Runs a worker until it is told to stop. What may pass (a broker that restarts, a fenced producer, a registry out of
/// reach) is tried again with backoff, each time from the last commit; what will not is returned.
pub fn run(options: &WorkerOptions) -> Result<(), ProcessError> {
    let mut backoff = BACKOFF.0;
    let outcome = loop {
        let started = Instant::now();
        let outcome = Worker::start(options).and_then(|mut worker| worker.run());
        options.status.unassigned();
        if let Some(standby) = &options.standby {
            standby.own(&options.instance, &[]);
        }
        let error = match outcome {
            Ok(()) => break Ok(()),
            Err(error) if !may_pass(&error) => break Err(error),
            Err(error) => error,
        };
        if started.elapsed() > BACKOFF.1 * 2 {
            backoff = BACKOFF.0;
        }
        tracing::warn!(worker = options.instance, error = %chain(&error), retry_ms = backoff.as_millis() as u64, "starting anew from the last commit");
        options.status.trouble(Some(chain(&error)));
        metrics::counter!("engram_worker_restarts_total", "service" => options.service.name).increment(1);
        let until = Instant::now() + backoff;
        while Instant::now() < until && !options.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if options.stop.load(Ordering::Relaxed) {
            break Ok(());
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    };
    options.status.end();
    outcome
}

fn may_pass(error: &ProcessError) -> bool {
    let log = |error: &LogError| {
        matches!(error, LogError::Unreachable { .. } | LogError::Fenced(_) | LogError::Failed { .. })
    };
    match error {
        ProcessError::Retry(_) => true,
        ProcessError::Log(error) | ProcessError::Store(StoreError::Log(error)) => log(error),
        // By a worker of this process that is about to give it back: `up` has the folder for itself.
        ProcessError::Store(StoreError::InUse { .. }) => true,
        ProcessError::Store(_) | ProcessError::Reject { .. } | ProcessError::Refused(_) => false,
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_line = cause.to_string();
        if !line.contains(&cause_line) {
            line.push_str(": ");
            line.push_str(&cause_line);
        }
        source = cause.source();
    }
    line
}

struct Worker<'a> {
    options: &'a WorkerOptions,
    /// Before the consumer: they hold its batches.
    tasks: Vec<Task>,
    consumer: Box<dyn GroupConsumer>,
    producer: SharedProducer,
    last_commit: Instant,
    partitions: i32,
    dead_letter_partitions: i32,
}

impl<'a> Worker<'a> {
    fn start(options: &'a WorkerOptions) -> Result<Self, ProcessError> {
        let topics = options.log.topics()?;
        let partitions =
            |name: &str| topics.iter().find(|topic| topic.name == name).map_or(0, |topic| topic.partitions);
        let transactional_id = (options.commit.guarantee == Guarantee::ExactlyOnce)
            .then(|| format!("engram-{}-{}", options.group, options.instance));
        // The producer first: it resolves what a former life of this worker left open, so that the positions read
        // afterwards are settled.
        let producer =
            options.log.producer(&ProducerOptions { client_id: options.instance.clone(), transactional_id })?;
        let consumer = options.log.member(&MemberOptions {
            group: options.group.clone(),
            topics: options.service.inputs.clone(),
            client_id: options.instance.clone(),
            instance_id: options.static_membership.then(|| options.instance.clone()),
        })?;
        Ok(Self {
            options,
            tasks: Vec::new(),
            consumer,
            producer: Rc::new(RefCell::new(producer)),
            last_commit: Instant::now(),
            partitions: partitions(&options.service.inputs[0]),
            dead_letter_partitions: partitions(dead_letter::TOPIC),
        })
    }

    fn run(&mut self) -> Result<(), ProcessError> {
        while !self.options.stop.load(Ordering::Relaxed) {
            while let Some(change) = self.consumer.poll_group()? {
                self.rebalance(change)?;
            }
            let processed = self.process()?;
            if self.commit_is_due(processed) {
                self.commit()?;
            }
            if processed == 0 {
                self.consumer.wait(self.wait_time())?;
            }
        }
        self.commit()
    }

    /// Fills each task's queues and processes a slice of them. Returns the records processed.
    fn process(&mut self) -> Result<usize, ProcessError> {
        let inputs = self.options.service.inputs.len();
        let mut processed = 0;
        for (index, task) in self.tasks.iter_mut().enumerate() {
            for input in 0..inputs {
                let queue = &task.queues()[input];
                if queue.buffered() < QUEUE_RECORDS_MIN && queue.buffered_bytes() < QUEUE_BYTES_MAX {
                    let fetched = self.consumer.fetch(index * inputs + input, FETCH_RECORDS_MAX)?;
                    task.add(input, fetched);
                }
            }
            for _ in 0..SLICE_RECORDS {
                if !task.process_next()? {
                    break;
                }
                processed += 1;
            }
        }
        if processed > 0 {
            self.options.status.busy();
        } else if self.tasks.iter().all(|task| task.is_at_end() && !task.is_dirty()) {
            self.options.status.idle();
            self.options.status.trouble(None);
        }
        Ok(processed)
    }

    fn commit_is_due(&self, processed: usize) -> bool {
        let commit = &self.options.commit;
        let records: i64 = self.tasks.iter().map(Task::uncommitted_records).sum();
        if self.last_commit.elapsed() >= commit.interval {
            // Positions that moved past control records only are committed when there is nothing else to do.
            return records > 0 || (processed == 0 && self.tasks.iter().any(Task::is_dirty));
        }
        records >= commit.records_max
            || self.tasks.iter().map(Task::uncommitted_bytes).sum::<usize>() >= commit.bytes_max
    }

    fn wait_time(&self) -> Duration {
        if self.tasks.iter().any(Task::is_dirty) {
            self.options.commit.interval.saturating_sub(self.last_commit.elapsed()).min(WAIT_MAX)
        } else {
            WAIT_MAX
        }
    }

    fn commit(&mut self) -> Result<(), ProcessError> {
        let started = Instant::now();
        let positions: Vec<(TopicPartition, i64)> = self
            .tasks
            .iter()
            .filter(|task| task.is_dirty())
            .flat_map(|task| task.queues().iter().map(|queue| (queue.partition.clone(), queue.position())))
            .collect();
        if positions.is_empty() {
            self.last_commit = started;
            return Ok(());
        }
        let records: i64 = self.tasks.iter().map(Task::uncommitted_records).sum();
        for task in &mut self.tasks {
            task.prepare_commit()?;
        }
        let mut times = CommitTimes { prepare: started.elapsed(), ..CommitTimes::default() };
        let membership = self.consumer.membership()?;
        let positions = GroupPositions { group: &self.options.group, membership: &membership, positions: &positions };
        let mut changelog_ends = Vec::new();
        let mut outcome = self.producer.borrow_mut().announce(positions);
        if outcome.is_ok() {
            if records > 0 {
                changelog_ends = self.producer.borrow_mut().flush()?;
                for task in &mut self.tasks {
                    task.write_manifest(&changelog_ends)?;
                }
            }
            times.flush = started.elapsed() - times.prepare;
            outcome = self.producer.borrow_mut().commit(Some(positions));
            times.transaction = started.elapsed() - times.prepare - times.flush;
        }
        match outcome {
            Ok(()) => {}
            Err(CommitError::Aborted(reason)) => {
                tracing::warn!(worker = self.options.instance, reason, "transaction aborted; back to the last commit");
                return self.rewind();
            }
            Err(CommitError::Fenced(reason)) => return Err(LogError::Fenced(reason).into()),
            Err(CommitError::Unknown(reason)) => {
                return Err(LogError::failed("the outcome of a commit is unknown", reason).into());
            }
            Err(CommitError::Log(error)) => return Err(error.into()),
        }
        for task in &mut self.tasks {
            task.committed(&changelog_ends)?;
        }
        self.last_commit = Instant::now();
        self.tell(records as u64, times);
        Ok(())
    }

    fn tell(&self, records: u64, times: CommitTimes) {
        let service = self.options.service.name;
        self.options.status.committed(records);
        self.options.status.trouble(None);
        metrics::counter!("engram_records_total", "service" => service).increment(records);
        metrics::counter!("engram_commits_total", "service" => service).increment(1);
        for (part, took) in [("prepare", times.prepare), ("flush", times.flush), ("transaction", times.transaction)] {
            metrics::histogram!("engram_commit_seconds", "service" => service, "part" => part)
                .record(took.as_secs_f64());
        }
        if let Some(on_commit) = &self.options.on_commit {
            on_commit(records, times);
        }
    }

    /// Back to the committed positions, with what was buffered forgotten.
    fn rewind(&mut self) -> Result<(), ProcessError> {
        let mut all = Vec::new();
        for task in &mut self.tasks {
            let inputs: Vec<TopicPartition> = task.queues().iter().map(|queue| queue.partition.clone()).collect();
            let positions = start_positions(&*self.options.log, &self.options.group, &inputs)?;
            task.aborted(&positions);
            all.extend(positions);
        }
        self.last_commit = Instant::now();
        Ok(self.consumer.assign(&all)?)
    }

    fn rebalance(&mut self, change: Rebalance) -> Result<(), ProcessError> {
        match change {
            Rebalance::Assigned(partitions) => self.open_tasks(&partitions)?,
            Rebalance::Revoked => {
                self.commit()?;
                self.close_tasks();
                self.consumer.release()?;
            }
            Rebalance::Lost => {
                self.producer.borrow_mut().abort()?;
                self.close_tasks();
                self.consumer.release()?;
            }
        }
        Ok(())
    }

    fn close_tasks(&mut self) {
        self.tasks.clear();
        if let Some(standby) = &self.options.standby {
            standby.own(&self.options.instance, &[]);
        }
        self.options.status.unassigned();
    }

    fn open_tasks(&mut self, assigned: &[TopicPartition]) -> Result<(), ProcessError> {
        let options = self.options;
        let numbers: BTreeSet<i32> = assigned.iter().map(|partition| partition.partition).collect();
        let numbers: Vec<i32> = numbers.into_iter().collect();
        let mut positions = Vec::new();
        for &number in &numbers {
            let inputs: Vec<TopicPartition> =
                options.service.inputs.iter().map(|topic| TopicPartition::new(topic.as_str(), number)).collect();
            positions.push(start_positions(&*options.log, &options.group, &inputs)?);
        }
        // Before the restore, so that the group may go on and tell meanwhile what it wants.
        self.consumer.assign(&positions.concat())?;
        if let Some(standby) = &options.standby {
            standby.own(&options.instance, &numbers);
        }
        let mut change = None;
        let opened = self.restore().open_all(&numbers, || {
            change = self.consumer.poll_group()?;
            Ok::<_, ProcessError>(change.is_none() && !options.stop.load(Ordering::Relaxed))
        })?;
        let Some(opened) = opened else {
            self.close_tasks();
            return change.map_or(Ok(()), |change| self.rebalance(change));
        };
        for ((&number, positions), opened) in numbers.iter().zip(&positions).zip(opened) {
            options.status.restored(opened.restored.records);
            self.tasks.push(Task::open(
                &options.service,
                number,
                positions,
                opened.files,
                &TaskOptions {
                    registry: &options.registry,
                    producer: &self.producer,
                    cache_bytes_max: options.cache_bytes_max,
                    partitions: self.partitions,
                    dead_letter_partitions: self.dead_letter_partitions,
                },
            )?);
        }
        self.last_commit = Instant::now();
        options.status.assigned(numbers);
        Ok(())
    }

    fn restore(&self) -> Restore<'a> {
        let options = self.options;
        Restore {
            service: options.service.name,
            log: &*options.log,
            budget: &options.budget,
            stores: &options.stores,
            snapshots: options.snapshots.as_deref(),
            standby: options.standby.as_deref(),
            status: &options.status,
        }
    }
}

/// Where a task goes on: the group's committed positions, or the first offset where there is none.
fn start_positions(
    log: &dyn Log,
    group: &str,
    inputs: &[TopicPartition],
) -> Result<Vec<(TopicPartition, i64)>, LogError> {
    let committed = log.committed(group, inputs)?;
    inputs
        .iter()
        .zip(committed)
        .map(|(input, committed)| match committed {
            Some(position) => Ok((input.clone(), position)),
            None => Ok((input.clone(), log.offsets(std::slice::from_ref(input))?[0].first)),
        })
        .collect()
}
