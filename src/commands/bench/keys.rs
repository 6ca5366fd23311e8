//! `engram bench keys`: what a record costs that changes one of many small entries, beside what RocksDB alone takes to read
//! and write as many, in the same files; and whether memory stays under its bound while the service is an hour behind.
//!
//! The state is there before: it is written straight into the stores, which a service then takes for its own, as its
//! changelog is empty.

use std::path::{Path, PathBuf};
use std::time::Instant;

use engram_pipeline::clock::{self, Clock};
use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::log::{NewRecord, ProducerOptions};
use engram_pipeline::processor::{Context, Input, ProcessError, Processor, Service};
use engram_pipeline::store::{Budget, Changes, Files, StoreSpec, prefix};
use engram_pipeline::worker::Guarantee;

use super::Bed;
use super::figures::{Figure, Rate, cpu_time, resident_mib};
use super::services::{Kind, Runtime};

/// How far behind the service is when it starts.
const BEHIND_MS: i64 = 60 * 60 * 1_000;
/// Entries or records written at once.
const BATCH: u64 = 10_000;
/// What one entry of a commit takes in memory: in the store's cache, in the changelog and in the batch for RocksDB.
const ENTRY_BYTES: usize = 600;
/// What a task holds of an input at most (`worker`), with the fetch that fills it up.
const QUEUE_BYTES: usize = 32 << 20;

/// Counts records by key.
pub fn service(input: &str) -> Service {
    Service {
        name: "keys",
        inputs: vec![input.to_owned()],
        outputs: Vec::new(),
        topics: Vec::new(),
        stores: vec![StoreSpec::new("counts", |_, _| Default::default())],
        processor: Box::new(|_| Ok(Box::new(Counter))),
        errors: ErrorPolicy::default(),
    }
}

struct Counter;

impl Processor for Counter {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let Some(key) = input.record.key else { return Err(ProcessError::reject("null-key", "it has no key")) };
        Ok(context.store(0).update(key, |count| {
            let before = count.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            count.clear();
            count.extend_from_slice(&(before + 1).to_be_bytes());
            true
        })?)
    }
}

/// The `number`-th key, of `size`: spread evenly, in no order.
fn key(number: u64, size: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % size
}

fn full_key(key: u64) -> [u8; 9] {
    let mut full = [prefix(0); 9];
    full[1..].copy_from_slice(&key.to_be_bytes());
    full
}

pub fn measure(bed: &Bed, records: u64, sizes: &[u64], folder: &Path) -> anyhow::Result<Vec<Figure>> {
    let (mut figures, mut costs) = (Vec::new(), Vec::new());
    for &size in sizes {
        let input = bed.create(&format!("{size}-input"))?;
        let name = format!("{size}-keys");
        let stores = folder.join("stores").join(bed.topic(&name));
        crate::output::say(format_args!("engram: writing {size} keys and {records} records"));
        fill(bed, &stores, size)?;
        produce(bed, &input, records, size)?;
        let before_mib = resident_mib();
        let (guarantee, kind) = (Guarantee::ExactlyOnce, Kind::Keys);
        let counting = Runtime { bed, input: &input, records, folder, kind, guarantee, workers: 1 }.run(&name)?.rate;
        let figure = counting.figure(&format!("{size} keys: counting, exactly once, an hour behind"));
        figures.push(figure.under(before_mib.map(|before| before + bound_mib(bed))));
        let alone = rocksdb_alone(bed, &stores, records, size)?;
        figures.push(alone.figure(&format!("{size} keys: RocksDB alone, get + put")));
        costs.push((size, counting, alone));
        std::fs::remove_dir_all(&stores)?;
    }
    if let (Some((small, first, first_alone)), Some((large, last, last_alone))) = (costs.first(), costs.last())
        && small != large
    {
        let growth = |from: &Rate, to: &Rate| from.per_cpu_second() / to.per_cpu_second();
        crate::output::say(format_args!(
            "engram: CPU time a record from {small} to {large} keys: x{:.2} counting, x{:.2} RocksDB alone",
            growth(first, last),
            growth(first_alone, last_alone)
        ));
    }
    Ok(figures)
}

