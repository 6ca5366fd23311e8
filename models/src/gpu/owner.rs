//! The one thread that owns a device: takes requests from a bounded queue, cuts batches into chunks, keeps three of them under
//! way, and answers.
//!
//! INVARIANT: each request is answered once. Memory that the device may be using, of a model, a batch or a slot, is kept until
//! the device is done with it or is lost.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::Duration;

use arrow::array::Float32Array;

use super::accounts::Accounts;
use super::desk::Desk;
use super::driver::{Driver, STREAMS};
use super::image::Image;
use super::pinned::Pool;
use super::program::Program;
use super::slot::{Loaded, Slot};
use crate::clock::Clock;
use crate::device::{DeviceError, rows_of};

/// An answer.
pub type Reply<T> = SyncSender<Result<T, DeviceError>>;

/// What is asked of the device. Whoever asked may have gone when the answer comes.
pub enum Request {
    Load {
        program: Program,
        image: Image,
        reply: Reply<u64>,
    },
    Score {
        model: u64,
        columns: Vec<Float32Array>,
        reply: Reply<Vec<f64>>,
    },
    Unload {
        model: u64,
    },
    /// Something else, at once. It is told if the device is lost and cannot be started anew.
    Task(Task),
}

pub type Task = Box<dyn FnOnce(Result<&mut Desk<'_>, DeviceError>) -> Result<(), DeviceError> + Send>;

pub struct Owner {
    driver: Box<dyn Driver>,
    accounts: Arc<Accounts>,
    pool: Arc<Pool>,
    clock: Arc<dyn Clock>,
    slot_bytes: usize,
    timeout: Duration,
    models: HashMap<u64, Rc<Loaded>>,
    /// Unloaded, and perhaps in use.
    retired: Vec<Rc<Loaded>>,
    slots: Vec<Slot>,
    busy: Vec<usize>,
    jobs: HashMap<u64, Job>,
    /// Jobs with rows that no slot has had, in their order.
    waiting: VecDeque<u64>,
    next: u64,
    /// How often the device has been started anew.
    life: u64,
    /// Why the device is lost, if it is.
    lost: Option<DeviceError>,
}

struct Job {
    loaded: Rc<Loaded>,
    columns: Rc<[Float32Array]>,
    rows: usize,
    /// Of a chunk.
    rows_max: usize,
    started_rows: usize,
    done_rows: usize,
    margins: Vec<f64>,
    reply: Reply<Vec<f64>>,
}

/// Rows below which a batch is not cut just to have three chunks of it.
const CHUNK_MIN: usize = 8192;
/// Times that the device is asked whether it is done before the thread sleeps between.
const SPINS: u32 = 2000;
const SLEEP: Duration = Duration::from_micros(50);

impl Owner {
    /// Errors: the slots do not fit the memory.
    pub fn new(
        driver: Box<dyn Driver>,
        accounts: Arc<Accounts>,
        pool: Arc<Pool>,
        clock: Arc<dyn Clock>,
        (slot_bytes, timeout): (usize, Duration),
    ) -> Result<Self, DeviceError> {
        let mut owner = Self {
            driver,
            accounts,
            pool,
            clock,
            slot_bytes,
            timeout,
            models: HashMap::new(),
            retired: Vec::new(),
            slots: Vec::new(),
            busy: Vec::new(),
            jobs: HashMap::new(),
            waiting: VecDeque::new(),
            next: 0,
            life: 0,
            lost: None,
        };
        owner.make_slots()?;
        Ok(owner)
    }

    /// Until nobody can ask any more.
    pub fn run(mut self, requests: &Receiver<Request>) {
        let mut spins = 0;
        loop {
            let mut is_moving = self.collect();
            is_moving |= self.start_chunks();
            if self.busy.is_empty() && self.waiting.is_empty() {
                let Ok(request) = requests.recv() else { break };
                self.handle(request);
                continue;
            }
            if self.waiting.is_empty() {
                match requests.try_recv() {
                    Ok(request) => {
                        self.handle(request);
                        is_moving = true;
                    }
                    Err(TryRecvError::Disconnected) if self.jobs.is_empty() => break,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
                }
            }
            spins = if is_moving { 0 } else { spins + 1 };
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(SLEEP);
            }
        }
        self.end();
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Load { program, image, reply } => {
                let loaded = self.load(program, &image);
                let _ = reply.send(loaded);
            }
            Request::Score { model, columns, reply } => self.score(model, columns, reply),
            Request::Unload { model } => {
                self.retired.extend(self.models.remove(&model));
                self.free_retired();
            }
            Request::Task(task) => {
                let done = match self.revive() {
                    Ok(()) => task(Ok(&mut self.desk())),
                    Err(error) => task(Err(error)),
                };
                if let Err(error) = done {
                    self.note(&error);
                }
            }
        }
    }

    fn desk(&mut self) -> Desk<'_> {
        Desk {
            driver: self.driver.as_mut(),
            accounts: &self.accounts,
            pool: &self.pool,
            clock: self.clock.as_ref(),
            timeout: self.timeout,
            life: self.life,
        }
    }

    fn load(&mut self, program: Program, image: &Image) -> Result<u64, DeviceError> {
        self.revive()?;
        let mut desk = self.desk();
        let held = desk.allocate(image.bytes().len())?;
        if let Err(error) = desk.write(&held, 0, image.bytes()) {
            // SUBTLE: the device may be at it still: its memory is never freed, but with the device.
            self.note(&error);
            return Err(error);
        }
        self.next += 1;
        self.models.insert(self.next, Rc::new(Loaded { program, image: held }));
        Ok(self.next)
    }

    fn score(&mut self, model: u64, columns: Vec<Float32Array>, reply: Reply<Vec<f64>>) {
        let checked = match (&self.lost, self.models.get(&model)) {
            (Some(error), _) => Err(error.clone()),
            (None, None) => Err(DeviceError::Gone),
            (None, Some(loaded)) => rows_of(&columns, loaded.program.features()).map(|rows| (Rc::clone(loaded), rows)),
        };
        let (loaded, rows) = match checked {
            Ok((_, 0)) => {
                let _ = reply.send(Ok(Vec::new()));
                return;
            }
            Ok(checked) => checked,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let rows_max = loaded.program.rows_max(self.slot_bytes);
        if rows_max == 0 {
            let asked = loaded.program.arena(1).bytes;
            let _ = reply.send(Err(DeviceError::OutOfMemory { asked, free: self.slot_bytes }));
            return;
        }
        // At least three chunks of a large batch, so that copies and kernels overlap.
        let rows_max = rows_max.min(rows.div_ceil(STREAMS).next_multiple_of(256).max(CHUNK_MIN));
        let margins = vec![0.0; rows * loaded.program.outputs()];
        self.next += 1;
        self.waiting.push_back(self.next);
        let job =
            Job { loaded, columns: columns.into(), rows, rows_max, started_rows: 0, done_rows: 0, margins, reply };
        self.jobs.insert(self.next, job);
    }

    /// Starts chunks while there are free slots. Returns whether there was one to start.
    fn start_chunks(&mut self) -> bool {
        let mut is_moving = false;
        while let Some(id) = self.waiting.front().copied() {
            let Some(job) = self.jobs.get_mut(&id) else {
                self.waiting.pop_front();
                continue;
            };
            let Some(free) = self.slots.iter().position(|slot| slot.flight().is_none()) else { break };
            is_moving = true;
            let (first, rows) = (job.started_rows, (job.rows - job.started_rows).min(job.rows_max));
            job.started_rows += rows;
            if job.started_rows == job.rows {
                self.waiting.pop_front();
            }
            let what = (&job.loaded, &job.columns);
            let now = self.clock.now();
            let started = self.slots[free].start(self.driver.as_mut(), &self.pool, what, (id, first, rows), now);
            self.busy.push(free);
            if let Err(error) = started {
                self.note(&error);
                self.answer(id, Err(error));
            }
        }
        is_moving
    }

    /// Takes what is done, in whatever order. Returns whether anything was.
    fn collect(&mut self) -> bool {
        let busy = self.busy.len();
        for slot in std::mem::take(&mut self.busy) {
            let Some(flight) = self.slots[slot].flight() else { unreachable!("a busy slot has a flight") };
            let (id, started) = (flight.job, flight.started);
            match self.driver.is_done(slot) {
                Ok(true) => self.finish(slot, id),
                Ok(false) => {
                    self.busy.push(slot);
                    if self.clock.now().saturating_sub(started) > self.timeout {
                        self.answer(id, Err(timed_out(self.timeout)));
                    }
                }
                Err(error) => {
                    self.lose(error);
                    return true;
                }
            }
        }
        self.time_out_waiting();
        self.free_retired();
        self.busy.len() < busy
    }

    fn finish(&mut self, slot: usize, id: u64) {
        let job = self.jobs.get_mut(&id);
        // SAFETY: the slot's stream is done.
        let rows = unsafe { self.slots[slot].finish(job.map(|job| job.margins.as_mut_slice())) };
        if let Some(job) = self.jobs.get_mut(&id) {
            job.done_rows += rows;
            if job.done_rows == job.rows {
                let margins = std::mem::take(&mut job.margins);
                self.answer(id, Ok(margins));
            }
        }
    }

    /// A device that hangs has no slot for those who wait either.
    fn time_out_waiting(&mut self) {
        let now = self.clock.now();
        let hangs = |slot: &Slot| slot.flight().is_some_and(|flight| now.saturating_sub(flight.started) > self.timeout);
        if self.slots.iter().all(hangs) {
            for id in std::mem::take(&mut self.waiting) {
                self.answer(id, Err(timed_out(self.timeout)));
            }
        }
    }

    fn answer(&mut self, id: u64, answer: Result<Vec<f64>, DeviceError>) {
        if let Some(job) = self.jobs.remove(&id) {
            self.waiting.retain(|waiting| *waiting != id);
            let _ = job.reply.send(answer);
        }
    }

    /// Remembers an error after which nothing succeeds.
    fn note(&mut self, error: &DeviceError) {
        if matches!(error, DeviceError::Sticky(_)) {
            self.lose(error.clone());
        }
    }

    fn lose(&mut self, error: DeviceError) {
        for id in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.answer(id, Err(error.clone()));
        }
        self.busy.clear();
        self.lost = Some(error);
    }

    /// Starts a lost device anew, without models.
    fn revive(&mut self) -> Result<(), DeviceError> {
        if self.lost.is_none() {
            return Ok(());
        }
        self.driver.revive()?;
        // Nothing is under way any more, and all memory of the device is gone.
        self.accounts.forget();
        self.life += 1;
        self.models.clear();
        self.retired.clear();
        self.slots.clear();
        self.make_slots()?;
        self.lost = None;
        Ok(())
    }

    fn make_slots(&mut self) -> Result<(), DeviceError> {
        for stream in 0..STREAMS {
            let slot = Slot::new(stream, self.driver.as_mut(), &self.accounts, &self.pool, self.slot_bytes)?;
            self.slots.push(slot);
        }
        Ok(())
    }

    fn free_retired(&mut self) {
        if self.lost.is_some() {
            return;
        }
        for loaded in std::mem::take(&mut self.retired) {
            match Rc::try_unwrap(loaded) {
                // SAFETY: no flight and no job has it.
                Ok(loaded) => unsafe { self.desk().free(loaded.image) },
                Err(loaded) => self.retired.push(loaded),
            }
        }
    }

    fn end(mut self) {
        let is_idle = self.busy.is_empty() && self.lost.is_none();
        self.retired.extend(self.models.drain().map(|(_, loaded)| loaded));
        if is_idle {
            self.free_retired();
            for slot in self.slots.drain(..) {
                // SAFETY: no slot is busy.
                unsafe { self.accounts.free(self.driver.as_mut(), slot.into_memory()) };
            }
        } else {
            // SUBTLE: the device may be copying from and to the host's memory for as long as the process lives.
            std::mem::forget(self);
        }
    }
}

fn timed_out(after: Duration) -> DeviceError {
    DeviceError::Timeout { after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX) }
}
