//! `engram bench restore`: how fast a task's state comes back, each way beside its ceiling in the same run.
//!
//! The state is written straight into a changelog: keys in random order, values that do not compress.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engram_pipeline::changelog;
use engram_pipeline::clock::Clock;
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{Cleanup, NewRecord, ProducerOptions, TopicSpec};
use engram_pipeline::manifest::LastCommit;
use engram_pipeline::processor::ProcessError;
use engram_pipeline::restore::{Opened, Restore};
use engram_pipeline::snapshot::{Objects, Policy, Snapshots};
use engram_pipeline::status::WorkerStatus;
use engram_pipeline::store::{self, Budget};
use serde_json::{Value, json};

use super::{Bed, MESSAGE_BYTES_MAX, load};
use crate::cli::BenchRestore;
use crate::output;

const BLOCK_BYTES: usize = 1 << 20;
/// Of the disk's own rate as much is written as of state, but not more.
const DISK_BYTES_MAX: u64 = 2 << 30;

/// One measurement.
pub struct Line {
    name: &'static str,
    bytes: u64,
    records: u64,
    took: Duration,
    /// Rate of the ceiling that it stands beside, in its own unit.
    share: Option<f64>,
}

impl Line {
    fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.took.as_secs_f64()
    }

    fn records_per_second(&self) -> f64 {
        self.records as f64 / self.took.as_secs_f64()
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "seconds": self.took.as_secs_f64(), "bytes": self.bytes, "records": self.records,
            "mb_per_second": self.mb_per_second(), "records_per_second": self.records_per_second(),
            "of_ceiling": self.share
        })
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.to_owned(),
            format!("{:.2}", self.took.as_secs_f64()),
            format!("{:.0}", self.bytes as f64 / 1e6),
            format!("{:.0}", self.mb_per_second()),
            if self.records > 0 { format!("{:.0}", self.records_per_second()) } else { String::new() },
            self.share.map(|share| format!("{:.0} %", share * 100.0)).unwrap_or_default(),
        ]
    }
}

pub fn print(json: bool, lines: &[Line]) -> anyhow::Result<()> {
    if json {
        return Ok(lines.iter().try_for_each(|line| output::json(&line.json()))?);
    }
    let header = ["measurement", "seconds", "MB", "MB/s", "records/s", "of ceiling"];
    Ok(output::table(&header, lines.iter().map(Line::row))?)
}

pub fn measure(bed: &Bed, args: &BenchRestore, folder: &Path) -> anyhow::Result<Vec<Line>> {
    let service: &'static str = Box::leak(bed.topic("restore").into_boxed_str());
    let topic = changelog::topic(service);
    let (partitions, max_message_bytes) = (bed.partitions, MESSAGE_BYTES_MAX);
    bed.log.create_topics(&[TopicSpec {
        name: topic.clone(),
        partitions,
        cleanup: Cleanup::Compact,
        max_message_bytes,
    }])?;
    write_changelog(bed, &topic, args)?;
    output::say("engram: reading it");
    let read = load::consume(bed, &topic)?;
    let (records, bytes) = (read.records, read.bytes + read.records * KEY_BYTES as u64);
    let raw = Line { name: "read the changelog, the log alone", bytes, records, took: read.elapsed, share: None };

    output::say("engram: restoring from the changelog");
    let (stores, budget) = (folder.join("changelog"), Budget::new(bed.config.memory.stores_mib << 20));
    let (clock, status) = (Clock::default(), WorkerStatus::default());
    let restore = Restore {
        service,
        log: &*bed.log,
        clock: &clock,
        budget: &budget,
        stores: &stores,
        snapshots: None,
        standby: None,
        status: &status,
        threads: true,
    };
    let (opened, took) = open(&restore, partitions)?;
    let share = Some(raw.took.as_secs_f64() / took.as_secs_f64());
    let from_changelog = Line { name: "restore from the changelog alone", bytes, records, took, share };
    drop(opened);

    output::say("engram: opening it again");
    let (opened, took) = open(&restore, partitions)?;
    let again = Line { name: "open what is on disk", bytes, records: 0, took, share: None };

    output::say("engram: taking a snapshot");
    let objects = folder.join("objects").display().to_string();
    let snapshots = |stores: &Path| -> anyhow::Result<Snapshots> {
        let objects = Arc::new(Objects::open(&objects, &Default::default())?);
        Ok(Snapshots::new(
            objects,
            &bed.log.id()?,
            service,
            vec![],
            stores.to_owned(),
            Policy::default(),
            clock.clone(),
        ))
    };
    let from = snapshots(&stores)?;
    let started = Instant::now();
    let (mut stored, mut checkpoint) = (0, Duration::ZERO);
    for (partition, opened) in (0..partitions).zip(&opened) {
        from.watch(partition, &opened.files);
        let taken = from.take(partition)?.ok_or_else(|| anyhow::anyhow!("task {partition} has nothing to copy"))?;
        stored += taken.bytes;
        checkpoint = checkpoint.max(taken.checkpoint);
    }
    let take = Line { name: "take a snapshot", bytes: stored, records: 0, took: started.elapsed(), share: None };
    let links =
        Line { name: "  of it, the slowest task's checkpoint", bytes: 0, records: 0, took: checkpoint, share: None };
    drop(opened);
    drop(from);

    output::say("engram: writing to the disk");
    let written = stored.clamp(BLOCK_BYTES as u64, DISK_BYTES_MAX);
    let took = write_disk(&folder.join("disk"), written)?;
    let disk = Line { name: "write as much to the disk, one file", bytes: written, records: 0, took, share: None };

    output::say("engram: restoring from the snapshot");
    let stores = folder.join("snapshot");
    let to = snapshots(&stores)?;
    std::fs::create_dir_all(&stores)?;
    let (opened, took) = open(&Restore { stores: &stores, snapshots: Some(&to), ..restore }, partitions)?;
    anyhow::ensure!(opened.iter().all(|opened| opened.restored.records == 0), "a snapshot was not used: see the log");
    let mut from_snapshot = Line { name: "restore from the snapshot", bytes: stored, records: 0, took, share: None };
    from_snapshot.share = Some(from_snapshot.mb_per_second() / disk.mb_per_second());
    Ok(vec![raw, from_changelog, again, take, links, disk, from_snapshot])
}

