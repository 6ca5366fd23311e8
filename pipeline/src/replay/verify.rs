//! Verifying a service's history: its commits are made again, and what comes of them is compared with their manifests and with
//! the records that lie in the output topics.
//!
//! ```text
//! each task:   commits made again -> digests against the manifests, hashes of the outputs kept
//! the topics:  each record of the service, found by its ids (ce_source, ce_id) -> its hash against the kept one
//! the first that differs: its commit is made again once more, for both values
//! ```
//!
//! Memory: 16 bytes an output, beside the stores of the tasks that run at a time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use xxhash_rust::xxh3::Xxh3;

use super::cause::{id_of, source_of};
use super::{Captured, Commit, Past, Remade, ReplayError, Walk, Written, WrittenRef};
use crate::changelog;
use crate::log::{Batch, Cleanup, TopicPartition, partitions_of};
use crate::processor::Service;

/// Which commits: those in this range of times, ms since the epoch, both included.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub from_ms: i64,
    pub to_ms: i64,
}

/// What was compared, and what was found.
#[derive(Debug, Default)]
pub struct Verified {
    pub commits: u64,
    /// Input records that they took.
    pub records: u64,
    /// Outputs made again.
    pub outputs: u64,
    /// Of them: found in the log, and equal.
    pub equal: u64,
    /// Of them: no longer in the log, which may have deleted them by retention or compaction.
    pub gone: u64,
    /// Of them: in topics whose records carry no ids, so that only the digest speaks for them.
    pub unnamed: u64,
    pub difference: Option<Difference>,
}

/// The first thing that is not as it was.
#[derive(Debug)]
pub struct Difference {
    pub task: i32,
    pub sequence: i64,
    /// When the commit happened, ms since the epoch.
    pub time_ms: i64,
    pub what: Differs,
    /// Made again twice, the commit came out in two ways: the processor goes by something that nobody records.
    pub is_random: bool,
}

/// What differs.
#[derive(Debug)]
pub enum Differs {
    /// An output: what lies in the log, with its place, and what comes out now.
    Output { place: Option<(TopicPartition, i64)>, recorded: Option<Written>, remade: Option<Written> },
    /// An entry of a store, by its full key: what the changelog says, and what comes out now. The outer `None`: not changed.
    State { key: Vec<u8>, recorded: Option<Option<Vec<u8>>>, remade: Option<Option<Vec<u8>>> },
    /// Neither can be named.
    Commit(String),
}

/// The outputs of a task's commits, made again.
struct Expected {
    /// The first commit's sequence.
    first: i64,
    /// Of each commit: its time, and where its outputs begin.
    commits: Vec<(i64, usize)>,
    outputs: Vec<Expect>,
    /// The commit at which the task was left, as it does not come out as it did.
    strayed: Option<String>,
}

struct Expect {
    hash: u64,
    /// Index of the service's output.
    output: u16,
    seen: AtomicBool,
}

/// A record of the log that is not as it comes out now, or an output that is not in the log.
struct Found {
    task: i32,
    sequence: i64,
    index: usize,
    time_ms: i64,
    recorded: Option<(TopicPartition, i64, Written)>,
}

