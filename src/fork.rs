//! A part of a log's history as a log of its own: the inputs, with their offsets and times, and the schemas. What services make
//! of them is left out: it comes again when they run there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::{Batch, Cleanup, Log, NewRecord, Producer, ProducerOptions, TopicPartition, TopicSpec};
use engram_pipeline::registry::{self, LogRegistry};
use engram_pipeline::replay::ReadOnlyRegistry;
use engram_pipeline::service::{self, Running, TOPIC_MESSAGE_BYTES_MAX};
use engram_pipeline::worker::WorkerOptions;
use engram_pipeline::{changelog, dead_letter, directory, manifest, retry};
use engram_schemas::codec::Decoder;
use engram_schemas::registry::Registry;

use crate::cli::Global;
use crate::commands::DEAD_LETTER_MARKS;
use crate::data_dir::DataDir;
use crate::output;
use crate::wire::{self, Connection};

/// Bytes written at once.
const TRANSACTION_BYTES: usize = 32 << 20;
/// Offsets that are skipped at once.
const SKIP_MAX: i64 = 100_000;
/// A service that has had nothing to do for so long has come to the end of its inputs.
const IDLE_MS: i64 = 500;
const LOOK: Duration = Duration::from_millis(20);

/// Which records are taken.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Those written at this time or later, ms since the epoch.
    pub from_ms: Option<i64>,
    /// Those written at this time or earlier.
    pub to_ms: Option<i64>,
    /// Of this partition: those up to this offset, which is taken, too.
    pub record: Option<(TopicPartition, i64)>,
    /// Those whose event time is not later.
    pub event_ms: Option<i64>,
}

/// What was taken.
#[derive(Debug, Default)]
pub struct Taken {
    pub topics: BTreeSet<String>,
    pub records: u64,
}

/// Copies a part of a log's inputs into a new log. Each record keeps its partition, offset, time and headers.
pub fn copy(from: &Connection, part: &Part, to: &dyn Log, stop: &AtomicBool) -> anyhow::Result<Taken> {
    let derived = derived(from)?;
    let mut taken = Taken::default();
    let mut writer = Writer::new(to)?;
    for topic in from.log.topics()?.iter().filter(|topic| !derived.contains(&topic.name)) {
        let is_schemas = topic.name == registry::TOPIC;
        to.create_topics(&[TopicSpec {
            name: topic.name.clone(),
            partitions: topic.partitions,
            cleanup: if is_schemas { Cleanup::Compact } else { Cleanup::Keep },
            max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
        }])?;
        let mut decoder = Decoder::new(Arc::clone(&from.registry));
        for number in 0..topic.partitions {
            let partition = TopicPartition::new(topic.name.as_str(), number);
            let range = from.log.offsets(std::slice::from_ref(&partition))?[0];
            let at = |ms: i64| anyhow::Ok(from.log.offset_at(&partition, ms)?.unwrap_or(range.stable));
            let (mut start, mut end) = (range.first, range.stable);
            if !is_schemas {
                start = part.from_ms.map_or(Ok(start), at)?;
                end = part.to_ms.map_or(Ok(end), |ms| at(ms.saturating_add(1)))?;
                if let Some((_, offset)) = part.record.as_ref().filter(|(of, _)| *of == partition) {
                    end = offset + 1;
                }
            }
            writer.begin();
            changelog::read_batches(&*from.log, &partition, start, end, |batch, index| -> anyhow::Result<()> {
                anyhow::ensure!(!stop.load(Ordering::Relaxed), "stopped");
                let record = batch.record(index);
                let late = |event_ms: i64| event_time(&mut decoder, batch, index) > event_ms;
                if record.offset >= end || !is_schemas && part.event_ms.is_some_and(late) {
                    return Ok(());
                }
                taken.records += u64::from(!is_schemas);
                writer.write(&partition, batch, index)
            })?;
            writer.commit()?;
        }
        if !is_schemas {
            taken.topics.insert(topic.name.clone());
        }
    }
    Ok(taken)
}

/// When something happened, ms since the epoch: the event's own field, or when it was written.
fn event_time(decoder: &mut Decoder, batch: &dyn Batch, index: usize) -> i64 {
    let record = batch.record(index);
    let time = record.value.and_then(|value| decoder.decode_json(value).ok()?["time"].as_i64());
    time.unwrap_or(record.timestamp_ms)
}

