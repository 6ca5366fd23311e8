//! How far a task's restore has come: written by the threads that restore, read by whoever watches.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A restore that takes longer tells the log file so, as often as this.
const TELL: Duration = Duration::from_secs(5);

/// Where a restore reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Snapshot,
    Changelog,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Changelog => "changelog",
        }
    }
}

/// One task's restore.
pub struct Progress {
    service: &'static str,
    task: i32,
    from_changelog: AtomicBool,
    /// In bytes of the snapshot, or offsets of the changelog.
    done: AtomicI64,
    start: AtomicI64,
    end: AtomicI64,
    records: AtomicU64,
    bytes: AtomicU64,
    told: Mutex<Instant>,
}

/// A moment of a restore.
#[derive(Debug, Clone, PartialEq)]
pub struct Restoring {
    pub task: i32,
    pub phase: Phase,
    pub percent: f64,
    /// Of the snapshot's files, or of the changelog's keys and values.
    pub bytes: u64,
    /// Of the snapshot's files; a changelog does not tell how many it has.
    pub bytes_total: Option<u64>,
    /// Of the changelog.
    pub records: u64,
}

impl Progress {
    pub fn new(service: &'static str, task: i32) -> Self {
        Self {
            service,
            task,
            from_changelog: AtomicBool::new(true),
            done: AtomicI64::new(0),
            start: AtomicI64::new(0),
            end: AtomicI64::new(0),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            told: Mutex::new(Instant::now()),
        }
    }

    pub(crate) fn snapshot(&self, bytes_total: u64) {
        self.from_changelog.store(false, Ordering::Relaxed);
        self.begin(0, bytes_total as i64);
    }

    pub(crate) fn changelog(&self, start: i64, end: i64) {
        self.from_changelog.store(true, Ordering::Relaxed);
        self.begin(start, end);
    }

    fn begin(&self, start: i64, end: i64) {
        self.start.store(start, Ordering::Relaxed);
        self.done.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.records.store(0, Ordering::Relaxed);
    }

    /// So many more bytes of a snapshot are here.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.done.fetch_add(bytes as i64, Ordering::Relaxed);
        self.tell();
    }

    pub(crate) fn at(&self, offset: i64, records: u64, bytes: u64) {
        self.done.store(offset, Ordering::Relaxed);
        self.records.store(records, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.tell();
    }

    pub fn moment(&self) -> Restoring {
        let [start, done, end] = [&self.start, &self.done, &self.end].map(|number| number.load(Ordering::Relaxed));
        let phase = if self.from_changelog.load(Ordering::Relaxed) { Phase::Changelog } else { Phase::Snapshot };
        Restoring {
            task: self.task,
            phase,
            percent: if end > start {
                ((done - start) as f64 / (end - start) as f64 * 100.0).min(100.0)
            } else {
                100.0
            },
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_total: (phase == Phase::Snapshot).then_some(end as u64),
            records: self.records.load(Ordering::Relaxed),
        }
    }

    fn tell(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() < TELL {
            return;
        }
        *told = Instant::now();
        let moment = self.moment();
        tracing::info!(
            service = self.service,
            task = self.task,
            from = moment.phase.name(),
            percent = moment.percent as u64,
            mib = moment.bytes >> 20,
            records = moment.records,
            "restoring"
        );
    }
}