/// Makes the commits of these tasks, all of one service, again, several tasks at a time, and compares. `folder` is for their
/// stores. `visit` sees each commit, those of one task in their order, and returns whether to go on.
///
/// Errors: those of `Past::walk`; what differs is no error.
pub fn verify(
    tasks: &[Past<'_>],
    times: Times,
    folder: &Path,
    visit: impl Fn(&Commit, &Remade) -> bool + Sync,
) -> Result<Verified, ReplayError> {
    let made = at_once(tasks, |past| make_again(past, times, &folder.join(past.task.to_string()), &visit))?;
    let mut verified = Verified::default();
    let mut expected: BTreeMap<i32, Expected> = BTreeMap::new();
    for (past, (of_task, made)) in tasks.iter().zip(made) {
        verified.add(&of_task);
        expected.extend(made.map(|made| (past.task, made)));
    }
    let Some(past) = tasks.first() else { return Ok(verified) };
    let found = compare(past, &expected, &mut verified)?;
    let strayed = expected.iter().filter_map(|(&task, made)| {
        let what = made.strayed.clone()?;
        let last = made.commits.len() - 1;
        Some((made.commits[last].0, task, made.first + last as i64, what))
    });
    let strayed = strayed.min();
    // A commit that has strayed is known by its first output, too, if there is one.
    let found = found.filter(|found| strayed.as_ref().is_none_or(|at| (found.time_ms, found.task) <= (at.0, at.1)));
    let again = folder.join("again");
    verified.difference = match (found, strayed) {
        (Some(found), strayed) => {
            let past = tasks.iter().find(|past| past.task == found.task).expect("it was found among them");
            let of_strayed = strayed.is_some_and(|at| (at.1, at.2) == (found.task, found.sequence));
            Some(output_differs(past, found, of_strayed, &again)?)
        }
        (None, Some((time_ms, task, sequence, what))) => {
            let past = tasks.iter().find(|past| past.task == task).expect("it is one of them");
            let (what, is_random) = state_differs(past, sequence, what, &again)?;
            Some(Difference { task, sequence, time_ms, what, is_random })
        }
        (None, None) => None,
    };
    Ok(verified)
}

/// Makes the commits of these tasks again, as `verify`, and compares nothing.
pub fn run_again(
    tasks: &[Past<'_>],
    times: Times,
    folder: &Path,
    visit: impl Fn(&Commit, &Remade) -> bool + Sync,
) -> Result<Verified, ReplayError> {
    let made = at_once(tasks, |past| -> Result<Verified, ReplayError> {
        let mut made = Verified::default();
        let Some((first, mut walk)) = begin(past, times, &folder.join(past.task.to_string()))? else {
            return Ok(made);
        };
        while walk.next_commit().is_some_and(|commit| commit.time_ms <= times.to_ms) {
            let (commit, remade) = walk.step()?.expect("there is a next one");
            if commit.manifest.sequence < first {
                continue;
            }
            made.count(&commit);
            made.outputs += outputs(past.rerun.service, &remade.written).count() as u64;
            if !visit(&commit, &remade) {
                break;
            }
            walk.rerun.recycle(remade);
        }
        Ok(made)
    })?;
    let mut all = Verified::default();
    made.iter().for_each(|made| all.add(made));
    Ok(all)
}

/// Does something for each item, as many at a time as there are processors; the results are in the items' order.
pub fn at_once<T: Sync, R: Send, E: Send>(items: &[T], make: impl Fn(&T) -> Result<R, E> + Sync) -> Result<Vec<R>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let made: Mutex<Vec<(usize, Result<R, E>)>> = Mutex::default();
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return };
            let result = make(item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            made.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_unstable_by_key(|(at, _)| *at);
    made.into_iter().map(|(_, result)| result).collect()
}

impl Verified {
    /// A commit was made again.
    fn count(&mut self, commit: &Commit) {
        self.commits += 1;
        self.records += commit.manifest.interleaving.iter().map(|run| run.count.cast_unsigned()).sum::<u64>();
    }

    fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.records += other.records;
        self.outputs += other.outputs;
    }
}

/// The first commit in that time, and a walk that comes to it. `None`: there is none. Those that follow it count, whatever the
/// time in their manifests: a task may move to a machine whose clock is behind.
fn begin<'a>(past: &Past<'a>, times: Times, folder: &Path) -> Result<Option<(i64, Walk<'a>)>, ReplayError> {
    let mut history = past.history()?;
    let Some(first) = history.commits.find(|commit| commit.time_ms >= times.from_ms)? else { return Ok(None) };
    let first = first.manifest.sequence;
    let walk = past.walk(history, first - 1, folder)?;
    walk.rerun.leave_out_changelog();
    Ok(Some((first, walk)))
}

