//! ONNX files of skl2onnx 1.20 and onnxmltools 1.16 (`fixtures/onnx`): what ONNX Runtime 1.32 gave of some rows, and what
//! becomes of such files when they are cut, altered, or claim to be longer than they are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use engram_models::link::Precision;
use engram_models::{Kind, Model, ModelError};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;

/// What reading a file of some kilobytes may ever hold at a time.
const HELD_MAX: usize = 64 << 20;
const MUTANTS: usize = 20_000;

#[derive(Deserialize)]
struct Golden {
    rows: Vec<Vec<f32>>,
    models: Vec<Scores>,
}

#[derive(Deserialize)]
struct Scores {
    name: String,
    scores: Vec<Vec<f32>>,
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx").join(name)).expect(name)
}

fn fixtures() -> (Golden, Vec<Vec<u8>>) {
    let golden: Golden = serde_json::from_slice(&fixture("golden.json")).expect("golden scores");
    let files = golden.models.iter().map(|model| fixture(&format!("{}.onnx", model.name))).collect();
    (golden, files)
}

#[test]
fn scores_are_those_of_onnx_runtime() {
    let (golden, files) = fixtures();
    for (expected, file) in golden.models.iter().zip(files) {
        let model = Model::read(&file).unwrap_or_else(|error| panic!("{}: {error}", expected.name));
        assert_eq!((model.format, model.features()), ("onnx", 5));
        for (row, expected_scores) in golden.rows.iter().zip(&expected.scores) {
            let (margins, link, error_max) = match &model.kind {
                Kind::Forest(forest) => (forest.margins(row), forest.link, 0.0),
                Kind::Network(network) => {
                    (network.margins(row).into_iter().map(f64::from).collect(), network.link, 1e-6)
                }
            };
            let mut scores = vec![0.0; link.scores(margins.len())];
            link.apply(Precision::Single, &margins, &mut scores);
            assert_eq!(scores.len(), expected_scores.len(), "{}", expected.name);
            for (score, expected_score) in scores.iter().zip(expected_scores) {
                let error = (score - f64::from(*expected_score)).abs();
                assert!(error <= error_max, "{}: {score}, not {expected_score}", expected.name);
            }
        }
    }
}

/// Reads a file, which must end in one way or the other, and hold no more than it may.
fn read(file: &[u8], what: &dyn Fn() -> String) -> Result<Model, ModelError> {
    HELD.with(|held| held.set((0, 0)));
    let result = Model::read(file);
    let (_, most) = HELD.with(Cell::get);
    assert!(most <= HELD_MAX, "{}: {most} bytes", what());
    if let Ok(Model { kind: Kind::Forest(forest), .. }) = &result {
        assert_eq!(forest.check("onnx"), Ok(()));
    }
    result
}

#[test]
fn cut_files_are_refused() {
    let (golden, files) = fixtures();
    for (model, file) in golden.models.iter().zip(files) {
        for length in 0..file.len() {
            // What stands last in a file are its operator sets, which it could do without.
            let is_whole = Model::read(&file) == read(&file[..length], &|| format!("{} of {length}", model.name));
            assert!(!is_whole);
        }
    }
}

#[test]
fn altered_files_are_read_or_refused() {
    let given = std::env::var("ENGRAM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    println!("ENGRAM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (golden, files) = fixtures();
    let mut read_all = 0;
    for number in 0..MUTANTS {
        let which = number % files.len();
        let mut file = files[which].clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..file.len());
            match random.random_range(0..5) {
                0 => file[at] ^= 1 << random.random_range(0..8),
                1 => file[at] = random.random(),
                // A varint that goes on, as lengths and numbers do.
                2 => file[at] |= 0x80,
                3 => drop(file.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0x07])),
                _ => drop(file.drain(at..(at + random.random_range(1..20)).min(file.len()))),
            }
            if file.is_empty() {
                file.push(8);
            }
        }
        let what = || format!("seed {seed}, mutant {number} of {}", golden.models[which].name);
        read_all += usize::from(read(&file, &what).is_ok());
    }
    println!("{read_all} of {MUTANTS} altered files were models all the same");
}

#[test]
fn claims_are_not_believed() {
    // Field 7 of a model, the graph, of 2 GiB; in it a node, and so on; each as long as it gets.
    for claim in [&[0x3a, 0xff, 0xff, 0xff, 0xff, 0x07][..], &[0x3a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f]] {
        let file = [&[0x08, 0x09][..], claim, &[0x0a, 0x02, 0x0a, 0x00]].concat();
        assert!(matches!(read(&file, &|| "a claim".to_owned()), Err(ModelError::Malformed { .. })));
    }
    // As many empty nodes as two bytes each can be.
    let nodes = [0x0a, 0x00].repeat(100_000);
    let mut file = vec![0x08, 0x09, 0x3a];
    let mut length = nodes.len();
    while length > 0 {
        file.push((length & 0x7f) as u8 | if length > 0x7f { 0x80 } else { 0 });
        length >>= 7;
    }
    file.extend(nodes);
    assert!(matches!(read(&file, &|| "empty nodes".to_owned()), Err(ModelError::TooLarge(_))));
}

thread_local! {
    /// Bytes that the thread holds, and the most that it ever held.
    static HELD: Cell<(isize, usize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(bytes: isize) {
    // A thread that ends has no count any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max((now + bytes).max(0) as usize)));
    });
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: it hands everything to the system's allocator as it is, and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
