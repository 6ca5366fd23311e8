//! `engram bench`: what the runtime costs, each figure beside what the log alone can do in the same run.
//!
//! Everything happens in topics of its own (`engram-bench-*`, deleted afterwards), with a registry in memory, so that it
//! may be run beside a system in use. Without `--brokers` it measures the embedded log, in a temporary folder.

mod end_to_end;
mod figures;
mod keys;
mod load;
mod replay;
mod restore;
mod scale;
mod services;

use std::path::Path;
use std::sync::Arc;

use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::kafka::{KafkaLog, KafkaOptions};
use engram_pipeline::log::{Cleanup, Log, TopicInfo, TopicSpec};
use engram_pipeline::worker::Guarantee;
use engram_schemas::registry::Registry;
use engram_schemas::registry::memory::MemoryRegistry;
use serde_json::json;

use crate::cli::{Bench, BenchWhat as What, Global};
use crate::config::Config;
use crate::output;
use end_to_end::Run;
use figures::{Figure, reset_peak_memory};
use load::Load;
use services::{Kind, Measured, Runtime};

/// Times that exactly-once and at-least-once are measured, in turn.
const ROUNDS: usize = 3;
/// Counting is measured with so many times fewer keys, too.
const FEWER_KEYS: u64 = 100;
/// Largest record batch of the topics.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What all measurements share.
pub struct Bed {
    pub log: Arc<dyn Log>,
    pub registry: Arc<dyn Registry>,
    pub config: Arc<Config>,
    /// Before the names of all its topics and groups.
    pub prefix: String,
    pub partitions: i32,
}

impl Bed {
    fn topic(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// The same bed with other partitions, and topics of their own.
    fn with_partitions(&self, partitions: i32) -> Self {
        Self {
            log: Arc::clone(&self.log),
            registry: Arc::clone(&self.registry),
            config: Arc::clone(&self.config),
            prefix: self.topic(&partitions.to_string()),
            partitions,
        }
    }

    fn create(&self, name: &str) -> anyhow::Result<String> {
        let name = self.topic(name);
        let (cleanup, max_message_bytes) = (Cleanup::Keep, MESSAGE_BYTES_MAX);
        let topic = TopicSpec { name: name.clone(), partitions: self.partitions, cleanup, max_message_bytes };
        self.log.create_topics(&[topic])?;
        Ok(name)
    }

    /// Leaves nothing behind: of the topics that were not there before, those with its prefix, and the dead letters.
    fn clean(&self, before: &[TopicInfo]) -> anyhow::Result<()> {
        let topics = self.log.topics()?;
        let names = topics.iter().filter(|topic| !before.contains(topic)).map(|topic| topic.name.as_str());
        let own: Vec<&str> =
            names.filter(|name| name.contains(&self.prefix) || *name == engram_pipeline::dead_letter::TOPIC).collect();
        self.log.delete_topics(&own)?;
        for group in self.log.groups()?.iter().filter(|group| group.name.contains(&self.prefix)) {
            self.log.delete_group(&group.name)?;
        }
        Ok(())
    }
}

pub fn run(global: &Global, args: &Bench) -> anyhow::Result<()> {
    let config = Config::load(global.config.as_deref())?;
    let folder = tempfile::Builder::new().prefix("engram-bench").tempdir()?;
    if let Some(What::Replay(replay)) = &args.what {
        return replay::print(global.json, &replay::measure(global, replay, folder.path())?);
    }
    let log: Arc<dyn Log> = match &global.brokers {
        Some(brokers) => {
            let mut options = KafkaOptions::new(brokers);
            options.properties = config.kafka.properties.clone();
            options.prefetch_kib = config.memory.prefetch_kib;
            Arc::new(KafkaLog::connect(options)?)
        }
        None => Arc::new(EmbeddedLog::open(folder.path())?),
    };
    let partitions = match &args.what {
        Some(What::Restore(restore)) => restore.partitions,
        _ => args.partitions,
    };
    let bed = Bed {
        log,
        registry: Arc::new(MemoryRegistry::default()),
        config: Arc::new(config),
        prefix: format!("engram-bench-{}", std::process::id()),
        partitions: partitions.max(1),
    };
    let before = bed.log.topics()?;
    if let Some(What::Restore(restore)) = &args.what {
        let outcome = restore::measure(&bed, restore, folder.path());
        let cleaned = bed.clean(&before);
        let lines = outcome?;
        cleaned?;
        return restore::print(global.json, &lines);
    }
    let load = Load { records: args.records, bytes: args.bytes, keys: args.keys.max(1) };
    let outcome = match &args.what {
        None => measure(&bed, args, &load, folder.path()),
        Some(What::Scale { over }) => scale::measure(&bed, &load, over, folder.path()),
        Some(What::Keys { sizes }) => keys::measure(&bed, args.records, sizes, folder.path()),
        Some(What::Restore(_) | What::Replay(_)) => unreachable!("measured above"),
    };
    let cleaned = bed.clean(&before);
    let figures = outcome?;
    cleaned?;
    print(global, args, &figures)
}

fn measure(bed: &Bed, args: &Bench, load: &Load, folder: &Path) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let input = bed.create("input")?;
    let produce = load::produce(bed, &input, load)?;
    figures.push(produce.figure("produce, the log alone"));
    reset_peak_memory();
    let consume = load::consume(bed, &input)?;
    figures.push(consume.figure("consume, the log alone"));
    let copy = load::copy(bed, &input, &bed.create("copy")?)?;
    figures.push(copy.figure("copy, the log alone"));
    let transactions = load::transactions(bed, &bed.create("transactions")?)?;
    figures.push(transactions.figure("a transaction of a record a partition, the log alone"));

