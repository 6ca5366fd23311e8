//! The changelog: the compacted topic that backs a task's stores, and how a task catches up from it.
//!
//! All stores of a service share one changelog topic, one partition a task; a record's key is the key in RocksDB (store
//! prefix, then key), its value the entry's, null if deleted. One topic keeps the commit cheap (one partition more in the
//! transaction, not one a store) and the stores of a task at one position.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::log::{Batch, Log, LogError, TOMBSTONE_RETENTION_MS, TopicPartition};
use crate::progress::Progress;
use crate::store::{Changes, Files, Run, StoreError};

/// Records fetched at once while reading a changelog.
const FETCH_RECORDS_MAX: usize = 2_000;
/// Fewer changes than this are written like a commit's: they are not worth a file.
const LOAD_BYTES_MIN: usize = 2 << 20;
/// Runs that wait to be written, beside the one being written and the one being filled.
const RUNS_WAITING: usize = 0;
/// The stop flag is looked at, and progress told, once in so many records.
const LOOK_RECORDS: u64 = 1_024;
/// A changelog may end in an open transaction of a producer that has died; its coordinator aborts it within the
/// transaction timeout (10 s). Longer than this without any progress, something else is wrong.
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
/// Much is loaded in bulk: this thread reads and gathers runs, another sorts and writes them.
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
    progress: &Progress,
) -> Result<Restored, StoreError> {
    let start = files.position()?;
    let range = log.offsets(std::slice::from_ref(partition))?[0];
    check(partition, files, clock, start, range.end)?;
    let first = start.max(range.first);
    progress.changelog(first, range.end);
    let (full, runs) = sync_channel(RUNS_WAITING);
    let (restored, rest) = std::thread::scope(|scope| {
        let writer = scope.spawn(move || write(files, &runs));
        let mut filling = Filling { files, full, run: Run::default(), progress, records: 0, bytes: 0 };
        let read = read(log, partition, first, range.end, |offset, key, value| {
            if filling.records.is_multiple_of(LOOK_RECORDS) && stop.load(Ordering::Relaxed) {
                return Err(LogError::failed(format!("cannot restore from {partition}"), "told to stop").into());
            }
            filling.add(offset, key, value)
        });
        let Filling { full, run, records, bytes, .. } = filling;
        drop(full);
        // The writer's error is the cause of the reader's.
        writer.join().expect("it does not panic")?;
        Ok::<_, StoreError>((Restored { records, bytes, position: read?.max(start) }, run))
    })?;
    if restored.position != start {
        settle(files, rest, restored.position)?;
    }
    progress.at(restored.position, restored.records, restored.bytes);
    Ok(restored)
}

/// Refuses files that this changelog cannot bring up to date.
fn check(partition: &TopicPartition, files: &Files, clock: &Clock, start: i64, end: i64) -> Result<(), StoreError> {
    let damaged = |reason| Err(StoreError::Damaged { path: files.path().display().to_string(), reason });
    if start > end {
        return damaged(format!(
            "it is at offset {start} of {partition}, which ends at {end}: it belongs to another log; give the data folder \
             that goes with this log, or move that folder away"
        ));
    }
    match files.written_ms()? {
        Some(written_ms) if start < end && is_too_old(clock, written_ms) => damaged(format!(
            "it was written last on {written_ms} ms since the epoch, so long ago that what was deleted since may no longer be \
             told by its changelog; move that folder away and start again: it is rebuilt from its changelog"
        )),
        _ => Ok(()),
    }
}

/// What was deleted since may no longer be told by a changelog: its tombstones go after a while.
pub fn is_too_old(clock: &Clock, written_ms: i64) -> bool {
    clock.now_ms() - written_ms > TOMBSTONE_RETENTION_MS / 2
}

/// The reading half of a bulk load.
struct Filling<'a> {
    files: &'a Files,
    full: SyncSender<(Run, i64)>,
    run: Run,
    progress: &'a Progress,
    records: u64,
    bytes: u64,
}

impl Filling<'_> {
    fn add(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        self.records += 1;
        self.bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        self.run.set(key, value);
        if self.run.size_in_bytes() >= self.files.run_bytes() {
            let full = std::mem::replace(&mut self.run, Run::with_capacity(self.files.run_bytes()));
            if self.full.send((full, offset + 1)).is_err() {
                // The writer has failed, and says why.
                return Err(LogError::failed("cannot restore", "the files cannot be written").into());
            }
        }
        if self.records.is_multiple_of(LOOK_RECORDS) {
            self.progress.at(offset, self.records, self.bytes);
        }
        Ok(())
    }
}

/// The writing half: until there are no more runs.
fn write(files: &Files, runs: &Receiver<(Run, i64)>) -> Result<(), StoreError> {
    let mut loaded = false;
    let mut outcome = Ok(());
    while outcome.is_ok()
        && let Ok((run, position)) = runs.recv()
    {
        outcome = files.loading(true).and_then(|()| files.load(run, position));
        loaded = true;
    }
    if loaded { outcome.and(files.loading(false)) } else { outcome }
}

