//! The runtime over the same events: real services with the real commit protocol.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engram_pipeline::changelog;
use engram_pipeline::log::{NewRecord, ProducerOptions, TopicPartition};
use engram_pipeline::processor::Service;
use engram_pipeline::service::{self, Running};
use engram_pipeline::status::WorkerStatus;
use engram_pipeline::store::{Budget, Files};
use engram_pipeline::worker::{Guarantee, OnCommit, WorkerOptions};
use engram_processors::activity::{self, ActivityConfig, Dimension};
use engram_processors::passthrough;

use super::Bed;
use super::figures::{Commits, Figure, Latency, Rate, cpu_time, reset_peak_memory};
use super::load::{self, Load};

/// A service that has not got on for so long will not.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long latency is measured.
const LATENCY_RUN: Duration = Duration::from_secs(10);

/// Which service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    PassThrough,
    /// Tumbling windows by user: one state change a record.
    Counting,
    /// All that the activity service does by default.
    Activity,
}

/// One run of a service over the input.
pub struct Runtime<'a> {
    pub bed: &'a Bed,
    pub input: &'a str,
    pub records: u64,
    pub folder: &'a Path,
    pub kind: Kind,
    pub guarantee: Guarantee,
}

/// What a run has shown.
pub struct Measured {
    pub rate: Rate,
    pub commits: Commits,
    /// The service's name, by which its changelog is found.
    pub service: &'static str,
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
        let running = start(self.bed, &service, self.folder, self.guarantee, Some(on_commit))?;
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
            Kind::Activity => activity::service(ActivityConfig::default()),
            Kind::Counting => activity::service(ActivityConfig {
                dimensions: vec![Dimension::User],
                sessions: false,
                ..ActivityConfig::default()
            }),
        };
        if self.kind != Kind::PassThrough {
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

fn start(
    bed: &Bed,
    service: &Arc<Service>,
    folder: &Path,
    guarantee: Guarantee,
    on_commit: Option<OnCommit>,
) -> anyhow::Result<Running> {
    service::prepare_topics(&*bed.log, service, bed.partitions)?;
    let memory = &bed.config.memory;
    let mut commit = bed.config.commit_options()?;
    commit.guarantee = guarantee;
    let options = WorkerOptions {
        group: service.name.to_owned(),
        log: Arc::clone(&bed.log),
        registry: Arc::clone(&bed.registry),
        budget: Arc::new(Budget::new(memory.stores_mib << 20)),
        stores: folder.join("stores").join(service.name),
        cache_bytes_max: memory.store_cache_mib << 20,
        instance: service.name.to_owned(),
        static_membership: false,
        commit,
        on_commit,
        stop: Arc::new(AtomicBool::new(false)),
        status: Arc::new(WorkerStatus::default()),
        service: Arc::clone(service),
    };
    Ok(Running::start(&options, 1)?)
}

/// Rebuilds the stores of a run from their changelog into empty folders, beside a plain read of it.
pub fn restore(bed: &Bed, measured: &Measured, folder: &Path) -> anyhow::Result<[Figure; 2]> {
    eprintln!("engram: measuring restore");
    // Named as the topic's owner names it: the bench's prefix stands in the middle of it.
    let topic = changelog::topic(measured.service);
    let read = load::consume(bed, &topic)?;
    let budget = Budget::new(bed.config.memory.stores_mib << 20);
    let (started, cpu) = (Instant::now(), cpu_time());
    let (mut records, mut bytes) = (0, 0);
    for partition in 0..bed.partitions {
        let files = Files::open(&folder.join("restored").join(partition.to_string()), &budget)?;
        let restored = changelog::restore(
            &*bed.log,
            &TopicPartition::new(topic.as_str(), partition),
            &files,
            &AtomicBool::new(false),
        )?;
        records += restored.records;
        bytes += restored.bytes;
    }
    let rate = Rate { records, bytes, elapsed: started.elapsed(), cpu: cpu_time() - cpu };
    Ok([read.figure("read a changelog, the log alone"), rate.figure("restore from that changelog")])
}

/// A run of the pass-through service between a writer and a reader that are at work all the while.
pub struct EndToEnd {
    /// Records read from its output, a second.
    pub per_second: f64,
    /// From the moment a record is handed to the log until its copy can be read, which is after its commit.
    pub latency: Latency,
    pub commits: Commits,
}

/// Writes, passes through and reads; `pace` (records a second) of `None` is as fast as it goes, for `load.records`.
pub fn end_to_end(bed: &Bed, load: &Load, folder: &Path, name: &str, pace: Option<f64>) -> anyhow::Result<EndToEnd> {
    let input = bed.create(&format!("{name}-input"))?;
    let mut service = passthrough::service(&input, &bed.topic(name));
    service.name = Box::leak(bed.topic(name).into_boxed_str());
    let service = Arc::new(service);
    let seen: Arc<Mutex<Commits>> = Arc::default();
    let noted = Arc::clone(&seen);
    let on_commit: OnCommit = Arc::new(move |_, times| lock(&noted).record(times));
    let running = start(bed, &service, folder, Guarantee::ExactlyOnce, Some(on_commit))?;
    let partitions: Vec<_> =
        (0..bed.partitions).map(|number| (TopicPartition::new(service.outputs[0].topic.as_str(), number), 0)).collect();
    let mut reader = bed.log.reader()?;
    reader.assign(&partitions)?;
    let started = Instant::now();
    while running.workers().iter().any(|worker| worker.idle_ms.is_none()) {
        anyhow::ensure!(started.elapsed() < STALL_MAX, "the service did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let written = AtomicBool::new(false);
    let mut latency = Latency::default();
    let (epoch, mut read) = (Instant::now(), 0_u64);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let writer = scope.spawn(|| {
            let outcome = write_paced(bed, &input, load, pace, epoch);
            written.store(true, Ordering::Relaxed);
            outcome
        });
        let mut progress = Instant::now();
        let mut expected = None;
        let mut writer = Some(writer);
        while expected.is_none_or(|expected| read < expected) {
            let before = read;
            for index in 0..partitions.len() {
                let Some(batch) = reader.fetch(index, 1_000)?.records else { continue };
                let now = epoch.elapsed();
                for at in 0..batch.len() {
                    let stamp = batch.record(at).value.and_then(|value| value.first_chunk::<8>());
                    let stamp = Duration::from_micros(u64::from_be_bytes(*stamp.expect("written by write_paced")));
                    latency.record(now.saturating_sub(stamp));
                    read += 1;
                }
            }
            if read > before {
                progress = Instant::now();
            } else {
                anyhow::ensure!(progress.elapsed() < STALL_MAX, "records did not come out of the service");
                reader.wait(Duration::from_millis(1))?;
            }
            if written.load(Ordering::Relaxed)
                && let Some(writer) = writer.take()
            {
                expected = Some(writer.join().map_err(|_| anyhow::anyhow!("the writer has panicked"))??);
            }
        }
        Ok(())
    })?;
    let per_second = read as f64 / epoch.elapsed().as_secs_f64().max(1e-9);
    running.stop()?;
    let commits = std::mem::take(&mut *lock(&seen));
    Ok(EndToEnd { per_second, latency, commits })
}

/// Writes values that begin with the time since `epoch` (µs, u64, big endian). Returns how many.
fn write_paced(bed: &Bed, topic: &str, load: &Load, pace: Option<f64>, epoch: Instant) -> anyhow::Result<u64> {
    let mut producer =
        bed.log.producer(&ProducerOptions { client_id: "engram-bench".to_owned(), transactional_id: None })?;
    let mut value = vec![0; load.bytes.max(8)];
    let mut written = 0_u64;
    loop {
        let due = match pace {
            Some(_) if epoch.elapsed() >= LATENCY_RUN => break,
            Some(pace) => (epoch.elapsed().as_secs_f64() * pace) as u64,
            None if written == load.records => break,
            None => (written + 1_000).min(load.records),
        };
        while written < due {
            value[..8].copy_from_slice(&(epoch.elapsed().as_micros() as u64).to_be_bytes());
            let partition = (written % bed.partitions as u64) as i32;
            let record =
                NewRecord { topic, partition, timestamp_ms: None, key: None, value: Some(&value), headers: &[] };
            producer.write(&record, false)?;
            written += 1;
        }
        if pace.is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    producer.flush()?;
    Ok(written)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
