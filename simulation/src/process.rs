//! A simulated process: a folder of stores, and workers that share it. It can die.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use engram_pipeline::clock::Moment;
use engram_pipeline::log::Log;
use engram_pipeline::processor::{ProcessError, Service};
use engram_pipeline::status::WorkerStatus;
use engram_pipeline::store::Budget;
use engram_pipeline::task::Task;
use engram_pipeline::worker::{self, CommitOptions, Guarantee, Overlap, Worker, WorkerOptions};
use engram_schemas::registry::Registry;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::fate::{Fate, Shared};
use crate::faulty::FaultyLog;
use crate::service::NAME;

/// How long a worker waits before it starts anew.
const BACKOFF: Duration = Duration::from_millis(100);

/// A worker may have to do with errors, aborts and partitions for so many steps in a row.
const RESTLESS_MAX: u32 = 5;

/// What all processes have in common.
pub struct Surroundings {
    pub log: Arc<dyn Log>,
    pub registry: Arc<dyn Registry>,
    pub service: Arc<Service>,
    pub shared: Arc<Shared>,
}

pub struct Process {
    pub name: String,
    stores: PathBuf,
    slots: Vec<Slot>,
    random: StdRng,
    frozen: bool,
}

/// A worker's place in a process.
struct Slot {
    instance: String,
    /// Its settings stay the same from life to life.
    overlap: Overlap,
    records_max: i64,
    cache_bytes_max: usize,
    static_membership: bool,
    life: Option<Life>,
    failed_at: Option<Moment>,
}

struct Life {
    worker: Worker,
    fate: Arc<Fate>,
    status: Arc<WorkerStatus>,
    /// Where its last step has left it: its commits, and each task's records since. For how many steps it has wanted to go
    /// on from there at once.
    restless: ((u64, Vec<i64>), u32),
}

impl Life {
    fn step(&mut self, shared: &Shared) -> Result<(), ProcessError> {
        let wait = self.worker.step()?;
        let records = self.worker.tasks().iter().map(Task::uncommitted_records).collect();
        let place = (self.status.snapshot().commits, records);
        let steps = if wait == Duration::ZERO && place == self.restless.0 { self.restless.1 + 1 } else { 0 };
        if steps == RESTLESS_MAX {
            shared.violation(format!("a worker spins: for {steps} steps it has neither done anything nor waited"));
        }
        self.restless = (place, steps);
        Ok(())
    }
}

impl Process {
    pub fn new(number: usize, folder: &Path, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let name = format!("p{number}");
        let workers = random.random_range(1..3);
        let static_membership = random.random_bool(0.5);
        let slots = (0..workers).map(|worker| Slot {
            instance: format!("{name}-{worker}"),
            overlap: match random.random_range(0..3) {
                0 => Overlap::Off,
                1 => Overlap::Looks(1),
                _ => Overlap::Looks(random.random_range(2..20)),
            },
            records_max: random.random_range(1..60),
            cache_bytes_max: random.random_range(0..4_000),
            static_membership,
            life: None,
            failed_at: None,
        });
        let slots = slots.collect();
        Self { stores: folder.join(&name), name, slots, random, frozen: false }
    }

    pub fn stores(&self) -> &Path {
        &self.stores
    }

    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// Its workers that live, each with its fate.
    pub fn fates(&self) -> impl Iterator<Item = &Arc<Fate>> {
        self.slots.iter().filter_map(|slot| slot.life.as_ref()).map(|life| &life.fate)
    }

    /// Lets one of its workers, chosen at random, go once through its loop.
    ///
    /// Errors: an error after which the real one would stop for good.
    pub fn step(&mut self, surroundings: &Surroundings, calm: bool) -> Result<(), String> {
        if self.frozen {
            return Ok(());
        }
        let index = self.random.random_range(0..self.slots.len());
        let outcome = self.step_slot(index, surroundings, calm);
        if self.fates().any(|fate| fate.has_crashed()) {
            self.crash(&surroundings.shared);
            return Ok(());
        }
        let Err(error) = outcome else { return Ok(()) };
        let slot = &mut self.slots[index];
        if !worker::may_pass(&error) {
            return Err(format!("{} stops: {}", slot.instance, worker::chain(&error)));
        }
        // Two runs of a seed have different folders, which some errors name.
        let reason = worker::chain(&error).replace(&self.stores.display().to_string(), &self.name);
        surroundings.shared.trace.tell(format!("{} fails: {reason}", slot.instance));
        slot.life = None;
        slot.failed_at = Some(surroundings.shared.hand.clock().now());
        Ok(())
    }

