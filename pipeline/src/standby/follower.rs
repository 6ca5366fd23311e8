//! The thread that keeps copies warm: which there should be, opened and restored, and each commit applied as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Replica, Shared, StandbyOptions, keeps_warm, lock};
use crate::changelog;
use crate::log::{Consumer, Fetched, TopicPartition, partitions_of};
use crate::manifest::LastCommit;
use crate::progress::Progress;
use crate::store::{Changes, Files, StoreError};
use crate::worker::chain;

const FETCH_RECORDS_MAX: usize = 2_000;
/// How often the set of copies is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Copies are written to disk every so many looks: for stale reads, and so that a killed process finds them again.
const LOOKS_FLUSH: u32 = 10;
const WAIT_MAX: Duration = Duration::from_millis(100);
/// After an error.
const PAUSE: Duration = Duration::from_secs(5);

/// A consumer of changelogs, and the copies that they are of, in its order.
type Reading = (Box<dyn Consumer>, Vec<(i32, Arc<Replica>)>);

/// The thread's own.
pub struct Follower {
    options: StandbyOptions,
    shared: Arc<Shared>,
    /// Changes of each copy whose commit has not been seen whole.
    pending: BTreeMap<i32, Changes>,
}

impl Follower {
    pub fn new(options: StandbyOptions, shared: Arc<Shared>) -> Self {
        Self { options, shared, pending: BTreeMap::new() }
    }

