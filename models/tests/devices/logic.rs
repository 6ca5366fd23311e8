//! The kernels' bodies, compiled as C++ for the host, against the reference: bit for bit, on random models and batches, by the
//! very images and arguments that a GPU gets. Needs a C++ compiler; no GPU.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use engram_models::device::is_same;
use engram_models::gpu::abi::{
    DenseArgs, ForestArgs, LengthsArgs, NO_BITMAP, NearestArgs, SORT_KEYS, SeriesArgs, TopArgs, ValidityArgs,
};
use engram_models::gpu::forest::{ForestImage, Rows};
use engram_models::gpu::nearest::neighbor_of;
use engram_models::gpu::network::NetworkImage;
use engram_models::network::{Activation, exp};
use engram_models::series::Parameters;
use engram_models::similarity::{Vectors, lengths};
use libloading::Library;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::random;

/// The kernels' bodies as a library of the host, if there is a compiler.
static HOST: LazyLock<Option<Library>> = LazyLock::new(|| compile("host.cpp"));

/// Compiles a source of the kernels' folder and loads it, if there is a compiler.
pub fn compile(source: &str) -> Option<Library> {
    let is_there =
        |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    let Some(compiler) = ["c++", "g++", "clang++"].into_iter().find(is_there) else {
        println!("skipped: there is no C++ compiler: install g++ or clang++");
        return None;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let library = folder.path().join("kernels.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(source);
    // Two such libraries export the same names.
    let options =
        ["-std=c++17", "-shared", "-fPIC", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-Wl,-Bsymbolic", "-o"];
    let output = Command::new(compiler).args(options).arg(&library).arg(source).output().expect("the compiler runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: it is what was just compiled, and its initializers only make containers.
    Some(unsafe { Library::new(&library) }.expect("what was compiled can be loaded"))
}

/// Calls a kernel of one argument.
fn call<Args>(host: &Library, kernel: &str, args: &Args) {
    // SAFETY: the kernel takes a pointer to `Args`, whose layouts `arguments_are_laid_out_alike` compares, and reads and writes
    // only what its addresses name: memory that the caller of this function has alive.
    unsafe {
        let kernel = host.get::<unsafe extern "C" fn(*const Args)>(kernel).expect("the kernel is there");
        kernel(args);
    }
}

fn address<T>(values: &[T]) -> u64 {
    values.as_ptr() as u64
}

fn address_mut<T>(values: &mut [T]) -> u64 {
    values.as_mut_ptr() as u64
}

/// The image at an address as aligned as a device's.
fn aligned(bytes: &[u8]) -> Vec<u128> {
    bytes
        .chunks(16)
        .map(|chunk| {
            let mut word = [0; 16];
            word[..chunk.len()].copy_from_slice(chunk);
            u128::from_ne_bytes(word)
        })
        .collect()
}

/// Columns one after the other, `stride` values apart.
fn spread(columns: &[Vec<f32>], stride: usize) -> Vec<f32> {
    let mut spread = vec![f32::NAN; columns.len() * stride];
    columns.iter().enumerate().for_each(|(at, column)| spread[at * stride..][..column.len()].copy_from_slice(column));
    spread
}

#[test]
fn arguments_are_laid_out_alike() {
    let Some(host) = &*HOST else { return };
    let sizes = [
        size_of::<ForestArgs>(),
        size_of::<DenseArgs>(),
        size_of::<ValidityArgs>(),
        size_of::<LengthsArgs>(),
        size_of::<NearestArgs>(),
        size_of::<TopArgs>(),
        size_of::<SeriesArgs>(),
    ];
    for (number, size) in sizes.into_iter().enumerate() {
        // SAFETY: it takes a number and gives one.
        let theirs =
            unsafe { host.get::<unsafe extern "C" fn(u32) -> u64>("size_of_args").expect("there")(number as u32) };
        assert_eq!(theirs, size as u64, "argument {number}");
    }
}

fn forest_margins(host: &Library, laid_out: &ForestImage, columns: &[Vec<f32>], step: u32) -> Vec<f64> {
    let rows = columns[0].len();
    let stride = rows + 3;
    let spread = spread(columns, stride);
    let image = aligned(laid_out.image.bytes());
    let mut margins = vec![f64::NAN; laid_out.outputs * stride];
    let place = Rows { columns: address(&spread), margins: address_mut(&mut margins), stride, count: rows };
    for first in (0..laid_out.groves).step_by(step as usize) {
        let args = laid_out.args(address(&image), place, first..laid_out.groves.min(first + step));
        call(host, laid_out.kernel(), &args);
    }
    let single = |at: usize| {
        let pair = margins[at / 2].to_ne_bytes();
        f32::from_ne_bytes(pair[at % 2 * 4..][..4].try_into().expect("4 bytes"))
    };
    let margin = |at| if laid_out.is_double { margins[at] } else { f64::from(single(at)) };
    (0..rows).flat_map(|row| (0..laid_out.outputs).map(move |output| output * stride + row)).map(margin).collect()
}

#[test]
fn forests_give_the_margins_of_the_reference() {
    let Some(host) = &*HOST else { return };
    let mut kernels = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let shape = random::Shape::of(&mut StdRng::seed_from_u64(seed));
        let forest = random::forest(shape, seed);
        let columns = random::columns(shape.features, 40, seed);
        let laid_out = ForestImage::new(&forest).expect("a random forest can be laid out");
        let row = |row: usize| columns.iter().map(|column| column[row]).collect::<Vec<_>>();
        let expected: Vec<f64> = (0..40).flat_map(|at| forest.margins(&row(at))).collect();
        kernels.insert(laid_out.kernel());
        for step in [u32::MAX / 2, 1] {
            let margins = forest_margins(host, &laid_out, &columns, step);
            assert!(is_same(&margins, &expected), "seed {seed}, {shape:?}:\n{margins:?}\n{expected:?}");
        }
    }
    assert_eq!(kernels.len(), 4, "not every layout was met: {kernels:?}");
}

#[test]
fn a_tree_that_fits_no_grove_is_read_where_it_is() {
    let Some(host) = &*HOST else { return };
    let shape = random::Shape { features: 6, outputs: 2, trees: 6, depth: 16, is_numeric: true, is_double: false };
    let forest = random::forest(shape, 1);
    assert!(forest.trees.iter().any(|tree| tree.nodes.len() * 8 > engram_models::gpu::forest::GROVE_BYTES));
    let columns = random::columns(6, 100, 2);
    let margins = forest_margins(host, &ForestImage::new(&forest).expect("laid out"), &columns, u32::MAX / 2);
    let row = |row: usize| columns.iter().map(|column| column[row]).collect::<Vec<_>>();
    let expected: Vec<f64> = (0..100).flat_map(|at| forest.margins(&row(at))).collect();
    assert!(is_same(&margins, &expected));
}

#[test]
fn networks_give_the_margins_of_the_reference() {
    let Some(host) = &*HOST else { return };
    for seed in 0..200 {
        let network = random::network(seed);
        let columns = random::columns(network.inputs, 30, seed);
        let laid_out = NetworkImage::new(&network);
        let image = aligned(laid_out.image.bytes());
        let stride = 32;
        let mut x = spread(&columns, stride);
        for step in &laid_out.steps {
            let mut y = vec![0.0_f32; step.outputs * stride];
            call(host, step.kernel(), &step.args(address(&image), address(&x), address_mut(&mut y), stride, 30));
            x = y;
        }
        for row in 0..30 {
            let values: Vec<f32> = columns.iter().map(|column| column[row]).collect();
            let expected: Vec<f64> = network.margins(&values).into_iter().map(f64::from).collect();
            let margins: Vec<f64> = (0..laid_out.outputs).map(|output| f64::from(x[output * stride + row])).collect();
            assert!(is_same(&margins, &expected), "seed {seed}, row {row}: {margins:?} {expected:?}\n{network:?}");
        }
    }
}

#[test]
fn exponentials_and_activations_are_the_reference_s() {
    let Some(host) = &*HOST else { return };
    // SAFETY: they take and give numbers.
    let (exp, activate) = unsafe {
        let exp = host.get::<unsafe extern "C" fn(f32) -> f32>("exponential_of").expect("there");
        let activate = host.get::<unsafe extern "C" fn(f32, u32, f32) -> f32>("activate_of").expect("there");
        (exp, activate)
    };
    let kinds = [Activation::Relu, Activation::LeakyRelu { alpha: 0.3 }, Activation::Sigmoid, Activation::Tanh];
    // Every 4099th of all f32.
    for bits in (0..=u32::MAX).step_by(4099) {
        let x = f32::from_bits(bits);
        // SAFETY: as above.
        let ours = unsafe { exp(x) };
        assert!(is_same(&[ours.into()], &[exp::exp(x).into()]), "e^{x}: {ours} {}", exp::exp(x));
        for (kind, activation) in kinds.into_iter().enumerate() {
            // SAFETY: as above.
            let ours = unsafe { activate(x, kind as u32 + 1, 0.3) };
            let expected = activation.apply(x);
            assert!(is_same(&[ours.into()], &[expected.into()]), "{activation:?} of {x}: {ours} {expected}");
        }
    }
}

#[test]
fn validity_becomes_nan() {
    let Some(host) = &*HOST else { return };
    let random = &mut StdRng::seed_from_u64(3);
    let (rows, stride) = (100_usize, 128_usize);
    let words: Vec<u32> = (0..20).map(|_| random.random()).collect();
    let starts = [5_u32, NO_BITMAP, 131, 0];
    let mut columns: Vec<f32> = (0..4 * stride).map(|at| at as f32).collect();
    let before = columns.clone();
    let args = ValidityArgs {
        columns: address_mut(&mut columns),
        words: address(&words),
        starts: address(&starts),
        stride: stride as u64,
        rows: rows as u32,
        columns_count: 4,
    };
    call(host, "validity_expand", &args);
    for at in 0..4 * stride {
        let (column, row) = (at / stride, at % stride);
        let bit = starts[column] as usize + row;
        let is_valid = row >= rows || starts[column] == NO_BITMAP || words[bit / 32] >> (bit % 32) & 1 == 1;
        assert_eq!(columns[at].is_nan(), !is_valid, "column {column}, row {row}");
        assert!(!is_valid || columns[at] == before[at]);
    }
}

#[test]
fn the_nearest_are_the_reference_s() {
    let Some(host) = &*HOST else { return };
    for seed in 0..20 {
        let random = &mut StdRng::seed_from_u64(seed);
        let (rows, width, queries) = (random.random_range(1..9000_usize), random.random_range(1..70_usize), 3_usize);
        let k = random.random_range(1..100_usize);
        let matrix = random::vectors(rows, width, random);
        let asked = random::vectors(queries, width, random);
        let of_rows = lengths(&matrix, width);
        let vectors = Vectors::new(&matrix, width, &of_rows).expect("whole rows");
        let least = least_keys(host, &matrix, &asked, width, k);
        for (query, least) in asked.chunks_exact(width).zip(least) {
            let expected = vectors.nearest_reference(query, k).expect("as wide");
            let found = least.into_iter().map(neighbor_of).collect();
            assert_eq!(random::bits(found), random::bits(expected), "seed {seed}");
        }
    }
}

fn least_keys(host: &Library, matrix: &[f32], asked: &[f32], width: usize, k: usize) -> Vec<Vec<u64>> {
    let (rows, queries) = (matrix.len() / width, asked.len() / width);
    let mut lengths = vec![0.0_f32; rows];
    let args = LengthsArgs {
        matrix: address(matrix),
        lengths: address_mut(&mut lengths),
        rows: rows as u32,
        width: width as u32,
    };
    call(host, "nearest_lengths", &args);
    let mut keys = vec![0_u64; rows * queries];
    let args = NearestArgs {
        matrix: address(matrix),
        queries: address(asked),
        lengths: address(&lengths),
        keys: address_mut(&mut keys),
        rows: rows as u32,
        width: width as u32,
        queries_count: queries as u32,
        row_first: 0,
    };
    call(host, "nearest_keys", &args);
    let mut count = rows;
    loop {
        let runs = count.div_ceil(SORT_KEYS);
        let mut least = vec![0_u64; queries * runs * k];
        let args = TopArgs {
            keys: address(&keys),
            least: address_mut(&mut least),
            count: count as u64,
            runs: runs as u32,
            k: k as u32,
            queries_count: queries as u32,
            unused: 0,
        };
        call(host, "nearest_top", &args);
        (keys, count) = (least, runs * k);
        if runs == 1 {
            break;
        }
    }
    let known = |keys: &[u64]| keys.iter().copied().filter(|key| *key != u64::MAX).collect();
    keys.chunks_exact(k).map(known).collect()
}

#[test]
fn detectors_give_the_scores_of_the_reference() {
    type Reference = fn(&Parameters, &[f32]) -> Vec<f64>;
    type StateBytes = fn(usize) -> usize;
    let Some(host) = &*HOST else { return };
    let detectors: [(&str, Reference, StateBytes); 3] = [
        ("series_robust_z", Parameters::robust_z, |window| 8 * window),
        ("series_weighted_mean", Parameters::weighted_mean, |_| 16),
        ("series_holt_winters", Parameters::holt_winters, |window| 8 * (3 + window)),
    ];
    for seed in 0..60 {
        let random = &mut StdRng::seed_from_u64(seed);
        let window = random.random_range(1..30_usize);
        let detector = Parameters {
            window,
            warm_up: random.random_range(0..=window),
            alpha: random.random_range(0.01..0.99),
            beta: random.random_range(0.01..0.99),
            gamma: random.random_range(0.01..0.99),
            deviation_min: 1e-3,
        };
        let series: Vec<Vec<f32>> = (0..4)
            .map(|_| {
                let value = |random: &mut StdRng| match random.random_range(0..10) {
                    0 => f32::NAN,
                    1..5 => random.random_range(1..5_u8).into(),
                    _ => random.random_range(-9.0..9.0),
                };
                (0..random.random_range(0..200)).map(|_| value(random)).collect()
            })
            .collect();
        for (kernel, reference, state_bytes) in detectors {
            let scores = detector_scores(host, kernel, &detector, state_bytes(window), &series, random);
            for (series, scores) in series.iter().zip(scores) {
                let expected = reference(&detector, series);
                assert!(is_same(&scores, &expected), "{kernel}, seed {seed}, {detector:?}\n{scores:?}\n{expected:?}");
            }
        }
    }
}

/// Series in batches of a few values of each, their slots in another order than the series.
fn detector_scores(
    host: &Library,
    kernel: &str,
    detector: &Parameters,
    state_bytes: usize,
    series: &[Vec<f32>],
    random: &mut StdRng,
) -> Vec<Vec<f64>> {
    let count = series.len();
    let mut state = vec![0_u64; count * state_bytes / 8];
    let mut counts = vec![0_u32; count];
    let slots: Vec<u32> = (0..count as u32).rev().collect();
    let mut scored: Vec<Vec<f64>> = vec![Vec::new(); count];
    while scored.iter().zip(series).any(|(scored, series)| scored.len() < series.len()) {
        let (mut values, mut starts) = (Vec::<f32>::new(), vec![0_u32]);
        for (scored, series) in scored.iter().zip(series) {
            let left = &series[scored.len()..];
            values.extend(&left[..left.len().min(random.random_range(0..20))]);
            starts.push(values.len() as u32);
        }
        let mut scores = vec![0.0_f64; values.len()];
        let args = SeriesArgs {
            values: address(&values),
            starts: address(&starts),
            slots: address(&slots),
            scores: address_mut(&mut scores),
            state: address_mut(&mut state),
            counts: address_mut(&mut counts),
            series: count as u32,
            window: detector.window as u32,
            warm_up: detector.warm_up as u32,
            unused: 0,
            alpha: detector.alpha,
            beta: detector.beta,
            gamma: detector.gamma,
            deviation_min: detector.deviation_min,
        };
        call(host, kernel, &args);
        for (at, scored) in scored.iter_mut().enumerate() {
            scored.extend(&scores[starts[at] as usize..starts[at + 1] as usize]);
        }
    }
    scored
}
