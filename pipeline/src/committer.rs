//! The end of a commit: what a worker has prepared is flushed, described by manifests and committed, on a thread of its own
//! while the worker goes on with the records that follow.
//!
//! ```text
//! worker      process | prepare | process, outputs wait in the outbox    | settle | process ...
//!                          \ Job                                  Done /
//! committer                  announce, flush, manifests, commit, apply
//! ```
//!
//! One commit is under way at a time, so the order of transactions is that of the records.
//!
//! INVARIANT: stores are changed only after the transaction that carries their changelog and positions has committed.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use engram_schemas::codec::Encoder;
use engram_schemas::manifest::Manifest;

use crate::log::{CommitError, GroupPositions, LogError, Membership, NewRecord, Producer, TopicPartition};
use crate::processor::ProcessError;
use crate::store::{Changes, Files};

/// Whether a worker goes on while it commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// It waits.
    Off,
    /// The commit has a thread of its own.
    Thread,
    /// The commit happens on the worker's own thread, once it was looked for so many times: a simulation's thread.
    Looks(u32),
}

/// A commit, prepared: all its records but the manifests are with the producer.
pub struct Job {
    pub producer: Box<dyn Producer>,
    pub group: String,
    pub membership: Membership,
    pub positions: Vec<(TopicPartition, i64)>,
    pub tasks: Vec<PreparedTask>,
}

/// One task's part in a commit.
pub struct PreparedTask {
    pub changelog: TopicPartition,
    /// Without the end of the changelog, which is known only when everything has been flushed.
    pub manifest: Manifest,
    pub manifest_topic: String,
    pub files: Arc<Files>,
    pub changes: Changes,
}

/// What became of it.
pub struct Done {
    pub producer: Box<dyn Producer>,
    pub outcome: Result<(), Failed>,
    pub times: CommitTimes,
}

/// Why a commit, or what follows it, failed.
pub enum Failed {
    Commit(CommitError),
    /// It was committed, but the stores could not take it: they catch up from the changelog when they are opened anew.
    Apply(ProcessError),
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

/// Where commits are carried out.
pub struct Committer {
    place: Place,
    under_way: bool,
}

enum Place {
    Here { encoder: Arc<Encoder<Manifest>>, looks: u32, waiting: Option<(Job, u32)> },
    Thread { jobs: SyncSender<Job>, done: Receiver<Done> },
}

impl Committer {
    /// `name` is the thread's.
    pub fn start(encoder: Arc<Encoder<Manifest>>, overlap: Overlap, name: &str) -> Result<Self, LogError> {
        let place = match overlap {
            Overlap::Off => Place::Here { encoder, looks: 0, waiting: None },
            Overlap::Looks(looks) => Place::Here { encoder, looks, waiting: None },
            Overlap::Thread => {
                let (jobs, to_do) = sync_channel::<Job>(1);
                let (report, done) = sync_channel(1);
                std::thread::Builder::new()
                    .name(name.to_owned())
                    .spawn(move || {
                        // Ends when the worker has gone.
                        while let Ok(job) = to_do.recv() {
                            if report.send(execute(job, &encoder)).is_err() {
                                return;
                            }
                        }
                    })
                    .map_err(|error| LogError::failed("cannot start a thread for commits", error))?;
                Place::Thread { jobs, done }
            }
        };
        Ok(Self { place, under_way: false })
    }

    /// Begins a commit. The one before must be done.
    pub fn submit(&mut self, job: Job) -> Result<(), LogError> {
        debug_assert!(!self.under_way, "one commit at a time");
        match &mut self.place {
            Place::Here { looks, waiting, .. } => *waiting = Some((job, *looks)),
            Place::Thread { jobs, .. } => jobs.send(job).map_err(|_| has_ended())?,
        }
        self.under_way = true;
        Ok(())
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// What became of the commit under way, if it is done within `timeout`.
    pub fn look(&mut self, timeout: Duration) -> Result<Option<Done>, LogError> {
        if !self.under_way {
            return Ok(None);
        }
        let done = match &mut self.place {
            Place::Here { waiting: Some((_, looks)), .. } if *looks > 0 => {
                *looks -= 1;
                None
            }
            Place::Here { encoder, waiting, .. } => waiting.take().map(|(job, _)| execute(job, encoder)),
            Place::Thread { done, .. } => match done.recv_timeout(timeout) {
                Ok(done) => Some(done),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err(has_ended()),
            },
        };
        self.under_way = done.is_none();
        Ok(done)
    }

    /// Waits for the commit under way, if there is one.
    pub fn wait(&mut self) -> Result<Option<Done>, LogError> {
        while self.under_way {
            let done = self.look(Duration::from_secs(1))?;
            if done.is_some() {
                return Ok(done);
            }
        }
        Ok(None)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // A worker that gives up still sees its commit through: who opens the stores next must find them closed.
        let _ = self.wait();
    }
}

fn has_ended() -> LogError {
    LogError::failed("cannot commit", "the thread for commits has ended")
}

fn execute(mut job: Job, encoder: &Encoder<Manifest>) -> Done {
    let mut times = CommitTimes::default();
    let outcome = commit(&mut job, encoder, &mut times);
    Done { producer: job.producer, outcome, times }
}

fn commit(job: &mut Job, encoder: &Encoder<Manifest>, times: &mut CommitTimes) -> Result<(), Failed> {
    let started = Instant::now();
    let positions = GroupPositions { group: &job.group, membership: &job.membership, positions: &job.positions };
    let producer = &mut job.producer;
    let log = |error: LogError| Failed::Commit(CommitError::Log(error));
    producer.announce(positions).map_err(Failed::Commit)?;
    let mut ends = Vec::new();
    if !job.tasks.is_empty() {
        let flushed = producer.flush().map_err(log)?;
        for task in &mut job.tasks {
            let end = changelog_end(&flushed, &task.changelog).map_err(log)?;
            ends.push(end);
            write_manifest(&mut **producer, task, end, encoder).map_err(log)?;
        }
    }
    times.flush = started.elapsed();
    producer.commit(Some(positions)).map_err(Failed::Commit)?;
    times.transaction = started.elapsed() - times.flush;
    for (task, end) in job.tasks.drain(..).zip(ends) {
        task.files.apply(task.changes, end).map_err(|error| Failed::Apply(error.into()))?;
    }
    Ok(())
}

fn write_manifest(
    producer: &mut dyn Producer,
    task: &mut PreparedTask,
    end: i64,
    encoder: &Encoder<Manifest>,
) -> Result<(), LogError> {
    task.manifest.changelog[0].end = end;
    let mut value = Vec::new();
    encoder.encode(&task.manifest, &mut value).map_err(|error| LogError::failed("cannot encode a manifest", error))?;
    let record = NewRecord {
        topic: &task.manifest_topic,
        partition: task.changelog.partition,
        timestamp_ms: None,
        key: None,
        value: Some(&value),
        headers: &[],
    };
    producer.write(&record, false)
}

fn changelog_end(ends: &[(TopicPartition, i64)], changelog: &TopicPartition) -> Result<i64, LogError> {
    let found = ends.iter().find(|(place, _)| place == changelog);
    found
        .map(|(_, end)| *end)
        .ok_or_else(|| LogError::failed("cannot commit", format!("the log did not tell the end of {changelog}")))
}