    /// Until told to stop.
    pub fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if let Err(error) = self.follow() {
                if self.shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                tracing::warn!(service = self.options.service, error = %chain(&error), "standby: starting anew");
                // Opened again from disk: what is there is at some commit.
                lock(&self.shared.copies).clear();
                let until = Instant::now() + PAUSE;
                while Instant::now() < until && !self.shared.stop.load(Ordering::Relaxed) {
                    std::thread::sleep(WAIT_MAX);
                }
            }
        }
    }

    /// Keeps copies warm, until told to stop.
    fn follow(&mut self) -> Result<(), StoreError> {
        let topic = changelog::topic(self.options.service);
        let mut reading: Option<Reading> = None;
        let (mut looked, mut looks): (Option<Instant>, u32) = (None, 0);
        while !self.shared.stop.load(Ordering::Relaxed) {
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                if self.choose(&topic)? || reading.is_none() {
                    reading = self.read(&topic)?;
                }
                self.tell(&topic)?;
                looked = Some(Instant::now());
                looks = looks.wrapping_add(1);
                if looks.is_multiple_of(LOOKS_FLUSH) {
                    self.flush()?;
                }
            }
            let Some((reader, copies)) = &mut reading else {
                std::thread::sleep(WAIT_MAX);
                continue;
            };
            let (mut applied, mut gone) = (false, false);
            for (index, (partition, copy)) in copies.iter().enumerate() {
                let fetched = reader.fetch(index, FETCH_RECORDS_MAX)?;
                applied |= fetched.records.is_some();
                gone |= !self.apply(*partition, copy, &fetched)?;
            }
            if gone {
                reading = None;
                looked = None;
            } else if !applied {
                reader.wait(WAIT_MAX)?;
            }
        }
        Ok(())
    }

    /// Opens and closes copies, so that there are those that there should be. Returns whether anything has changed.
    fn choose(&mut self, topic: &str) -> Result<bool, StoreError> {
        let Some(owned) = self.owned() else { return Ok(false) };
        let partitions = partitions_of(&self.options.log.topics()?, topic);
        let instances = (self.options.instances)();
        let options = &self.options;
        let wanted = (0..partitions)
            .filter(|partition| !owned.contains(partition))
            .filter(|&partition| keeps_warm(&options.instance, &instances, options.replicas, partition));
        let wanted: BTreeSet<i32> = wanted.collect();
        let mut copies = lock(&self.shared.copies);
        let before = copies.len();
        copies.retain(|partition, copy| wanted.contains(partition) && lock(&copy.files).is_some());
        let mut changed = copies.len() != before;
        let new: Vec<i32> = wanted.into_iter().filter(|partition| !copies.contains_key(partition)).collect();
        drop(copies);
        for partition in new {
            changed |= self.open(topic, partition)?;
        }
        Ok(changed)
    }

    /// All partitions that this process runs; `None` while the group has not spoken.
    fn owned(&self) -> Option<BTreeSet<i32>> {
        let owned = lock(&self.shared.owned);
        (!owned.is_empty()).then(|| owned.values().flatten().copied().collect())
    }

    /// Opens a copy and restores it.
    fn open(&self, topic: &str, partition: i32) -> Result<bool, StoreError> {
        let options = &self.options;
        let changelog = TopicPartition::new(topic, partition);
        let copy = Arc::new(Replica {
            files: Mutex::new(None),
            wanted: AtomicBool::new(false),
            position: AtomicI64::new(0),
            end: AtomicI64::new(0),
        });
        // Locked before it can be found, so that whoever takes it waits for its files.
        let mut files = lock(&copy.files);
        {
            let mut copies = lock(&self.shared.copies);
            if self.owned().is_none_or(|owned| owned.contains(&partition)) {
                return Ok(false);
            }
            copies.insert(partition, Arc::clone(&copy));
        }
        let opened = self.restore(&changelog, &copy);
        match opened {
            Ok(opened) => {
                *files = Some(opened);
                Ok(true)
            }
            Err(_) if copy.wanted.load(Ordering::Relaxed) => Ok(false),
            // By the task that is just being closed here: the next look finds it free.
            Err(StoreError::InUse { .. }) => {
                lock(&self.shared.copies).remove(&partition);
                Ok(false)
            }
            Err(error) => {
                lock(&self.shared.copies).remove(&partition);
                tracing::debug!(service = options.service, task = partition, "no standby");
                Err(error)
            }
        }
    }

    fn restore(&self, changelog: &TopicPartition, copy: &Replica) -> Result<Arc<Files>, StoreError> {
        let options = &self.options;
        let path = options.stores.join(changelog.partition.to_string());
        let progress = Progress::new(options.service, changelog.partition);
        let end = options.log.offsets(std::slice::from_ref(changelog))?[0].end;
        if let Some(snapshots) = &options.snapshots
            && !Files::exist(&path)
        {
            snapshots.restore(changelog.partition, end, &progress, &copy.wanted);
        }
        let files = Arc::new(Files::open(&path, &options.budget, &options.clock)?);
        match changelog::restore(&*options.log, changelog, &files, &options.clock, &copy.wanted, &progress) {
            // What is there is handed over as far as it came.
            Err(StoreError::Log(_)) if copy.wanted.load(Ordering::Relaxed) => {}
            restored => {
                let restored = restored?;
                copy.position.store(restored.position, Ordering::Relaxed);
                tracing::info!(service = options.service, task = changelog.partition, "standby is warm");
            }
        }
        Ok(files)
    }

    /// A reader of all copies, from where they are.
    fn read(&mut self, topic: &str) -> Result<Option<Reading>, StoreError> {
        self.pending.clear();
        let copies: Vec<(i32, Arc<Replica>)> =
            lock(&self.shared.copies).iter().map(|(partition, copy)| (*partition, Arc::clone(copy))).collect();
        let mut positions = Vec::with_capacity(copies.len());
        let mut open = Vec::with_capacity(copies.len());
        for (partition, copy) in copies {
            let Some(files) = lock(&copy.files).clone() else { continue };
            let position = files.position()?;
            copy.position.store(position, Ordering::Relaxed);
            let changelog = TopicPartition::new(topic, partition);
            let first = self.options.log.offsets(std::slice::from_ref(&changelog))?[0].first;
            positions.push((changelog, position.max(first)));
            open.push((partition, copy));
        }
        if open.is_empty() {
            return Ok(None);
        }
        let mut reader = self.options.log.reader()?;
        reader.assign(&positions)?;
        Ok(Some((reader, open)))
    }

    /// Applies whole commits; what follows the last of them waits for its end. Returns false if the copy has gone.
    fn apply(&mut self, partition: i32, copy: &Replica, fetched: &Fetched) -> Result<bool, StoreError> {
        let files = lock(&copy.files);
        let Some(files) = &*files else { return Ok(false) };
        let pending = self.pending.entry(partition).or_default();
        let at_end = |pending: &Changes| {
            // Past the control records that follow the last commit, which are never delivered.
            if let Some(end) = fetched.end
                && pending.is_empty()
            {
                copy.position.store(end, Ordering::Relaxed);
            }
        };
        let Some(batch) = &fetched.records else {
            at_end(pending);
            return Ok(true);
        };
        // A commit's own record is the last of its changes.
        let last = (0..batch.len()).rev().find(|&index| batch.record(index).key == Some(LastCommit::KEY));
        for index in 0..batch.len() {
            let record = batch.record(index);
            if let Some(key) = record.key {
                pending.set(key, record.value);
            }
            if Some(index) == last {
                files.apply(std::mem::take(pending), record.offset + 1)?;
                copy.position.store(record.offset + 1, Ordering::Relaxed);
            }
        }
        at_end(pending);
        Ok(true)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let copies: Vec<Arc<Replica>> = lock(&self.shared.copies).values().cloned().collect();
        for copy in copies {
            if let Some(files) = &*lock(&copy.files) {
                files.flush()?;
            }
        }
        Ok(())
    }

    fn tell(&self, topic: &str) -> Result<(), StoreError> {
        let copies: Vec<(i32, Arc<Replica>)> =
            lock(&self.shared.copies).iter().map(|(partition, copy)| (*partition, Arc::clone(copy))).collect();
        for (partition, copy) in copies {
            let changelog = TopicPartition::new(topic, partition);
            let end = self.options.log.offsets(std::slice::from_ref(&changelog))?[0].stable;
            copy.end.store(end, Ordering::Relaxed);
            let behind = (end - copy.position.load(Ordering::Relaxed)).max(0);
            metrics::gauge!("engram_standby_behind", "service" => self.options.service, "task" => partition.to_string())
                .set(behind as f64);
        }
        Ok(())
    }
}
