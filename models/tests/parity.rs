//! Models of XGBoost, LightGBM, scikit-learn and Treelite, trained by themselves, give here what they give there, bit for bit.
//!
//! `peers/make_models.py` trains them and asks them about 100,000 rows each. `make models/tests/peers/.venv/.done` installs them.
//! `ENGRAM_PEERS_PYTHON` names a Python that has them elsewhere; `ENGRAM_PEERS=FOLDER` keeps what the script writes, and uses it if it is there.

use std::path::{Path, PathBuf};
use std::process::Command;

use arrow::array::Float32Array;
use engram_models::device::{CpuDevice, Device as _, is_same};
use engram_models::link::{Link, Precision};
use engram_models::{Kind, Model};
use serde::Deserialize;

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers");

/// Trees times rows that the reference evaluation is asked for in one case, beside the CPU's engine, which has all rows.
const TREES_TIMES_ROWS_MAX: usize = 1_000_000;

#[derive(Deserialize)]
struct Manifest {
    rows: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    rows: String,
    columns: usize,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    of: Of,
    peer: String,
    file: String,
    r#type: Type,
    columns: usize,
}

#[derive(Deserialize, PartialEq, Clone, Copy, Debug)]
#[serde(rename_all = "lowercase")]
enum Of {
    Margins,
    Scores,
}

#[derive(Deserialize, PartialEq, Clone, Copy, Debug)]
#[serde(rename_all = "lowercase")]
enum Type {
    F32,
    F64,
}

/// How far an answer may be from the peer's.
#[derive(Debug, Clone, Copy)]
enum Tolerance {
    /// Not a bit.
    None,
    /// Steps from one number of the answer's type to the next.
    Steps(u64),
    /// Of what is larger, it or 1.
    Relative(f64),
}

/// Where a peer computes otherwise than the forest is defined to. All else is the same to the bit.
fn tolerance(case: &str, answer: &Answer, precision: Precision, link: Link) -> Tolerance {
    let is_double = precision == Precision::Double;
    match (answer.of, answer.peer.as_str(), link) {
        // XGBoost takes e^margin in f64 for this objective alone, and rounds.
        (Of::Scores, "xgboost", _) if case == "xgboost_aft" => Tolerance::Steps(1),
        // GTIL computes its softmax in f32, whatever the model's type.
        (Of::Scores, "gtil", Link::Softmax) if is_double => Tolerance::Relative(1e-6),
        // Treelite keeps c in f32.
        (Of::Scores, "sklearn", Link::PathLength { .. }) => Tolerance::Relative(1e-7),
        // Treelite's import divides each leaf's shares by their sum again, which is nearly 1.
        (Of::Scores, "sklearn", Link::Identity) if case.ends_with("classifier") => Tolerance::Relative(1e-15),
        // Gradient boosting adds its base score first, Treelite last: some last bits of the margin, and of e^margin.
        (Of::Scores, "sklearn", _) if case.contains("boosting") || case.contains("histogram") => {
            Tolerance::Relative(1e-13)
        }
        _ => Tolerance::None,
    }
}

