//! All of a GPU's path but the driver: queue, slots, copies, kernels' bodies, memory. Needs a C++ compiler; no GPU.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::Float32Array;
use engram_models::clock::Monotonic;
use engram_models::device::{Device, DeviceError, PlainDevice, is_same};
use engram_models::gpu::{GpuDevice, Settings};
use engram_models::{Kind, Model};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::host_driver::{AllPinned, Control, HostDriver};
use crate::logic::HOST;
use crate::random;

fn settings() -> Settings {
    // Slots so small that most batches take several chunks.
    Settings {
        slot_bytes: 40_000,
        memory_limit: Some(40 << 20),
        timeout: Duration::from_secs(60),
        ..Settings::default()
    }
}

/// The device, if there is a compiler.
fn device(settings: Settings) -> Option<(GpuDevice, Arc<Control>)> {
    let host = HOST.as_ref()?;
    let control = Arc::new(Control::default());
    let driver = Arc::clone(&control);
    let opener = Box::new(move || {
        let driver: Box<dyn engram_models::gpu::driver::Driver> = Box::new(HostDriver::new(host, driver));
        let pin: Box<dyn engram_models::gpu::pinned::Pin> = Box::new(AllPinned);
        Ok((driver, pin))
    });
    let device = GpuDevice::start(settings, Arc::new(Monotonic::default()), opener).expect("it starts");
    Some((device, control))
}

fn model(seed: u64) -> Model {
    let random = &mut StdRng::seed_from_u64(seed);
    let kind = if seed.is_multiple_of(3) {
        Kind::Network(random::network(seed))
    } else {
        Kind::Forest(random::forest(random::Shape::of(random), seed))
    };
    random::model(kind, seed)
}

/// Some columns with nulls, some slices, some in pinned memory.
fn batch(device: &GpuDevice, features: usize, rows: usize, seed: u64) -> Vec<Float32Array> {
    let random = &mut StdRng::seed_from_u64(seed);
    let column = |values: Vec<f32>, random: &mut StdRng| match random.random_range(0..3) {
        0 => {
            let mut block = device.pool().take(values.len() * 4);
            block.values_mut()[..values.len()].copy_from_slice(&values);
            block.into_array(values.len(), None)
        }
        1 => values.into_iter().map(|value| random.random_bool(0.8).then_some(value)).collect(),
        _ => values.into(),
    };
    let cut = random.random_range(0..20);
    let columns = random::columns(features, rows + cut, seed);
    columns.into_iter().map(|values| column(values, random).slice(cut, rows)).collect()
}

#[test]
fn batches_of_many_threads_have_the_margins_of_the_reference() {
    let Some((device, control)) = device(settings()) else { return };
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let device = &device;
            scope.spawn(move || {
                for seed in (thread..48).step_by(4) {
                    let model = model(seed);
                    let mut scorer = device.load(&model).expect("it has room");
                    let mut reference = PlainDevice.load(&model).expect("it takes all");
                    for (number, rows) in [1, 0, 33, 700, 2500].into_iter().enumerate() {
                        let batch = batch(device, model.features(), rows, seed * 10 + number as u64);
                        let margins = scorer.score(&batch).expect("it scores");
                        let expected = reference.score(&batch).expect("it scores");
                        assert!(is_same(&margins, &expected), "seed {seed}, {rows} rows");
                    }
                }
            });
        }
    });
    assert_eq!(control.overlap_max.load(Ordering::Relaxed), 2, "the three slots were never under way together");
    assert!(control.kernels.lock().expect("no thread failed").contains(&"validity_expand"));
}

#[test]
fn pinned_columns_are_uploaded_from_where_they_are() {
    let Some((device, control)) = device(Settings { slot_bytes: 4 << 20, ..settings() }) else { return };
    let model = model(4);
    let rows = 3 * 8192;
    let mut block = device.pool().take(rows * 4);
    block.values_mut().fill(1.5);
    let pinned = block.into_array(rows, None);
    let bytes = pinned.values().inner().as_slice();
    control.watched.store(bytes.as_ptr() as usize, Ordering::Relaxed);
    control.watched_bytes.store(bytes.len(), Ordering::Relaxed);
    let batch: Vec<_> = (0..model.features()).map(|_| pinned.clone()).collect();
    let margins = device.load(&model).expect("it has room").score(&batch).expect("it scores");
    let expected = PlainDevice.load(&model).expect("it takes all").score(&batch).expect("it scores");
    assert!(is_same(&margins, &expected));
    assert_eq!(control.direct_bytes.load(Ordering::Relaxed), model.features() * rows * 4);
}

