//! Running a task again: the records that a commit took, in the order in which it took them, with the clock and the timers
//! that its manifest tells of.
//!
//! ```text
//! base (a snapshot's files, or nothing) -> Rerun::open -> commit, commit, ... -> up_to a record in the middle of one
//! ```

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use engram_schemas::manifest::{Firing, Manifest};
use engram_schemas::registry::Registry;

use super::captured::{Capture, Captured, Written};
use super::steps::{Cause, Change, Emitted, Step, TakenRecord};
use super::{Commit, RecordPlace, ReplayError};
use crate::clock::ManualClock;
use crate::collector::{ClockUse, Traced};
use crate::dead_letter;
use crate::errors::ErrorPolicy;
use crate::log::{Consumer, Log, TopicPartition};
use crate::manifest::LastCommit;
use crate::outbox::Outbox;
use crate::poison::Poison;
use crate::processor::{ProcessError, Service};
use crate::store::{Budget, Files, Store};
use crate::task::{Task, TaskOptions};
use crate::timers::TimerClock;

const FETCH_RECORDS_MAX: usize = 2_000;
const WAIT_MAX: Duration = Duration::from_millis(20);
/// Longest wait for the log to hand out what it says it has.
const STALL_MAX: Duration = Duration::from_secs(60);
/// What each of the task's stores may keep of its files in memory.
const CACHE_BYTES_MAX: usize = 16 << 20;
/// What most replays give a store before it goes into files (`RerunOptions::memory_bytes_max`).
pub const MEMORY_BYTES_MAX: usize = 128 << 20;

/// What a rerun is made of.
#[derive(Clone, Copy)]
pub struct RerunOptions<'a> {
    pub service: &'a Arc<Service>,
    pub log: &'a dyn Log,
    pub registry: &'a Arc<dyn Registry>,
    pub budget: &'a Budget,
    /// Partitions of the service's inputs, and of the dead letters.
    pub partitions: i32,
    pub dead_letter_partitions: i32,
    /// What a store that begins empty may have before it goes into files; looked at after each commit, and without the index of
    /// its keys. 0: it is in files from the beginning, where it can be pinned.
    pub memory_bytes_max: usize,
    pub program: Program,
    /// Looked at before each commit: to leave early.
    pub stop: Option<&'a AtomicBool>,
}

/// Whether the program and its configuration are those that made the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// What comes out otherwise is an error.
    Same,
    /// It takes the same records in the same order and commits; nothing else need be as it was.
    Other,
}

/// How far a commit is run.
#[derive(Debug, Clone, Copy)]
enum Until<'a> {
    End,
    /// Until this record was taken.
    Record(&'a TopicPartition, i64),
    /// Until so many records were taken and timers fired.
    Steps(usize),
}

/// A task that does again what its manifests say that it did. Nothing of it reaches the log, and nothing is counted in the
/// metrics.
pub struct Rerun {
    task: Task,
    clock: ManualClock,
    capture: Capture,
    /// Reads the inputs, in the order of `Service::inputs`.
    reader: Box<dyn Consumer>,
    poison: Poison,
    errors: ErrorPolicy,
    program: Program,
    memory_bytes_max: usize,
    /// The commit that it stands behind.
    last: LastCommit,
    /// What it does, step by step, where that is wanted.
    steps: Option<Steps>,
    /// The topics of its outputs.
    outputs: Vec<String>,
}

/// The steps of a commit that is under way.
#[derive(Default)]
struct Steps {
    list: Vec<Step>,
    /// Records captured, and the outputs among them.
    written: usize,
    outputs: usize,
}

/// What came of a commit that was made again.
pub struct Remade {
    /// As it would be written now; the end of the changelog is not known.
    pub manifest: Manifest,
    /// Outputs and, unless they are left out, changelog records, in the order in which they were written.
    pub written: Captured,
    pub clock: ClockUse,
}

impl Remade {
    /// Compares the digests of outputs and state, and the use of the clock.
    ///
    /// Errors: `Strayed`.
    pub fn check(&self, commit: &Commit, service: &str) -> Result<(), ReplayError> {
        let clock = self.clock;
        if clock.unrecorded > 0 || clock.left > 0 {
            let asked = commit.manifest.wall_clock.len();
            let what =
                format!("it asks the clock {} times, and did {asked} times", asked + clock.unrecorded - clock.left);
            return Err(strayed(commit, &what));
        }
        if self.manifest.batches != commit.manifest.batches {
            return Err(strayed(commit, "its batches are other ones"));
        }
        if self.manifest.digest != commit.manifest.digest {
            let (now, then) = (hex(&self.manifest.digest), hex(&commit.manifest.digest));
            let what = format!(
                "its digest is {now}, and was {then}: 'engram replay {service} --verify' finds the first difference"
            );
            return Err(strayed(commit, &what));
        }
        Ok(())
    }
}