/// Store prefix and a hash.
const KEY_BYTES: usize = 17;

fn write_changelog(bed: &Bed, topic: &str, args: &BenchRestore) -> anyhow::Result<()> {
    let entries = (args.state_mib << 20) / (KEY_BYTES + args.value_bytes) as u64;
    output::say(format_args!("engram: writing a changelog of {entries} entries, {} times each", args.versions));
    let mut producer =
        bed.log.producer(&ProducerOptions { client_id: "engram-bench".to_owned(), transactional_id: None })?;
    let mut value = vec![0; args.value_bytes];
    for version in 0..args.versions {
        for entry in 0..entries {
            let mut key = [store::prefix(0); KEY_BYTES];
            let hash = (u128::from(entry) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
            key[1..].copy_from_slice(&hash.to_be_bytes());
            let mut state = hash as u64 ^ version;
            for chunk in value.chunks_mut(8) {
                // xorshift64: nothing that a compressor could use.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
            }
            write(&mut *producer, topic, partition_for(&key, bed.partitions), &key, &value)?;
        }
    }
    let commit = LastCommit { sequence: 1, digest: [0; 16], stream_time: 0 }.to_bytes();
    for partition in 0..bed.partitions {
        write(&mut *producer, topic, partition, LastCommit::KEY, &commit)?;
    }
    producer.flush()?;
    Ok(())
}

fn write(
    producer: &mut dyn engram_pipeline::log::Producer,
    topic: &str,
    partition: i32,
    key: &[u8],
    value: &[u8],
) -> anyhow::Result<()> {
    let (key, value) = (Some(key), Some(value));
    Ok(producer.write(&NewRecord { topic, partition, timestamp_ms: None, key, value, headers: &[] }, false)?)
}

/// Opens all tasks, as a worker does.
pub fn open(restore: &Restore<'_>, partitions: i32) -> anyhow::Result<(Vec<Opened>, Duration)> {
    let started = Instant::now();
    let numbers: Vec<i32> = (0..partitions).collect();
    let opened = restore.open_all(&numbers, || Ok::<_, ProcessError>(true))?;
    Ok((opened.expect("nobody breaks it off"), started.elapsed()))
}

/// Writes so many bytes and waits until they are on disk.
fn write_disk(path: &Path, bytes: u64) -> anyhow::Result<Duration> {
    let block: Vec<u8> = (0..BLOCK_BYTES).map(|at| (at * 31) as u8).collect();
    let started = Instant::now();
    let mut file = File::create(path)?;
    let mut left = bytes;
    while left > 0 {
        let now = left.min(BLOCK_BYTES as u64);
        file.write_all(&block[..now as usize])?;
        left -= now;
    }
    file.sync_all()?;
    let took = started.elapsed();
    std::fs::remove_file(path)?;
    Ok(took)
}
