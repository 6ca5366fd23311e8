//! Detectors that keep a state for each series in the device's memory: see `models/kernels/series.cuh`.

use std::sync::Arc;

use super::abi::{SeriesArgs, THREADS, WINDOW_MAX};
use super::desk::{Desk, Held};
use super::device::{Asker, GpuDevice};
use super::driver::Launch;

use crate::device::DeviceError;
use crate::series::Parameters;

/// What is expected of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The median of the window, in median absolute deviations.
    RobustZ,
    /// The exponentially weighted mean.
    WeightedMean,
    /// Holt and Winters' forecast.
    HoltWinters,
}

/// States of series on a device, by slots.
pub struct States {
    asker: Asker,
    /// None only while it is dropped.
    parts: Option<Arc<Parts>>,
    method: Method,
    parameters: Parameters,
    slots: usize,
}

struct Parts {
    state: Held,
    counts: Held,
}

/// A batch: values sorted by series, each series' in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    pub values: Vec<f32>,
    /// Where each series' values start, and where the last's end.
    pub starts: Vec<u32>,
    /// Each series' slot; no two are the same.
    pub slots: Vec<u32>,
}

impl Method {
    fn kernel(self) -> &'static str {
        match self {
            Self::RobustZ => "series_robust_z",
            Self::WeightedMean => "series_weighted_mean",
            Self::HoltWinters => "series_holt_winters",
        }
    }

    /// Of a slot.
    fn state_bytes(self, window: usize) -> usize {
        match self {
            Self::RobustZ => 8 * window,
            Self::WeightedMean => 16,
            Self::HoltWinters => 8 * (3 + window),
        }
    }
}

impl States {
    /// Empty states. Errors: the window is beyond bounds, or they do not fit the device.
    pub fn new(device: &GpuDevice, method: Method, parameters: Parameters, slots: usize) -> Result<Self, DeviceError> {
        if !(1..=WINDOW_MAX).contains(&parameters.window) || parameters.warm_up > WINDOW_MAX || slots == 0 {
            return Err(DeviceError::Unsupported(format!("{slots} states of {parameters:?}")));
        }
        let asker = device.asker();
        let sizes = [slots * method.state_bytes(parameters.window), slots * 4];
        let parts = asker.run(move |desk| make(desk, sizes))?;
        Ok(Self { asker, parts: Some(Arc::new(parts)), method, parameters, slots })
    }

    /// Scores a batch and changes the states. Errors: the batch is not as it must be, and nothing has changed; or the device
    /// failed, and the states are lost.
    pub fn score(&mut self, batch: Batch) -> Result<Vec<f64>, DeviceError> {
        let Some(parts) = &self.parts else { unreachable!("only dropping takes it") };
        batch.check(self.slots)?;
        if batch.values.is_empty() {
            return Ok(Vec::new());
        }
        let (parts, method, parameters) = (Arc::clone(parts), self.method, self.parameters);
        self.asker.run(move |desk| run(desk, &parts, method, &parameters, &batch))
    }
}

impl Drop for States {
    fn drop(&mut self) {
        // A task that timed out has a share of it, and keeps the memory for ever.
        if let Some(parts) = self.parts.take().and_then(Arc::into_inner) {
            self.asker.free(vec![parts.state, parts.counts]);
        }
    }
}

impl Batch {
    fn check(&self, slots: usize) -> Result<(), DeviceError> {
        let mut is_taken = vec![false; slots];
        let is_free =
            |slot: &u32| is_taken.get_mut(*slot as usize).is_some_and(|taken| !std::mem::replace(taken, true));
        let is_sound = self.starts.len() == self.slots.len() + 1
            && self.starts.first() == Some(&0)
            && self.starts.last().is_some_and(|end| *end as usize == self.values.len())
            && self.starts.is_sorted()
            && self.slots.iter().all(is_free);
        if is_sound { Ok(()) } else { Err(DeviceError::Unsupported("the batch is not sorted by series".to_owned())) }
    }
}

fn make(desk: &mut Desk<'_>, [state, counts]: [usize; 2]) -> Result<Parts, DeviceError> {
    let zeros = vec![0; state.max(counts)];
    let state_part = desk.allocate(state)?;
    let counts_part = match desk.allocate(counts) {
        Ok(held) => held,
        Err(error) => {
            // SAFETY: nothing was begun with it.
            unsafe { desk.free(state_part) };
            return Err(error);
        }
    };
    desk.write(&state_part, 0, &zeros[..state])?;
    desk.write(&counts_part, 0, &zeros[..counts])?;
    Ok(Parts { state: state_part, counts: counts_part })
}

fn run(
    desk: &mut Desk<'_>,
    parts: &Parts,
    method: Method,
    parameters: &Parameters,
    batch: &Batch,
) -> Result<Vec<f64>, DeviceError> {
    desk.check(&parts.state)?;
    let (values, series) = (batch.values.len(), batch.slots.len());
    // Scores, values, starts, slots.
    let [at_values, at_starts, at_slots] = [values * 8, values * 12, values * 12 + (series + 1) * 4];
    let scratch = desk.allocate(at_slots + series * 4)?;
    let mut input: Vec<u8> = batch.values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    input.extend(batch.starts.iter().chain(&batch.slots).flat_map(|number| number.to_ne_bytes()));
    desk.write(&scratch, at_values, &input)?;
    let at = |part: usize| scratch.address() + part as u64;
    let args = SeriesArgs {
        values: at(at_values),
        starts: at(at_starts),
        slots: at(at_slots),
        scores: at(0),
        state: parts.state.address(),
        counts: parts.counts.address(),
        series: series as u32,
        window: parameters.window as u32,
        warm_up: parameters.warm_up as u32,
        unused: 0,
        alpha: parameters.alpha,
        beta: parameters.beta,
        gamma: parameters.gamma,
        deviation_min: parameters.deviation_min,
    };
    let grid = (series.div_ceil(THREADS as usize) as u32, 1);
    let launch = Launch { kernel: method.kernel(), grid, threads: THREADS, shared: 0 };
    // SAFETY: the batch was checked: its slots have states, and its starts values.
    unsafe { desk.launch(&launch, &args) }?;
    let mut scores = vec![0; values * 8];
    desk.read(&scratch, &mut scores)?;
    // SAFETY: the stream is done.
    unsafe { desk.free(scratch) };
    Ok(scores.chunks_exact(8).map(|score| f64::from_ne_bytes(score.try_into().expect("8 bytes"))).collect())
}
