//! A GPU as a `Device`: what others have of the thread that owns it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::Float32Array;

use super::accounts::Accounts;
use super::desk::{Desk, Held};
use super::driver::Driver;
use super::owner::{Owner, Request, Task};
use super::pinned::{Pin, Pool};
use super::program::Program;
use crate::clock::Clock;
use crate::device::{Device, DeviceError, Memory, Scorer};
use crate::model::Model;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of the device's memory that models and slots may have together; none for nine tenths of what it has.
    pub memory_limit: Option<usize>,
    /// Bytes of a slot, on the device and as pinned memory of the host. There are three.
    pub slot_bytes: usize,
    /// Bytes of pinned memory that are kept for later arrays.
    pub pool_bytes: usize,
    /// Requests that wait.
    pub queue: usize,
    /// How long a chunk of a batch, or the loading of a model, may take.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory_limit: None,
            slot_bytes: 32 << 20,
            pool_bytes: 256 << 20,
            queue: 16,
            timeout: Duration::from_secs(5),
        }
    }
}

/// A device, and its thread.
pub struct GpuDevice {
    name: String,
    accounts: Arc<Accounts>,
    pool: Arc<Pool>,
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
    settings: Settings,
}

struct GpuScorer {
    model: u64,
    requests: SyncSender<Request>,
    timeout: Duration,
}

/// What the thread says when it has the device.
struct Opened {
    name: String,
    accounts: Arc<Accounts>,
    pool: Arc<Pool>,
}

/// A driver, and what registers memory with it.
pub type Opener = Box<dyn FnOnce() -> Result<(Box<dyn Driver>, Box<dyn Pin>), DeviceError> + Send>;

impl GpuDevice {
    /// Starts the thread, which opens the device. Errors: there is none, or its memory is too small.
    pub fn start(settings: Settings, clock: Arc<dyn Clock>, open: Opener) -> Result<Self, DeviceError> {
        let (requests, receiver) = sync_channel(settings.queue);
        let (opened_to, opened) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("gpu".to_owned())
            .spawn(move || own(settings, clock, open, &opened_to, &receiver))
            .map_err(|error| DeviceError::Absent(format!("its thread could not be started: {error}")))?;
        let opened: Result<Opened, DeviceError> =
            opened.recv().unwrap_or_else(|_| Err(DeviceError::Absent("its thread ended".to_owned())));
        let Opened { name, accounts, pool } = opened?;
        Ok(Self { name, accounts, pool, requests: Some(requests), thread: Some(thread), settings })
    }

    /// Memory that the device copies from directly: arrays that are built in it are not copied before.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// A way to ask the device for what is not a model's.
    pub(super) fn asker(&self) -> Asker {
        let Some(requests) = &self.requests else { unreachable!("only dropping takes it") };
        Asker { requests: requests.clone(), timeout: self.settings.timeout }
    }
}

/// Has tasks done by the device's thread.
pub(super) struct Asker {
    requests: SyncSender<Request>,
    timeout: Duration,
}

impl Asker {
    /// Has it done, and waits.
    pub(super) fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Desk<'_>) -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<T, DeviceError> {
        ask(&self.requests, self.timeout, |reply| {
            Request::Task(Box::new(move |desk| {
                let done = desk.and_then(task);
                let told = done.as_ref().map(|_| ()).map_err(DeviceError::clone);
                let _ = reply.send(done);
                told
            }))
        })
    }

    /// Has memory freed that no task uses.
    pub(super) fn free(&self, all: Vec<Held>) {
        let task: Task = Box::new(move |desk| {
            if let Ok(desk) = desk {
                // SAFETY: tasks are done from end to end, or their memory is kept for ever.
                all.into_iter().for_each(|held| unsafe { desk.free(held) });
            }
            Ok(())
        });
        let _ = send(&self.requests, self.timeout, Request::Task(task));
    }
}