impl Rerun {
    /// Opens a task on its files in `folder`, which belong to the rerun from now on; an empty folder is the beginning of
    /// history. `next` is the commit that will be made again first, if any is.
    pub fn open(
        options: &RerunOptions<'_>,
        task: i32,
        folder: &Path,
        next: Option<&Commit>,
    ) -> Result<Self, ReplayError> {
        let clock = ManualClock::new(next.map_or(0, |next| next.time_ms));
        let files = Arc::new(Files::open(folder, options.budget, &clock.clock())?);
        let last = match files.get(LastCommit::KEY)? {
            None => LastCommit::default(),
            Some(bytes) => LastCommit::from_bytes(&bytes)
                .ok_or_else(|| ReplayError::Impossible(format!("{} has no readable last commit", folder.display())))?,
        };
        let mut reader = options.log.reader()?;
        let positions = match next {
            Some(next) => positions(options.service, &next.manifest)?,
            None => options.service.inputs.iter().map(|input| (TopicPartition::new(input.as_str(), task), 0)).collect(),
        };
        if next.is_some() {
            reader.assign(&positions)?;
        }
        let capture = Capture::default();
        let task_options = TaskOptions {
            registry: options.registry,
            outbox: &Rc::new(RefCell::new(Outbox::new(capture.producer()))),
            clock: &clock.clock(),
            cache_bytes_max: CACHE_BYTES_MAX,
            in_memory: options.memory_bytes_max > 0,
            partitions: options.partitions,
            dead_letter_partitions: options.dead_letter_partitions,
        };
        let task = Task::open(options.service, task, &positions, files, &task_options)?;
        let (program, poison) = (options.program, Poison::default());
        let outputs = options.service.outputs.iter().map(|output| output.topic.clone()).collect();
        let errors = options.service.errors.clone();
        let memory_bytes_max = options.memory_bytes_max;
        Ok(Self { task, clock, capture, reader, poison, errors, program, memory_bytes_max, last, steps: None, outputs })
    }

    /// The commit that it stands behind.
    pub fn last(&self) -> LastCommit {
        self.last
    }

    /// Makes a commit again: the one that follows `last`.
    pub fn commit(&mut self, commit: &Commit) -> Result<Remade, ReplayError> {
        metrics::with_local_recorder(&metrics::NoopRecorder, || self.make_again(commit))
    }

    /// For one who asks for outputs only: from now on what is made again has no changelog records.
    pub fn leave_out_changelog(&self) {
        self.capture.leave_out_changelog();
    }

    /// Takes back what came of a commit, for its room.
    pub fn recycle(&self, remade: Remade) {
        self.capture.recycle(remade.written);
    }

    /// As `commit`, and tells each step.
    pub fn commit_by_steps(&mut self, commit: &Commit) -> Result<(Vec<Step>, Remade), ReplayError> {
        self.task.trace(true);
        self.steps = Some(Steps::default());
        let remade = self.commit(commit);
        self.task.trace(false);
        let steps = self.steps.take().unwrap_or_default();
        Ok((steps.list, remade?))
    }

    fn make_again(&mut self, commit: &Commit) -> Result<Remade, ReplayError> {
        self.run(commit, Until::End)?;
        let clock = self.task.clock_use();
        let prepared = match self.task.prepare_commit()? {
            Some(prepared) => prepared,
            // One of timers alone, which this program does not set.
            None if self.program == Program::Other => {
                self.last.sequence = commit.manifest.sequence;
                return Ok(Remade { manifest: commit.manifest.clone(), written: self.capture.take(), clock });
            }
            None => return Err(strayed(commit, "it has taken nothing")),
        };
        self.step(Cause::Commit, None)?;
        let end = commit.manifest.changelog.first().map_or(0, |changelog| changelog.end);
        self.task.files().apply(prepared.changes, end)?;
        self.task.committed();
        self.task.limit_memory(self.memory_bytes_max)?;
        self.last = LastCommit {
            // Its own count may be behind, see above.
            sequence: commit.manifest.sequence,
            digest: prepared.manifest.digest.as_slice().try_into().expect("a digest has 16 bytes"),
            stream_time: self.task.stream_time(),
        };
        Ok(Remade { manifest: prepared.manifest, written: self.capture.take(), clock })
    }

