//! Why a value is what it is: the records that have gone into an entry of a store or an output, of one task, found by running
//! its commits again.
//!
//! An entry is made of every record that has changed it since it was last not there; an output that tells of an entry of the
//! same. What else was read for an output is told, too, as the other side of a join.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Cause, Commit, MadeOf, Moment, Past, ReplayError, Step, TakenRecord, Walk, made_of};
use crate::log::TopicPartition;
use crate::snapshot::SnapshotError;
use crate::store::{Files, prefix};

/// Of what an output has read besides, at most so many entries are told.
const READ_MAX: usize = 10;

/// An entry of a store: index of the store, key.
pub type EntryKey = (usize, Vec<u8>);

/// A record that was taken, by its place.
pub type RecordPlace = (TopicPartition, i64);

/// What something was made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Input records, in the order in which they were taken.
    pub of: Vec<RecordPlace>,
    /// Entries that were read for it.
    pub read: Vec<EntryKey>,
    /// The entry that it tells of.
    pub entry: Option<EntryKey>,
    /// The records from before this commit cannot be told: there is no state from before that entry was made.
    pub begins_at: Option<i64>,
}

/// Follows the writers of some entries through a task's commits.
struct Writers {
    of: BTreeMap<EntryKey, Vec<RecordPlace>>,
}

impl Writers {
    fn new(entries: impl IntoIterator<Item = EntryKey>) -> Self {
        Self { of: entries.into_iter().map(|entry| (entry, Vec::new())).collect() }
    }

    /// Takes a step into account; `last` is the last record taken until it.
    fn step(&mut self, step: &Step, last: Option<&RecordPlace>) {
        for change in &step.changes {
            let Some(writers) = self.of.get_mut(&(change.store, change.key.clone())) else { continue };
            if change.after.is_none() {
                writers.clear();
            } else {
                writers.extend(last.filter(|last| writers.last() != Some(last)).cloned());
            }
        }
    }
}

fn place(record: &TakenRecord) -> RecordPlace {
    (record.partition.clone(), record.offset)
}

/// Visits the steps of a commit, each with the record that it is about: its own or, of a timer or a commit's end, the last
/// before it.
fn each_step(
    steps: &[Step],
    last: &mut Option<RecordPlace>,
    mut visit: impl FnMut(usize, &Step, Option<&RecordPlace>),
) {
    for (at, step) in steps.iter().enumerate() {
        if let Some(record) = &step.record {
            *last = Some(place(record));
        }
        visit(at, step, last.as_ref());
    }
}

impl<'a> Past<'a> {
    /// What an entry was made of, at a moment. `folder` is empty.
    pub fn why_entry(&self, entry: &EntryKey, moment: &Moment, folder: &Path) -> Result<Made, ReplayError> {
        let mut history = self.history()?;
        let way = self.way(&mut history, moment)?;
        let (mut walk, there) = self.before(&BTreeSet::from([entry.clone()]), way.whole, folder)?;
        let begins_at = there.contains(entry).then(|| walk.sequence());
        let (mut writers, mut last) = (Writers::new([entry.clone()]), None);
        while walk.sequence() < way.whole
            && let Some((_, steps)) = walk.step_by_steps()?
        {
            each_step(&steps, &mut last, |_, step, last| writers.step(step, last));
        }
        if let Some((commit, partition, offset)) = &way.part {
            let (steps, _) = walk.rerun.commit_by_steps(commit)?;
            let wanted = (partition.clone(), *offset);
            let end = steps.iter().position(|step| step.record.as_ref().is_some_and(|record| place(record) == wanted));
            let end = end.map_or(steps.len(), |end| end + 1);
            each_step(&steps[..end], &mut last, |_, step, last| writers.step(step, last));
        }
        let of = writers.of.remove(entry).unwrap_or_default();
        Ok(Made { of, read: Vec::new(), entry: Some(entry.clone()), begins_at })
    }

