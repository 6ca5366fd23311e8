//! How fast the CPU scores forests.
//!
//! `cargo bench -p engram-models --bench forest` measures forests that it draws. With FOREST_DIR it is one side of `peers.py`
//! instead: it reads each `*.forest` there and `rows.f32`, writes `*.margins`, and prints the seconds of CPU of each
//! repetition; of the clock, with FOREST_THREADS above 1.
//!
//! ```text
//! rows.f32:     u32 rows | u32 features | f32 values, column by column                   all little-endian
//! *.forest:     u32 features | u32 trees | u32 1 if in f64 | f64 base | trees: u32 nodes | nodes of 32 bytes
//! node:         u32 feature, !0 for a leaf | u32 left | u32 right | u32 1 if missing goes left
//!               u32 1 if NaN counts as zero | f32 threshold, less goes left | f64 the leaf's value
//! *.margins:    f64 by row
//! ```

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use engram_models::cpu::{Column, Columns, Margins, Program};
use engram_models::forest::{Combine, Forest, Leaves, Missing, Node, Split, Test, Tree};
use engram_models::link::{Link, Precision};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const FEATURES: usize = 32;

fn main() {
    if let Some(folder) = std::env::var_os("FOREST_DIR") {
        return beside_peers(Path::new(&folder));
    }
    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(3));
    let mut random = StdRng::seed_from_u64(7);
    let rows = 16_384;
    let columns: Vec<Vec<f32>> =
        (0..FEATURES).map(|_| (0..rows).map(|_| random.random_range(-1.0..1.0)).collect()).collect();
    for (trees, depth) in [(100, 4), (100, 6), (500, 8), (100, 10), (100, 14)] {
        let program = Program::new(&drawn(&mut random, trees, depth));
        let mut group = criterion.benchmark_group(format!("{trees} trees of depth {depth}"));
        for rows in [1, 64, 1024, rows] {
            let batch = Columns::new(columns.iter().map(|column| Column::from(&column[..rows])).collect());
            let mut out = Margins::default();
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{rows} rows")), |bencher| {
                bencher.iter(|| program.margins(&batch, black_box(&mut out)));
            });
        }
    }
    criterion.final_summary();
}

/// Complete trees whose thresholds are among 255 a feature.
fn drawn(random: &mut StdRng, trees: usize, depth: u32) -> Forest {
    let inner = (1_usize << depth) - 1;
    let tree = |random: &mut StdRng| {
        let split = |at: usize, random: &mut StdRng| Split {
            feature: random.random_range(0..FEATURES) as u32,
            test: Test::Less(random.random_range(-127..128) as f32 / 128.0),
            missing: Missing::Nan,
            default_left: false,
            left: 2 * at as u32 + 1,
            right: 2 * at as u32 + 2,
        };
        let splits: Vec<_> = (0..inner).map(|at| Node::Split(split(at, random))).collect();
        let nodes = splits.into_iter().chain((0..=inner as u32).map(Node::Leaf)).collect();
        let values = (0..=inner).map(|_| f64::from(random.random_range(-1.0_f32..1.0))).collect();
        Tree { nodes, leaves: Leaves::Scalar { output: 0, values }, sets: Vec::new() }
    };
    let trees = (0..trees).map(|_| tree(random)).collect();
    forest(FEATURES, trees, Precision::Single, 0.5)
}

fn forest(features: usize, trees: Vec<Tree>, precision: Precision, base: f64) -> Forest {
    let combine = Combine::BaseFirst;
    let forest = Forest { features, trees, outputs: 1, base: vec![base], combine, precision, link: Link::Identity };
    forest.check("bench").expect("a sound forest");
    forest
}

fn beside_peers(folder: &Path) {
    let threads = std::env::var("FOREST_THREADS").map_or(1, |threads| threads.parse().expect("a number of threads"));
    let repetitions = std::env::var("FOREST_REPETITIONS").map_or(5, |count| count.parse().expect("a number"));
    let mut bytes = Bytes::read(&folder.join("rows.f32"));
    let (rows, features) = (bytes.u32() as usize, bytes.u32() as usize);
    let columns: Vec<Vec<f32>> = (0..features).map(|_| (0..rows).map(|_| bytes.f32()).collect()).collect();
    let batch = Columns::new(columns.iter().map(|column| Column::from(&column[..])).collect());
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    for path in entries.filter(|path| path.extension().is_some_and(|extension| extension == "forest")) {
        let program = Program::new(&read(&path));
        let mut out = Margins::default();
        let mut run = || {
            let (start, cpu) = (Instant::now(), cpu_seconds());
            program.margins_by(threads, &batch, &mut out);
            if threads == 1 { cpu_seconds() - cpu } else { start.elapsed().as_secs_f64() }
        };
        run();
        let seconds: Vec<_> = (0..repetitions).map(|_| run().to_string()).collect();
        println!("{} {}", path.file_stem().expect("a name").display(), seconds.join(" "));
        let margins: Vec<f64> = match out {
            Margins::Single(margins) => margins.into_iter().map(f64::from).collect(),
            Margins::Double(margins) => margins,
        };
        let bytes: Vec<u8> = margins.into_iter().flat_map(f64::to_le_bytes).collect();
        std::fs::write(path.with_extension("margins"), bytes).expect("room on the disk");
    }
}

/// What the process has used: on a machine with others at work, a thread's own time says more than the clock's.
fn cpu_seconds() -> f64 {
    unsafe extern "C" {
        fn clock() -> std::ffi::c_long;
    }
    // SAFETY: C's clock() takes nothing and touches nothing of ours; POSIX says that it counts microseconds.
    unsafe { clock() as f64 / 1e6 }
}

fn read(path: &Path) -> Forest {
    let mut bytes = Bytes::read(path);
    let (features, trees, is_double, base) = (bytes.u32(), bytes.u32(), bytes.u32(), bytes.f64());
    let tree = |bytes: &mut Bytes| {
        let mut values = Vec::new();
        let node = |bytes: &mut Bytes, values: &mut Vec<f64>| {
            let [feature, left, right, default_left, is_zero] = std::array::from_fn(|_| bytes.u32());
            let (threshold, value) = (bytes.f32(), bytes.f64());
            if feature == u32::MAX {
                values.push(value);
                return Node::Leaf(values.len() as u32 - 1);
            }
            let missing = if is_zero == 1 { Missing::NanIsZero } else { Missing::Nan };
            Node::Split(Split {
                feature,
                test: Test::Less(threshold),
                missing,
                default_left: default_left == 1,
                left,
                right,
            })
        };
        let nodes = (0..bytes.u32()).map(|_| node(bytes, &mut values)).collect();
        Tree { nodes, leaves: Leaves::Scalar { output: 0, values }, sets: Vec::new() }
    };
    let trees = (0..trees).map(|_| tree(&mut bytes)).collect();
    let precision = if is_double == 1 { Precision::Double } else { Precision::Single };
    forest(features as usize, trees, precision, base)
}

/// A file that is read from its start on.
struct Bytes(std::vec::IntoIter<u8>);

impl Bytes {
    fn read(path: &Path) -> Self {
        Self(std::fs::read(path).expect("a file that peers.py wrote").into_iter())
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.0.next().expect("it is not cut short"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn f32(&mut self) -> f32 {
        f32::from_le_bytes(self.take())
    }

    fn f64(&mut self) -> f64 {
        f64::from_le_bytes(self.take())
    }
}
