//! Latency from end to end: a writer and a reader at work at the same time, with a service between them or, as the
//! ceiling, without.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use engram_pipeline::log::{NewRecord, ProducerOptions, TopicPartition};
use engram_pipeline::worker::{Guarantee, OnCommit};
use engram_processors::passthrough;

use super::Bed;
use super::figures::{Commits, Latency};
use super::load::Load;
use super::services::{STALL_MAX, start};
use crate::commands::lock;

/// How long a paced run is measured,
const RUN: Duration = Duration::from_secs(15);
/// once connections are made, leaders known and the broker's code compiled.
const WARM_UP: Duration = Duration::from_secs(3);

/// What came of a run.
pub struct Journey {
    /// Records read, a second.
    pub per_second: f64,
    /// From the moment a record is handed to the log until it, or its committed copy, is read.
    pub latency: Latency,
}

/// How a run is done.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub bed: &'a Bed,
    pub load: &'a Load,
    /// Records a second; `None` is as fast as it goes, for `load.records`.
    pub pace: Option<f64>,
}

impl Run<'_> {
    /// The log alone: the reader reads what the writer writes.
    pub fn alone(&self, name: &str) -> anyhow::Result<Journey> {
        let topic = self.bed.create(&format!("{name}-input"))?;
        self.journey(&topic, &topic, Instant::now())
    }

    /// The pass-through service copies what the writer writes, exactly once, and the reader reads the copies. Also tells
    /// what the commits took.
    pub fn through(&self, name: &str, folder: &Path) -> anyhow::Result<(Journey, Commits)> {
        let bed = self.bed;
        let input = bed.create(&format!("{name}-input"))?;
        let output = bed.topic(name);
        let mut service = passthrough::service(&input, &output);
        service.name = Box::leak(output.clone().into_boxed_str());
        let commits: Arc<Mutex<Commits>> = Arc::default();
        let epoch: Arc<OnceLock<Instant>> = Arc::default();
        let (noted, begun) = (Arc::clone(&commits), Arc::clone(&epoch));
        let on_commit: OnCommit = Arc::new(move |_, times| {
            if begun.get().is_some_and(|begun| begun.elapsed() > WARM_UP) {
                lock(&noted).record(times);
            }
        });
        let running = start(bed, &Arc::new(service), folder, Guarantee::ExactlyOnce, 1, Some(on_commit))?;
        let started = Instant::now();
        while running.workers().iter().any(|worker| worker.idle_ms.is_none()) {
            anyhow::ensure!(started.elapsed() < STALL_MAX, "the service did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let journey = self.journey(&input, &output, *epoch.get_or_init(Instant::now))?;
        running.stop()?;
        let commits = std::mem::take(&mut *lock(&commits));
        Ok((journey, commits))
    }

    fn journey(&self, input: &str, output: &str, epoch: Instant) -> anyhow::Result<Journey> {
        let partitions: Vec<_> =
            (0..self.bed.partitions).map(|number| (TopicPartition::new(output, number), 0)).collect();
        let mut reader = self.bed.log.reader()?;
        reader.assign(&partitions)?;
        let written = AtomicBool::new(false);
        let (mut latency, mut read) = (Latency::default(), 0_u64);
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let mut writer = Some(scope.spawn(|| {
                let outcome = self.write(input, epoch);
                written.store(true, Ordering::Relaxed);
                outcome
            }));
            let (mut progress, mut expected) = (Instant::now(), None);
            while expected.is_none_or(|expected| read < expected) {
                let before = read;
                for index in 0..partitions.len() {
                    let Some(batch) = reader.fetch(index, 1_000)?.records else { continue };
                    let now = epoch.elapsed();
                    for at in 0..batch.len() {
                        let stamp = batch.record(at).value.and_then(|value| value.first_chunk::<8>());
                        let stamp = Duration::from_micros(u64::from_be_bytes(*stamp.expect("`write` wrote it")));
                        if stamp > WARM_UP {
                            latency.record(now.saturating_sub(stamp));
                        }
                        read += 1;
                    }
                }
                if read > before {
                    progress = Instant::now();
                } else {
                    anyhow::ensure!(progress.elapsed() < STALL_MAX, "records do not come out");
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
        Ok(Journey { per_second: read as f64 / epoch.elapsed().as_secs_f64().max(1e-9), latency })
    }

    /// Writes values that begin with the time since `epoch` (µs, u64, big endian). Returns how many.
    fn write(&self, topic: &str, epoch: Instant) -> anyhow::Result<u64> {
        let bed = self.bed;
        let options = ProducerOptions { client_id: "engram-bench".to_owned(), transactional_id: None };
        let mut producer = bed.log.producer(&options)?;
        let mut value = vec![0; self.load.bytes.max(8)];
        let mut written = 0_u64;
        loop {
            let due = match self.pace {
                Some(_) if epoch.elapsed() >= WARM_UP + RUN => break,
                Some(pace) => (epoch.elapsed().as_secs_f64() * pace) as u64,
                None if written == self.load.records => break,
                None => (written + 1_000).min(self.load.records),
            };
            while written < due {
                value[..8].copy_from_slice(&(epoch.elapsed().as_micros() as u64).to_be_bytes());
                let partition = (written % bed.partitions as u64) as i32;
                let value = Some(value.as_slice());
                producer.write(
                    &NewRecord { topic, partition, timestamp_ms: None, key: None, value, headers: &[] },
                    false,
                )?;
                written += 1;
            }
            if self.pace.is_some() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        producer.flush()?;
        Ok(written)
    }
}
