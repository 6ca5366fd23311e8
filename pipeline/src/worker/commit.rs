//! How a worker commits, and how it goes back when a commit did not happen.
//!
//! INVARIANT: stores, positions and outputs go back together, to the last commit that happened.

use std::time::{Duration, Instant};

use super::{CommitTimes, Worker, chain};
use crate::committer::{Done, Failed, Job};
use crate::log::{CommitError, LogError, TopicPartition};
use crate::processor::ProcessError;
use crate::task::Task;

use super::group::start_positions;

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Committed,
    /// Neither the commit happened nor what was done on top of it.
    Aborted,
}

impl Worker {
    /// Prepares a commit of what all tasks have done, and sends it on its way.
    pub(super) fn begin_commit(&mut self) -> Result<(), ProcessError> {
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
    pub(super) fn settle(&mut self, timeout: Duration) -> Result<Option<Outcome>, ProcessError> {
        self.committer.look(timeout)?.map(|done| self.settled(done)).transpose()
    }

    /// What became of the commit under way, if there is one; waits for it.
    pub(super) fn settle_now(&mut self) -> Result<Option<Outcome>, ProcessError> {
        self.committer.wait()?.map(|done| self.settled(done)).transpose()
    }

    pub(super) fn settled(&mut self, done: Done) -> Result<Outcome, ProcessError> {
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
    pub(super) fn commit_all(&mut self) -> Result<Outcome, ProcessError> {
        let mut outcome = self.settle_now()?;
        if outcome != Some(Outcome::Aborted) {
            self.begin_commit()?;
            outcome = self.settle_now()?;
        }
        Ok(outcome.unwrap_or(Outcome::Committed))
    }

    pub(super) fn tell(&self, records: u64, times: CommitTimes) {
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
    pub(super) fn note_failure(&self, certain: bool, reason: &str) -> bool {
        let records = self.under_way.0.cast_signed() + self.uncommitted_records();
        let action = self.options.service.errors.on_reject.not_retried();
        self.options.status.poison().commit_failed(records, certain, reason, action, &self.options.clock)
    }

    /// Throws away what was done since a commit was begun last, and goes back to the last that happened.
    pub(super) fn give_up_open(&mut self) -> Result<(), ProcessError> {
        self.outbox.borrow_mut().forget_waiting();
        // What was begun before is not concerned: its outcome, whichever, is the log's.
        self.settle_now()?;
        self.outbox.borrow_mut().abort()?;
        self.rewind()
    }

    /// Back to the committed positions, with what was buffered forgotten.
    pub(super) fn rewind(&mut self) -> Result<(), ProcessError> {
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

    /// Goes back to the last commit after what is some record's doing; other errors are returned.
    pub(super) fn set_back(&mut self, error: ProcessError) -> Result<(), ProcessError> {
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
}