/// What the configuration lets the service take, beyond what the process had before.
fn bound_mib(bed: &Bed) -> f64 {
    let (memory, commit) = (&bed.config.memory, &bed.config.commit);
    let tasks = bed.partitions.unsigned_abs() as usize;
    let per_task = (memory.store_cache_mib << 20) + (memory.prefetch_kib << 10) + QUEUE_BYTES;
    let entries = usize::try_from(commit.records_max).unwrap_or(usize::MAX / ENTRY_BYTES) * ENTRY_BYTES;
    let bytes = (memory.stores_mib << 20) + tasks * per_task + 2 * commit.bytes_max + entries;
    bytes as f64 / f64::from(1 << 20)
}

fn open(bed: &Bed, stores: &Path) -> anyhow::Result<Vec<Files>> {
    let budget = Budget::new(bed.config.memory.stores_mib << 20);
    let path = |number: i32| -> PathBuf { stores.join(number.to_string()) };
    (0..bed.partitions).map(|number| Ok(Files::open(&path(number), &budget, &Clock::default())?)).collect()
}

/// Puts each key into the store of its task, at position 0 of the changelog.
fn fill(bed: &Bed, stores: &Path, size: u64) -> anyhow::Result<()> {
    let partitions = u64::from(bed.partitions.unsigned_abs());
    for (number, files) in (0_u64..).zip(open(bed, stores)?) {
        let (mut changes, mut count) = (Changes::default(), 0);
        for key in (number..size).step_by(bed.partitions.unsigned_abs() as usize) {
            debug_assert_eq!(key % partitions, number);
            changes.set(&full_key(key), Some(&1_u64.to_be_bytes()));
            count += 1;
            if count == BATCH {
                files.apply(std::mem::take(&mut changes), 0)?;
                count = 0;
            }
        }
        files.apply(changes, 0)?;
        // Else the service would be charged with them.
        files.settle()?;
    }
    Ok(())
}

/// Records of random keys, written over the last hour.
fn produce(bed: &Bed, topic: &str, records: u64, size: u64) -> anyhow::Result<()> {
    let options = ProducerOptions { client_id: "engram-bench".to_owned(), transactional_id: None };
    let mut producer = bed.log.producer(&options)?;
    let first_ms = clock::now_ms() - BEHIND_MS;
    for number in 0..records {
        let key = key(number, size);
        let partition = (key % u64::from(bed.partitions.unsigned_abs())) as i32;
        let after_ms = (number as f64 / records as f64 * BEHIND_MS as f64) as i64;
        let (key, timestamp_ms) = (key.to_be_bytes(), Some(first_ms + after_ms));
        let record = NewRecord { topic, partition, timestamp_ms, key: Some(&key), value: Some(b"1"), headers: &[] };
        producer.write(&record, false)?;
    }
    Ok(producer.flush().map(drop)?)
}

/// As many random reads and writes of the same files, with the same options, in batches sorted by key.
fn rocksdb_alone(bed: &Bed, stores: &Path, records: u64, size: u64) -> anyhow::Result<Rate> {
    let files = open(bed, stores)?;
    files.iter().try_for_each(Files::settle)?;
    let mut batch: Vec<Vec<([u8; 9], u64)>> = vec![Vec::new(); files.len()];
    let (started, cpu) = (Instant::now(), cpu_time());
    for begin in (0..records).step_by(BATCH as usize) {
        for number in begin..(begin + BATCH).min(records) {
            // Other keys than the service's, which may still be in memory.
            let key = key(number + records, size);
            let partition = (key % files.len() as u64) as usize;
            let full = full_key(key);
            let count = files[partition].get(&full)?;
            let count =
                count.as_deref().and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes));
            batch[partition].push((full, count + 1));
        }
        for (files, batch) in files.iter().zip(&mut batch) {
            batch.sort_unstable();
            let mut changes = Changes::default();
            for (key, count) in batch.drain(..) {
                changes.set(&key, Some(&count.to_be_bytes()));
            }
            files.apply(changes, 0)?;
        }
    }
    Ok(Rate { records, bytes: 0, elapsed: started.elapsed(), cpu: cpu_time() - cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_over_all_that_there_are() {
        let mut seen = vec![0_u32; 100];
        for number in 0..10_000 {
            seen[key(number, 100) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (50..150).contains(count)), "{seen:?}");
    }
}