/// The topics that services make, and keep for themselves.
pub fn derived(connection: &Connection) -> anyhow::Result<BTreeSet<String>> {
    let own = [dead_letter::TOPIC, directory::TOPIC, DEAD_LETTER_MARKS].map(str::to_owned);
    let mut derived = BTreeSet::from(own);
    for name in wire::ALL_SERVICES {
        let service = wire::service(name, &connection.config, &connection.data)?;
        derived.extend(service.outputs.into_iter().map(|output| output.topic));
        derived.extend([changelog::topic(name), manifest::topic(name), retry::topic(name)]);
    }
    Ok(derived)
}

/// Writes records at the offsets that they had.
struct Writer {
    records: Box<dyn Producer>,
    /// Its transactions are aborted: what they take is skipped.
    holes: Box<dyn Producer>,
    position: i64,
    bytes: usize,
}

impl Writer {
    fn new(log: &dyn Log) -> anyhow::Result<Self> {
        let producer = |name: &str| {
            log.producer(&ProducerOptions { client_id: name.to_owned(), transactional_id: Some(name.to_owned()) })
        };
        Ok(Self { records: producer("fork")?, holes: producer("fork-holes")?, position: 0, bytes: 0 })
    }

    /// Begins a partition.
    fn begin(&mut self) {
        self.position = 0;
    }

    fn write(&mut self, partition: &TopicPartition, batch: &dyn Batch, index: usize) -> anyhow::Result<()> {
        let record = batch.record(index);
        if self.position < record.offset {
            // Offsets are given in the order in which they are asked for.
            self.records.flush()?;
            while self.position < record.offset {
                let count = (record.offset - self.position).min(SKIP_MAX);
                for _ in 0..count {
                    let hole = NewRecord {
                        topic: &partition.topic,
                        partition: partition.partition,
                        timestamp_ms: Some(record.timestamp_ms),
                        key: None,
                        value: None,
                        headers: &[],
                    };
                    self.holes.write(&hole, false)?;
                }
                self.holes.flush()?;
                self.holes.abort()?;
                self.position += count;
            }
        }
        let headers = batch.headers(index);
        let headers: Vec<(&str, Option<&[u8]>)> =
            headers.iter().map(|header| (header.key.as_str(), header.value.as_deref())).collect();
        let new = NewRecord {
            topic: &partition.topic,
            partition: partition.partition,
            timestamp_ms: Some(record.timestamp_ms),
            key: record.key,
            value: record.value,
            headers: &headers,
        };
        self.records.write(&new, false)?;
        self.position = record.offset + 1;
        self.bytes += record.size();
        if self.bytes > TRANSACTION_BYTES { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        self.bytes = 0;
        Ok(self.records.commit(None)?)
    }
}

/// Copies a part of a log into an empty folder of this process's own, and runs a service there to the end of it.
pub fn run_service(
    global: &Global,
    from: &Connection,
    name: &str,
    part: &Part,
    folder: &Path,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let log = Arc::new(EmbeddedLog::open(folder)?);
    copy(from, part, &*log, stop)?;
    let service =
        wire::service(name, &from.config, &from.data)?.with_errors(from.config.errors.policy(name)?, &*log)?;
    let service = Arc::new(service);
    service::prepare_topics(&*log, &service, from.config.partitions.0)?;
    let registry: Arc<dyn Registry> = match &global.registry {
        Some(_) => Arc::new(ReadOnlyRegistry(Arc::clone(&from.registry))),
        None => Arc::new(LogRegistry::new(Arc::clone(&log) as Arc<dyn Log>)),
    };
    let stores = DataDir::new(folder).stores(&log.id()?, name);
    let options = WorkerOptions::new(service, Arc::clone(&log) as Arc<dyn Log>, registry, stores);
    let running = Running::start(&options, 1)?;
    while !running.has_failed() && !running.is_idle(IDLE_MS) && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
    }
    running.stop().with_context(|| format!("service {name} has stopped"))?;
    anyhow::ensure!(!stop.load(Ordering::Relaxed), "stopped");
    Ok(())
}

/// Says what was taken.
pub fn tell(taken: &Taken, folder: &Path) {
    let topics: Vec<&str> = taken.topics.iter().map(String::as_str).collect();
    output::say(format_args!("{} records of {} are in {}", taken.records, topics.join(", "), folder.display()));
}
