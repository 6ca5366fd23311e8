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
//! INVARIANT: a copy is written by the follower's thread until `take` has returned it, and never afterwards.

mod follower;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use xxhash_rust::xxh3::Xxh3;

use crate::clock::Clock;
use crate::log::Log;
use crate::snapshot::Snapshots;
use crate::store::{Budget, Files};

use follower::Follower;

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
            move || Follower::new(options, shared).run()
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