/// Writes what is left after the last full run.
fn settle(files: &Files, rest: Run, position: i64) -> Result<(), StoreError> {
    if rest.size_in_bytes() >= LOAD_BYTES_MIN {
        return files.load(rest, position);
    }
    let mut changes = Changes::default();
    rest.visit(|key, value| changes.set(key, value));
    files.apply(changes, position)
}

/// Visits a partition's committed records that have a key, from `start` until `end`, and returns the position reached
/// (>= `end`).
pub fn read(
    log: &dyn Log,
    partition: &TopicPartition,
    start: i64,
    end: i64,
    mut visit: impl FnMut(i64, &[u8], Option<&[u8]>) -> Result<(), StoreError>,
) -> Result<i64, StoreError> {
    read_batches(log, partition, start, end, |batch, index| {
        let record = batch.record(index);
        record.key.map_or(Ok(()), |key| visit(record.offset, key, record.value))
    })
}

/// Visits a partition's committed records from `start` until `end`, each by its batch and its index there, and returns the
/// position reached (>= `end`): the last batch may go beyond.
pub fn read_batches<E: From<LogError>>(
    log: &dyn Log,
    partition: &TopicPartition,
    start: i64,
    end: i64,
    mut visit: impl FnMut(&dyn Batch, usize) -> Result<(), E>,
) -> Result<i64, E> {
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
                visit(&*batch, index)?;
                position = batch.record(index).offset + 1;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::log::embedded::EmbeddedLog;
    use crate::log::{Cleanup, NewRecord, ProducerOptions, TopicSpec};
    use crate::store::{Budget, prefix};

    const RECORDS: usize = 40_000;

    #[test]
    fn a_restore_that_is_broken_off_goes_on() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let log = EmbeddedLog::in_memory();
        let partition = TopicPartition::new(topic("s"), 0);
        let (name, cleanup) = (partition.topic.to_string(), Cleanup::Compact);
        log.create_topics(&[TopicSpec { name, partitions: 1, cleanup, max_message_bytes: 1 << 20 }]).expect("created");
        let expected = write(&log, &partition, &mut random);
        (0..3).for_each(|_| restore_in_parts(&log, &partition, &expected, &mut random));
    }

    fn restore_in_parts(
        log: &dyn Log,
        partition: &TopicPartition,
        expected: &BTreeMap<Vec<u8>, Vec<u8>>,
        random: &mut StdRng,
    ) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let budget = Budget::new(8 << 20);
        let (mut broken_off, mut began_at) = (0, Vec::new());
        loop {
            let files = Files::open(folder.path(), &budget, &Clock::default()).expect("opened");
            began_at.push(files.position().expect("a position"));
            let (stop, progress) = (AtomicBool::new(false), Progress::new("s", 0));
            // The last ones run to the end, however slow the machine is.
            let patience = Duration::from_millis(random.random_range(5..60) * if broken_off < 20 { 1 } else { 100 });
            let outcome = std::thread::scope(|scope| {
                let restore = || restore(log, partition, &files, &Clock::default(), &stop, &progress);
                let restoring = scope.spawn(restore);
                let started = Instant::now();
                // The first is broken off as soon as a run is loaded: it is the one that a fast machine might finish.
                let is_enough = || match broken_off {
                    0 => files.position().ok() > Some(0),
                    _ => started.elapsed() >= patience,
                };
                while !restoring.is_finished() && !is_enough() {
                    std::thread::sleep(Duration::from_micros(200));
                }
                stop.store(true, Ordering::Relaxed);
                restoring.join().expect("it does not panic")
            });
            match outcome {
                Ok(_) => break,
                Err(error) => assert!(error.to_string().contains("cannot restore"), "{error}"),
            }
            broken_off += 1;
        }
        assert!(began_at.is_sorted() && began_at.last() > Some(&0), "it goes on from where it was: {began_at:?}");
        let files = Files::open(folder.path(), &budget, &Clock::default()).expect("opened");
        let found: BTreeMap<Vec<u8>, Vec<u8>> = files
            .all(prefix(0))
            .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect::<Result<_, _>>()
            .expect("read");
        assert!(found == *expected, "{} entries, not the {} of the changelog", found.len(), expected.len());
        assert_eq!(
            files.position().expect("a position"),
            log.offsets(std::slice::from_ref(partition)).expect("offsets")[0].end
        );
    }

    /// Some keys have several versions, and a tenth are deletions. Returns what they come to.
    fn write(log: &dyn Log, partition: &TopicPartition, random: &mut StdRng) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let options = ProducerOptions { client_id: "test".to_owned(), transactional_id: None };
        let mut producer = log.producer(&options).expect("a producer");
        let mut expected = BTreeMap::new();
        for _ in 0..RECORDS {
            let key = [&[prefix(0)], random.random_range(0..100_000_u32).to_be_bytes().as_slice()].concat();
            let value = random.random_bool(0.9).then(|| vec![random.random::<u8>(); random.random_range(0..2_000)]);
            let record = NewRecord {
                topic: &partition.topic,
                partition: partition.partition,
                timestamp_ms: None,
                key: Some(&key),
                value: value.as_deref(),
                headers: &[],
            };
            producer.write(&record, false).expect("written");
            match value {
                Some(value) => drop(expected.insert(key, value)),
                None => drop(expected.remove(&key)),
            }
        }
        producer.flush().expect("flushed");
        expected
    }
}