    fn step_slot(&mut self, index: usize, surroundings: &Surroundings, calm: bool) -> Result<(), ProcessError> {
        let seed = self.random.random();
        let slot = &mut self.slots[index];
        if let Some(failed_at) = slot.failed_at
            && surroundings.shared.hand.clock().since(failed_at) < BACKOFF
        {
            return Ok(());
        }
        slot.failed_at = None;
        let life = match &mut slot.life {
            Some(life) => life,
            None => {
                let fate = Fate::new(&slot.instance, seed, &surroundings.shared);
                let options = slot.options(&self.stores, surroundings, &fate);
                let (worker, status) = (Worker::start(&options)?, options.status);
                slot.life.insert(Life { worker, fate, status, restless: Default::default() })
            }
        };
        if calm {
            life.fate.calm();
        }
        life.step(&surroundings.shared)
    }

    /// The tasks that its workers have.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.slots.iter().filter_map(|slot| slot.life.as_ref()).flat_map(|life| life.worker.tasks())
    }

    /// Writes what the stores of its workers hold in memory to files, as RocksDB does by itself now and then.
    pub fn flush(&self) -> Result<(), String> {
        self.tasks().try_for_each(|task| task.files().flush()).map_err(|error| error.to_string())
    }

    /// Dies, as by SIGKILL: the stores fall back to what is in files, and the log does not hear of it.
    pub fn crash(&mut self, shared: &Shared) {
        shared.trace.tell(format!("{} dies", self.name));
        self.fates().for_each(|fate| fate.crash());
        let left = self.stores.with_extension("left");
        std::fs::create_dir_all(&left).expect("the folder is ours");
        // SUBTLE: RocksDB writes everything to files when it is closed. So what a killed process leaves is copied before.
        for task in self.tasks() {
            let copied = task.files().copy_flushed(&left.join(task.partition().to_string()));
            copied.expect("a checkpoint of what is in files");
        }
        for slot in &mut self.slots {
            slot.life = None;
            slot.failed_at = None;
        }
        for task in std::fs::read_dir(&left).expect("it is a folder").filter_map(Result::ok) {
            let path = self.stores.join(task.file_name());
            std::fs::remove_dir_all(&path).expect("the folder is ours");
            std::fs::rename(task.path(), &path).expect("the folder is ours");
        }
        std::fs::remove_dir(&left).expect("it is empty");
        self.frozen = false;
    }

    /// Loses its disk. It must not be running.
    pub fn lose_disk(&mut self) {
        if self.stores.exists() {
            std::fs::remove_dir_all(&self.stores).expect("the folder is ours");
        }
    }

    /// Stops in good order: commits, closes its stores, leaves the group.
    pub fn stop(&mut self, shared: &Shared) {
        for slot in &mut self.slots {
            let Some(mut life) = slot.life.take() else { continue };
            let outcome = life.worker.stop();
            let outcome = outcome.map_or_else(|error| worker::chain(&error), |()| "well".to_owned());
            shared.trace.tell(format!("{} stops: {outcome}", slot.instance));
        }
        self.frozen = false;
    }
}

impl Slot {
    fn options(&self, stores: &Path, surroundings: &Surroundings, fate: &Arc<Fate>) -> WorkerOptions {
        WorkerOptions {
            service: Arc::clone(&surroundings.service),
            log: Arc::new(FaultyLog::new(Arc::clone(&surroundings.log), Arc::clone(fate))),
            registry: Arc::clone(&surroundings.registry),
            clock: surroundings.shared.hand.clock(),
            budget: Arc::new(Budget::new(1 << 20)),
            stores: stores.to_owned(),
            snapshots: None,
            standby: None,
            cache_bytes_max: self.cache_bytes_max,
            group: NAME.to_owned(),
            instance: self.instance.clone(),
            static_membership: self.static_membership,
            commit: CommitOptions {
                guarantee: Guarantee::ExactlyOnce,
                interval: Duration::from_millis(100),
                records_max: self.records_max,
                bytes_max: 4_000,
                overlap: self.overlap,
            },
            on_commit: None,
            stop: Arc::new(AtomicBool::new(false)),
            status: Arc::new(WorkerStatus::default()),
        }
    }
}
