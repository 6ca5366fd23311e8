//! A model in service on a device that fails on command: whatever fails, each batch has one result, the reference's.

use crate::random;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::Float32Array;
use engram_models::breaker::State;
use engram_models::chooser::Place;
use engram_models::clock::{Clock as _, Manual};
use engram_models::device::{Device, DeviceError, Memory, PlainDevice, Scorer, is_same};
use engram_models::guard::{Failure, Guard, Settings};
use engram_models::{Kind, Model};
use proptest::prelude::*;

/// What a call of the device does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Succeed,
    OutOfMemory,
    Timeout,
    Sticky,
    /// One margin is another by its last bit.
    Wrong,
}

/// The reference, as fast as said, that fails as said. Without a script it succeeds.
struct Fake {
    script: Arc<Mutex<VecDeque<Act>>>,
    clock: Arc<Manual>,
    call: Duration,
    calls: Arc<Mutex<Vec<Act>>>,
}

struct FakeScorer {
    inner: Box<dyn Scorer>,
    script: Arc<Mutex<VecDeque<Act>>>,
    clock: Arc<Manual>,
    call: Duration,
    calls: Arc<Mutex<Vec<Act>>>,
    /// After a sticky error nothing succeeds.
    is_lost: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fake {
    fn new(clock: &Arc<Manual>, call: Duration) -> Self {
        Self { script: Arc::default(), clock: Arc::clone(clock), call, calls: Arc::default() }
    }

    fn plan(&self, acts: impl IntoIterator<Item = Act>) {
        lock(&self.script).extend(acts);
    }

    fn calls(&self) -> usize {
        lock(&self.calls).len()
    }
}

impl Device for Fake {
    fn name(&self) -> String {
        "fake".to_owned()
    }

    fn memory(&self) -> Memory {
        Memory { limit: 0, used: 0 }
    }

