//! Going back to a moment of a task: from the newest snapshot before it, or from the beginning, through the commits until it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Commit, History, Remade, ReplayError, Rerun, RerunOptions, Step};
use crate::log::TopicPartition;
use crate::snapshot::Snapshots;

/// A moment of a task's past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// What had been committed by then, ms since the epoch.
    Time(i64),
    /// Right after this record of an input was taken, whether its commit went on or not.
    Record(TopicPartition, i64),
}

/// How a task is brought back to a moment.
pub struct Past<'a> {
    pub rerun: RerunOptions<'a>,
    /// `None`: all is run again from the beginning.
    pub snapshots: Option<&'a Snapshots>,
    pub task: i32,
}

/// The commits of a task, and the first that the log still tells of.
pub struct TaskHistory {
    pub commits: History,
    /// `None`: it has never committed anything.
    pub first: Option<Commit>,
}

impl TaskHistory {
    /// The commit before the first that is told of; 0 if all are.
    fn told_from(&self) -> i64 {
        self.first.as_ref().map_or(0, |first| first.manifest.sequence - 1)
    }
}

/// A task on its way through its commits, each made again.
pub struct Walk<'a> {
    commits: History,
    pub rerun: Rerun,
    next: Option<Commit>,
    stop: Option<&'a AtomicBool>,
}

impl Walk<'_> {
    /// The commit that it stands behind.
    pub fn sequence(&self) -> i64 {
        self.rerun.last().sequence
    }

    /// The commit that `step` makes again next.
    pub fn next_commit(&self) -> Option<&Commit> {
        self.next.as_ref()
    }

    /// Makes the next commit again; `None` at the end.
    pub fn step(&mut self) -> Result<Option<(Commit, Remade)>, ReplayError> {
        let Some(commit) = self.next()? else { return Ok(None) };
        let remade = self.rerun.commit(&commit)?;
        self.next = self.commits.read()?;
        Ok(Some((commit, remade)))
    }

    fn next(&mut self) -> Result<Option<Commit>, ReplayError> {
        match self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(ReplayError::Stopped),
            _ => Ok(self.next.take()),
        }
    }

    /// As `step`, and the commit must come out as it did.
    ///
    /// Errors: `Strayed`.
    pub fn step_checked(&mut self) -> Result<(), ReplayError> {
        match self.step()? {
            Some((commit, remade)) => self.rerun.check(&remade, &commit),
            None => Ok(()),
        }
    }

    /// As `step_checked`, and tells what was done.
    pub fn step_by_steps(&mut self) -> Result<Option<(Commit, Vec<Step>)>, ReplayError> {
        let Some(commit) = self.next()? else { return Ok(None) };
        let (steps, remade) = self.rerun.commit_by_steps(&commit)?;
        self.rerun.check(&remade, &commit)?;
        self.next = self.commits.read()?;
        Ok(Some((commit, steps)))
    }
}

/// Which commits lead to a moment.
pub(super) struct Way {
    /// The last commit that happened whole; 0: none.
    pub whole: i64,
    /// The one in the middle of which the moment is, and its record.
    pub part: Option<(Commit, TopicPartition, i64)>,
}

impl<'a> Past<'a> {
    /// The task as it was at the moment. `folder` is empty, and the task's from now on.
    ///
    /// Every commit on the way is checked against its manifest.
    ///
    /// Errors: `Impossible` and `TooEarly` if what it takes is gone; `Strayed` if the task does not do what it did.
    pub fn at(&self, moment: &Moment, folder: &Path) -> Result<Rerun, ReplayError> {
        let mut history = self.history()?;
        let way = self.way(&mut history, moment)?;
        drop(history);
        let mut rerun = self.walk_to(way.whole, folder)?.rerun;
        if let Some((commit, place, offset)) = &way.part {
            rerun.up_to(commit, (place, *offset))?;
        }
        Ok(rerun)
    }

    /// The last commit that happened whole by a moment; 0: none.
    pub fn commit_before(&self, moment: &Moment) -> Result<i64, ReplayError> {
        let mut history = self.history()?;
        Ok(self.way(&mut history, moment)?.whole)
    }

    /// What the task did in commit `sequence`. `folder` is empty.
    pub fn commit_by_steps(&self, sequence: i64, folder: &Path) -> Result<(Commit, Vec<Step>), ReplayError> {
        let gone = || ReplayError::Impossible(format!("commit {sequence} of task {} is not in the log", self.task));
        let mut walk = self.walk_to(sequence - 1, folder)?;
        let found = walk.step_by_steps()?;
        found.filter(|(commit, _)| commit.manifest.sequence == sequence).ok_or_else(gone)
    }