    /// What outputs of this task were made of: each by its commit and its number in it. `folder` is empty.
    pub fn why_outputs(
        &self,
        wanted: &BTreeSet<(i64, usize)>,
        folder: &Path,
    ) -> Result<BTreeMap<(i64, usize), Made>, ReplayError> {
        let mut found = BTreeMap::new();
        let Some(&(first, _)) = wanted.first() else { return Ok(found) };
        let mut walk = self.walk_to(first - 1, &folder.join("outputs"))?;
        // Entries that outputs tell of, and the last of their commits: their past is followed in a second walk.
        let mut entries: BTreeMap<(i64, usize), EntryKey> = BTreeMap::new();
        while let Some(commit) = walk.next_commit() {
            let sequence = commit.manifest.sequence;
            if wanted.range((sequence, 0)..).next().is_none() {
                break;
            }
            if wanted.range((sequence, 0)..(sequence + 1, 0)).next().is_none() {
                walk.step_checked()?;
                continue;
            }
            let (_, steps) = walk.step_by_steps()?.expect("there is a next one");
            for &(_, index) in wanted.range((sequence, 0)..(sequence + 1, 0)) {
                let missing = || ReplayError::Impossible(format!("commit {sequence} has no output {index}"));
                let MadeOf { steps: made, entry } = made_of(&steps, index).ok_or_else(missing)?;
                // What came before the commit's first record is made of none that is known here.
                let (mut of, mut last) = (Vec::new(), None);
                each_step(&steps, &mut last, |at, _, last| {
                    if made.contains(&at) {
                        of.extend(last.filter(|last| of.last() != Some(*last)).cloned());
                    }
                });
                let read = if entry.is_none() { read(&steps, &made) } else { Vec::new() };
                if let Some(entry) = &entry {
                    entries.insert((sequence, index), entry.clone());
                }
                found.insert((sequence, index), Made { of, read, entry, begins_at: None });
            }
        }
        drop(walk);
        self.follow(&entries, &mut found, &folder.join("entries"))?;
        Ok(found)
    }

    /// Follows the entries that outputs tell of, from before they were made.
    fn follow(
        &self,
        entries: &BTreeMap<(i64, usize), EntryKey>,
        found: &mut BTreeMap<(i64, usize), Made>,
        folder: &Path,
    ) -> Result<(), ReplayError> {
        let Some((&(first, _), _)) = entries.first_key_value() else { return Ok(()) };
        let keys: BTreeSet<EntryKey> = entries.values().cloned().collect();
        let (mut walk, there) = self.before(&keys, first - 1, folder)?;
        let begins_at = walk.sequence();
        let mut writers = Writers::new(keys);
        let mut last = None;
        while let Some(sequence) = walk.next_commit().map(|commit| commit.manifest.sequence) {
            if entries.range((sequence, 0)..).next().is_none() {
                break;
            }
            let Some((_, steps)) = walk.step_by_steps()? else { break };
            let ids: Vec<(usize, &(i64, usize), &EntryKey)> = entries
                .range((sequence, 0)..(sequence + 1, 0))
                .filter_map(|(id, key)| {
                    let at = steps.iter().position(|step| step.outputs.iter().any(|output| output.index == id.1))?;
                    Some((at, id, key))
                })
                .collect();
            each_step(&steps, &mut last, |at, step, last| {
                // What closes an entry deletes it in the same step: its writers are those from before.
                let before = ids.iter().any(|(step, ..)| *step == at).then(|| writers.of.clone());
                writers.step(step, last);
                for (_, id, key) in ids.iter().filter(|(step, ..)| *step == at) {
                    let now = writers.of.get(*key).filter(|now| !now.is_empty());
                    let of = now.or_else(|| before.as_ref()?.get(*key).filter(|before| !before.is_empty()));
                    let Some(made) = found.get_mut(*id) else { continue };
                    // A tombstone is made of what its commit has done.
                    if let Some(of) = of {
                        made.of.clone_from(of);
                    }
                    made.begins_at = there.contains(*key).then_some(begins_at);
                }
            });
        }
        Ok(())
    }

