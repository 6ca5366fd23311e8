//! For a host with a GPU: whether its margins are the reference's, bit for bit, and how fast it is, beside what its copies
//! could reach and beside the CPU. Without a GPU it says so in a line.
//!
//! ```text
//! cargo run --release -p engram-models --example gpu_check [FOLDER]     FOLDER: kernels' sources, to be compiled by NVRTC
//! ```

#[path = "../tests/devices/random.rs"]
mod random;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::Float32Array;
use cudarc::driver::result;
use engram_models::clock::Monotonic;
use engram_models::device::{CpuDevice, Device, DeviceError, PlainDevice, is_same};
use engram_models::forest::{Combine, Leaves, Missing, Node, Split, Test, Tree};
use engram_models::gpu::cuda::{self, Cuda};
use engram_models::gpu::driver::Driver;
use engram_models::gpu::nearest::Matrix;
use engram_models::gpu::program::Program;
use engram_models::gpu::{GpuDevice, Settings};
use engram_models::link::Precision;
use engram_models::network::{Activation, Layer};
use engram_models::similarity::{Neighbor, Vectors, lengths};
use engram_models::{Forest, Kind, Link, Model, Network};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Random models that are compared.
const COMPARED: u64 = 300;
/// Rows of a batch that is measured, and of one that the CPU is measured with.
const ROWS: usize = 1 << 20;
const CPU_ROWS: usize = 1 << 16;
/// How often each is measured; the median counts.
const TIMES: usize = 9;
const FEATURES: usize = 28;
const COPY_BYTES: usize = 256 << 20;

fn main() {
    let sources = std::env::args_os().nth(1).map(PathBuf::from);
    let found = cuda::probe().and_then(|(version, count)| match count {
        0 => Err(DeviceError::Absent("the driver knows of none".to_owned())),
        _ => Ok(version),
    });
    let version = match found {
        Ok(version) => version,
        Err(error) => {
            println!("no GPU here: {error}");
            return;
        }
    };
    if let Err(error) = check(version, sources) {
        println!("failed: {error}");
        std::process::exit(1);
    }
}

fn check((major, minor): (i32, i32), sources: Option<PathBuf>) -> Result<(), DeviceError> {
    let settings = Settings { pool_bytes: 1 << 30, ..Settings::default() };
    let device = cuda::open(0, settings, Arc::new(Monotonic::default()), sources.clone())?;
    println!("device   {}, {} MiB, driver for CUDA {major}.{minor}", device.name(), device.memory().limit >> 20);
    compare(&device)?;
    compare_nearest(&device)?;
    let mut driver = Cuda::open(0, sources)?;
    ceilings(&device, &mut driver)?;
    println!("\n{:<24}{:>18}{:>18}{:>18}", "rows a second", "kernels alone", "end to end", "CPU, 1 core");
    for (name, model) in models() {
        measure(name, &model, &device, &mut driver)?;
    }
    nearest(&device)
}

/// Random models and batches of random sizes.
fn compare(device: &GpuDevice) -> Result<(), DeviceError> {
    for seed in 0..COMPARED {
        let random = &mut StdRng::seed_from_u64(seed);
        let kind = if seed.is_multiple_of(3) {
            Kind::Network(random::network(seed))
        } else {
            Kind::Forest(random::forest(random::Shape::of(random), seed))
        };
        let model = random::model(kind, seed);
        let rows = random.random_range(1..3000);
        let columns = random::columns(model.features(), rows, seed);
        let array = |values: Vec<f32>| values.into_iter().map(|value| (value != 0.0).then_some(value)).collect();
        let columns: Vec<Float32Array> = columns.into_iter().map(array).collect();
        let margins = device.load(&model)?.score(&columns)?;
        let expected = PlainDevice.load(&model)?.score(&columns)?;
        if !is_same(&margins, &expected) {
            println!("WRONG    the margins of random model {seed} are not the reference's");
            std::process::exit(1);
        }
    }
    println!("margins  of {COMPARED} random models are the reference's, bit for bit");
    Ok(())
}

