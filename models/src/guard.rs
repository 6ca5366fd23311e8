//! A model in service: each batch is scored once, by the device that is faster for it, and by the CPU where that one fails.
//!
//! ```text
//! batch -> breaker open? -> the CPU
//!       -> half open: golden batch on a newly loaded model -> as the reference has it, bit for bit? closes : opens
//!       -> chooser: the CPU or the GPU -> the GPU failed? the same batch on the CPU; told to the breaker
//! ```
//!
//! INVARIANT: a batch has one result, and it is the reference's, whatever fails: the batch is kept until margins are there, and
//! nothing of a failed attempt is given out.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::Float32Array;

use crate::breaker::{self, Breaker, Gravity, Permit};
use crate::chooser::{self, Chooser, Curve, Place};
use crate::clock::Clock;
use crate::device::{Device, DeviceError, Scorer, is_same};
use crate::golden::{self, Golden};
use crate::gpu::pinned::Pool;
use crate::model::Model;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub breaker: breaker::Settings,
    pub chooser: chooser::Settings,
    /// Every so many of the GPU's batches one is scored by the CPU as well and compared; 0 for none.
    pub check_every: u64,
    /// Rows of the batches that are measured.
    pub measured_rows: &'static [usize],
    /// A size that takes longer ends the measurement of its device.
    pub measured_max: Duration,
}

/// Values of a measured batch: wide models are measured with fewer rows.
const MEASURED_VALUES_MAX: usize = 1 << 22;

impl Default for Settings {
    fn default() -> Self {
        Self {
            breaker: breaker::Settings::default(),
            chooser: chooser::Settings::default(),
            check_every: 1024,
            measured_rows: &[1, 64, 1024, 8192, 65_536],
            measured_max: Duration::from_millis(200),
        }
    }
}

/// A batch's margins, and how they came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Row by row.
    pub margins: Vec<f64>,
    pub place: Place,
    /// Why the GPU's attempt at this batch came to nothing, if it made one.
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Device(DeviceError),
    /// Its margins were not the CPU's.
    Wrong,
}

pub struct Guard {
    model: Model,
    cpu: Box<dyn Scorer>,
    gpu: Option<Gpu>,
    golden: Golden,
    chooser: Chooser,
    breaker: Breaker,
    clock: Arc<dyn Clock>,
    settings: Settings,
}

struct Gpu {
    device: Arc<dyn Device>,
    /// None after it was lost or refused, until a probe loads it anew.
    scorer: Option<Box<dyn Scorer>>,
    batches: u64,
    /// The last.
    failure: Option<Failure>,
    /// Whether it refused the model for good.
    is_unsuited: bool,
}

