//! The events, and what the log alone does with them: the ceiling of everything that stands on it.
//!
//! All goes through the log port, which on Apache Kafka is librdkafka's batch consumption and `produceva`, without
//! transactions, on one thread of ours.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use engram_pipeline::clock;
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{NewRecord, ProducerOptions, TopicPartition};
use engram_schemas::activity::Interaction;
use engram_schemas::codec::Encoder;

use super::Bed;
use super::figures::{Latency, Rate, cpu_time};

const FETCH_RECORDS_MAX: usize = 1_000;
const TRANSACTIONS: usize = 300;

/// How many events, how large, and of how many users.
pub struct Load {
    pub records: u64,
    pub bytes: usize,
    pub keys: u64,
}

impl Load {
    /// The `number`-th event: users in turn, by a step that is no divisor of their number, one millisecond apart.
    pub fn event(&self, number: u64, first_time: i64) -> Interaction {
        let mut event = Interaction {
            id: format!("{number:012}"),
            time: first_time + (number / 1_000) as i64,
            user: format!("user-{:07}", number.wrapping_mul(7_919) % self.keys),
            kind: "edit".to_owned(),
            target: None,
            source: "bench".to_owned(),
            value: None,
            attributes: BTreeMap::new(),
        };
        let others = event.id.len() + event.user.len() + event.kind.len() + event.source.len() + 20;
        event.target = Some("t".repeat(self.bytes.saturating_sub(others).max(1)));
        event
    }
}

/// A clock over what happens between its start and its end.
struct Stopwatch(Instant, Duration);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now(), cpu_time())
    }

    fn rate(&self, records: u64, bytes: u64) -> Rate {
        Rate { records, bytes, elapsed: self.0.elapsed(), cpu: cpu_time() - self.1 }
    }
}

/// Writes the load. The events are made in between, a thousand at a time, off the clock's account of the log.
pub fn produce(bed: &Bed, topic: &str, load: &Load) -> anyhow::Result<Rate> {
    crate::output::say(format_args!("engram: writing {} events of about {} bytes", load.records, load.bytes));
    let encoder = Encoder::<Interaction>::register(&*bed.registry, "activity.events")?;
    let mut producer =
        bed.log.producer(&ProducerOptions { client_id: "engram-bench".to_owned(), transactional_id: None })?;
    let first_time = clock::now_ms();
    let mut total = Rate { records: 0, bytes: 0, elapsed: Duration::ZERO, cpu: Duration::ZERO };
    let mut batch: Vec<(String, Vec<u8>)> = Vec::new();
    for begin in (0..load.records).step_by(50_000) {
        batch.clear();
        for number in begin..(begin + 50_000).min(load.records) {
            let event = load.event(number, first_time);
            let mut value = Vec::new();
            encoder.encode(&event, &mut value)?;
            batch.push((event.user, value));
        }
        let watch = Stopwatch::start();
        let mut bytes = 0;
        for (key, value) in &batch {
            let partition = partition_for(key.as_bytes(), bed.partitions);
            let (key, value) = (Some(key.as_bytes()), Some(value.as_slice()));
            producer.write(&NewRecord { topic, partition, timestamp_ms: None, key, value, headers: &[] }, false)?;
            bytes += value.map_or(0, <[u8]>::len) as u64;
        }
        producer.flush()?;
        let rate = watch.rate(batch.len() as u64, bytes);
        total.records += rate.records;
        total.bytes += rate.bytes;
        total.elapsed += rate.elapsed;
        total.cpu += rate.cpu;
    }
    Ok(total)
}

/// Reads a topic from its beginning to its end.
pub fn consume(bed: &Bed, topic: &str) -> anyhow::Result<Rate> {
    each_record(bed, topic, |_| Ok(()))
}

/// Reads a topic and writes each record to another.
pub fn copy(bed: &Bed, from: &str, to: &str) -> anyhow::Result<Rate> {
    let mut producer =
        bed.log.producer(&ProducerOptions { client_id: "engram-bench".to_owned(), transactional_id: None })?;
    let watch = Stopwatch::start();
    let read = each_record(bed, from, |record| Ok(producer.write(&NewRecord { topic: to, ..record }, false)?))?;
    producer.flush()?;
    Ok(watch.rate(read.records, read.bytes))
}

/// Transactions of one record a partition, as fast as they go: what a commit costs where nothing else is done.
pub fn transactions(bed: &Bed, topic: &str) -> anyhow::Result<Latency> {
    crate::output::say(format_args!("engram: measuring transactions"));
    let id = bed.topic("transactions");
    let options = ProducerOptions { client_id: "engram-bench".to_owned(), transactional_id: Some(id) };
    let mut producer = bed.log.producer(&options)?;
    let mut latency = Latency::default();
    for _ in 0..TRANSACTIONS {
        let started = Instant::now();
        for partition in 0..bed.partitions {
            let value = Some(&b"value"[..]);
            producer
                .write(&NewRecord { topic, partition, timestamp_ms: None, key: None, value, headers: &[] }, false)?;
        }
        producer.commit(None)?;
        latency.record(started.elapsed());
    }
    Ok(latency)
}

fn each_record(
    bed: &Bed,
    topic: &str,
    mut visit: impl FnMut(NewRecord<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Rate> {
    let partitions: Vec<TopicPartition> =
        (0..bed.partitions).map(|number| TopicPartition::new(topic, number)).collect();
    let ranges = bed.log.offsets(&partitions)?;
    let mut reader = bed.log.reader()?;
    let positions: Vec<_> = partitions.iter().zip(&ranges).map(|(place, range)| (place.clone(), range.first)).collect();
    let mut open: Vec<bool> = ranges.iter().map(|range| range.first < range.end).collect();
    let watch = Stopwatch::start();
    reader.assign(&positions)?;
    let (mut records, mut bytes) = (0, 0);
    while open.contains(&true) {
        let before = records;
        for (index, range) in ranges.iter().enumerate().filter(|(index, _)| open[*index]).collect::<Vec<_>>() {
            let fetched = reader.fetch(index, FETCH_RECORDS_MAX)?;
            if let Some(batch) = fetched.records {
                for at in 0..batch.len() {
                    let record = batch.record(at);
                    records += 1;
                    bytes += record.value.map_or(0, <[u8]>::len) as u64;
                    open[index] = record.offset + 1 < range.end;
                    visit(NewRecord {
                        topic,
                        partition: index as i32,
                        timestamp_ms: None,
                        key: record.key,
                        value: record.value,
                        headers: &[],
                    })?;
                }
            }
            if fetched.end.is_some_and(|end| end >= range.end) {
                open[index] = false;
            }
        }
        if records == before && open.contains(&true) {
            reader.wait(Duration::from_millis(10))?;
        }
    }
    Ok(watch.rate(records, bytes))
}