    /// A walk that stands where none of these entries is there, as near to commit `whole` as a snapshot allows, or else at the
    /// earliest state there is; then those that are there already are told.
    fn before(
        &self,
        entries: &BTreeSet<EntryKey>,
        whole: i64,
        folder: &Path,
    ) -> Result<(Walk<'a>, BTreeSet<EntryKey>), ReplayError> {
        let mut sequences = match self.snapshots {
            Some(snapshots) => snapshots.of(self.task).sequences()?,
            None => Vec::new(),
        };
        sequences.retain(|&sequence| sequence <= whole);
        sequences.sort_unstable_by_key(|&sequence| std::cmp::Reverse(sequence));
        let begin = |sequence: i64| self.walk(self.history()?, sequence, &folder.join(format!("from-{sequence}")));
        for &sequence in &sequences {
            let Some(snapshots) = self.snapshots else { break };
            let look = folder.join(format!("look-{sequence}"));
            let found = snapshots.copy_to(self.task, sequence, &look)?;
            if found.is_none_or(|found| found.sequence != sequence) {
                continue;
            }
            let is_there = {
                let files = Files::open_read_only(&look)?;
                let there = entries.iter().map(|(store, key)| files.get(&[&[prefix(*store)], key.as_slice()].concat()));
                there.collect::<Result<Vec<_>, _>>()?.iter().any(Option::is_some)
            };
            // Large, and of no use any more.
            std::fs::remove_dir_all(&look).map_err(SnapshotError::disk(format!("remove {}", look.display())))?;
            if !is_there {
                match begin(sequence) {
                    Ok(walk) => return Ok((walk, BTreeSet::new())),
                    Err(ReplayError::TooEarly { .. }) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        match begin(0) {
            Ok(walk) => Ok((walk, BTreeSet::new())),
            Err(ReplayError::TooEarly { what, earliest_ms }) => {
                for &sequence in sequences.iter().rev() {
                    let mut walk = match begin(sequence) {
                        Ok(walk) => walk,
                        Err(ReplayError::TooEarly { .. }) => continue,
                        Err(error) => return Err(error),
                    };
                    let mut there = BTreeSet::new();
                    for entry in entries {
                        if walk.rerun.store(entry.0).get(&entry.1)?.is_some() {
                            there.insert(entry.clone());
                        }
                    }
                    return Ok((walk, there));
                }
                Err(ReplayError::TooEarly { what, earliest_ms })
            }
            Err(error) => Err(error),
        }
    }
}

/// Entries that some steps have read, which they did not write themselves.
fn read(steps: &[Step], made: &[usize]) -> Vec<EntryKey> {
    let mut found = Vec::new();
    for &at in made {
        let step = &steps[at];
        let own = |(store, key): &&(usize, Vec<u8>)| {
            !step.changes.iter().any(|change| change.store == *store && change.key == *key)
        };
        found.extend(step.reads.iter().filter(own).take(READ_MAX).cloned());
    }
    found.truncate(READ_MAX);
    found
}

/// What one record has done, and what came of that in the same commit.
#[derive(Debug)]
pub struct Effects {
    pub commit: Commit,
    /// The record's own step, its number from 1.
    pub number: usize,
    pub step: Step,
    /// The commit's outputs that it has gone into, by their numbers, and where they went: topic, partition.
    pub outputs: Vec<(usize, TopicPartition)>,
}

impl Past<'_> {
    /// What a record of one of the inputs has done. `None`: no commit has taken it, or its commit took it as a retry.
    pub fn effects(&self, place: &TopicPartition, offset: i64, folder: &Path) -> Result<Option<Effects>, ReplayError> {
        let mut history = self.history()?;
        let way = match self.way(&mut history, &Moment::Record(place.clone(), offset)) {
            Ok(way) => way,
            Err(ReplayError::NotTaken(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (commit, mut steps) = self.commit_by_steps(way.whole + 1, folder)?;
        let is_it = |step: &Step| {
            step.cause == Cause::Record
                && step.record.as_ref().is_some_and(|record| record.partition == *place && record.offset == offset)
        };
        let Some(at) = steps.iter().position(is_it) else { return Ok(None) };
        let mut outputs = Vec::new();
        for emitted in steps.iter().flat_map(|step| &step.outputs) {
            if made_of(&steps, emitted.index).is_some_and(|made| made.steps.contains(&at)) {
                let partition = TopicPartition::new(&*emitted.record.topic, emitted.record.partition);
                outputs.push((emitted.index, partition));
            }
        }
        Ok(Some(Effects { commit, number: at + 1, step: steps.swap_remove(at), outputs }))
    }
}
