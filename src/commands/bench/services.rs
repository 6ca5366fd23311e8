//! The runtime over the same events: real services with the real commit protocol.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engram_pipeline::changelog;
use engram_pipeline::clock::Clock;
use engram_pipeline::processor::Service;
use engram_pipeline::restore::Restore;
use engram_pipeline::service::{self, Running};
use engram_pipeline::status::WorkerStatus;
use engram_pipeline::store::Budget;
use engram_pipeline::worker::{Guarantee, OnCommit, WorkerOptions};
use engram_processors::activity::{self, ActivityConfig, Dimension};
use engram_processors::passthrough;

use super::Bed;
use super::figures::{Commits, Figure, Rate, cpu_time, reset_peak_memory};
use super::{keys, load};
use crate::commands::lock;

/// A service that has not got on for so long will not.
pub const STALL_MAX: Duration = Duration::from_secs(60);

/// Which service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    PassThrough,
    /// Tumbling windows by user: one state change a record.
    Counting,
    /// All that the activity service does by default.
    Activity,
    /// One of many small entries changed for each record.
    Keys,
}

/// One run of a service over the input.
pub struct Runtime<'a> {
    pub bed: &'a Bed,
    pub input: &'a str,
    pub records: u64,
    pub folder: &'a Path,
    pub kind: Kind,
    pub guarantee: Guarantee,
    pub workers: usize,
}

/// What a run has shown.
pub struct Measured {
    pub rate: Rate,
    pub commits: Commits,
    /// The service's name, by which its changelog is found.
    pub service: &'static str,
}

/// The one with the middle rate.
pub fn median(mut runs: Vec<Measured>) -> Measured {
    runs.sort_by(|a, b| a.rate.per_second().total_cmp(&b.rate.per_second()));
    let middle = runs.len() / 2;
    runs.swap_remove(middle)
}

/// What the commits tell.
#[derive(Default)]
struct Seen {
    first: Option<(Instant, Duration, u64)>,
    last: Option<(Instant, Duration)>,
    records: u64,
    commits: Commits,
}

impl Runtime<'_> {
    /// Runs until all records are committed. The clock runs from the first commit to the last, so that joining the group
    /// is not in it.
    pub fn run(&self, name: &str) -> anyhow::Result<Measured> {
        let service = Arc::new(self.service(name));
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let noted = Arc::clone(&seen);
        let on_commit: OnCommit = Arc::new(move |records, times| {
            let mut seen = lock(&noted);
            let now = (Instant::now(), cpu_time());
            seen.records += records;
            seen.commits.record(times);
            let total = seen.records;
            seen.first.get_or_insert((now.0, now.1, total));
            seen.last = Some(now);
        });
        reset_peak_memory();
        let running = start(self.bed, &service, self.folder, self.guarantee, self.workers, Some(on_commit))?;
        let (mut progress, mut committed) = (Instant::now(), 0);
        while committed < self.records {
            std::thread::sleep(Duration::from_millis(20));
            let now = lock(&seen).records;
            if now > committed {
                (progress, committed) = (Instant::now(), now);
            }
            let trouble = running.workers().into_iter().find_map(|worker| worker.trouble).unwrap_or_default();
            anyhow::ensure!(
                progress.elapsed() < STALL_MAX && !running.has_failed(),
                "{name} stopped at {committed} of {} records {trouble}",
                self.records
            );
        }
        running.stop()?;
        let seen = Arc::into_inner(seen).map(|seen| seen.into_inner().unwrap_or_else(PoisonError::into_inner));
        let seen = seen.expect("the workers have ended");
        let (first, last) = seen.first.zip(seen.last).expect("there were commits");
        anyhow::ensure!(last.0 > first.0, "all records went into one commit: give more with --records");
        let rate = Rate { records: self.records - first.2, bytes: 0, elapsed: last.0 - first.0, cpu: last.1 - first.1 };
        Ok(Measured { rate, commits: seen.commits, service: service.name })
    }

    fn service(&self, name: &str) -> Service {
        let prefix = self.bed.topic(name);
        let mut service = match self.kind {
            Kind::PassThrough => passthrough::service(self.input, &self.bed.topic(name)),
            Kind::Keys => keys::service(self.input),
            Kind::Activity => activity::service(ActivityConfig::default()),
            Kind::Counting => activity::service(ActivityConfig {
                dimensions: vec![Dimension::User],
                sessions: false,
                ..ActivityConfig::default()
            }),
        };
        if matches!(self.kind, Kind::Counting | Kind::Activity) {
            // Its own topics, so that those of a service in use are left alone.
            let own = |topic: &mut String| *topic = format!("{prefix}-{topic}");
            service.inputs.iter_mut().skip(1).for_each(own);
            service.outputs.iter_mut().for_each(|output| own(&mut output.topic));
            service.topics.retain(|topic| topic.name != activity::EVENTS);
            service.topics.iter_mut().for_each(|topic| own(&mut topic.name));
            service.inputs[0] = self.input.to_owned();
        }
        service.name = Box::leak(prefix.into_boxed_str());
        service
    }
}

/// Starts a service with stores in a folder of its own.
pub fn start(
    bed: &Bed,
    service: &Arc<Service>,
    folder: &Path,
    guarantee: Guarantee,
    workers: usize,
    on_commit: Option<OnCommit>,
) -> anyhow::Result<Running> {
    service::prepare_topics(&*bed.log, service, bed.partitions)?;
    let memory = &bed.config.memory;
    let mut commit = bed.config.commit_options()?;
    commit.guarantee = guarantee;
    let (log, registry) = (Arc::clone(&bed.log), Arc::clone(&bed.registry));
    let options = WorkerOptions {
        budget: Arc::new(Budget::new(memory.stores_mib << 20)),
        cache_bytes_max: memory.store_cache_mib << 20,
        commit,
        on_commit,
        ..WorkerOptions::new(Arc::clone(service), log, registry, folder.join("stores").join(service.name))
    };
    Ok(Running::start(&options, workers)?)
}

/// Rebuilds the stores of a run from their changelog into empty folders, beside a plain read of it.
pub fn restore(bed: &Bed, measured: &Measured, folder: &Path) -> anyhow::Result<[Figure; 2]> {
    crate::output::say(format_args!("engram: measuring restore"));
    // Named as the topic's owner names it: the bench's prefix stands in the middle of it.
    let topic = changelog::topic(measured.service);
    let read = load::consume(bed, &topic)?;
    let budget = Budget::new(bed.config.memory.stores_mib << 20);
    let restore = Restore {
        service: measured.service,
        log: &*bed.log,
        clock: &Clock::default(),
        budget: &budget,
        stores: &folder.join("restored"),
        snapshots: None,
        standby: None,
        status: &WorkerStatus::default(),
        threads: true,
    };
    let cpu = cpu_time();
    let (opened, elapsed) = super::restore::open(&restore, bed.partitions)?;
    let (records, bytes) = opened
        .iter()
        .fold((0, 0), |(records, bytes), opened| (records + opened.restored.records, bytes + opened.restored.bytes));
    let rate = Rate { records, bytes, elapsed, cpu: cpu_time() - cpu };
    Ok([read.figure("read a changelog, the log alone"), rate.figure("restore from that changelog")])
}
