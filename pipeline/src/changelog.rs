//! The changelog: the compacted topic that backs a task's stores, and how a task catches up from it.
//!
//! All stores of a service share one changelog topic, one partition a task; a record's key is the key in RocksDB (store
//! prefix, then key), its value the entry's, null if deleted. One topic keeps the commit cheap (one partition more in the
//! transaction, not one a store) and the stores of a task at one position.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::log::{Log, LogError, TOMBSTONE_RETENTION_MS, TopicPartition};
use crate::store::{Changes, Files, StoreError};

/// Records fetched at once while reading a changelog.
const FETCH_RECORDS_MAX: usize = 2_000;
/// Changes applied to RocksDB at once while restoring.
const BATCH_BYTES: usize = 4 << 20;
/// A changelog may end in an open transaction of a producer that has died; its coordinator aborts it within the
/// transaction timeout (60 s). Longer than this without any progress, something else is wrong.
const STALL_MAX: Duration = Duration::from_secs(90);

/// The name of a service's changelog topic.
pub fn topic(service: &str) -> String {
    format!("engram-{service}-changelog")
}

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Records read from the changelog: 0 if the store was up to date.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// The changelog offset that the store is at now.
    pub position: i64,
}

/// Brings a task's files up to the end of its changelog, from where they are. What is there is kept.
///
/// SUBTLE: the end is the high watermark, not the last stable offset. The former owner's last commit may already show in
/// the group's positions while its marker has not yet reached the changelog; stopping at the stable offset would start
/// from state older than the positions. So this waits until no transaction is open before that watermark.
pub fn restore(
    log: &dyn Log,
    partition: &TopicPartition,
    files: &Files,
    clock: &Clock,
    stop: &AtomicBool,
) -> Result<Restored, StoreError> {
    let start = files.position()?;
    let range = log.offsets(std::slice::from_ref(partition))?[0];
    if start > range.end {
        return Err(StoreError::Damaged {
            path: files.path().display().to_string(),
            reason: format!(
                "it is at offset {start} of {partition}, which ends at {}: it belongs to another log; give the data folder \
                 that goes with this log, or move that folder away",
                range.end
            ),
        });
    }
    if start < range.end
        && let Some(written_ms) = files.written_ms()?
        && clock.now_ms() - written_ms > TOMBSTONE_RETENTION_MS / 2
    {
        return Err(StoreError::Damaged {
            path: files.path().display().to_string(),
            reason: format!(
                "it was written last on {} ms since the epoch, so long ago that what was deleted since may no longer be told \
                 by its changelog; move that folder away and start again: it is rebuilt from its changelog",
                written_ms
            ),
        });
    }
    let mut restored = Restored { records: 0, bytes: 0, position: start };
    let mut changes = Changes::default();
    let position = read(log, partition, start.max(range.first), range.end, |offset, key, value| {
        if stop.load(Ordering::Relaxed) {
            return Err(LogError::failed(format!("cannot restore from {partition}"), "told to stop").into());
        }
        restored.records += 1;
        restored.bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        changes.set(key, value);
        if changes.size_in_bytes() > BATCH_BYTES {
            files.apply(std::mem::take(&mut changes), offset + 1)?;
        }
        Ok(())
    })?;
    restored.position = position;
    if position != start {
        files.apply(changes, position)?;
    }
    Ok(restored)
}

/// Visits a partition's committed records from `start` until `end`, and returns the position reached (>= `end`).
pub fn read(
    log: &dyn Log,
    partition: &TopicPartition,
    start: i64,
    end: i64,
    mut visit: impl FnMut(i64, &[u8], Option<&[u8]>) -> Result<(), StoreError>,
) -> Result<i64, StoreError> {
    let mut position = start;
    if position >= end {
        return Ok(position);
    }
    let mut reader = log.reader()?;
    reader.assign(&[(partition.clone(), position)])?;
    let mut progress = Instant::now();
    while position < end {
        let fetched = reader.fetch(0, FETCH_RECORDS_MAX)?;
        let before = position;
        if let Some(batch) = fetched.records {
            for index in 0..batch.len() {
                let record = batch.record(index);
                if let Some(key) = record.key {
                    visit(record.offset, key, record.value)?;
                }
                position = record.offset + 1;
            }
        }
        position = position.max(fetched.end.unwrap_or(position));
        if position > before {
            progress = Instant::now();
        } else if progress.elapsed() > STALL_MAX {
            let stalled = format!("no progress at offset {position} of {end} for {} s", STALL_MAX.as_secs());
            return Err(LogError::failed(format!("cannot read {partition} to its end"), stalled).into());
        } else {
            reader.wait(Duration::from_millis(100))?;
        }
    }
    Ok(position)
}