/// What copies reach at best.
fn ceilings(device: &GpuDevice, driver: &mut Cuda) -> Result<(), DeviceError> {
    let block = device.pool().take(COPY_BYTES);
    let (from, to) = (driver.allocate(COPY_BYTES)?, driver.allocate(COPY_BYTES)?);
    let is_pinned = device.pool().is_pinned(block.bytes());
    let upload = median(|| {
        // SAFETY: the block and the allocation are as large, and it is waited for.
        unsafe { driver.upload(0, from, &block.bytes()[..COPY_BYTES]) }?;
        wait(driver)
    })?;
    let copy = median(|| {
        // SAFETY: both are allocations of this size.
        let copied =
            unsafe { result::memcpy_dtod_sync(to, from, COPY_BYTES) }.and_then(|()| result::ctx::synchronize());
        copied.map_err(|error| DeviceError::Sticky(error.to_string()))
    })?;
    // SAFETY: all copies were waited for.
    unsafe {
        driver.free(from);
        driver.free(to);
    }
    let rate = |bytes: usize, time: Duration| bytes as f64 / time.as_secs_f64() / 1e9;
    let pinned = if is_pinned { "pinned" } else { "NOT pinned" };
    println!("upload   {:.1} GB/s from {pinned} memory", rate(COPY_BYTES, upload));
    println!("memory   {:.1} GB/s, a copy within the device, both ways counted", rate(2 * COPY_BYTES, copy));
    Ok(())
}

fn measure(name: &str, model: &Model, device: &GpuDevice, driver: &mut Cuda) -> Result<(), DeviceError> {
    let columns = random::columns(model.features(), ROWS, 1);
    let kernels = kernels_alone(model, &columns, driver)?;
    let pinned = |values: &Vec<f32>| {
        let mut block = device.pool().take(values.len() * 4);
        block.values_mut()[..values.len()].copy_from_slice(values);
        block.into_array(values.len(), None)
    };
    let batch: Vec<Float32Array> = columns.iter().map(pinned).collect();
    let mut scorer = device.load(model)?;
    scorer.score(&batch)?;
    let whole = median(|| scorer.score(&batch).map(drop))?;
    let few: Vec<Float32Array> = batch.iter().map(|column| column.slice(0, CPU_ROWS)).collect();
    let mut cpu = CpuDevice::new(1).load(model)?;
    let alone = median(|| cpu.score(&few).map(drop))?;
    let rate = |rows: usize, time: Duration| rows as f64 / time.as_secs_f64();
    println!("{name:<24}{:>18.0}{:>18.0}{:>18.0}", kernels, rate(ROWS, whole), rate(CPU_ROWS, alone));
    Ok(())
}

/// Rows a second of the kernels, with columns that are there already.
fn kernels_alone(model: &Model, columns: &[Vec<f32>], driver: &mut Cuda) -> Result<f64, DeviceError> {
    let mut program = Program::new(model)?;
    let image = program.take_image();
    let arena = program.arena(ROWS);
    let (model_at, slot_at) = (driver.allocate(image.bytes().len())?, driver.allocate(arena.bytes)?);
    // SAFETY: the allocations have room, and each copy is waited for before what it reads is dropped.
    unsafe { driver.upload(0, model_at, image.bytes()) }?;
    wait(driver)?;
    for (number, column) in columns.iter().enumerate() {
        let bytes: Vec<u8> = column.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let to = slot_at + (arena.columns + number * arena.stride * 4) as u64;
        // SAFETY: as above.
        unsafe { driver.upload(0, to, &bytes) }?;
        wait(driver)?;
    }
    let time = median(|| {
        // SAFETY: model and columns are there.
        unsafe { program.launch(driver, 0, (model_at, slot_at), &arena, false) }?;
        wait(driver)
    })?;
    // SAFETY: all was waited for.
    unsafe {
        driver.free(model_at);
        driver.free(slot_at);
    }
    Ok(ROWS as f64 / time.as_secs_f64())
}

/// Whether the nearest rows are those of the CPU.
fn compare_nearest(device: &GpuDevice) -> Result<(), DeviceError> {
    for seed in 0..COMPARED / 10 {
        let random = &mut StdRng::seed_from_u64(seed);
        let (rows, width, k) =
            (random.random_range(1..20_000), random.random_range(1..200), random.random_range(1..200));
        let (values, queries) = (random::vectors(rows, width, random), random::vectors(9, width, random));
        let found = Matrix::new(device, &values, width, k)?.nearest(&queries, k)?;
        let of_rows = lengths(&values, width);
        for (found, query) in found.into_iter().zip(queries.chunks_exact(width)) {
            if random::bits(found) != random::bits(on_cpu(&values, &of_rows, query, k)?) {
                println!("WRONG    the nearest rows of random matrix {seed} are not the CPU's");
                std::process::exit(1);
            }
        }
    }
    println!("nearest  rows of {} random matrices are the CPU's, bit for bit", COMPARED / 10);
    Ok(())
}