    /// Runs the commit that follows `last` until this record of its inputs was taken, and no further: then the stores are as
    /// they were right after it. A record that the commit did not take leaves them as after its last.
    pub fn up_to(&mut self, commit: &Commit, record: (&TopicPartition, i64)) -> Result<(), ReplayError> {
        let until = Until::Record(record.0, record.1);
        metrics::with_local_recorder(&metrics::NoopRecorder, || self.run(commit, until))
    }

    /// As `up_to`, for so many steps (records taken, timers fired). What was run of the commit before is forgotten first.
    pub fn up_to_step(&mut self, commit: &Commit, steps: usize) -> Result<(), ReplayError> {
        metrics::with_local_recorder(&metrics::NoopRecorder, || {
            self.begin_again(&commit.manifest)?;
            self.run(commit, Until::Steps(steps))
        })
    }

    /// The records that a commit takes, in order, `None` for timers: its steps until its end. Nothing of it stays.
    pub fn records_of(&mut self, commit: &Commit) -> Result<Vec<Option<RecordPlace>>, ReplayError> {
        self.steps = Some(Steps::default());
        let run = metrics::with_local_recorder(&metrics::NoopRecorder, || self.run(commit, Until::End));
        let steps = self.steps.take().unwrap_or_default().list;
        run?;
        self.begin_again(&commit.manifest)?;
        let place = |record: TakenRecord| (record.partition, record.offset);
        Ok(steps.into_iter().map(|step| step.record.map(place)).collect())
    }

    /// What it has written so far of a commit that was run `up_to` somewhere, dead letters and retries too.
    pub fn uncommitted(&self) -> Vec<Written> {
        self.capture.from(0)
    }

    /// Compares a commit that was made again with its manifest, if the program is that of then.
    ///
    /// Errors: `Strayed`.
    pub fn check(&self, remade: &Remade, commit: &Commit) -> Result<(), ReplayError> {
        match self.program {
            Program::Same => remade.check(commit, &commit.manifest.service),
            Program::Other => Ok(()),
        }
    }

    /// The database of its stores, where they are not in memory.
    pub fn files(&self) -> Arc<Files> {
        Arc::clone(self.task.files())
    }

    /// A store as it is now.
    pub fn store(&mut self, index: usize) -> &mut Store {
        self.task.store(index)
    }