    /// A walk that stands behind commit `sequence`, or behind the last if there are fewer.
    pub fn walk_to(&self, sequence: i64, folder: &Path) -> Result<Walk<'a>, ReplayError> {
        let mut walk = self.walk(self.history()?, sequence, folder)?;
        while walk.sequence() < sequence && walk.next_commit().is_some() {
            walk.step_checked()?;
        }
        Ok(walk)
    }

    /// The task's commits.
    pub fn history(&self) -> Result<TaskHistory, ReplayError> {
        let RerunOptions { service, log, registry, .. } = self.rerun;
        let mut commits = History::open(log, registry, service.name, self.task)?;
        let first = commits.first()?;
        Ok(TaskHistory { commits, first })
    }

    /// Begins a walk through the commits, from the newest state that is known not to be later than commit `sequence`.
    pub fn walk(&self, mut history: TaskHistory, sequence: i64, folder: &Path) -> Result<Walk<'a>, ReplayError> {
        let base = self.base(&mut history, sequence, folder)?;
        history.commits.after(base)?;
        let next = history.commits.read()?;
        let rerun = Rerun::open(&self.rerun, self.task, folder, next.as_ref())?;
        Ok(Walk { commits: history.commits, rerun, next, stop: self.rerun.stop })
    }

    pub(super) fn way(&self, history: &mut TaskHistory, moment: &Moment) -> Result<Way, ReplayError> {
        let told_from = history.told_from();
        match moment {
            Moment::Time(time_ms) => {
                let following = history.commits.find(|commit| commit.time_ms > *time_ms)?;
                let whole = following.map_or(i64::MAX, |commit| commit.manifest.sequence - 1);
                // Of what came before the first that is told of, nobody knows when.
                if told_from > 0 && whole == told_from {
                    return self.too_early(history, whole);
                }
                Ok(Way { whole, part: None })
            }
            Moment::Record(place, offset) => {
                let range = |commit: &Commit| {
                    commit
                        .manifest
                        .inputs
                        .iter()
                        .find(|input| input.topic == *place.topic)
                        .map(|input| input.from..input.to)
                };
                let from = history.first.as_ref().and_then(range).map_or(0, |range| range.start);
                if *offset < from && told_from > 0 {
                    return self.too_early(history, told_from);
                }
                let inputs = &self.rerun.service.inputs;
                if !inputs.iter().any(|input| **input == *place.topic) {
                    let inputs = inputs.join(", ");
                    return Err(ReplayError::Impossible(format!("{} is none of its inputs: {inputs}", place.topic)));
                }
                let taken = history.commits.find(|commit| range(commit).is_some_and(|range| *offset < range.end))?;
                let commit = taken.ok_or_else(|| ReplayError::NotTaken(format!("{place}/{offset}")))?;
                Ok(Way { whole: commit.manifest.sequence - 1, part: Some((commit, place.clone(), *offset)) })
            }
        }
    }

    /// Puts the files of the newest snapshot up to commit `whole` into the folder, and returns its sequence; 0: there is none,
    /// and history can be run again from its beginning.
    fn base(&self, history: &mut TaskHistory, whole: i64, folder: &Path) -> Result<i64, ReplayError> {
        let snapshot = match self.snapshots {
            Some(snapshots) => snapshots.copy_to(self.task, whole, folder)?,
            None => None,
        };
        // What follows it must be told of.
        let told_from = history.told_from();
        match snapshot {
            Some(snapshot) if snapshot.sequence >= told_from => Ok(snapshot.sequence),
            _ if told_from == 0 => Ok(0),
            _ => self.too_early(history, told_from),
        }
    }

    /// The manifests begin behind commit `told`.
    fn too_early<T>(&self, history: &mut TaskHistory, told: i64) -> Result<T, ReplayError> {
        let oldest = match self.snapshots {
            Some(snapshots) => {
                snapshots.of(self.task).sequences()?.into_iter().filter(|&sequence| sequence >= told).min()
            }
            None => None,
        };
        let earliest_ms = match oldest {
            Some(oldest) => {
                history.commits.find(|commit| commit.manifest.sequence >= oldest)?.map(|commit| commit.time_ms)
            }
            None => None,
        };
        let what = format!(
            "the manifests of task {} up to commit {told} were deleted, and no snapshot from before that moment is left",
            self.task
        );
        Err(ReplayError::TooEarly { what, earliest_ms })
    }
}
