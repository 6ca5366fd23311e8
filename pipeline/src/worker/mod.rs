//! A worker: one thread with one consumer, one producer and the tasks of the partitions that the group gave it.
//!
//! Its loop, downward: serve the group, fetch, process, settle the commit under way, begin the next. All its tasks commit
//! together, in one transaction.
//!
//! INVARIANT: nothing is committed for a task after the group has taken it away.

mod commit;
mod group;
mod options;
mod run;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engram_schemas::codec::Encoder;

use crate::clock::Moment;
use crate::committer::Committer;
use crate::dead_letter;
use crate::log::{GroupConsumer, MemberOptions, ProducerOptions, TopicPartition, partitions_of};
use crate::manifest;
use crate::outbox::{Outbox, SharedOutbox};
use crate::processor::ProcessError;
use crate::task::Task;

use commit::Outcome;

pub use crate::committer::{CommitTimes, Overlap};
pub use options::{CommitOptions, Guarantee, OnCommit, WorkerOptions};
pub use run::{chain, may_pass, run};

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

pub struct Worker {
    options: WorkerOptions,
    /// Before the tasks: a commit under way is seen through while their stores are open.
    committer: Committer,
    /// Before the consumer: they hold its batches.
    tasks: Vec<Task>,
    consumer: Box<dyn GroupConsumer>,
    /// The partitions that the group gave it, in the order in which the consumer counts them, each with the position from
    /// which it was taken. A task is open once all its inputs are among them.
    held: Vec<(TopicPartition, i64)>,
    /// For each task and each of its inputs, the place in `held`.
    feeds: Vec<usize>,
    /// The group has changed what it holds, and the tasks are not open yet.
    regrouped: bool,
    outbox: SharedOutbox,
    last_commit: Moment,
    /// Of the commit under way: its records, and the time that its preparation took.
    under_way: (u64, Duration),
    partitions: i32,
    dead_letter_partitions: i32,
}

impl Worker {
    /// Joins the group. Tasks come with the first `step`s.
    pub fn start(options: &WorkerOptions) -> Result<Self, ProcessError> {
        let topics = options.log.topics()?;
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
        let manifests = Encoder::register(&*options.registry, &manifest::topic(options.service.name))
            .map_err(|error| ProcessError::Retry(error.to_string()))?;
        let thread = format!("{}-commit", options.instance);
        Ok(Self {
            options: options.clone(),
            committer: Committer::start(Arc::new(manifests), options.commit.overlap, &thread)?,
            tasks: Vec::new(),
            consumer,
            held: Vec::new(),
            feeds: Vec::new(),
            regrouped: false,
            outbox: Rc::new(RefCell::new(Outbox::new(producer))),
            last_commit: options.clock.now(),
            under_way: (0, Duration::ZERO),
            partitions: partitions_of(&topics, &options.service.inputs[0]),
            dead_letter_partitions: partitions_of(&topics, dead_letter::TOPIC),
        })
    }

    /// Works until it is told to stop, then commits what is open.
    pub fn run(&mut self) -> Result<(), ProcessError> {
        while !self.options.stop.load(Ordering::Relaxed) {
            let wait = self.step()?;
            if wait > Duration::ZERO && !self.committer.is_under_way() {
                self.consumer.wait(wait)?;
            } else if wait > Duration::ZERO {
                match self.settle(wait) {
                    Ok(Some(Outcome::Aborted)) => self.rewind()?,
                    Ok(_) => {}
                    Err(error) => self.set_back(error)?,
                }
            }
        }
        self.stop()
    }

    /// Commits what is open, for the last time.
    pub fn stop(&mut self) -> Result<(), ProcessError> {
        self.commit_all().map(drop)
    }

