//! What a worker does when its group gives it partitions or takes them back: tasks are opened when all their inputs are here,
//! and closed, after a last commit, when one of them goes.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::commit::Outcome;
use super::{Overlap, Worker, WorkerOptions};
use crate::log::{Log, LogError, Rebalance, TopicPartition};
use crate::processor::ProcessError;
use crate::restore::Restore;
use crate::task::{Task, TaskOptions};

impl Worker {
    pub(super) fn rebalance(&mut self, change: Rebalance) -> Result<(), ProcessError> {
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
    pub(super) fn give_back(&mut self, partitions: &[TopicPartition], outcome: Outcome) -> Result<(), ProcessError> {
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
    pub(super) fn open_tasks(&mut self) -> Result<(), ProcessError> {
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
                    in_memory: false,
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
    pub(super) fn complete(&self) -> Vec<(i32, Vec<(TopicPartition, i64)>)> {
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
    pub(super) fn tell_standby(&self, opening: &[i32]) {
        if let Some(standby) = &self.options.standby {
            let owned: Vec<i32> = self.tasks.iter().map(Task::partition).chain(opening.iter().copied()).collect();
            standby.own(&self.options.instance, &owned);
        }
    }

    /// Finds the inputs of all tasks among what is held.
    pub(super) fn arrange(&mut self) {
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
pub(super) fn start_positions(
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