#[test]
fn models_beyond_the_limit_are_refused_until_others_are_dropped() {
    let Some((device, _)) = device(Settings { memory_limit: Some(400_000), ..settings() }) else { return };
    let slots = device.memory().used;
    assert_eq!(slots, 3 * 40_000);
    let shape = random::Shape { features: 4, outputs: 1, trees: 100, depth: 8, is_numeric: true, is_double: false };
    let model = random::model(Kind::Forest(random::forest(shape, 1)), 1);
    let mut scorers = Vec::new();
    let refused = loop {
        match device.load(&model) {
            Ok(scorer) => scorers.push(scorer),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, DeviceError::OutOfMemory { asked, free } if asked > free), "{refused}");
    assert!(!scorers.is_empty() && device.memory().used <= 400_000);
    scorers.pop();
    scorers.push(device.load(&model).expect("one was dropped"));
    drop(scorers);
    // Loading is asked for after the unloading.
    drop(device.load(&model));
    drop(device.load(&model));
    assert!(device.memory().used < 400_000);
}

#[test]
fn slots_beyond_the_limit_are_no_device() {
    let Some(host) = HOST.as_ref() else { return };
    let opener = Box::new(move || {
        let driver: Box<dyn engram_models::gpu::driver::Driver> =
            Box::new(HostDriver::new(host, Arc::new(Control::default())));
        let pin: Box<dyn engram_models::gpu::pinned::Pin> = Box::new(AllPinned);
        Ok((driver, pin))
    });
    let settings = Settings { memory_limit: Some(100_000), ..settings() };
    let started = GpuDevice::start(settings, Arc::new(Monotonic::default()), opener);
    assert!(matches!(started.err(), Some(DeviceError::OutOfMemory { .. })));
}

#[test]
fn a_lost_device_is_started_anew_by_the_next_load() {
    let Some((device, control)) = device(settings()) else { return };
    let model = model(1);
    let batch = batch(&device, model.features(), 100, 1);
    let mut scorer = device.load(&model).expect("it has room");
    let expected = scorer.score(&batch).expect("it scores");
    control.is_lost.store(true, Ordering::Relaxed);
    assert!(matches!(scorer.score(&batch), Err(DeviceError::Sticky(_))));
    assert!(matches!(device.load(&model).err(), Some(DeviceError::Sticky(_))), "it is lost still");
    control.is_lost.store(false, Ordering::Relaxed);
    assert!(matches!(scorer.score(&batch), Err(DeviceError::Sticky(_))), "the model went with the device");
    let mut again = device.load(&model).expect("it is there again");
    assert!(is_same(&again.score(&batch).expect("it scores"), &expected));
    assert!(matches!(scorer.score(&batch), Err(DeviceError::Sticky(_))), "the model went with the device");
}

#[test]
fn a_device_that_hangs_is_not_waited_for_and_may_come_back() {
    let Some((device, control)) = device(Settings { timeout: Duration::from_millis(200), ..settings() }) else {
        return;
    };
    let model = model(1);
    let batch = batch(&device, model.features(), 5000, 1);
    let mut scorer = device.load(&model).expect("it has room");
    let expected = scorer.score(&batch).expect("it scores");
    control.hangs.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(matches!(scorer.score(&batch), Err(DeviceError::Timeout { .. })));
    }
    control.hangs.store(false, Ordering::Relaxed);
    let came_back = (0..50).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        scorer.score(&batch).ok()
    });
    assert!(is_same(&came_back.expect("it is there again"), &expected));
}

#[test]
fn a_device_that_is_not_there_is_an_error_and_no_more() {
    let opened = engram_models::gpu::cuda::open(99, settings(), Arc::new(Monotonic::default()), None);
    let error = opened.err().expect("nobody has 100 GPUs");
    assert!(matches!(&error, DeviceError::Absent(_)), "{error}");
}
