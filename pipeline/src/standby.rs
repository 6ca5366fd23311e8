//! Standby: warm copies of tasks that other processes own, so that this one can take them over at once.
//!
//! ```text
//!            not owned here, and this process is to keep it warm
//! nothing -> open, restore (snapshot, changelog) -> follow the changelog, a commit at a time
//!    ^                                                 |  group gives the partition to this process
//!    '------ task is closed here <- running task <-----'  (`take`: its files are handed over, open)
//! ```
//!
//! Off by default: a copy costs disk, and the work of applying each change twice.
//!
//! INVARIANT: a copy is written by this thread until `take` has returned it, and never afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::Xxh3;

use crate::changelog;
use crate::clock::Clock;
use crate::log::{Consumer, Fetched, Log, TopicPartition};
use crate::manifest::LastCommit;
use crate::progress::Progress;
use crate::snapshot::Snapshots;
use crate::store::{Budget, Changes, Files, StoreError};
use crate::worker::chain;

const FETCH_RECORDS_MAX: usize = 2_000;
/// How often the set of copies is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Copies are written to disk every so many looks: for stale reads, and so that a killed process finds them again.
const LOOKS_FLUSH: u32 = 10;
const WAIT_MAX: Duration = Duration::from_millis(100);
/// After an error.
const PAUSE: Duration = Duration::from_secs(5);

/// What copies are made of, and which.
#[derive(Clone)]
pub struct StandbyOptions {
    pub service: &'static str,
    pub log: Arc<dyn Log>,
    pub clock: Clock,
    pub budget: Arc<Budget>,
    /// Folder of the service's stores, shared with the running tasks.
    pub stores: PathBuf,
    pub snapshots: Option<Arc<Snapshots>>,
    /// Warm copies of each task, beside the running one.
    pub replicas: usize,
    /// This process, as `instances` names it.
    pub instance: String,
    /// The live processes of the service. If it names none, this one keeps every task warm that it does not run.
    pub instances: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

/// The copies, and the thread that keeps them warm.
pub struct Standby {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Partitions that this process runs, by worker; empty until the group has spoken.
    owned: Mutex<BTreeMap<String, Vec<i32>>>,
    copies: Mutex<BTreeMap<i32, Arc<Replica>>>,
}

/// One warm copy.
struct Replica {
    /// Taken out when it is handed over. Locked while something is applied.
    files: Mutex<Option<Arc<Files>>>,
    /// Somebody waits for it: breaks a restore off.
    wanted: AtomicBool,
    /// Next offset to apply, and the changelog's end, as last seen.
    position: AtomicI64,
    end: AtomicI64,
}

/// How warm a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warm {
    pub task: i32,
    /// Next offset of the changelog to apply.
    pub position: i64,
    /// Offsets of the changelog that it is behind.
    pub behind: i64,
}

impl Standby {
    pub fn start(options: StandbyOptions) -> std::io::Result<Self> {
        let shared: Arc<Shared> = Arc::default();
        let thread = std::thread::Builder::new().name(format!("{}-standby", options.service)).spawn({
            let shared = Arc::clone(&shared);
            move || Follower { options, shared, pending: BTreeMap::new() }.run()
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// A worker of this process runs these partitions now, and no others.
    pub fn own(&self, worker: &str, partitions: &[i32]) {
        lock(&self.shared.owned).insert(worker.to_owned(), partitions.to_vec());
    }

    /// Hands the copy of a task over, to be brought to its changelog's end by whoever runs it now. To be called after `own`.
    pub fn take(&self, partition: i32) -> Option<Arc<Files>> {
        let copy = lock(&self.shared.copies).get(&partition).cloned()?;
        copy.wanted.store(true, Ordering::Relaxed);
        // Waits for what is being applied at this moment.
        let files = lock(&copy.files).take();
        lock(&self.shared.copies).remove(&partition);
        files
    }

    /// The copies as they are now.
    pub fn warm(&self) -> Vec<Warm> {
        let copies = lock(&self.shared.copies);
        let warm = copies.iter().map(|(&task, copy)| {
            let (position, end) = (copy.position.load(Ordering::Relaxed), copy.end.load(Ordering::Relaxed));
            Warm { task, position, behind: (end - position).max(0) }
        });
        warm.collect()
    }

    /// Closes all copies.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for copy in lock(&self.shared.copies).values() {
            copy.wanted.store(true, Ordering::Relaxed);
        }
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
        lock(&self.shared.copies).clear();
    }
}

/// Whether `instance` keeps a copy of this partition: it is among the first `replicas` of the live processes, in the
/// partition's own order of them, or next to them, for one of those may be its owner (rendezvous hashing: a process that
/// comes or goes moves only its own share).
fn keeps_warm(instance: &str, instances: &[String], replicas: usize, partition: i32) -> bool {
    let rank = |name: &str| {
        let mut hash = Xxh3::new();
        hash.update(&partition.to_be_bytes());
        hash.update(name.as_bytes());
        (hash.digest(), name.to_owned())
    };
    let own = rank(instance);
    instances.is_empty() || instances.iter().filter(|other| rank(other) < own).count() <= replicas
}

/// A consumer of changelogs, and the copies that they are of, in its order.
type Reading = (Box<dyn Consumer>, Vec<(i32, Arc<Replica>)>);

/// The thread's own.
struct Follower {
    options: StandbyOptions,
    shared: Arc<Shared>,
    /// Changes of each copy whose commit has not been seen whole.
    pending: BTreeMap<i32, Changes>,
}

impl Follower {
    fn run(mut self) {
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
        let partitions =
            self.options.log.topics()?.iter().find(|known| known.name == topic).map_or(0, |t| t.partitions);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