    /// The tasks that it has.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Once through the loop. Returns how long there is nothing to do unless records come.
    pub fn step(&mut self) -> Result<Duration, ProcessError> {
        match self.try_step() {
            Err(error) => self.set_back(error).map(|()| Duration::ZERO),
            outcome => outcome,
        }
    }
    fn try_step(&mut self) -> Result<Duration, ProcessError> {
        while let Some(change) = self.consumer.poll_group()? {
            self.rebalance(change)?;
        }
        if self.regrouped {
            self.open_tasks()?;
        }
        let processed = self.process()?;
        let due = self.commit_is_due(processed);
        let mut outcome = self.settle(Duration::ZERO)?;
        if due && self.is_full() {
            outcome = outcome.or(self.settle_now()?);
        }
        if outcome == Some(Outcome::Aborted) {
            self.rewind()?;
        } else if due && !self.committer.is_under_way() {
            self.begin_commit()?;
            let waits = self.options.commit.overlap == Overlap::Off || self.options.status.poison().is_careful();
            if waits && self.settle_now()? == Some(Outcome::Aborted) {
                self.rewind()?;
            }
        }
        Ok(if processed > 0 { Duration::ZERO } else { self.wait_time() })
    }

    /// Fills each task's queues, fires its timers and processes a slice of its records. Returns how many of both.
    fn process(&mut self) -> Result<usize, ProcessError> {
        let inputs = self.options.service.inputs.len();
        let mut poison = self.options.status.poison();
        let mut processed = 0;
        for (index, task) in self.tasks.iter_mut().enumerate() {
            for input in 0..inputs {
                let queue = &task.queues()[input];
                if queue.buffered() < QUEUE_RECORDS_MIN && queue.buffered_bytes() < QUEUE_BYTES_MAX {
                    let fetched = self.consumer.fetch(self.feeds[index * inputs + input], FETCH_RECORDS_MAX)?;
                    task.add(input, fetched);
                }
            }
            processed += task.fire_wall_clock(self.options.clock.now_ms())?;
            let slice = if poison.is_careful() { usize::from(processed == 0) } else { SLICE_RECORDS };
            for _ in 0..slice {
                if !task.process_next(&mut poison)? {
                    break;
                }
                processed += 1;
            }
            if poison.is_careful() && processed > 0 {
                break;
            }
        }
        if processed > 0 {
            self.options.status.busy();
        } else if !self.committer.is_under_way() && self.tasks.iter().all(|task| task.is_at_end() && !task.is_dirty()) {
            self.options.status.idle();
            self.options.status.trouble(None);
        }
        Ok(processed)
    }

    fn commit_is_due(&self, processed: usize) -> bool {
        if self.options.status.poison().is_careful()
            && (self.uncommitted_records() > 0 || self.tasks.iter().any(Task::have_timers_fired))
        {
            return true;
        }
        if self.options.clock.since(self.last_commit) < self.options.commit.interval {
            return self.is_full();
        }
        // Positions that moved past control records only are committed when there is nothing else to do.
        self.uncommitted_records() > 0
            || self.tasks.iter().any(|task| task.have_timers_fired() || (processed == 0 && task.is_dirty()))
    }

    /// As much was processed as a commit may hold.
    fn is_full(&self) -> bool {
        let commit = &self.options.commit;
        self.uncommitted_records() >= commit.records_max
            || self.tasks.iter().map(Task::uncommitted_bytes).sum::<usize>() >= commit.bytes_max
            || self.outbox.borrow().waiting_bytes() >= commit.bytes_max
    }

    fn uncommitted_records(&self) -> i64 {
        self.tasks.iter().map(Task::uncommitted_records).sum()
    }

    fn wait_time(&self) -> Duration {
        // The next commit cannot begin before the one under way is done, whose end is waited for.
        if !self.committer.is_under_way() && self.tasks.iter().any(Task::is_dirty) {
            let since = self.options.clock.since(self.last_commit);
            self.options.commit.interval.saturating_sub(since).min(WAIT_MAX)
        } else {
            WAIT_MAX
        }
    }
}