/// The thread.
fn own(
    settings: Settings,
    clock: Arc<dyn Clock>,
    open: Opener,
    opened_to: &SyncSender<Result<Opened, DeviceError>>,
    requests: &Receiver<Request>,
) {
    let opened = open().and_then(|(driver, pin)| {
        let name = driver.name();
        let limit = settings.memory_limit.unwrap_or(driver.memory_total() / 10 * 9);
        let accounts = Arc::new(Accounts::new(limit));
        let pool = Pool::new(pin, settings.pool_bytes);
        let limits = (settings.slot_bytes, settings.timeout);
        let owner = Owner::new(driver, Arc::clone(&accounts), Arc::clone(&pool), clock, limits)?;
        Ok((owner, Opened { name, accounts, pool }))
    });
    match opened {
        Ok((owner, opened)) => {
            if opened_to.send(Ok(opened)).is_ok() {
                owner.run(requests);
            }
        }
        Err(error) => {
            let _ = opened_to.send(Err(error));
        }
    }
}

impl Device for GpuDevice {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn memory(&self) -> Memory {
        self.accounts.memory()
    }

    fn pinned(&self) -> Option<&Arc<Pool>> {
        Some(&self.pool)
    }

    fn load(&self, model: &Model) -> Result<Box<dyn Scorer>, DeviceError> {
        let Some(requests) = &self.requests else { unreachable!("only dropping takes it") };
        let mut program = Program::new(model)?;
        let image = program.take_image();
        let timeout = self.settings.timeout;
        let model = ask(requests, timeout, |reply| Request::Load { program, image, reply })?;
        Ok(Box::new(GpuScorer { model, requests: requests.clone(), timeout }))
    }
}

impl Scorer for GpuScorer {
    fn score(&mut self, columns: &[Float32Array]) -> Result<Vec<f64>, DeviceError> {
        let (model, columns) = (self.model, columns.to_vec());
        ask(&self.requests, self.timeout, |reply| Request::Score { model, columns, reply })
    }
}

impl Drop for GpuScorer {
    fn drop(&mut self) {
        // If the queue stays full the device hangs, and its memory is lost with it.
        let _ = send(&self.requests, self.timeout, Request::Unload { model: self.model });
    }
}

impl Drop for GpuDevice {
    fn drop(&mut self) {
        // Scorers may live on, and the thread with them; otherwise it ends now. It is waited for a little, since a driver that is
        // closed while the process ends may crash it.
        self.requests = None;
        let Some(thread) = self.thread.take() else { return };
        for _ in 0..ENDING_MS_MAX {
            if thread.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// How long a device that is dropped is waited for.
const ENDING_MS_MAX: u32 = 200;

/// Asks and waits. The thread itself may hang within the driver, so whoever waits has a limit of their own: each of the queue's
/// requests, and this one, may take the timeout, but a device that gives no sign for twice as long is taken for hanging.
fn ask<T>(
    requests: &SyncSender<Request>,
    timeout: Duration,
    request: impl FnOnce(super::owner::Reply<T>) -> Request,
) -> Result<T, DeviceError> {
    let (reply, answer) = sync_channel(1);
    send(requests, timeout, request(reply))?;
    answer.recv_timeout(timeout * 2).unwrap_or_else(|error| {
        Err(match error {
            RecvTimeoutError::Timeout => timed_out(timeout * 2),
            RecvTimeoutError::Disconnected => DeviceError::Sticky("its thread ended".to_owned()),
        })
    })
}

/// Waits for room in the queue.
fn send(requests: &SyncSender<Request>, timeout: Duration, mut request: Request) -> Result<(), DeviceError> {
    let started = Instant::now();
    loop {
        match requests.try_send(request) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Disconnected(_)) => return Err(DeviceError::Sticky("its thread ended".to_owned())),
            Err(TrySendError::Full(_)) if started.elapsed() > timeout => return Err(timed_out(timeout)),
            Err(TrySendError::Full(full)) => request = full,
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn timed_out(after: Duration) -> DeviceError {
    DeviceError::Timeout { after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX) }
}