    fn load(&self, model: &Model) -> Result<Box<dyn Scorer>, DeviceError> {
        Ok(Box::new(FakeScorer {
            inner: PlainDevice.load(model)?,
            script: Arc::clone(&self.script),
            clock: Arc::clone(&self.clock),
            call: self.call,
            calls: Arc::clone(&self.calls),
            is_lost: false,
        }))
    }
}

impl Scorer for FakeScorer {
    fn score(&mut self, columns: &[Float32Array]) -> Result<Vec<f64>, DeviceError> {
        let act = lock(&self.script).pop_front().unwrap_or(Act::Succeed);
        lock(&self.calls).push(act);
        self.clock.advance(self.call);
        self.is_lost |= act == Act::Sticky;
        if self.is_lost {
            return Err(DeviceError::Sticky("an illegal address".to_owned()));
        }
        match act {
            Act::OutOfMemory => Err(DeviceError::OutOfMemory { asked: 2, free: 1 }),
            Act::Timeout => Err(DeviceError::Timeout { after_ms: 1 }),
            _ => {
                let mut margins = self.inner.score(columns)?;
                if act == Act::Wrong
                    && let Some(margin) = margins.first_mut()
                {
                    *margin = if margin.is_nan() { 0.0 } else { f64::from_bits(margin.to_bits() ^ 1) };
                }
                Ok(margins)
            }
        }
    }
}

fn model(seed: u64) -> Model {
    let shape = random::Shape { features: 3, outputs: 2, trees: 4, depth: 3, is_numeric: false, is_double: true };
    random::model(Kind::Forest(random::forest(shape, seed)), seed)
}

fn batch(rows: usize, seed: u64) -> Vec<Float32Array> {
    random::columns(3, rows, seed).into_iter().map(Float32Array::from).collect()
}

fn settings(check_every: u64) -> Settings {
    let mut settings = Settings { check_every, measured_rows: &[1, 100], ..Settings::default() };
    settings.chooser.explore_every = 0;
    settings
}

/// A guard with a slow CPU and a fast fake.
fn guard(check_every: u64, planned: &[Act]) -> (Guard, Arc<Fake>, Arc<Manual>) {
    let clock = Arc::new(Manual::default());
    let cpu = Fake::new(&clock, Duration::from_millis(10));
    let gpu = Arc::new(Fake::new(&clock, Duration::from_millis(1)));
    gpu.plan(planned.iter().copied());
    let device: Arc<dyn Device> = Arc::clone(&gpu) as Arc<dyn Device>;
    let injected = Arc::clone(&clock) as Arc<dyn engram_models::clock::Clock>;
    let guard = Guard::new(model(1), &cpu, Some(device), injected, settings(check_every)).expect("the CPU has it");
    (guard, gpu, clock)
}

#[track_caller]
fn score(guard: &mut Guard, rows: usize) -> (Place, Option<Failure>) {
    let batch = batch(rows, 7);
    let scored = guard.score(&batch).expect("the batch fits");
    let expected = PlainDevice.load(guard.model()).expect("loads").score(&batch).expect("scores");
    assert!(is_same(&scored.margins, &expected), "margins of {:?} are not the reference's", scored.place);
    (scored.place, scored.failure)
}

#[test]
fn a_failed_batch_is_scored_by_the_cpu_and_the_breaker_opens_after_three() {
    let (mut guard, gpu, clock) = guard(0, &[]);
    assert_eq!(score(&mut guard, 50), (Place::Gpu, None));
    for failures in 1..=3 {
        gpu.plan([[Act::OutOfMemory, Act::Timeout][failures % 2]]);
        let (place, failure) = score(&mut guard, 50);
        assert_eq!(place, Place::Cpu);
        assert!(matches!(failure, Some(Failure::Device(_))));
    }
    assert!(matches!(guard.breaker(), State::Open { .. }));
    let calls = gpu.calls();
    assert_eq!(score(&mut guard, 50), (Place::Cpu, None));
    assert_eq!(gpu.calls(), calls, "an open breaker asks nothing of the device");
    clock.advance(Duration::from_secs(60));
    assert_eq!(score(&mut guard, 50), (Place::Cpu, None), "the batch that comes upon the probe goes to the CPU");
    assert_eq!(gpu.calls(), calls + 1, "the probe");
    assert_eq!(score(&mut guard, 50), (Place::Gpu, None));
}

#[test]
fn a_lost_device_is_left_at_once_and_loaded_anew() {
    let (mut guard, gpu, clock) = guard(0, &[]);
    gpu.plan([Act::Sticky]);
    assert_eq!(score(&mut guard, 50).0, Place::Cpu);
    assert!(matches!(guard.breaker(), State::Open { .. }));
    clock.advance(Duration::from_secs(61));
    score(&mut guard, 50);
    assert_eq!(score(&mut guard, 50), (Place::Gpu, None));
}

#[test]
fn a_probe_that_gives_other_margins_keeps_it_open() {
    // The first is the golden batch of the loading.
    let (mut guard, gpu, clock) = guard(0, &[Act::Wrong]);
    assert_eq!(guard.failure(), Some(&Failure::Wrong));
    assert_eq!(score(&mut guard, 50), (Place::Cpu, None));
    gpu.plan([Act::Wrong]);
    clock.advance(Duration::from_secs(61));
    score(&mut guard, 50);
    clock.advance(Duration::from_secs(59));
    let calls = gpu.calls();
    score(&mut guard, 50);
    assert_eq!(gpu.calls(), calls, "open for as long again");
    clock.advance(Duration::from_secs(1));
    score(&mut guard, 50);
    assert_eq!(score(&mut guard, 50), (Place::Gpu, None), "measured after the first probe that succeeded");
}

#[test]
fn a_device_that_fails_while_it_is_measured_is_measured_again() {
    // The golden batch, twice the first size, then the second: one point would be a line through zero.
    let (mut guard, _, clock) = guard(0, &[Act::Succeed, Act::Succeed, Act::Succeed, Act::OutOfMemory]);
    assert_eq!(score(&mut guard, 50), (Place::Cpu, None));
    clock.advance(Duration::from_secs(61));
    score(&mut guard, 50);
    assert_eq!(score(&mut guard, 50), (Place::Gpu, None));
}

#[test]
fn a_checked_batch_that_is_wrong_is_not_given_out() {
    let (mut guard, gpu, _) = guard(1, &[]);
    gpu.plan([Act::Wrong]);
    assert_eq!(score(&mut guard, 50), (Place::Cpu, Some(Failure::Wrong)));
    assert!(matches!(guard.breaker(), State::Open { .. }));
}

#[test]
fn a_batch_that_does_not_fit_is_no_failure_of_the_device() {
    let (mut guard, _, clock) = guard(0, &[]);
    for _ in 0..5 {
        assert!(matches!(guard.score(&batch(5, 1)[..2]), Err(DeviceError::Unsupported(_))));
    }
    assert_eq!(guard.breaker(), State::Closed { failures: 0 });
    assert!(clock.now() > Duration::ZERO);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// One result for each batch, the reference's, whatever the device does; and the device comes back once it behaves.
    #[test]
    fn each_batch_has_one_result_whatever_fails(
        script in prop::collection::vec(
            prop_oneof![
                3 => Just(Act::Succeed), 1 => Just(Act::OutOfMemory), 1 => Just(Act::Timeout), 1 => Just(Act::Sticky), 1 => Just(Act::Wrong),
            ],
            0..40,
        ),
        batches in prop::collection::vec((1_usize..40, 0_u64..40), 1..40),
    ) {
        let (mut guard, gpu, clock) = guard(1, &script);
        let mut places = Vec::new();
        for (rows, pause) in batches {
            clock.advance(Duration::from_secs(pause));
            places.push(score(&mut guard, rows).0);
        }
        lock(&gpu.script).clear();
        // The probe, whose batch is the CPU's, then the device.
        clock.advance(Duration::from_secs(61));
        let tries = [score(&mut guard, 30).0, score(&mut guard, 30).0];
        prop_assert_eq!(tries[1], Place::Gpu, "after {:?}", places);
    }
}