#[test]
fn models_give_what_their_libraries_give() {
    let made = PathBuf::from(format!("{PEERS}/.venv/bin/python"));
    let python = std::env::var_os("ENGRAM_PEERS_PYTHON").map_or(made, PathBuf::from);
    if !python.exists() {
        println!("skipped: the libraries are not installed; 'make models/tests/peers/.venv/.done' installs them");
        return;
    }
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = std::env::var_os("ENGRAM_PEERS").map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    if !folder.join("manifest.json").exists() {
        std::fs::create_dir_all(&folder).expect("it can be made");
        let output =
            Command::new(&python).arg(format!("{PEERS}/make_models.py")).arg(&folder).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let manifest = std::fs::read(folder.join("manifest.json")).expect("it is there");
    let manifest: Manifest = serde_json::from_slice(&manifest).expect("it is a manifest");
    let mut failures = Vec::new();
    for case in &manifest.cases {
        for line in compare(&folder, case, manifest.rows) {
            println!("{line}");
            if line.contains("WRONG") {
                failures.push(line);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(manifest.cases.len() >= 60 && manifest.rows >= 100_000, "{} cases", manifest.cases.len());
}

/// A line about each answer of a case.
fn compare(folder: &Path, case: &Case, rows: usize) -> Vec<String> {
    let read = |file: &str| std::fs::read(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let model = match Model::read(&read(&case.model)) {
        Ok(model) => model,
        Err(error) => return vec![format!("{}: WRONG {error}", case.name)],
    };
    let (precision, link) = (model.precision(), model.link());
    let trees = match &model.kind {
        Kind::Forest(forest) => forest.trees.len(),
        Kind::Network(_) => 1,
    };
    let inputs = floats(&read(&case.rows), Type::F32);
    assert_eq!(inputs.len(), case.columns * rows, "{}", case.rows);
    let answers: Vec<_> = case.answers.iter().map(|answer| floats(&read(&answer.file), answer.r#type)).collect();
    let mut worst: Vec<Difference> = case.answers.iter().map(|_| Difference::default()).collect();
    // A model may have features that no tree asks for, and the rows have no columns of.
    let column = |column: usize| -> Float32Array {
        (0..rows)
            .map(|row| inputs.get(column * rows + row).map_or(0.0, |value| *value as f32))
            .collect::<Vec<_>>()
            .into()
    };
    let columns: Vec<Float32Array> = (0..model.features()).map(column).collect();
    let mut scorer = CpuDevice::new(2).load(&model).expect("the CPU runs any model");
    let all_margins = scorer.score(&columns).expect("the batch is sound");
    let by_reference = rows.min(TREES_TIMES_ROWS_MAX / trees);
    for (number, margins) in all_margins.chunks_exact(model.margins()).enumerate() {
        if number < by_reference {
            let row: Vec<f32> = columns.iter().map(|column| column.value(number)).collect();
            let expected = match &model.kind {
                Kind::Forest(forest) => forest.margins(&row),
                Kind::Network(network) => network.margins(&row).into_iter().map(f64::from).collect(),
            };
            assert!(is_same(margins, &expected), "{}: row {number}: {margins:?} is not {expected:?}", case.name);
        }
        let mut scores = vec![0.0; link.scores(margins.len())];
        link.apply(precision, margins, &mut scores);
        for ((answer, values), worst) in case.answers.iter().zip(&answers).zip(&mut worst) {
            let ours = if answer.of == Of::Margins { margins } else { &scores };
            assert_eq!(ours.len(), answer.columns, "{} {}", case.name, answer.file);
            let theirs = &values[number * answer.columns..][..answer.columns];
            ours.iter().zip(theirs).for_each(|(ours, theirs)| worst.add(answer.r#type, number, *ours, *theirs));
        }
    }
    let lines = case.answers.iter().zip(worst).map(|(answer, worst)| {
        let tolerance = tolerance(&case.name, answer, precision, link);
        let is_right = match tolerance {
            Tolerance::None => worst.different == 0,
            Tolerance::Steps(steps) => worst.steps <= steps,
            Tolerance::Relative(relative) => worst.relative <= relative,
        };
        let verdict = match (is_right, worst.different) {
            (true, 0) => "bitwise".to_owned(),
            (true, _) => format!("within {tolerance:?}: {worst:?}"),
            (false, _) => format!("WRONG, not within {tolerance:?}: {worst:?}"),
        };
        format!("{}: {rows} rows, {:?} of {} in {:?}: {verdict}", case.name, answer.of, answer.peer, answer.r#type)
    });
    lines.collect()
}

/// The farthest that two answers are from each other.
#[derive(Default, Debug)]
struct Difference {
    different: usize,
    steps: u64,
    relative: f64,
    /// The first row that differs, ours and theirs.
    first: Option<(usize, f64, f64)>,
}

impl Difference {
    fn add(&mut self, r#type: Type, row: usize, ours: f64, theirs: f64) {
        if ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()) {
            return;
        }
        let ordered = |number: f64| match r#type {
            Type::F32 => {
                let bits = i64::from((number as f32).to_bits() as i32);
                if bits < 0 { i64::from(i32::MIN) - bits } else { bits }
            }
            Type::F64 => {
                let bits = number.to_bits() as i64;
                if bits < 0 { i64::MIN.wrapping_sub(bits) } else { bits }
            }
        };
        self.different += 1;
        self.steps = self.steps.max(ordered(ours).abs_diff(ordered(theirs)));
        let relative = (ours - theirs).abs() / theirs.abs().max(1.0);
        self.relative = if relative.is_nan() { f64::INFINITY } else { self.relative.max(relative) };
        self.first.get_or_insert((row, ours, theirs));
    }
}

fn floats(bytes: &[u8], r#type: Type) -> Vec<f64> {
    match r#type {
        Type::F32 => bytes.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect(),
        Type::F64 => bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect(),
    }
}
