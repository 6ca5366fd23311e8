//! ONNX models against ONNX Runtime, on 100,000 rows each: `peers/make_onnx.py` trains and builds them, with fixed seeds.
//!
//! Trees must give the same bits. Networks may not: ONNX Runtime multiplies matrices with fused operations in an order that its
//! kernels choose by shape and processor, and approximates exponentials, hyperbolic tangents and softmax in its own ways.

use std::path::{Path, PathBuf};
use std::process::Command;

use engram_models::{Kind, Model};
use serde::Deserialize;

const ROWS: usize = 100_000;
/// Of a network's score, in units of the score or of 1, whichever is larger: some units of the last place of f32.
const NETWORK_ERROR_MAX: f64 = 2e-6;

#[derive(Deserialize)]
struct Case {
    name: String,
    columns: usize,
    scores: usize,
    is_double: bool,
}

#[test]
fn scores_are_those_of_onnx_runtime() {
    let Some(python) = python() else {
        println!(
            "skipped: no Python with onnxruntime: `make models/tests/peers/.venv/.done`, or name one in ENGRAM_PEERS_PYTHON"
        );
        return;
    };
    let directory = tempfile::tempdir().expect("a directory for models");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/make_onnx.py");
    let status = Command::new(python).arg("-Wignore").arg(script).arg(directory.path()).status().expect("Python runs");
    assert!(status.success(), "make_onnx.py failed: {status}");

    let read = |name: &str| std::fs::read(directory.path().join(name)).expect(name);
    let cases: Vec<Case> = serde_json::from_slice(&read("models.json")).expect("a list of models");
    assert!(!cases.is_empty());
    let wrong: Vec<String> = cases.iter().filter_map(|case| compare(case, &read).err()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn python() -> Option<PathBuf> {
    let named = std::env::var_os("ENGRAM_PEERS_PYTHON").map(PathBuf::from);
    named.or_else(|| {
        let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/.venv/bin/python");
        made.exists().then_some(made)
    })
}

fn compare(case: &Case, read: &dyn Fn(&str) -> Vec<u8>) -> Result<(), String> {
    let name = &case.name;
    let model = Model::read(&read(&format!("{name}.onnx"))).map_err(|error| format!("{name}: {error}"))?;
    let columns = floats(&read(&format!("{name}.x")));
    let bytes = read(&format!("{name}.y"));
    let expected: Vec<f64> = if case.is_double {
        bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
    } else {
        floats(&bytes).into_iter().map(f64::from).collect()
    };
    assert_eq!([columns.len(), expected.len()], [ROWS * case.columns, ROWS * case.scores]);
    assert_eq!(model.features(), case.columns, "{name}");

    let (mut differing, mut ulps_max, mut error_max) = (0, 0, 0.0_f64);
    for (row, expected) in expected.chunks_exact(case.scores).enumerate() {
        let values: Vec<f32> = (0..case.columns).map(|column| columns[column * ROWS + row]).collect();
        for (score, expected) in scores(&model, &values).into_iter().zip(expected) {
            let is_same = if case.is_double {
                score.to_bits() == expected.to_bits()
            } else {
                (score as f32).to_bits() == (*expected as f32).to_bits()
            };
            if is_same || (score.is_nan() && expected.is_nan()) {
                continue;
            }
            differing += 1;
            ulps_max = ulps_max.max(ulps(score as f32, *expected as f32));
            error_max = error_max.max((score - expected).abs() / expected.abs().max(1.0));
        }
    }
    println!("{name}: {differing} of {} differ, by at most {ulps_max} ulp, {error_max:.1e}", expected.len());
    let is_right = match model.kind {
        Kind::Forest(_) => differing == 0,
        Kind::Network(_) => error_max <= NETWORK_ERROR_MAX,
    };
    is_right.then_some(()).ok_or_else(|| format!("{name}: {differing} differ, by {ulps_max} ulp, {error_max:e}"))
}

/// By the definition: the reference evaluation, and the link.
fn scores(model: &Model, row: &[f32]) -> Vec<f64> {
    let margins: Vec<f64> = match &model.kind {
        Kind::Forest(forest) => forest.margins(row),
        Kind::Network(network) => network.margins(row).into_iter().map(f64::from).collect(),
    };
    model.scores(&margins)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Values of f32 from one to the other.
fn ulps(a: f32, b: f32) -> u32 {
    let ordered =
        |x: f32| if x.is_sign_negative() { -((x.to_bits() & 0x7fff_ffff) as i64) } else { x.to_bits() as i64 };
    u32::try_from(ordered(a).abs_diff(ordered(b))).unwrap_or(u32::MAX)
}