/// Makes a task's commits again until one comes out otherwise. No `Expected`: there are none in that time.
fn make_again(
    past: &Past<'_>,
    times: Times,
    folder: &Path,
    visit: impl Fn(&Commit, &Remade) -> bool,
) -> Result<(Verified, Option<Expected>), ReplayError> {
    let mut verified = Verified::default();
    let Some((first, mut walk)) = begin(past, times, folder)? else { return Ok((verified, None)) };
    let mut made = Expected { first, commits: Vec::new(), outputs: Vec::new(), strayed: None };
    let service = past.rerun.service;
    while let Some(commit) = walk.next_commit().cloned() {
        if commit.time_ms > times.to_ms {
            break;
        }
        let counts = commit.manifest.sequence >= first;
        if counts {
            made.commits.push((commit.time_ms, made.outputs.len()));
        }
        let checked = walk.step().and_then(|step| {
            let (_, remade) = step.expect("there is a next one");
            if counts {
                made.outputs.extend(outputs(service, &remade.written).map(|(output, written)| {
                    let hash = hash(output, written.partition, written.key, written.value);
                    Expect { hash, output, seen: AtomicBool::new(false) }
                }));
                verified.count(&commit);
            }
            remade.check(&commit, service.name)?;
            Ok(remade)
        });
        match checked {
            Ok(remade) if !counts || visit(&commit, &remade) => walk.rerun.recycle(remade),
            Ok(_) => break,
            Err(ReplayError::Strayed { sequence, what }) => {
                if !counts {
                    return Err(ReplayError::Strayed { sequence, what });
                }
                made.strayed = Some(what);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    verified.outputs = made.outputs.len() as u64;
    let made = (!made.commits.is_empty()).then_some(made);
    Ok((verified, made))
}

/// Compares what lies in the output topics with what was made again; returns the first that differs.
fn compare(
    past: &Past<'_>,
    expected: &BTreeMap<i32, Expected>,
    verified: &mut Verified,
) -> Result<Option<Found>, ReplayError> {
    let (service, log) = (past.rerun.service, past.rerun.log);
    let topics = log.topics()?;
    let mut may_lack = vec![false; service.outputs.len()];
    let mut spans = Vec::new();
    for (output, spec) in service.outputs.iter().enumerate() {
        let is_known = service.outputs[..output].iter().any(|other| other.topic == spec.topic);
        if spec.event.is_none() || is_known {
            continue;
        }
        let partitions: Vec<_> = (0..partitions_of(&topics, &spec.topic))
            .map(|number| TopicPartition::new(spec.topic.as_str(), number))
            .collect();
        let ranges = log.offsets(&partitions)?;
        may_lack[output] = ranges.iter().any(|range| range.first > 0)
            || service.topics.iter().any(|topic| topic.name == spec.topic && topic.cleanup == Cleanup::Compact);
        let ranges = ranges.into_iter().map(|range| (range.first, range.stable));
        spans.extend(partitions.into_iter().zip(ranges).map(|(partition, range)| (output, partition, range)));
    }
    let compared = at_once(&spans, |span| compare_partition(past, span, expected))?;
    let mut first: Option<Found> = None;
    let mut note = |found: Found| {
        let key = |found: &Found| (found.time_ms, found.task, found.sequence, found.index);
        if first.as_ref().is_none_or(|known| key(&found) < key(known)) {
            first = Some(found);
        }
    };
    for (equal, found) in compared {
        verified.equal += equal;
        found.into_iter().for_each(&mut note);
    }
    for (&task, made) in expected {
        for (at, &(time_ms, start)) in made.commits.iter().enumerate() {
            let end = made.commits.get(at + 1).map_or(made.outputs.len(), |(_, start)| *start);
            let unseen = |(_, expect): &(usize, &Expect)| !expect.seen.load(Ordering::Relaxed);
            for (index, expect) in made.outputs[start..end].iter().enumerate().filter(unseen) {
                if service.outputs[usize::from(expect.output)].event.is_none() {
                    verified.unnamed += 1;
                } else if may_lack[usize::from(expect.output)] {
                    verified.gone += 1;
                } else {
                    note(Found { task, sequence: made.first + at as i64, index, time_ms, recorded: None });
                }
            }
        }
    }
    Ok(first)
}

/// How many records of a partition are as they come out now, and the first of each commit that is not.
fn compare_partition(
    past: &Past<'_>,
    (output, partition, (start, end)): &(usize, TopicPartition, (i64, i64)),
    expected: &BTreeMap<i32, Expected>,
) -> Result<(u64, Option<Found>), ReplayError> {
    let (mut equal, mut first) = (0, None::<Found>);
    each_record(past, partition, *start, *end, |batch, at| {
        let Some((task, sequence, index)) = ids(past.rerun.service.name, batch, at) else { return };
        let Some((time_ms, outputs)) = expected.get(&task).and_then(|made| made.of(sequence)) else { return };
        let record = batch.record(at);
        let hash = hash(*output as u16, partition.partition, record.key, record.value);
        let is_same = match outputs.get(index) {
            // Written once: another with the same ids is one too many.
            Some(expect) => !expect.seen.swap(true, Ordering::Relaxed) && expect.hash == hash,
            None => false,
        };
        if is_same {
            equal += 1;
            return;
        }
        let key = (time_ms, task, sequence, index);
        if first.as_ref().is_none_or(|known| key < (known.time_ms, known.task, known.sequence, known.index)) {
            let recorded = Some((partition.clone(), record.offset, Written::of(partition, record)));
            first = Some(Found { task, sequence, index, time_ms, recorded });
        }
    })?;
    Ok((equal, first))
}

impl Expected {
    /// A commit's time and outputs.
    fn of(&self, sequence: i64) -> Option<(i64, &[Expect])> {
        let at = usize::try_from(sequence - self.first).ok()?;
        let &(time_ms, start) = self.commits.get(at)?;
        let end = self.commits.get(at + 1).map_or(self.outputs.len(), |(_, start)| *start);
        Some((time_ms, &self.outputs[start..end]))
    }
}

/// Both values of an output.
fn output_differs(past: &Past<'_>, found: Found, of_strayed: bool, folder: &Path) -> Result<Difference, ReplayError> {
    let Found { task, sequence, index, time_ms, recorded } = found;
    let (_, remade) = match remake(past, sequence, &folder.join("1")) {
        Err(ReplayError::Strayed { what, .. }) => {
            return Ok(Difference { task, sequence, time_ms, what: Differs::Commit(what), is_random: false });
        }
        outcome => outcome?,
    };
    let digest = remade.manifest.digest.clone();
    let remade = outputs(past.rerun.service, &remade.written).nth(index).map(|(_, written)| written.to_written());
    let is_random = of_strayed && remake(past, sequence, &folder.join("2"))?.1.manifest.digest != digest;
    let (place, recorded) = match recorded {
        Some((partition, offset, written)) => (Some((partition, offset)), Some(written)),
        None => (None, None),
    };
    Ok(Difference { task, sequence, time_ms, what: Differs::Output { place, recorded, remade }, is_random })
}

/// The first entry of the stores that a commit has changed otherwise.
fn state_differs(past: &Past<'_>, sequence: i64, what: String, folder: &Path) -> Result<(Differs, bool), ReplayError> {
    let (commit, remade) = match remake(past, sequence, &folder.join("1")) {
        Err(ReplayError::Strayed { what, .. }) => return Ok((Differs::Commit(what), false)),
        outcome => outcome?,
    };
    let is_random = remake(past, sequence, &folder.join("2"))?.1.manifest.digest != remade.manifest.digest;
    let topic = changelog::topic(past.rerun.service.name);
    let is_entry = |key: &[u8]| key.first().is_some_and(|&prefix| prefix != crate::store::META);
    let mut now: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
    for written in remade.written.iter().filter(|written| **written.topic == *topic) {
        let key = written.key.filter(|key| is_entry(key));
        now.extend(key.map(|key| (key.to_vec(), written.value.map(<[u8]>::to_vec))));
    }
    // The changelog of a commit lies between the end of the one before and its own.
    let mut history = past.history()?;
    let before = history.commits.find(|commit| commit.manifest.sequence >= sequence - 1)?;
    let end = |commit: &Commit| commit.manifest.changelog.first().map_or(0, |changelog| changelog.end);
    let start = before.filter(|before| before.manifest.sequence < sequence).map_or(0, |before| end(&before));
    let partition = TopicPartition::new(topic.as_str(), past.task);
    let mut then: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
    each_record(past, &partition, start, end(&commit), |batch, at| {
        let record = batch.record(at);
        if let Some(key) = record.key.filter(|key| is_entry(key)) {
            then.insert(key.to_vec(), record.value.map(<[u8]>::to_vec));
        }
    })?;
    let mut keys: Vec<&Vec<u8>> = now.keys().chain(then.keys()).collect();
    keys.sort_unstable();
    // What compaction has deleted is no difference.
    let is_other =
        |key: &&&Vec<u8>| then.get(**key).map_or(then.len() >= now.len(), |then| now.get(**key) != Some(then));
    let differs = keys.iter().find(is_other).map(|&key| Differs::State {
        key: key.clone(),
        recorded: then.get(key).cloned(),
        remade: now.get(key).cloned(),
    });
    Ok((differs.unwrap_or(Differs::Commit(what)), is_random))
}

/// Makes one commit again.
fn remake(past: &Past<'_>, sequence: i64, folder: &Path) -> Result<(Commit, Remade), ReplayError> {
    let mut walk = past.walk(past.history()?, sequence - 1, folder)?;
    while let Some((commit, remade)) = walk.step()? {
        if commit.manifest.sequence == sequence {
            return Ok((commit, remade));
        }
    }
    Err(ReplayError::Impossible(format!("commit {sequence} of task {} is no longer in the log", past.task)))
}

/// The outputs among what was written, with the index of their topic.
fn outputs<'a>(service: &Service, written: &'a Captured) -> impl Iterator<Item = (u16, WrittenRef<'a>)> {
    let output = |topic: &Arc<str>| service.outputs.iter().position(|output| *output.topic == **topic);
    let outputs: Vec<_> = written.topics().iter().map(output).collect();
    written.iter().filter_map(move |written| Some((outputs[written.topic_index]? as u16, written)))
}

fn hash(output: u16, partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&output.to_be_bytes());
    hash.update(&partition.to_be_bytes());
    for bytes in [key, value] {
        hash.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
        hash.update(bytes.unwrap_or_default());
    }
    hash.digest()
}

/// Which output of the service a record is, by its headers: task, commit, and number in it.
fn ids(service: &str, batch: &dyn Batch, at: usize) -> Option<(i32, i64, usize)> {
    let (mut task, mut number) = (None, None);
    batch.visit_headers(at, &mut |name, value| {
        let Some(text) = value.and_then(|value| std::str::from_utf8(value).ok()) else { return };
        match name {
            "ce_source" => task = source_of(text).filter(|(of, _)| *of == service).map(|(_, task)| task),
            "ce_id" => number = id_of(text),
            _ => {}
        }
    });
    let (sequence, index) = number?;
    Some((task?, sequence, index))
}

/// Visits a partition's records before `end`, each by its batch and its index there.
fn each_record(
    past: &Past<'_>,
    partition: &TopicPartition,
    start: i64,
    end: i64,
    mut visit: impl FnMut(&dyn Batch, usize),
) -> Result<(), ReplayError> {
    let read = changelog::read_batches(past.rerun.log, partition, start, end, |batch, index| {
        if batch.record(index).offset < end {
            visit(batch, index);
        }
        Ok::<(), ReplayError>(())
    });
    read.map(drop)
}