    fn run(&mut self, commit: &Commit, until: Until<'_>) -> Result<(), ReplayError> {
        let manifest = &commit.manifest;
        let previous = (self.last.sequence + 1, self.last.digest.as_slice());
        let is_same = self.program == Program::Other || manifest.previous_digest.as_slice() == previous.1;
        if manifest.sequence != previous.0 || !is_same {
            let found = format!(
                "commit {} does not go on from where the replay is, behind commit {} with digest {}",
                manifest.sequence,
                self.last.sequence,
                hex(&self.last.digest)
            );
            return Err(ReplayError::Impossible(found));
        }
        loop {
            match self.take(commit, until) {
                // It stopped the worker, too, until it was known; with the verdict on it the commit is made once more.
                Err(ReplayError::Process(ProcessError::Poisoned(_))) if self.poison.take_condemned() => {
                    self.begin_again(manifest)?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Goes back to the commit that it stands behind.
    fn begin_again(&mut self, manifest: &Manifest) -> Result<(), ReplayError> {
        let inputs = self.task.queues().iter().zip(&manifest.inputs);
        let positions: Vec<_> = inputs.map(|(queue, input)| (queue.partition.clone(), input.from)).collect();
        self.reader.assign(&positions)?;
        self.task.aborted(&positions);
        self.capture.take();
        self.task.take_traces();
        self.steps = self.steps.as_ref().map(|_| Steps::default());
        Ok(())
    }

    /// Notes what was done since the last step, if that is wanted.
    fn step(&mut self, cause: Cause, record: Option<TakenRecord>) -> Result<(), ReplayError> {
        let Some(mut steps) = self.steps.take() else { return Ok(()) };
        let (traces, Traced { origins, contributed, .. }) = self.task.take_traces();
        let mut step = Step { cause, record, contributed, ..Step::default() };
        for (store, trace) in traces.into_iter().enumerate() {
            for (key, before) in trace.written {
                let after = self.task.store(store).get(&key)?.map(<[u8]>::to_vec);
                if before != after {
                    step.changes.push(Change { store, key: key.into(), before, after });
                }
            }
            step.reads.extend(trace.read.into_iter().map(|key| (store, key.into())));
        }
        // These looks were no part of it.
        self.task.take_traces();
        let written = self.capture.from(steps.written);
        steps.written += written.len();
        let (outputs, others): (Vec<_>, Vec<_>) =
            written.into_iter().partition(|written| self.outputs.iter().any(|topic| **topic == *written.topic));
        for (record, origin) in outputs.into_iter().zip(origins) {
            step.outputs.push(Emitted { index: steps.outputs, record, origin });
            steps.outputs += 1;
        }
        step.dead_letters = others.into_iter().filter(|written| *written.topic == *dead_letter::TOPIC).collect();
        steps.list.push(step);
        self.steps = Some(steps);
        Ok(())
    }

    /// Takes the commit's records and fires its timers, once.
    fn take(&mut self, commit: &Commit, until: Until<'_>) -> Result<(), ReplayError> {
        let manifest = &commit.manifest;
        self.clock.set(commit.time_ms);
        self.task.recorded(manifest);
        let mut left = match until {
            Until::Steps(count) => count,
            _ => usize::MAX,
        };
        let mut firings = Firings { recorded: &manifest.firings, by_stream_time: 0, before: 0 };
        let mut taken = 0;
        for run in &manifest.interleaving {
            let source = usize::try_from(run.input).unwrap_or(usize::MAX);
            let range =
                manifest.inputs.get(source).ok_or_else(|| strayed(commit, "its interleaving names no input"))?;
            for _ in 0..run.count {
                while left > 0 && firings.next(self, taken, commit)? {
                    left -= 1;
                }
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                let offset = self.fetch(source, range.to)?.ok_or_else(|| {
                    ReplayError::Impossible(format!(
                        "commit {} has taken a record of {}/{} between offsets {} and {} that is no longer in the log: \
                         it was deleted by retention or compaction",
                        manifest.sequence, range.topic, range.partition, range.from, range.to
                    ))
                })?;
                if let Some(set_aside) = manifest.set_aside.iter().find(|set_aside| set_aside.after == taken) {
                    self.set_aside(source, offset, &set_aside.cause);
                }
                let record = self.steps.is_some().then(|| TakenRecord::head(&self.task.queues()[source]));
                self.task.process_head(source, &mut self.poison)?;
                self.step(Cause::Record, record)?;
                taken += 1;
                if let Until::Record(place, at) = until
                    && at == offset
                    && *place == self.task.queues()[source].partition
                {
                    return Ok(());
                }
            }
        }
        while left > 0 && firings.last(self, taken, commit)? {
            left -= 1;
        }
        Ok(())
    }

    /// The worker knew of this record that it could not be processed. Another program may process what this one could not.
    fn set_aside(&mut self, source: usize, offset: i64, cause: &str) {
        let ErrorPolicy { on_reject, on_unavailable, .. } = self.errors;
        let (cause, action) = match cause {
            "unavailable" => ("unavailable", on_unavailable.unwrap_or(on_reject)),
            "commit-fails" => ("commit-fails", on_reject),
            _ if self.program == Program::Other => return,
            "panic" => ("panic", on_reject),
            "output-too-large" => ("output-too-large", on_reject),
            _ => ("set-aside", on_reject),
        };
        self.poison.was_condemned(&self.task.queues()[source].partition, offset, cause, action);
    }

    /// Fires one timer, if one is due. Those by the wall clock at once have one time, and are fired together.
    fn fire(&mut self, clock: TimerClock, now_ms: i64, most: usize) -> Result<usize, ReplayError> {
        let fired = self.task.fire(clock, now_ms, most)?;
        if fired > 0 {
            self.step(Cause::Timer(clock), None)?;
        }
        Ok(fired)
    }

    /// The offset of an input's next record, if there is one before `end`.
    fn fetch(&mut self, source: usize, end: i64) -> Result<Option<i64>, ReplayError> {
        let started = Instant::now();
        loop {
            let queue = &self.task.queues()[source];
            if let Some(head) = queue.head() {
                return Ok((head.offset < end).then_some(head.offset));
            }
            if queue.position() >= end {
                return Ok(None);
            }
            let fetched = self.reader.fetch(source, FETCH_RECORDS_MAX)?;
            let nothing = fetched.records.is_none() && fetched.end.is_none();
            self.task.add(source, fetched);
            if nothing {
                if started.elapsed() > STALL_MAX {
                    let (place, seconds) = (&self.task.queues()[source].partition, STALL_MAX.as_secs());
                    let stalled = format!("the log does not hand out records of {place} within {seconds} s");
                    return Err(ReplayError::Impossible(stalled));
                }
                self.reader.wait(WAIT_MAX)?;
            }
        }
    }
}

/// The timers of a commit, fired as its manifest tells: those of the wall clock where it says, the others when they are due.
struct Firings<'a> {
    recorded: &'a [Firing],
    /// Timers by stream time that were fired, and that came before the next of the wall clock.
    by_stream_time: i64,
    before: i64,
}

impl Firings<'_> {
    /// Fires what comes first before the next record; whether there was anything.
    fn next(&mut self, rerun: &mut Rerun, taken: i64, commit: &Commit) -> Result<bool, ReplayError> {
        if self.recorded(rerun, taken, commit)? {
            return Ok(true);
        }
        self.stream_time(rerun, i64::MAX)
    }

    /// Fires what comes first behind the last record; whether there was anything.
    fn last(&mut self, rerun: &mut Rerun, taken: i64, commit: &Commit) -> Result<bool, ReplayError> {
        if self.recorded(rerun, taken, commit)? {
            return Ok(true);
        }
        if let ([firing, ..], Program::Same) = (self.recorded, rerun.program) {
            let what = format!("it has fired timers after {} records, and has taken {taken}", firing.after);
            return Err(strayed(commit, &what));
        }
        self.stream_time_until(rerun, self.before, commit)
    }

    /// Fires what was fired by the wall clock after so many records, and what stream time had made due before it.
    fn recorded(&mut self, rerun: &mut Rerun, taken: i64, commit: &Commit) -> Result<bool, ReplayError> {
        while let Some((firing, rest)) = self.recorded.split_first() {
            if !firing.wall_clock {
                // Those after it may be of the same place; how many came before them is known now.
                self.before += firing.count;
                self.recorded = rest;
                continue;
            }
            if firing.after != taken {
                return Ok(false);
            }
            if self.stream_time_until(rerun, self.before, commit)? {
                return Ok(true);
            }
            self.recorded = rest;
            let most = usize::try_from(firing.count).unwrap_or(0);
            let fired = rerun.fire(TimerClock::WallClock, firing.time, most)?;
            if fired != most && rerun.program == Program::Same {
                return Err(strayed(commit, "fewer timers of the wall clock are due than it has fired"));
            }
            if fired > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fires the next by stream time, if it were fewer than so many until now; whether there was one.
    fn stream_time_until(&mut self, rerun: &mut Rerun, until: i64, commit: &Commit) -> Result<bool, ReplayError> {
        if self.stream_time(rerun, until)? {
            return Ok(true);
        }
        if self.by_stream_time != until && rerun.program == Program::Same {
            return Err(strayed(commit, "other timers by stream time are due than it has fired"));
        }
        Ok(false)
    }

    /// Fires one that stream time has made due, if there is one and it were at most so many then.
    fn stream_time(&mut self, rerun: &mut Rerun, most: i64) -> Result<bool, ReplayError> {
        let now = rerun.task.stream_time();
        if self.by_stream_time >= most || rerun.fire(TimerClock::StreamTime, now, 1)? == 0 {
            return Ok(false);
        }
        self.by_stream_time += 1;
        Ok(true)
    }
}

/// Where the inputs stood before a commit, in the service's order.
fn positions(service: &Service, manifest: &Manifest) -> Result<Vec<(TopicPartition, i64)>, ReplayError> {
    let recorded: Vec<&str> = manifest.inputs.iter().map(|input| input.topic.as_str()).collect();
    if service.inputs.iter().map(String::as_str).ne(recorded.iter().copied()) {
        return Err(ReplayError::Impossible(format!(
            "service {} reads {:?} now, and read {recorded:?} in commit {}: use the program and the configuration of then",
            service.name, service.inputs, manifest.sequence
        )));
    }
    let place = |input: &engram_schemas::manifest::InputRange| {
        (TopicPartition::new(input.topic.as_str(), input.partition), input.from)
    };
    Ok(manifest.inputs.iter().map(place).collect())
}

fn strayed(commit: &Commit, what: &str) -> ReplayError {
    ReplayError::Strayed { sequence: commit.manifest.sequence, what: what.to_owned() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
