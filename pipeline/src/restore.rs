//! Opening the files of a worker's tasks, when the group has given it their partitions: a warm copy of this process if it
//! keeps one, else what is on disk, else the newest snapshot; then, in every case, the rest of the changelog.
//!
//! INVARIANT: what returns is at the end of its changelog, and nobody else in this process writes to it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::changelog::{self, Restored};
use crate::clock::Clock;
use crate::log::{Log, TopicPartition};
use crate::snapshot::Snapshots;
use crate::standby::Standby;
use crate::status::WorkerStatus;
use crate::store::{Budget, Files, StoreError};

/// Tasks of a worker that are restored at a time. `Budget` divides its memory by this.
pub const TASKS_AT_ONCE: usize = 4;
/// How often the worker looks after its group meanwhile.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_FIRST: Duration = Duration::from_millis(2);
/// A snapshot's checkpoint, or a worker that is just closing, may have the files open for so long.
const IN_USE_MAX: Duration = Duration::from_secs(2);

/// What is needed to open a service's files.
#[derive(Clone, Copy)]
pub struct Restore<'a> {
    pub service: &'static str,
    pub log: &'a dyn Log,
    pub clock: &'a Clock,
    pub budget: &'a Budget,
    /// Folder of the service's stores; the tasks' own are named by their partitions.
    pub stores: &'a Path,
    pub snapshots: Option<&'a Snapshots>,
    pub standby: Option<&'a Standby>,
    pub status: &'a WorkerStatus,
    /// Several at a time. A simulation has one thread, and restores one after the other on it.
    pub threads: bool,
}

/// A task's files, up to date.
pub struct Opened {
    pub files: Arc<Files>,
    pub restored: Restored,
}

impl Restore<'_> {
    /// Opens the files of these partitions, several at a time, and returns them in their order. `meanwhile` is called on
    /// this thread again and again until they are there; if it returns false, all is broken off and the result is `None`:
    /// what was restored so far is kept on disk.
    pub fn open_all<E: From<StoreError>>(
        &self,
        partitions: &[i32],
        mut meanwhile: impl FnMut() -> Result<bool, E>,
    ) -> Result<Option<Vec<Opened>>, E> {
        if !self.threads {
            let stop = AtomicBool::new(false);
            let opened: Result<Vec<_>, _> = partitions.iter().map(|&partition| self.open(partition, &stop)).collect();
            self.status.restored_all();
            return Ok(Some(opened?));
        }
        let (next, broken_off) = (AtomicUsize::new(0), AtomicBool::new(false));
        let opened: Mutex<Vec<(usize, Opened)>> = Mutex::default();
        let work = || -> Result<(), StoreError> {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(&partition) = partitions.get(index) else { return Ok(()) };
                let outcome = self.open(partition, &broken_off);
                if outcome.is_err() {
                    // One cannot be had: the others are not needed.
                    broken_off.store(true, Ordering::Relaxed);
                }
                let found = outcome?;
                opened.lock().unwrap_or_else(PoisonError::into_inner).push((index, found));
            }
        };
        let (told, outcome) = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..TASKS_AT_ONCE.min(partitions.len())).map(|_| scope.spawn(work)).collect();
            let (mut told, mut look) = (Ok(true), LOOK_FIRST);
            while threads.iter().any(|thread| !thread.is_finished()) {
                std::thread::sleep(look);
                look = (look * 2).min(LOOK);
                if matches!(told, Ok(true)) {
                    told = meanwhile();
                    if !matches!(told, Ok(true)) {
                        broken_off.store(true, Ordering::Relaxed);
                    }
                }
            }
            let joined = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
            (told, joined.fold(Ok(()), Result::and))
        });
        self.status.restored_all();
        if !told? {
            return Ok(None);
        }
        outcome?;
        let mut opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        opened.sort_by_key(|(index, _)| *index);
        Ok(Some(opened.into_iter().map(|(_, opened)| opened).collect()))
    }

    fn open(&self, partition: i32, stop: &AtomicBool) -> Result<Opened, StoreError> {
        let started = Instant::now();
        let progress = self.status.restoring(self.service, partition);
        let changelog = TopicPartition::new(changelog::topic(self.service), partition);
        let warm = self.standby.and_then(|standby| standby.take(partition));
        let from_standby = warm.is_some();
        let path = self.stores.join(partition.to_string());
        let mut snapshot = None;
        let files = match (warm, self.snapshots) {
            (Some(files), _) => files,
            (None, Some(snapshots)) if !Files::exist(&path) => {
                let end = self.log.offsets(std::slice::from_ref(&changelog))?[0].end;
                snapshot = snapshots.restore(partition, end, &progress, stop);
                self.open_files(&path, stop)?
            }
            (None, _) => self.open_files(&path, stop)?,
        };
        let restored = changelog::restore(self.log, &changelog, &files, self.clock, stop, &progress)?;
        if let Some(snapshots) = self.snapshots {
            snapshots.watch(partition, &files);
        }
        metrics::counter!("engram_restored_records_total", "service" => self.service).increment(restored.records);
        tracing::info!(
            service = self.service,
            task = partition,
            from_standby,
            snapshot = snapshot.as_ref().map(|snapshot| snapshot.sequence),
            snapshot_bytes = snapshot.as_ref().map(|snapshot| snapshot.bytes()),
            restored_records = restored.records,
            changelog_position = restored.position,
            took_ms = started.elapsed().as_millis() as u64,
            "task restored"
        );
        Ok(Opened { files, restored })
    }

    fn open_files(&self, path: &Path, stop: &AtomicBool) -> Result<Arc<Files>, StoreError> {
        // Where there is one thread, nobody closes them meanwhile.
        let until = Instant::now() + if self.threads { IN_USE_MAX } else { Duration::ZERO };
        loop {
            match Files::open(path, self.budget, self.clock) {
                Err(StoreError::InUse { .. }) if Instant::now() < until && !stop.load(Ordering::Relaxed) => {
                    std::thread::sleep(LOOK);
                }
                opened => return opened.map(Arc::new),
            }
        }
    }
}
