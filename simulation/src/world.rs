//! One run: a log, inputs that come in, processes that come, go, freeze and die, until everything has been processed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engram_pipeline::clock::ManualClock;
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::{Log, NewRecord, Producer, ProducerOptions, TopicPartition};
use engram_pipeline::replay::{Moment, Past, Program, ReplayError, RerunOptions};
use engram_pipeline::service::prepare_topics;
use engram_pipeline::store::Budget;
use engram_pipeline::task::Task;
use engram_pipeline::worker;
use engram_schemas::registry::memory::MemoryRegistry;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::fate::{Fault, Point, Shared};
use crate::oracle::{Oracle, Totals};
use crate::process::{Process, Surroundings};
use crate::service::{INPUTS, NAME, service};
use crate::trace::Trace;

/// When the first run begins: 2024-01-01.
const EPOCH_MS: i64 = 1_704_067_200_000;
/// Steps with faults, then at most so many without.
const STORMY_STEPS: usize = 700;
const CALM_STEPS_MAX: usize = 30_000;
const PROCESSES_MAX: usize = 6;
/// More than the embedded log's patience with a member that does not poll while others wait.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(301);

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub totals: Totals,
    pub lines: u64,
    /// Of everything that happened: the same for the same seed.
    pub hash: u64,
}

/// Runs the world of a seed, with its stores in `folder`.
///
/// Errors: the first thing that was not as it must be.
pub fn run(seed: u64, folder: &Path, print: bool) -> Result<Report, String> {
    let mut world = World::new(seed, folder, print)?;
    let outcome = world.live().and_then(|()| world.judge());
    world.surroundings.shared.bury_ghosts();
    let totals = outcome?;
    let trace = &world.surroundings.shared.trace;
    trace.tell(format!("{totals:?}"));
    let (hash, lines) = trace.hash();
    Ok(Report { totals, lines, hash })
}

struct World {
    random: StdRng,
    surroundings: Surroundings,
    partitions: i32,
    producer: Box<dyn Producer>,
    processes: Vec<Process>,
    folder: std::path::PathBuf,
    started: usize,
}

