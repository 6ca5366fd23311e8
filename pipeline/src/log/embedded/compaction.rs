//! Compaction of topics that keep the last record of each key, on a thread of its own.
//!
//! As Kafka's log cleaner does it: the offsets of the newest record of each key are gathered from what was written since
//! the last time, as many keys as fit; then the partition is gone through from its start, and a record whose key has a
//! newer one is removed. Offsets stay as they are. A removal that a crash undoes is done again.
//!
//! INVARIANT: the last record of a partition stays, whatever it is, and so does each key's last record, unless that is an
//! old tombstone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rocksdb::WriteBatch;
use xxhash_rust::xxh3::xxh3_128;

use super::files::{Files, Write};
use super::view::{self, Place};
use super::{keys, stored::Stored};
use crate::log::{LogError, TOMBSTONE_RETENTION_MS};

/// Keys held in memory at a time, of 32 bytes or so each.
const KEYS_MAX: usize = 1 << 20;
/// A log that is opened is compacted where at least as many records came since the last time.
const RECORDS_MIN_AT_START: i64 = 100_000;
const REQUESTS_MAX: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

/// A partition to be compacted, up to its last stable offset.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    pub place: Place,
    pub stable: i64,
}

/// The thread; stopped, if need be in the middle of its work, when dropped.
pub struct Compactor {
    requests: Option<SyncSender<Job>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compactor {
    /// Starts the thread, which first goes through `jobs` where it is worthwhile.
    pub fn start(files: Arc<Files>, jobs: Vec<Job>) -> Self {
        let (requests, receiver) = sync_channel(REQUESTS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("log-compaction".to_owned())
            .spawn(move || work(&files, jobs, &receiver, &stopped));
        if let Err(error) = &thread {
            tracing::warn!(%error, "the log is not compacted: no thread can be started");
        }
        Self { requests: Some(requests), stop, thread: thread.ok() }
    }

    /// Asks for a partition to be compacted; forgotten when too much is asked for, as it will be asked for again.
    pub fn request(&self, job: Job) {
        if let Some(requests) = &self.requests {
            let _ = requests.try_send(job);
        }
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(files: &Files, jobs: Vec<Job>, requests: &Receiver<Job>, stop: &AtomicBool) {
    let worthwhile = |job: &Job| cleaned(files, job.place).is_ok_and(|done| job.stable - done >= RECORDS_MIN_AT_START);
    for job in jobs.into_iter().filter(worthwhile).chain(requests) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = compact(files, job, crate::clock::now_ms(), stop, KEYS_MAX) {
            tracing::warn!(%error, topic = job.place.topic, partition = job.place.partition, "a partition is not compacted");
        }
    }
}

/// The offset up to which a partition was compacted.
fn cleaned(files: &Files, place: Place) -> Result<i64, LogError> {
    let key = keys::compacted(place.topic, place.partition);
    Ok(files.get_i64(&key)?.unwrap_or(view::FIRST_OFFSET))
}

/// Compacts one partition, with at most `keys_max` keys in memory.
pub fn compact(files: &Files, job: Job, now_ms: i64, stop: &AtomicBool, keys_max: usize) -> Result<(), LogError> {
    let Job { place, stable } = job;
    let mut from = cleaned(files, place)?;
    while from < stable && !stop.load(Ordering::Relaxed) {
        let (newest, to) = newest_of_keys(files, place, (from, stable), stop, keys_max)?;
        let Some((last, newest_ms)) = last_record(files, place, stable)? else { return Ok(()) };
        // By the partition's own time: while nothing was written, no reader can have seen anything either.
        let old_ms = now_ms.min(newest_ms) - TOMBSTONE_RETENTION_MS;
        let superseded = |record: &Stored| {
            let Some(key) = record.key().filter(|_| record.offset != last) else { return false };
            newest.get(&xxh3_128(key)).is_some_and(|newest| *newest > record.offset)
                || (record.value().is_none() && record.timestamp_ms < old_ms)
        };
        if !remove(files, place, to, superseded, stop)? {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.put(keys::compacted(place.topic, place.partition), to.to_be_bytes());
        files.write(batch, Write::Lazy)?;
        from = to;
    }
    Ok(())
}

/// The offset of each key's last record in a range, and where the range was left because there were too many keys.
fn newest_of_keys(
    files: &Files,
    place: Place,
    (from, stable): (i64, i64),
    stop: &AtomicBool,
    keys_max: usize,
) -> Result<(HashMap<u128, i64>, i64), LogError> {
    let mut newest = HashMap::new();
    let mut to = stable;
    view::for_each_record(files, place, (from, stable), |record| {
        if newest.len() >= keys_max || stop.load(Ordering::Relaxed) {
            to = record.offset;
            return Ok(false);
        }
        if let Some(key) = record.key() {
            newest.insert(xxh3_128(key), record.offset);
        }
        Ok(true)
    })?;
    Ok((newest, to))
}

/// Removes records before `to`; answers whether it got through.
fn remove(
    files: &Files,
    place: Place,
    to: i64,
    superseded: impl Fn(&Stored) -> bool,
    stop: &AtomicBool,
) -> Result<bool, LogError> {
    let mut batch = WriteBatch::default();
    let done = view::for_each_record(files, place, (view::FIRST_OFFSET, to), |record| {
        if superseded(&record) {
            batch.delete(keys::record(place.topic, place.partition, record.offset));
            if batch.size_in_bytes() >= BATCH_BYTES {
                files.write(std::mem::take(&mut batch), Write::Lazy)?;
            }
        }
        Ok(!stop.load(Ordering::Relaxed))
    })?;
    files.write(batch, Write::Lazy)?;
    Ok(done)
}

/// Offset and time of the last record before `stable`.
fn last_record(files: &Files, place: Place, stable: i64) -> Result<Option<(i64, i64)>, LogError> {
    let key = |offset| keys::record(place.topic, place.partition, offset);
    let mut records = files.range(&key(view::FIRST_OFFSET), &key(stable));
    records.seek_to_last();
    records.status().map_err(|error| files.error(&error))?;
    let Some((key, bytes)) = records.item() else { return Ok(None) };
    let offset = keys::record_offset(key).ok_or_else(|| files.corrupt("a record's key is not readable"))?;
    let record = Stored::decode(offset, bytes).map_err(|reason| files.corrupt(reason))?;
    Ok(Some((offset, record.timestamp_ms)))
}