impl Guard {
    /// Loads the model on both devices and measures them. A GPU that cannot have it is tried again later, as after any failure.
    /// Errors: the CPU cannot have it.
    pub fn new(
        model: Model,
        cpu: &dyn Device,
        gpu: Option<Arc<dyn Device>>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Result<Self, DeviceError> {
        let mut guard = Self {
            cpu: cpu.load(&model)?,
            gpu: gpu.map(|device| Gpu { device, scorer: None, batches: 0, failure: None, is_unsuited: false }),
            golden: Golden::new(&model)?,
            chooser: Chooser::new(settings.chooser, Curve::default(), Curve::default()),
            breaker: Breaker::new(settings.breaker),
            model,
            clock,
            settings,
        };
        if guard.gpu.is_some() {
            guard.probe();
            guard.measure();
        }
        Ok(guard)
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn breaker(&self) -> breaker::State {
        self.breaker.state()
    }

    /// The GPU's last failure, of a batch or a probe.
    pub fn failure(&self) -> Option<&Failure> {
        self.gpu.as_ref()?.failure.as_ref()
    }

    /// Memory in which columns are best built: see `Device::pinned`.
    pub fn pinned(&self) -> Option<&Arc<Pool>> {
        self.gpu.as_ref()?.device.pinned()
    }

    /// Scores a batch. Errors: the batch does not fit the model.
    pub fn score(&mut self, columns: &[Float32Array]) -> Result<Scored, DeviceError> {
        let rows = columns.first().map_or(0, Float32Array::len);
        if self.is_gpu_next(rows) {
            return self.score_by_gpu(columns, rows);
        }
        let started = self.clock.now();
        let margins = self.cpu.score(columns)?;
        self.chooser.observe(Place::Cpu, rows, self.clock.now().saturating_sub(started));
        Ok(Scored { margins, place: Place::Cpu, failure: None })
    }

    fn is_gpu_next(&mut self, rows: usize) -> bool {
        if self.gpu.as_ref().is_none_or(|gpu| gpu.is_unsuited) {
            return false;
        }
        match self.breaker.permit(self.clock.now()) {
            Permit::Use => self.chooser.choose(rows) == Place::Gpu,
            Permit::Refuse => false,
            Permit::Probe => {
                self.probe();
                if matches!(self.breaker.state(), breaker::State::Closed { .. }) && self.chooser.is_gpu_unmeasured() {
                    self.measure();
                }
                false
            }
        }
    }

    fn score_by_gpu(&mut self, columns: &[Float32Array], rows: usize) -> Result<Scored, DeviceError> {
        let Some(gpu) = &mut self.gpu else { unreachable!("the GPU was chosen") };
        let Some(scorer) = &mut gpu.scorer else { unreachable!("a closed breaker has a scorer") };
        gpu.batches += 1;
        let is_checked = self.settings.check_every != 0 && gpu.batches.is_multiple_of(self.settings.check_every);
        let started = self.clock.now();
        let scored = scorer.score(columns);
        let ended = self.clock.now();
        let failure = match scored {
            Ok(margins) => {
                self.chooser.observe(Place::Gpu, rows, ended.saturating_sub(started));
                let expected = if is_checked { Some(self.cpu.score(columns)?) } else { None };
                match expected {
                    Some(expected) if !is_same(&margins, &expected) => {
                        self.failed(Failure::Wrong);
                        return Ok(Scored { margins: expected, place: Place::Cpu, failure: Some(Failure::Wrong) });
                    }
                    _ => {
                        self.breaker.succeeded();
                        return Ok(Scored { margins, place: Place::Gpu, failure: None });
                    }
                }
            }
            Err(error) => Failure::Device(error),
        };
        self.failed(failure.clone());
        Ok(Scored { margins: self.cpu.score(columns)?, place: Place::Cpu, failure: Some(failure) })
    }

    /// Tells the breaker, and lets go of the model if no batch will go there.
    fn failed(&mut self, failure: Failure) {
        if let Some(gravity) = gravity(&failure) {
            self.breaker.failed(gravity, self.clock.now());
        }
        if let Some(gpu) = &mut self.gpu {
            if !matches!(self.breaker.state(), breaker::State::Closed { .. }) {
                gpu.scorer = None;
            }
            gpu.failure = Some(failure);
        }
    }

    /// Loads the model anew and compares its margins of the golden batch. A device that is wrong is as bad as one that is lost;
    /// one that cannot run the model will never be able to.
    fn probe(&mut self) {
        let Some(gpu) = &mut self.gpu else { return };
        gpu.scorer = None;
        let loaded = gpu.device.load(&self.model).and_then(|mut scorer| {
            let is_passed = self.golden.is_passed(scorer.as_mut())?;
            Ok(is_passed.then_some(scorer))
        });
        match loaded {
            Ok(Some(scorer)) => {
                gpu.scorer = Some(scorer);
                self.breaker.succeeded();
            }
            Ok(None) => self.fail_probe(Failure::Wrong),
            Err(error) => {
                gpu.is_unsuited = matches!(error, DeviceError::Unsupported(_));
                self.fail_probe(Failure::Device(error));
            }
        }
    }

    /// One failure is enough: there is no scorer now.
    fn fail_probe(&mut self, failure: Failure) {
        self.breaker.failed(Gravity::Grave, self.clock.now());
        self.failed(failure);
    }

    /// Times of batches of several sizes. Of each, the second of two: the first pays for what is done once.
    fn measure(&mut self) {
        let mut cpu = Vec::new();
        let mut gpu = Vec::new();
        let rows_max = (MEASURED_VALUES_MAX / self.model.features().max(1)).max(1);
        for rows in self.settings.measured_rows.iter().map(|rows| (*rows).min(rows_max)) {
            let batch = golden::batch(&self.model, rows);
            let Some(scorer) = self.gpu.as_mut().and_then(|gpu| gpu.scorer.as_mut()) else { break };
            match time(scorer.as_mut(), &batch, self.clock.as_ref()) {
                Ok(time) => gpu.push((rows, time)),
                // One point tells nothing of larger batches, for which a GPU is there: it is measured after the next probe.
                Err(error) if gpu.len() < 2 => {
                    gpu.clear();
                    self.fail_probe(Failure::Device(error));
                    break;
                }
                Err(error) => {
                    self.failed(Failure::Device(error));
                    break;
                }
            }
            // A CPU that has become too slow is not asked for more: its last line goes on.
            if cpu.last().is_none_or(|(_, time)| *time < self.settings.measured_max) {
                match time(self.cpu.as_mut(), &batch, self.clock.as_ref()) {
                    Ok(time) => cpu.push((rows, time)),
                    Err(_) => break,
                }
            }
            if gpu.last().is_some_and(|(_, time)| *time > self.settings.measured_max) {
                break;
            }
        }
        self.chooser = Chooser::new(self.settings.chooser, Curve::new(&cpu), Curve::new(&gpu));
    }
}

fn time(scorer: &mut dyn Scorer, batch: &[Float32Array], clock: &dyn Clock) -> Result<Duration, DeviceError> {
    scorer.score(batch)?;
    let started = clock.now();
    scorer.score(batch)?;
    Ok(clock.now().saturating_sub(started))
}

/// None if nothing is wrong with the device.
fn gravity(failure: &Failure) -> Option<Gravity> {
    match failure {
        Failure::Device(DeviceError::OutOfMemory { .. } | DeviceError::Timeout { .. }) => Some(Gravity::Passing),
        Failure::Device(DeviceError::Unsupported(_)) => None,
        Failure::Device(DeviceError::Sticky(_) | DeviceError::Gone | DeviceError::Absent(_)) | Failure::Wrong => {
            Some(Gravity::Grave)
        }
    }
}
