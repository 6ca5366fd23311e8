//! Bisection of a task's history: the first event after which something holds, by binary search over snapshots, then over the
//! commits between two of them, then over the records and timers of one commit.
//!
//! ```text
//! snapshots   o - - - o - - - x      looked at as they lie: log2(snapshots) probes
//! commits             o-o-o-x-x      run again once, each pinned in RocksDB: log2(commits) probes
//! steps                   o o x      run again up to a step: log2(steps) probes
//! ```
//!
//! INVARIANT: as with any bisection, what holds once must go on to hold; else some place at which it begins to is found.

use std::path::Path;

use super::past::Past;
use super::{Commit, Moment, RecordPlace, ReplayError, Rerun, RerunOptions, Step};
use crate::log::TopicPartition;
use crate::store::{Files, Order, Pinned, StoreError, prefix};

/// Behind all keys: none begins with so many of it.
const END: [u8; 64] = [0xff; 64];

/// The stores of a task at some moment.
pub trait State {
    fn get(&mut self, store: usize, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the entries of a store in key order, until `visit` returns false.
    fn visit(&mut self, store: usize, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StoreError>;
}

impl State for Rerun {
    fn get(&mut self, store: usize, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.store(store).get(key)?.map(<[u8]>::to_vec))
    }

    fn visit(&mut self, store: usize, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StoreError> {
        self.store(store).range(&[], &END, Order::Ascending, visit)
    }
}

impl State for Pinned<'_> {
    fn get(&mut self, store: usize, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Pinned::get(self, &[&[prefix(store)], key].concat())
    }

    fn visit(&mut self, store: usize, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StoreError> {
        for entry in self.all(prefix(store)) {
            let (key, value) = entry?;
            if !visit(&key[1..], &value) {
                break;
            }
        }
        Ok(())
    }
}

/// What a bisection has found in a task.
#[derive(Debug)]
pub enum Bisected {
    /// It does not hold at the later moment.
    Never,
    /// It holds at the earlier moment already.
    Always,
    First(Box<First>),
}

/// The first event after which it holds.
#[derive(Debug)]
pub struct First {
    pub commit: Commit,
    /// What happened.
    pub step: Step,
    /// Its number in the commit, from 1, of so many.
    pub number: usize,
    pub steps: usize,
}

/// Finds the first event of a task after which `holds`, between two moments. `folder` is for its stores. Returns how often
/// `holds` was asked, too.
///
/// Errors: those of `Past::at`, and of `holds`.
pub fn bisect(
    past: &Past<'_>,
    good: &Moment,
    bad: &Moment,
    folder: &Path,
    mut holds: impl FnMut(&mut dyn State) -> Result<bool, ReplayError>,
) -> Result<(Bisected, u32), ReplayError> {
    let mut probes = 0;
    let mut probe = |state: &mut dyn State| {
        probes += 1;
        holds(state)
    };
    let found = Search { past, folder }.run(good, bad, &mut probe)?;
    Ok((found, probes))
}

type Probe<'a> = dyn FnMut(&mut dyn State) -> Result<bool, ReplayError> + 'a;

struct Search<'a> {
    past: &'a Past<'a>,
    folder: &'a Path,
}

/// Commits between which it begins to hold: it does not behind `from`, or that is not known yet, and does behind `to`.
struct Between {
    from: i64,
    from_is_known: bool,
    to: Option<i64>,
}

impl Search<'_> {
    fn run(&self, good: &Moment, bad: &Moment, probe: &mut Probe<'_>) -> Result<Bisected, ReplayError> {
        let mut history = self.past.history()?;
        let (good, bad) = (self.past.way(&mut history, good)?, self.past.way(&mut history, bad)?);
        drop(history);
        let between = self.snapshots(good.whole, bad.whole, probe)?;
        let Past { rerun, snapshots, task } = *self.past;
        let pinned = Past { rerun: RerunOptions { memory_bytes_max: 0, ..rerun }, snapshots, task };
        let mut walk = pinned.walk_to(between.from, &self.folder.join("commits"))?;
        let files = walk.rerun.files();
        let mut pins = vec![(walk.sequence(), files.pin())];
        if !between.from_is_known {
            let holds = match &good.part {
                None => probe(&mut pins[0].1)?,
                Some((commit, place, offset)) => {
                    walk.rerun.up_to(commit, (place, *offset))?;
                    let holds = probe(&mut walk.rerun)?;
                    walk.rerun.up_to_step(commit, 0)?;
                    holds
                }
            };
            if holds {
                return Ok(Bisected::Always);
            }
        }
        let last = between.to.unwrap_or(bad.whole);
        while walk.sequence() < last && walk.next_commit().is_some() {
            walk.step_checked()?;
            pins.push((walk.sequence(), files.pin()));
        }
        let mut part = bad.part.filter(|_| between.to.is_none());
        if between.to.is_none() {
            let newest = pins.len() - 1;
            if pins.len() > 1 && probe(&mut pins[newest].1)? {
                part = None;
            } else if let Some((commit, place, offset)) = &part {
                walk.rerun.up_to(commit, (place, *offset))?;
                if !probe(&mut walk.rerun)? {
                    return Ok(Bisected::Never);
                }
            } else {
                return Ok(Bisected::Never);
            }
        }
        let sequence = match &part {
            Some((commit, ..)) => commit.manifest.sequence,
            None => {
                let (mut low, mut high) = (0, pins.len() - 1);
                while high - low > 1 {
                    let middle = low + (high - low) / 2;
                    if probe(&mut pins[middle].1)? {
                        high = middle;
                    } else {
                        low = middle;
                    }
                }
                pins[high].0
            }
        };
        drop(pins);
        drop(walk);
        let inside = |part: &Option<(Commit, TopicPartition, i64)>| {
            let (commit, place, offset) = part.clone()?;
            (commit.manifest.sequence == sequence).then_some((place, offset))
        };
        let first = self.in_commit(sequence, (inside(&good.part), inside(&part)), probe)?;
        Ok(Bisected::First(Box::new(first)))
    }