impl World {
    fn new(seed: u64, folder: &Path, print: bool) -> Result<Self, String> {
        let mut random = StdRng::seed_from_u64(seed);
        let hand = ManualClock::new(EPOCH_MS);
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory_at(hand.clock()));
        let service = Arc::new(service());
        let partitions = random.random_range(1..5);
        prepare_topics(&*log, &service, partitions).map_err(|error| error.to_string())?;
        let options = ProducerOptions { client_id: "clients".to_owned(), transactional_id: None };
        let producer = log.producer(&options).map_err(|error| error.to_string())?;
        let shared = Shared::new(hand, Trace::new(print));
        let registry = Arc::new(MemoryRegistry::default());
        let surroundings = Surroundings { log, registry, service, shared };
        let mut world = Self {
            random,
            surroundings,
            partitions,
            producer,
            processes: Vec::new(),
            folder: folder.to_owned(),
            started: 0,
        };
        for _ in 0..world.random.random_range(1..4) {
            world.add_process();
        }
        Ok(world)
    }

    fn tell(&self, line: impl AsRef<str>) {
        self.surroundings.shared.trace.tell(line);
    }

    fn add_process(&mut self) {
        let process = Process::new(self.started, &self.folder, self.random.random());
        self.tell(format!("{} comes", process.name));
        self.started += 1;
        self.processes.push(process);
    }

    fn live(&mut self) -> Result<(), String> {
        for _ in 0..STORMY_STEPS {
            self.pass_time();
            match self.random.random_range(0..100) {
                0..14 => self.produce()?,
                14..92 => self.step(false)?,
                92..97 => self.plan_a_fault(),
                _ => self.stir()?,
            }
        }
        for process in &mut self.processes {
            process.freeze(false);
        }
        self.tell("calm");
        for _ in 0..CALM_STEPS_MAX {
            // So that the sessions and transactions of the dead end.
            self.surroundings.shared.hand.advance(Duration::from_millis(200));
            self.expire()?;
            self.step(true)?;
            if self.random.random_range(0..50) == 0 && self.is_done()? {
                return Ok(());
            }
        }
        Err(format!("not done after {CALM_STEPS_MAX} calm steps: {}", self.behind()?.join(", ")))
    }

    fn pass_time(&mut self) {
        let ms = match self.random.random_range(0..200) {
            0 => self.random.random_range(60_000..400_000),
            1..6 => self.random.random_range(1_000..20_000),
            _ => self.random.random_range(0..40),
        };
        self.surroundings.shared.hand.advance(Duration::from_millis(ms));
    }

    fn expire(&self) -> Result<(), String> {
        self.surroundings.shared.expire(&*self.surroundings.log).map_err(|error| error.to_string())
    }

    fn step(&mut self, calm: bool) -> Result<(), String> {
        if self.processes.is_empty() {
            self.add_process();
        }
        self.expire()?;
        let index = self.random.random_range(0..self.processes.len());
        self.processes[index].step(&self.surroundings, calm)?;
        match self.surroundings.shared.violations().first() {
            Some(violation) => Err(violation.clone()),
            None => Ok(()),
        }
    }

    /// Clients write some records, and some of them twice.
    fn produce(&mut self) -> Result<(), String> {
        for _ in 0..self.random.random_range(1..25) {
            let key = format!("k{}", self.random.random_range(0..8)).into_bytes();
            let kind = match self.random.random_range(0..100) {
                0..60 => b'c',
                60..75 => b'd',
                75..82 => b'u',
                82..89 => b'v',
                89..95 => b't',
                _ => b'!',
            };
            let mut value = vec![kind];
            value.extend((0..self.random.random_range(0..40)).map(|_| self.random.random::<u8>()));
            let value = self.random.random_bool(0.98).then_some(value);
            let (topic, partition) =
                (INPUTS[self.random.random_range(0..2)], self.random.random_range(0..self.partitions));
            let timestamp_ms = self.surroundings.shared.hand.clock().now_ms() - self.random.random_range(0..5_000);
            for _ in 0..if self.random.random_bool(0.05) { 2 } else { 1 } {
                let record = NewRecord {
                    topic,
                    partition,
                    timestamp_ms: Some(timestamp_ms),
                    key: Some(&key),
                    value: value.as_deref(),
                    headers: &[],
                };
                self.producer.write(&record, false).map_err(|error| error.to_string())?;
            }
        }
        self.producer.flush().map(drop).map_err(|error| error.to_string())
    }

    fn plan_a_fault(&mut self) {
        let fates: Vec<_> = self.processes.iter().flat_map(Process::fates).cloned().collect();
        if fates.is_empty() {
            return;
        }
        let fate = &fates[self.random.random_range(0..fates.len())];
        let point = Point::ALL[self.random.random_range(0..Point::ALL.len())];
        let fault = Fault::ALL[self.random.random_range(0..Fault::ALL.len())];
        let after = self.random.random_range(0..if point == Point::Write { 40 } else { 3 });
        self.tell(format!("{}: planned {fault:?} at {point:?} after {after}", fate.name));
        fate.plan(point, fault, after);
    }

    /// Processes come, go, die, freeze and thaw; stores are flushed, disks are lost.
    fn stir(&mut self) -> Result<(), String> {
        if self.processes.is_empty() {
            self.add_process();
            return Ok(());
        }
        let index = self.random.random_range(0..self.processes.len());
        let shared = Arc::clone(&self.surroundings.shared);
        match self.random.random_range(0..12) {
            0 if self.processes.len() < PROCESSES_MAX => self.add_process(),
            1 | 2 => self.processes[index].crash(&shared),
            3 => {
                self.processes[index].crash(&shared);
                self.tell("its disk is lost");
                self.processes[index].lose_disk();
            }
            4 => self.processes[index].stop(&shared),
            5 | 6 => {
                self.tell(format!("{} freezes", self.processes[index].name));
                self.processes[index].freeze(true);
                if self.random.random_bool(0.5) && self.processes.len() < PROCESSES_MAX {
                    // Long enough that the group gives its partitions to one who asks.
                    self.surroundings.shared.hand.advance(GIVEN_UP_AFTER);
                    self.add_process();
                }
            }
            7 | 8 => {
                self.tell("all thaw");
                self.processes.iter_mut().for_each(|process| process.freeze(false));
            }
            _ => {
                self.tell(format!("{} flushes", self.processes[index].name));
                self.processes[index].flush()?;
            }
        }
        Ok(())
    }

    /// Every record was processed and committed, and every task is open, so that its state is on some disk.
    fn is_done(&self) -> Result<bool, String> {
        Ok(self.behind()?.is_empty())
    }

    /// Partitions that have more than is committed, and tasks that nobody has.
    fn behind(&self) -> Result<Vec<String>, String> {
        let log = &self.surroundings.log;
        let mut behind = Vec::new();
        let open: BTreeSet<i32> = self.processes.iter().flat_map(Process::tasks).map(Task::partition).collect();
        for partition in 0..self.partitions {
            if !open.contains(&partition) {
                behind.push(format!("task {partition} is open nowhere"));
            }
            let places = INPUTS.map(|topic| TopicPartition::new(topic, partition));
            let ends = log.offsets(&places).map_err(|error| error.to_string())?;
            let committed = log.committed(NAME, &places).map_err(|error| error.to_string())?;
            for ((place, range), committed) in places.iter().zip(ends).zip(committed) {
                let committed = committed.unwrap_or(0);
                if committed < range.end {
                    behind.push(format!("{place} is committed to {committed} of {}", range.end));
                }
            }
        }
        Ok(behind)
    }

    fn judge(&mut self) -> Result<Totals, String> {
        let shared = Arc::clone(&self.surroundings.shared);
        self.processes.iter_mut().for_each(|process| process.stop(&shared));
        let stores: Vec<&Path> = self.processes.iter().map(Process::stores).collect();
        let mut oracle = Oracle::new(Arc::clone(&self.surroundings.log), Arc::clone(&self.surroundings.registry));
        let mut totals = Totals::default();
        for partition in 0..self.partitions {
            let task = oracle.check(partition, &stores)?;
            totals.records += task.records;
            totals.commits += task.commits;
            totals.rejected += task.rejected;
            self.replay(partition).map_err(|error| format!("replay of task {partition}: {}", worker::chain(&error)))?;
        }
        Ok(totals)
    }

    /// Makes all that a task did again, and compares it with its manifests.
    fn replay(&self, partition: i32) -> Result<(), ReplayError> {
        let Surroundings { log, registry, service, .. } = &self.surroundings;
        let budget = Budget::new(1 << 20);
        let rerun = RerunOptions {
            service,
            log: &**log,
            registry,
            budget: &budget,
            partitions: self.partitions,
            dead_letter_partitions: self.partitions,
            memory_bytes_max: 16 << 10,
            program: Program::Same,
            stop: None,
        };
        let past = Past { rerun, snapshots: None, task: partition };
        let folder = self.folder.join(format!("replay-{partition}"));
        past.at(&Moment::Time(i64::MAX), &folder).map(drop)
    }
}