    let measured = |input: &str, kind, guarantee, name: &str| -> anyhow::Result<Measured> {
        let measured = Runtime { bed, input, records: args.records, folder, kind, guarantee, workers: 1 }.run(name)?;
        crate::output::say(format_args!(
            "engram: {name}: {:.0} records/s, {:.0} records/CPU-s",
            measured.rate.per_second(),
            measured.rate.per_cpu_second()
        ));
        Ok(measured)
    };
    // In turn, and the middle one of each: what exactly-once costs is less than what the machine varies by.
    let pair = |kind, name: &str| -> anyhow::Result<[Measured; 2]> {
        let (mut once, mut least) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            once.push(measured(&input, kind, Guarantee::ExactlyOnce, &format!("{name}-once-{round}"))?);
            least.push(measured(&input, kind, Guarantee::AtLeastOnce, &format!("{name}-least-{round}"))?);
        }
        Ok([once, least].map(services::median))
    };
    let mut shown = |name: &str, [once, least]: &[Measured; 2]| {
        figures.push(once.rate.figure(&format!("{name}, exactly once")).beside(&copy));
        figures.extend(once.commits.figures(&format!("{name}, exactly once")));
        figures.push(least.rate.figure(&format!("{name}, at least once")).beside(&copy));
    };
    shown("pass-through", &pair(Kind::PassThrough, "pass")?);
    let counting = pair(Kind::Counting, "count")?;
    shown("windowed counting", &counting);
    let [counting, _] = counting;
    // Above nearly every record of a commit has a key of its own; here a key's records of one commit are one update.
    let few = Load { keys: (load.keys / FEWER_KEYS).max(1), ..*load };
    let few_input = bed.create("few")?;
    load::produce(bed, &few_input, &few)?;
    let rounds = (0..ROUNDS)
        .map(|round| measured(&few_input, Kind::Counting, Guarantee::ExactlyOnce, &format!("few-once-{round}")));
    let median = services::median(rounds.collect::<anyhow::Result<_>>()?);
    figures.push(median.rate.figure(&format!("windowed counting of {} keys, exactly once", few.keys)).beside(&copy));
    let all = measured(&input, Kind::Activity, Guarantee::ExactlyOnce, "activity")?;
    figures.push(all.rate.figure("activity (all dimensions, sessions), exactly once").beside(&copy));

    figures.extend(services::restore(bed, &counting, folder)?);
    crate::output::say(format_args!("engram: measuring from end to end"));
    reset_peak_memory();
    let run = |pace| Run { bed, load, pace };
    let (full, _) = run(None).through("full", folder)?;
    figures.push(Figure::per_second("end to end (writer, pass-through, reader), exactly once", full.per_second));
    let half = run(Some(full.per_second / 2.0));
    figures.push(half.alone("alone")?.latency.figure("half of that, the log alone: latency from writer to reader"));
    let (through, commits) = half.through("half", folder)?;
    figures.push(Figure::per_second("half of that, end to end", through.per_second));
    figures.push(through.latency.figure("half of that, end to end: latency"));
    figures.extend(commits.figures("half of that, end to end"));
    Ok(figures)
}

fn print(global: &Global, args: &Bench, figures: &[Figure]) -> anyhow::Result<()> {
    if global.json {
        let log = global.brokers.as_ref().map_or("embedded", |_| "kafka");
        let list: Vec<_> = figures.iter().map(Figure::json).collect();
        return Ok(output::json(&json!({
            "log": log, "records": args.records, "bytes": args.bytes, "keys": args.keys, "partitions": args.partitions,
            "cores": std::thread::available_parallelism()?.get(), "figures": list
        }))?);
    }
    let rows: Vec<_> = figures.iter().map(Figure::row).collect();
    let header =
        ["measurement", "records/s", "records/CPU-s", "of copy", "MB/s", "p50 ms", "p99 ms", "peak MiB", "bound MiB"];
    Ok(output::table(&header, rows)?)
}