    /// Looks at the snapshots between two commits.
    fn snapshots(&self, from: i64, to: i64, probe: &mut Probe<'_>) -> Result<Between, ReplayError> {
        let mut between = Between { from, from_is_known: false, to: None };
        let Some(snapshots) = self.past.snapshots else { return Ok(between) };
        let mut known = snapshots.of(self.past.task).sequences()?;
        known.retain(|&sequence| from < sequence && sequence <= to);
        known.sort_unstable();
        let (mut low, mut high) = (0, known.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let folder = self.folder.join(format!("snapshot-{}", known[middle]));
            let found = snapshots.copy_to(self.past.task, known[middle], &folder)?;
            // One that cannot be used is as good as not there.
            if found.is_none_or(|found| found.sequence != known[middle]) {
                known.remove(middle);
                high -= 1;
                continue;
            }
            let files = Files::open_read_only(&folder)?;
            if probe(&mut files.pin())? {
                (high, between.to) = (middle, Some(known[middle]));
            } else {
                (between.from, between.from_is_known) = (known[middle], true);
                low = middle + 1;
            }
        }
        Ok(between)
    }

    /// Finds the step of a commit: it does not hold before the commit, or right after the first of these records, and holds
    /// after the commit, or right after the second.
    fn in_commit(
        &self,
        sequence: i64,
        (good, bad): (Option<RecordPlace>, Option<RecordPlace>),
        probe: &mut Probe<'_>,
    ) -> Result<First, ReplayError> {
        let mut walk = self.past.walk_to(sequence - 1, &self.folder.join("steps"))?;
        let gone = || ReplayError::Impossible(format!("commit {sequence} is no longer in the log"));
        let commit = walk.next_commit().cloned().ok_or_else(gone)?;
        let records = walk.rerun.records_of(&commit)?;
        let number = |of: &Option<RecordPlace>| {
            let at = records.iter().position(|record| record.is_some() && record == of)?;
            Some(at + 1)
        };
        // The end of the commit is a step, too, and the last.
        let (mut low, mut high) = (number(&good).unwrap_or(0), number(&bad).unwrap_or(records.len() + 1));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            walk.rerun.up_to_step(&commit, middle)?;
            if probe(&mut walk.rerun)? {
                high = middle;
            } else {
                low = middle;
            }
        }
        walk.rerun.up_to_step(&commit, 0)?;
        let (mut steps, _) = walk.rerun.commit_by_steps(&commit)?;
        let count = steps.len();
        Ok(First { step: steps.swap_remove(high - 1), commit, number: high, steps: count })
    }
}
