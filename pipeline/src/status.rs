//! What a worker is doing, for whoever asks: `engram services`, `--exit-when-idle`, tests.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::clock;
use crate::poison::Poison;
use crate::progress::{Progress, Restoring};
use crate::store::Files;

/// Shared between a worker and those who watch it.
#[derive(Default)]
pub struct WorkerStatus {
    /// It has got its partitions (perhaps none) from the group.
    assigned: AtomicBool,
    tasks: Mutex<Vec<i32>>,
    /// The files of its tasks, for those who read them. They go when the task is closed.
    files: Mutex<Vec<(i32, Weak<Files>)>>,
    records: AtomicU64,
    restored_records: AtomicU64,
    /// Of the tasks that are being opened.
    restoring: Mutex<Vec<Arc<Progress>>>,
    commits: AtomicU64,
    dead: AtomicBool,
    /// Since when there has been nothing to do, ms since the epoch; 0 while there is.
    idle_since_ms: AtomicI64,
    trouble: Mutex<Option<String>>,
    /// Kept here, as it outlives the worker's restarts.
    poison: Mutex<Poison>,
}

/// A moment of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Partitions of its tasks.
    pub tasks: Vec<i32>,
    /// Records processed and committed by this process.
    pub records: u64,
    /// Changelog records that its stores had to read when they were opened.
    pub restored_records: u64,
    /// Tasks that are being restored, and how far they are.
    pub restoring: Vec<Restoring>,
    pub commits: u64,
    /// Milliseconds without anything to do; `None` while busy.
    pub idle_ms: Option<i64>,
    /// Why it is not getting on, if it is not.
    pub trouble: Option<String>,
}

impl WorkerStatus {
    pub fn snapshot(&self) -> Snapshot {
        let idle_since_ms = self.idle_since_ms.load(Ordering::Relaxed);
        let idle = self.assigned.load(Ordering::Relaxed) && idle_since_ms > 0;
        Snapshot {
            tasks: self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            records: self.records.load(Ordering::Relaxed),
            restored_records: self.restored_records.load(Ordering::Relaxed),
            restoring: self
                .restoring
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .map(|progress| progress.moment())
                .collect(),
            commits: self.commits.load(Ordering::Relaxed),
            idle_ms: idle.then(|| clock::now_ms() - idle_since_ms),
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// The files of the tasks that are open at this moment. To be held for one reading only: while they are, the task
    /// cannot be opened by another worker of this process.
    pub fn files(&self) -> Vec<(i32, Arc<Files>)> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter().filter_map(|(partition, files)| Some((*partition, files.upgrade()?))).collect()
    }

    pub(crate) fn opened(&self, partition: i32, files: &Arc<Files>) {
        let mut all = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, files)| files.strong_count() > 0);
        all.push((partition, Arc::downgrade(files)));
    }

    pub(crate) fn assigned(&self, tasks: Vec<i32>) {
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        // Before it had any partitions there was nothing to do, which does not count.
        self.busy();
        self.assigned.store(true, Ordering::Relaxed);
    }

    pub(crate) fn unassigned(&self) {
        self.assigned.store(false, Ordering::Relaxed);
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.busy();
    }

    /// A task is being restored; what returns is told how far it is.
    pub(crate) fn restoring(&self, service: &'static str, task: i32) -> Arc<Progress> {
        let progress = Arc::new(Progress::new(service, task));
        self.restoring.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&progress));
        progress
    }

    /// None is any more.
    pub(crate) fn restored_all(&self) {
        self.restoring.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn restored(&self, records: u64) {
        self.restored_records.fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn committed(&self, records: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn busy(&self) {
        self.idle_since_ms.store(0, Ordering::Relaxed);
    }

    pub(crate) fn idle(&self) {
        if self.idle_since_ms.load(Ordering::Relaxed) == 0 {
            self.idle_since_ms.store(clock::now_ms(), Ordering::Relaxed);
        }
    }

    pub(crate) fn trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// What the worker knows of the records that stop it. Its own: nobody else waits for it.
    pub(crate) fn poison(&self) -> MutexGuard<'_, Poison> {
        self.poison.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// The worker's thread has ended.
    pub fn has_ended(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}