fn on_cpu(values: &[f32], of_rows: &[f32], query: &[f32], k: usize) -> Result<Vec<Neighbor>, DeviceError> {
    let found = Vectors::new(values, query.len(), of_rows).and_then(|vectors| vectors.nearest(query, k));
    found.map_err(|error| DeviceError::Unsupported(error.to_string()))
}

/// Eight queries among a million rows of 128.
fn nearest(device: &GpuDevice) -> Result<(), DeviceError> {
    const WIDTH: usize = 128;
    let random = &mut StdRng::seed_from_u64(1);
    let mut values = |count: usize| (0..count).map(|_| random.random_range(-1.0..1.0)).collect::<Vec<f32>>();
    let (values, queries) = (values(ROWS * WIDTH), values(8 * WIDTH));
    let mut matrix = Matrix::new(device, &values, WIDTH, 100)?;
    let of_rows = lengths(&values, WIDTH);
    let whole = median(|| matrix.nearest(&queries, 10).map(drop))?;
    let alone = median(|| on_cpu(&values, &of_rows, &queries[..WIDTH], 10).map(drop))?;
    println!(
        "{:<24}{:>18}{:>18.0}{:>18.0}",
        "nearest 10, 128 wide",
        "",
        8.0 * ROWS as f64 / whole.as_secs_f64(),
        ROWS as f64 / alone.as_secs_f64()
    );
    Ok(())
}

fn models() -> Vec<(&'static str, Model)> {
    let network = {
        let random = &mut StdRng::seed_from_u64(7);
        let mut dense = |inputs: usize, outputs: usize| {
            let mut values = |count: usize| (0..count).map(|_| random.random_range(-0.1..0.1)).collect();
            Layer::Dense { weights: values(inputs * outputs), bias: values(outputs) }
        };
        let relu = || Layer::Activation(Activation::Relu);
        let layers = vec![dense(FEATURES, 64), relu(), dense(64, 64), relu(), dense(64, 1)];
        Network { inputs: FEATURES, layers, link: Link::Identity }
    };
    vec![
        ("100 trees, 6 deep", random::model(Kind::Forest(full_forest(100, 6)), 1)),
        ("500 trees, 8 deep", random::model(Kind::Forest(full_forest(500, 8)), 2)),
        ("perceptron 64, 64, 1", random::model(Kind::Network(network), 3)),
    ]
}

/// Trees whose leaves all stand at one depth.
fn full_forest(trees: usize, depth: u32) -> Forest {
    let random = &mut StdRng::seed_from_u64(11);
    let splits = (1_u32 << depth) - 1;
    let tree = |_| {
        let split = |at: u32, random: &mut StdRng| {
            Node::Split(Split {
                feature: random.random_range(0..FEATURES as u32),
                test: Test::Less(random.random_range(-2.0..2.0)),
                missing: Missing::Nan,
                default_left: random.random_bool(0.5),
                left: 2 * at + 1,
                right: 2 * at + 2,
            })
        };
        let mut nodes: Vec<Node> = (0..splits).map(|at| split(at, random)).collect();
        nodes.extend((0..=splits).map(Node::Leaf));
        let values = (0..=splits).map(|_| f64::from(random.random_range(-0.1..0.1_f32))).collect();
        Tree { nodes, leaves: Leaves::Scalar { output: 0, values }, sets: Vec::new() }
    };
    let trees = (0..trees).map(tree).collect();
    let forest = Forest {
        features: FEATURES,
        trees,
        outputs: 1,
        base: vec![0.5],
        combine: Combine::BaseFirst,
        precision: Precision::Single,
        link: Link::Identity,
    };
    forest.check("full").expect("it is sound");
    forest
}

fn median(mut run: impl FnMut() -> Result<(), DeviceError>) -> Result<Duration, DeviceError> {
    run()?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let started = Instant::now();
        run()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times[TIMES / 2])
}

fn wait(driver: &mut Cuda) -> Result<(), DeviceError> {
    driver.end(0)?;
    while !driver.is_done(0)? {
        std::hint::spin_loop();
    }
    Ok(())
}
