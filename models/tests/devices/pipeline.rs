//! All of a GPU's path but the driver: queue, slots, copies, kernels' bodies, memory. Needs a C++ compiler; no GPU.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{ArrayRef, Float32Array, Float64Array, StringArray};
use engram_models::clock::Monotonic;
use engram_models::device::{Device, DeviceError, PlainDevice, is_same};
use engram_models::features::{self, Features};
use engram_models::gpu::nearest::Matrix;
use engram_models::gpu::series::{Batch, Method, States};
use engram_models::gpu::{GpuDevice, Settings};
use engram_models::series::Parameters;
use engram_models::similarity::{Vectors, lengths};
use engram_models::{Kind, Model};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::host_driver::{AllPinned, Control, EMULATED, HostDriver};
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
    EMULATED.as_ref()?;
    let control = Arc::new(Control::default());
    let driver = Arc::clone(&control);
    let opener = Box::new(move || {
        let driver: Box<dyn engram_models::gpu::driver::Driver> = Box::new(HostDriver::new(driver));
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
                for seed in (thread..24).step_by(4) {
                    let model = model(seed);
                    let mut scorer = device.load(&model).expect("it has room");
                    let mut reference = PlainDevice.load(&model).expect("it takes all");
                    for (number, rows) in [1, 0, 33, 1500].into_iter().enumerate() {
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

/// Histories that nothing asks for.
struct NoStates;

impl features::States for NoStates {
    type Error = Infallible;

    fn get(&mut self, _: &str) -> Result<Option<Vec<u8>>, Infallible> {
        unreachable!("no feature looks back")
    }

    fn put(&mut self, _: &str, _: &[u8]) -> Result<(), Infallible> {
        unreachable!("no feature looks back")
    }
}

#[test]
fn features_are_made_where_the_device_copies_from() {
    let Some((device, _)) = device(settings()) else { return };
    let pool = device.pinned().expect("a GPU has one");
    let list = serde_json::from_value(serde_json::json!([{"field": "v"}])).expect("a list");
    let values: ArrayRef = Arc::new(Float64Array::from_iter_values((0..5_000).map(f64::from)));
    let series = StringArray::from_iter_values((0..5_000).map(|_| ""));
    let features = Features::new(list).expect("a feature");
    let Ok(columns) = features.compute(&[values], &series, &[0; 5_000], &mut NoStates, pool);
    assert!(pool.is_pinned(columns[0].values().inner().as_slice()));
    assert_eq!(columns[0].value(4_999), 4_999.0);
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
    let opener = Box::new(move || {
        let driver: Box<dyn engram_models::gpu::driver::Driver> =
            Box::new(HostDriver::new(Arc::new(Control::default())));
        let pin: Box<dyn engram_models::gpu::pinned::Pin> = Box::new(AllPinned);
        Ok((driver, pin))
    });
    let settings = Settings { memory_limit: Some(100_000), ..settings() };
    let started = GpuDevice::start(settings, Arc::new(Monotonic::default()), opener);
    assert!(matches!(started.err(), Some(DeviceError::OutOfMemory { .. })));
}

#[test]
fn the_nearest_rows_of_a_matrix_are_the_reference_s() {
    let Some((device, _)) = device(settings()) else { return };
    let slots = device.memory().used;
    for seed in 0..3 {
        let random = &mut StdRng::seed_from_u64(seed);
        let (rows, width, k) = (random.random_range(1..6000), random.random_range(1..40), random.random_range(1..200));
        let values = random::vectors(rows, width, random);
        let queries = random::vectors(9, width, random);
        let of_rows = lengths(&values, width);
        let vectors = Vectors::new(&values, width, &of_rows).expect("whole rows");
        let mut matrix = Matrix::new(&device, &values, width, 200).expect("it has room");
        let nearest = matrix.nearest(&queries, k).expect("it finds");
        assert_eq!(nearest.len(), 9);
        for (near, query) in nearest.into_iter().zip(queries.chunks_exact(width)) {
            let expected = vectors.nearest_reference(query, k).expect("as wide");
            assert_eq!(random::bits(near), random::bits(expected), "seed {seed}");
        }
    }
    drop(device.load(&model(0)));
    // Loading and unloading come after the last matrix's memory was freed.
    drop(device.load(&model(0)).expect("it has room"));
    assert!(device.memory().used - slots < 100_000);
}

#[test]
fn states_of_series_are_kept_between_batches() {
    let Some((device, control)) = device(settings()) else { return };
    let detector = Parameters { window: 12, warm_up: 5, alpha: 0.3, beta: 0.1, gamma: 0.2, deviation_min: 1e-3 };
    let random = &mut StdRng::seed_from_u64(5);
    let series: Vec<Vec<f32>> = (0..50).map(|_| (0..60).map(|_| random.random_range(-5.0..5.0)).collect()).collect();
    for method in [Method::RobustZ, Method::WeightedMean, Method::HoltWinters] {
        let mut states = States::new(&device, method, detector, 64).expect("it has room");
        let mut scores = vec![Vec::new(); series.len()];
        for start in (0..60).step_by(20) {
            // Another order of the series in each batch.
            let order: Vec<usize> = (0..series.len()).map(|at| (at * 7 + start) % series.len()).collect();
            let values = order.iter().flat_map(|at| &series[*at][start..start + 20]).copied().collect();
            let starts = (0..=order.len() as u32).map(|at| at * 20).collect();
            let slots = order.iter().map(|at| *at as u32 + 3).collect();
            let scored = states.score(Batch { values, starts, slots }).expect("it scores");
            order.iter().zip(scored.chunks_exact(20)).for_each(|(at, scored)| scores[*at].extend(scored));
        }
        for (series, scores) in series.iter().zip(&scores) {
            let expected = match method {
                Method::RobustZ => detector.robust_z(series),
                Method::WeightedMean => detector.weighted_mean(series),
                Method::HoltWinters => detector.holt_winters(series),
            };
            assert!(is_same(scores, &expected), "{method:?}: {scores:?} {expected:?}");
        }
        let twice = Batch { values: vec![1.0, 2.0], starts: vec![0, 1, 2], slots: vec![4, 4] };
        assert!(matches!(states.score(twice), Err(DeviceError::Unsupported(_))), "two series of one slot");
        control.is_lost.store(true, Ordering::Relaxed);
        let one = Batch { values: vec![1.0], starts: vec![0, 1], slots: vec![4] };
        assert!(matches!(states.score(one.clone()), Err(DeviceError::Sticky(_))));
        control.is_lost.store(false, Ordering::Relaxed);
        assert_eq!(states.score(one), Err(DeviceError::Gone), "the states went with the device");
    }
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
    let mut again = device.load(&model).expect("it is there again");
    assert!(is_same(&again.score(&batch).expect("it scores"), &expected));
    assert!(matches!(scorer.score(&batch), Err(DeviceError::Gone)), "the model went with the device");
}

#[test]
fn a_device_that_hangs_is_not_waited_for_and_may_come_back() {
    let Some((device, control)) = device(Settings { timeout: Duration::from_secs(1), ..settings() }) else {
        return;
    };
    let model = model(1);
    let batch = batch(&device, model.features(), 1000, 1);
    let mut scorer = device.load(&model).expect("it has room");
    let expected = scorer.score(&batch).expect("it scores");
    control.hangs.store(true, Ordering::Relaxed);
    for _ in 0..2 {
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
