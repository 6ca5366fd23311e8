//! A worker: one thread with one consumer, one producer and the tasks of the partitions that the group gave it.
//!
//! Its loop, downward: serve the group, fetch, process, settle the commit under way, begin the next. All its tasks commit
//! together, in one transaction.
//!
//! INVARIANT: nothing is committed for a task after the group has taken it away.

mod options;
mod run;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engram_schemas::codec::Encoder;

use crate::clock::Moment;
use crate::committer::{Committer, Done, Failed, Job};
use crate::dead_letter;
use crate::log::{
    CommitError, GroupConsumer, Log, LogError, MemberOptions, ProducerOptions, Rebalance, TopicPartition,
};
use crate::manifest;
use crate::outbox::{Outbox, SharedOutbox};
use crate::processor::ProcessError;
use crate::restore::Restore;
use crate::task::{Task, TaskOptions};

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Committed,
    /// Neither the commit happened nor what was done on top of it.
    Aborted,
}

impl Worker {
    /// Joins the group. Tasks come with the first `step`s.
    pub fn start(options: &WorkerOptions) -> Result<Self, ProcessError> {
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
            partitions: partitions(&options.service.inputs[0]),
            dead_letter_partitions: partitions(dead_letter::TOPIC),
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

    /// Goes back to the last commit after what is some record's doing; other errors are returned.
    fn set_back(&mut self, error: ProcessError) -> Result<(), ProcessError> {
        match error {
            // Known already.
            ProcessError::Poisoned(_) => {}
            // It is to be found out which.
            ProcessError::Panicked(_) | ProcessError::Log(LogError::TooLarge(_)) => {
                if !self.note_failure(true, &chain(&error)) {
                    let service = self.options.service.name;
                    let reason = format!("no commit of service {service} succeeds, whichever record is left out");
                    return Err(ProcessError::Refused(format!("{reason}: {}", chain(&error))));
                }
            }
            error => return Err(error),
        }
        tracing::warn!(worker = self.options.instance, error = chain(&error), "back to the last commit");
        self.give_up_open()
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
        if self.tasks.iter().any(Task::is_dirty) {
            let since = self.options.clock.since(self.last_commit);
            self.options.commit.interval.saturating_sub(since).min(WAIT_MAX)
        } else {
            WAIT_MAX
        }
    }

    /// Prepares a commit of what all tasks have done, and sends it on its way.
    fn begin_commit(&mut self) -> Result<(), ProcessError> {
        self.last_commit = self.options.clock.now();
        let positions: Vec<(TopicPartition, i64)> = self
            .tasks
            .iter()
            .filter(|task| task.is_dirty())
            .flat_map(|task| task.queues().iter().map(|queue| (queue.partition.clone(), queue.position())))
            .collect();
        if positions.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let records = self.uncommitted_records().cast_unsigned();
        let mut tasks = Vec::new();
        for task in &mut self.tasks {
            tasks.extend(task.prepare_commit()?);
        }
        self.under_way = (records, started.elapsed());
        let membership = self.consumer.membership()?;
        let producer = self.outbox.borrow_mut().lend();
        let group = self.options.group.clone();
        Ok(self.committer.submit(Job { producer, group, membership, positions, tasks })?)
    }

    /// What became of the commit under way, if it is done within `timeout`.
    fn settle(&mut self, timeout: Duration) -> Result<Option<Outcome>, ProcessError> {
        self.committer.look(timeout)?.map(|done| self.settled(done)).transpose()
    }

    /// What became of the commit under way, if there is one; waits for it.
    fn settle_now(&mut self) -> Result<Option<Outcome>, ProcessError> {
        self.committer.wait()?.map(|done| self.settled(done)).transpose()
    }

    fn settled(&mut self, done: Done) -> Result<Outcome, ProcessError> {
        let Done { producer, outcome, times } = done;
        match outcome {
            Ok(()) => {
                self.tasks.iter_mut().for_each(Task::committed);
                let (records, prepare) = std::mem::take(&mut self.under_way);
                self.options.status.poison().committed(records.cast_signed());
                self.tell(records, CommitTimes { prepare, ..times });
                self.outbox.borrow_mut().give_back(producer)?;
                Ok(Outcome::Committed)
            }
            Err(Failed::Commit(CommitError::Aborted(reason))) => {
                tracing::warn!(worker = self.options.instance, reason, "transaction aborted; back to the last commit");
                self.note_failure(false, &reason);
                self.outbox.borrow_mut().give_back_after_abort(producer);
                Ok(Outcome::Aborted)
            }
            Err(Failed::Commit(CommitError::Fenced(reason))) => Err(LogError::Fenced(reason).into()),
            Err(Failed::Commit(CommitError::Unknown(reason))) => {
                self.note_failure(false, &reason);
                Err(LogError::failed("the outcome of a commit is unknown", reason).into())
            }
            Err(Failed::Commit(CommitError::Log(error))) => {
                if matches!(error, LogError::Failed { .. }) {
                    self.note_failure(false, &chain(&error));
                }
                Err(error.into())
            }
            Err(Failed::Apply(error)) => Err(error),
        }
    }

    /// Commits everything that was processed, and waits for it. After an abort the tasks are to be closed or set back.
    fn commit_all(&mut self) -> Result<Outcome, ProcessError> {
        let mut outcome = self.settle_now()?;
        if outcome != Some(Outcome::Aborted) {
            self.begin_commit()?;
            outcome = self.settle_now()?;
        }
        Ok(outcome.unwrap_or(Outcome::Committed))
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

    /// Neither what was under way nor what was done on top of it was committed, by some record's fault or the log's.
    /// Returns false if no record can be held for what will go on for ever.
    fn note_failure(&self, certain: bool, reason: &str) -> bool {
        let records = self.under_way.0.cast_signed() + self.uncommitted_records();
        let action = self.options.service.errors.on_reject.not_retried();
        self.options.status.poison().commit_failed(records, certain, reason, action, &self.options.clock)
    }

    /// Throws away what was done since a commit was begun last, and goes back to the last that happened.
    fn give_up_open(&mut self) -> Result<(), ProcessError> {
        self.outbox.borrow_mut().forget_waiting();
        // What was begun before is not concerned: its outcome, whichever, is the log's.
        self.settle_now()?;
        self.outbox.borrow_mut().abort()?;
        self.rewind()
    }

    /// Back to the committed positions, with what was buffered forgotten.
    fn rewind(&mut self) -> Result<(), ProcessError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let partitions: Vec<TopicPartition> = self.held.drain(..).map(|(partition, _)| partition).collect();
        self.held = start_positions(&*self.options.log, &self.options.group, &partitions)?;
        for (task, feeds) in self.tasks.iter_mut().zip(self.feeds.chunks(self.options.service.inputs.len())) {
            let positions: Vec<_> = feeds.iter().map(|&place| self.held[place].clone()).collect();
            task.aborted(&positions);
        }
        self.last_commit = self.options.clock.now();
        Ok(self.consumer.assign(&self.held)?)
    }

    fn rebalance(&mut self, change: Rebalance) -> Result<(), ProcessError> {
        self.regrouped = true;
        match change {
            Rebalance::Assigned(partitions) => {
                let positions = start_positions(&*self.options.log, &self.options.group, &partitions)?;
                self.consumer.take(&positions)?;
                self.held.extend(positions);
            }
            Rebalance::Revoked(partitions) => {
                // Whoever has them next begins at the last commit, and finds out about the record, too.
                let outcome = self.commit_all().or_else(|error| self.set_back(error).map(|()| Outcome::Aborted))?;
                self.give_back(&partitions, outcome)?;
            }
            Rebalance::Lost(partitions) => {
                let count = partitions.len();
                tracing::warn!(worker = self.options.instance, count, "partitions lost: others have them by now");
                // What was under way was begun in time: its outcome, whichever, is the log's. What is open goes.
                self.settle_now()?;
                self.outbox.borrow_mut().abort()?;
                self.give_back(&partitions, Outcome::Aborted)?;
            }
        }
        Ok(())
    }

    /// Closes the tasks of these partitions and gives them back.
    fn give_back(&mut self, partitions: &[TopicPartition], outcome: Outcome) -> Result<(), ProcessError> {
        let takes = |task: &Task| task.queues().iter().any(|queue| partitions.contains(&queue.partition));
        let inputs = self.options.service.inputs.len();
        let closed = self.tasks.extract_if(.., |task| takes(task)).count();
        self.held.retain(|(held, _)| !partitions.contains(held));
        self.arrange();
        self.tell_standby(&[]);
        self.options.status.unassigned();
        self.consumer.release(partitions)?;
        // Also when a task was closed of which an input stays: what was read of that is to be read again.
        if outcome == Outcome::Aborted || closed * inputs > partitions.len() {
            self.rewind()?;
        }
        Ok(())
    }

    /// Opens the tasks of which all inputs are here.
    fn open_tasks(&mut self) -> Result<(), ProcessError> {
        let options = self.options.clone();
        let (tasks, opened) = loop {
            let tasks = self.complete();
            let numbers: Vec<i32> = tasks.iter().map(|(number, _)| *number).collect();
            self.tell_standby(&numbers);
            let mut change = None;
            let opened = restore(&options).open_all(&numbers, || {
                change = self.consumer.poll_group()?;
                Ok::<_, ProcessError>(change.is_none() && !options.stop.load(Ordering::Relaxed))
            })?;
            match (opened, change) {
                (Some(opened), None) => break (tasks, opened),
                // What was restored stays on disk.
                (_, Some(change)) => self.rebalance(change)?,
                (None, None) => return Ok(()),
            }
        };
        for ((number, positions), opened) in tasks.into_iter().zip(opened) {
            options.status.restored(opened.restored.records);
            options.status.opened(number, &opened.files);
            self.tasks.push(Task::open(
                &options.service,
                number,
                &positions,
                opened.files,
                &TaskOptions {
                    registry: &options.registry,
                    outbox: &self.outbox,
                    clock: &options.clock,
                    cache_bytes_max: options.cache_bytes_max,
                    partitions: self.partitions,
                    dead_letter_partitions: self.dead_letter_partitions,
                },
            )?);
        }
        self.arrange();
        self.last_commit = options.clock.now();
        options.status.assigned(self.tasks.iter().map(Task::partition).collect());
        self.regrouped = false;
        Ok(())
    }

    /// The tasks that are not open although all their inputs are here, with the positions of these.
    fn complete(&self) -> Vec<(i32, Vec<(TopicPartition, i64)>)> {
        let numbers: BTreeSet<i32> = self.held.iter().map(|(partition, _)| partition.partition).collect();
        let closed = numbers.into_iter().filter(|number| !self.tasks.iter().any(|task| task.partition() == *number));
        let input = |topic: &str, number: i32| {
            self.held.iter().find(|(held, _)| held.partition == number && *held.topic == *topic).cloned()
        };
        let inputs = |number| -> Option<Vec<(TopicPartition, i64)>> {
            self.options.service.inputs.iter().map(|topic| input(topic, number)).collect()
        };
        closed.filter_map(|number| Some((number, inputs(number)?))).collect()
    }

    /// Tells the warm copies which tasks are this worker's: those that are open, and these.
    fn tell_standby(&self, opening: &[i32]) {
        if let Some(standby) = &self.options.standby {
            let owned: Vec<i32> = self.tasks.iter().map(Task::partition).chain(opening.iter().copied()).collect();
            standby.own(&self.options.instance, &owned);
        }
    }

    /// Finds the inputs of all tasks among what is held.
    fn arrange(&mut self) {
        let place = |input: &TopicPartition| self.held.iter().position(|(held, _)| held == input);
        let inputs = self.tasks.iter().flat_map(|task| task.queues()).map(|queue| &queue.partition);
        self.feeds = inputs.map(|input| place(input).expect("an open task holds its inputs")).collect();
    }
}

/// How the tasks' files are opened.
fn restore(options: &WorkerOptions) -> Restore<'_> {
    Restore {
        service: options.service.name,
        log: &*options.log,
        budget: &options.budget,
        stores: &options.stores,
        snapshots: options.snapshots.as_deref(),
        standby: options.standby.as_deref(),
        clock: &options.clock,
        status: &options.status,
        threads: options.commit.overlap == Overlap::Thread,
    }
}

/// Where a task goes on: the group's committed positions, or the first offset where there is none.
fn start_positions(
    log: &dyn Log,
    group: &str,
    inputs: &[TopicPartition],
) -> Result<Vec<(TopicPartition, i64)>, LogError> {
    if inputs.is_empty() {
        return Ok(Vec::new());
    }
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
