//! Small models that are kept with the code: they give what their libraries gave, and damaged ones are refused.
//!
//! `peers/make_files.py` wrote them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use engram_models::{Kind, Model, ModelError};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;

/// Rows and margins, as text: `serde_json` does not read every f64 to the bit.
#[derive(Deserialize)]
struct Written {
    rows: Vec<Vec<String>>,
    margins: Vec<Vec<String>>,
}

struct Answers {
    rows: Vec<Vec<f32>>,
    margins: Vec<Vec<f64>>,
}

fn file(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/forests").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn models() -> BTreeMap<String, Answers> {
    let written: BTreeMap<String, Written> = serde_json::from_slice(&file("answers.json")).expect("they are answers");
    let of = |Written { rows, margins }| Answers { rows: numbers(&rows), margins: numbers(&margins) };
    written.into_iter().map(|(name, written)| (name, of(written))).collect()
}

fn numbers<T: FromStr<Err: Debug>>(rows: &[Vec<String>]) -> Vec<Vec<T>> {
    rows.iter().map(|row| row.iter().map(|number| number.parse().expect("a number")).collect()).collect()
}

/// What a model gives for some rows. What is read can be asked.
fn margins(model: &Model, rows: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let Kind::Forest(forest) = &model.kind else { panic!("it is no forest") };
    let mut row = vec![f32::NAN; forest.features];
    let margins = rows.iter().map(|values| {
        row.iter_mut().zip(values).for_each(|(place, value)| *place = *value);
        forest.margins(&row)
    });
    margins.collect()
}

#[test]
fn kept_models_give_what_their_libraries_gave() {
    for (name, answers) in models() {
        let model = Model::read(&file(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let given = margins(&model, &answers.rows);
        for ((row, ours), theirs) in answers.rows.iter().zip(&given).zip(&answers.margins) {
            assert_eq!(ours, theirs, "{name}: {row:?}");
        }
        assert_eq!(model.features(), if name.starts_with("operators") { 1 } else { 4 }, "{name}");
    }
}

#[test]
fn columns_keep_their_names() {
    let names =
        |name: &str| Model::read(&file(name)).map(|model| (model.format, model.names.join(" "))).expect("it is sound");
    assert_eq!(names("xgboost.json"), ("xgboost", "a b c d".to_owned()));
    assert_eq!(names("xgboost.ubj"), ("xgboost", "a b c d".to_owned()));
    assert_eq!(names("lightgbm.txt"), ("lightgbm", "Column_0 Column_1 Column_2 Column_3".to_owned()));
    assert_eq!(names("forest.treelite"), ("treelite", String::new()));
}

#[test]
fn files_that_are_cut_short_are_refused() {
    for name in models().keys() {
        let whole = file(name);
        // LightGBM's parameters stand after the end of the trees, and are not read; a last line break is not missed in JSON.
        let needed = whole.windows(12).position(|at| at == b"end of trees").map_or(whole.len(), |at| at + 11);
        for length in 0..needed {
            let read = Model::read(&whole[..length]);
            assert!(read.is_err(), "{name}: {length} of {} bytes", whole.len());
        }
    }
}

#[test]
fn damaged_files_are_refused_or_read_but_never_worse() {
    let seed = std::env::var("ENGRAM_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("ENGRAM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for (name, answers) in models() {
        let whole = file(&name);
        let (mut read, mut slowest) = (0, Duration::ZERO);
        for _ in 0..3_000 {
            let damaged = damage(&whole, &mut random);
            let started = Instant::now();
            if let Ok(model) = Model::read(&damaged) {
                read += 1;
                margins(&model, &answers.rows[..10]);
            }
            slowest = slowest.max(started.elapsed());
        }
        println!("{name}: {read} of 3000 are read, the slowest took {slowest:?}");
        assert!(slowest < Duration::from_secs(5), "{name}: {slowest:?}");
    }
}

/// One to four changes: of bits, bytes, whole numbers of both widths, digits, or of the order of parts.
fn damage(whole: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut damaged = whole.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..damaged.len());
        match random.random_range(0..7) {
            0 => damaged[at] ^= 1 << random.random_range(0..8),
            1 => damaged[at] = random.random(),
            2 => {
                let number =
                    [1_u64 << 31, 1 << 32, 1 << 60, u64::MAX, i64::MAX as u64, 1 << 20][random.random_range(0..6)];
                let number = if random.random() { number.to_le_bytes() } else { number.to_be_bytes() };
                damaged.splice(at..(at + 8).min(damaged.len()), number);
            }
            3 => {
                let end = (at + random.random_range(1..64)).min(damaged.len());
                damaged.drain(at..end);
            }
            4 => {
                let part = damaged[at..(at + 100).min(damaged.len())].to_vec();
                let at = random.random_range(0..damaged.len());
                damaged.splice(at..at, part);
            }
            5 => {
                // A digit, for what is read as text: the next one from here.
                if let Some(digit) = damaged[at..].iter().position(u8::is_ascii_digit) {
                    damaged[at + digit] = random.random_range(b'0'..=b'9');
                }
            }
            _ => {
                if let Some(digit) = damaged[at..].iter().position(u8::is_ascii_digit) {
                    let text: &[u8] =
                        [&b"-1"[..], b"4294967296", b"9223372036854775807", b"1e30", b"nan"][random.random_range(0..5)];
                    damaged.splice(at + digit..=at + digit, text.iter().copied());
                }
            }
        }
        if damaged.is_empty() {
            break;
        }
    }
    damaged
}

/// A file with one text in the place of another.
fn with(name: &str, from: &str, to: &str) -> Result<Model, ModelError> {
    let text = String::from_utf8(file(name)).expect("it is text");
    assert!(text.contains(from), "{name} has {from}");
    Model::read(text.replacen(from, to, 1).as_bytes())
}

#[track_caller]
fn refused(read: Result<Model, ModelError>, because: &str) {
    let error = read.map(|_| "it is read").expect_err("it is damaged").to_string();
    assert!(error.contains(because), "{error}");
}

#[test]
fn what_is_wrong_is_said() {
    refused(with("xgboost.json", r#""left_children":[1,"#, r#""left_children":[0,"#), "tree 0: node 0 has two parents");
    refused(with("xgboost.json", r#""left_children":[1,"#, r#""left_children":[77,"#), "tree 0: node 77 is not there");
    refused(with("xgboost.json", r#""split_indices":["#, r#""split_indices":[1,"#), "split_indices has");
    refused(with("xgboost.json", r#""categories_sizes":["#, r#""categories_sizes":[9999"#), "are not there");
    refused(
        with("xgboost.json", r#""categories":["#, r#""categories":[16777216,"#),
        "a category is not a whole number",
    );
    refused(with("xgboost.json", "binary:logistic", "binary:mystic"), "its objective \"binary:mystic\" is not known");
    refused(with("xgboost.json", r#""base_score":"["#, r#""base_score":"[5E-1,"#), "base scores for 1 outputs");
    refused(
        with("xgboost.json", r#""num_class":"0","num_feature":"4""#, r#""num_class":"0","num_feature":"99999999999""#),
        "99999999999 features",
    );
    refused(with("xgboost.json", r#""version":[3"#, r#""version":[1"#), "save it with 2 or 3");
    refused(with("xgboost_dart.json", r#""name":"dart""#, r#""name":"gbforest""#), "its booster is \"gbforest\"");
    refused(with("xgboost_dart.json", r#""name":"dart""#, r#""name":"gblinear""#), "it has no model");
    refused(with("lightgbm.txt", "left_child=2", "left_child=0"), "tree 0: node 0 has two parents");
    refused(with("lightgbm.txt", "left_child=2", "left_child=2147483647"), "is not there");
    refused(with("lightgbm.txt", "left_child=2", "left_child=-2147483648"), "is not there");
    refused(with("lightgbm.txt", "is_linear=0", "is_linear=1"), "its leaves are linear models");
    refused(with("lightgbm.txt", "num_leaves=6", "num_leaves=18446744073709551615"), "leaf_value has 6 of");
    refused(with("lightgbm.txt", "split_feature=", "split_feature=7"), "asks for feature");
    refused(with("lightgbm.txt", "objective=multiclass", "objective=mystic"), "its objective \"mystic\" is not known");
    refused(Model::read(b"PK\x03\x04"), "give XGBoost JSON or UBJSON");
    refused(Model::read(b""), "give XGBoost JSON or UBJSON");
    refused(Model::read(b"{\"a\":1}"), "it has no learner");
    refused(Model::read(&[3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2, 2]), "write it with Treelite 4");
}

#[test]
fn a_chain_of_a_million_nodes_is_refused_at_once() {
    let splits = 1_000_000;
    let list = |of: &dyn Fn(usize) -> String| (0..splits).map(of).collect::<Vec<_>>().join(" ");
    let tree = format!(
        "Tree=0\nnum_leaves={}\nnum_cat=0\nsplit_feature={}\nthreshold={}\ndecision_type={}\nleft_child={}\nright_child={}\nleaf_value={} 0\n\nend of trees\n",
        splits + 1,
        list(&|_| "0".to_owned()),
        list(&|_| "0.5".to_owned()),
        list(&|_| "2".to_owned()),
        list(&|at| (if at + 1 < splits { at as i64 + 1 } else { -1 - splits as i64 }).to_string()),
        list(&|at| (-1 - at as i64).to_string()),
        list(&|_| "1".to_owned()),
    );
    let head =
        "tree\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx=0\nfeature_names=a\nobjective=regression\n\n";
    refused(Model::read(format!("{head}{tree}").as_bytes()), "deep");
}

/// Work and memory that a small file asks for: sets of large categories, and nodes that share one list.
#[test]
fn small_files_cannot_ask_for_much() {
    let nodes = 20_001;
    let list = |of: &dyn Fn(usize) -> i64| (0..nodes).map(|at| of(at).to_string()).collect::<Vec<_>>().join(",");
    let is_split = |at: usize| at.is_multiple_of(2) && at + 2 < nodes;
    let split = |of: &dyn Fn(usize) -> i64, otherwise: i64| list(&|at| if is_split(at) { of(at) } else { otherwise });
    let splits: Vec<usize> = (0..nodes).filter(|at| is_split(*at)).collect();
    let by_split =
        |of: &dyn Fn(usize) -> usize| (0..splits.len()).map(|at| of(at).to_string()).collect::<Vec<_>>().join(",");
    let model = |categories: String, starts: String, sizes: String| {
        let tree = format!(
            r#"{{"left_children":[{}],"right_children":[{}],"default_left":[{}],"split_indices":[{}],"split_conditions":[{}],"split_type":[{}],"categories":[{categories}],"categories_nodes":[{}],"categories_segments":[{starts}],"categories_sizes":[{sizes}],"tree_param":{{"size_leaf_vector":"1"}}}}"#,
            split(&|at| at as i64 + 1, -1),
            split(&|at| at as i64 + 2, -1),
            list(&|_| 0),
            list(&|_| 0),
            list(&|_| 0),
            split(&|_| 1, 0),
            splits.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
        );
        format!(
            r#"{{"learner":{{"gradient_booster":{{"name":"gbtree","model":{{"trees":[{tree}],"tree_info":[0]}}}},"learner_model_param":{{"base_score":"0","num_class":"0","num_feature":"1"}},"objective":{{"name":"reg:squarederror"}}}},"version":[3,0,0]}}"#
        )
    };
    let large = model(by_split(&|_| 16_777_215), by_split(&|at| at), by_split(&|_| 1));
    refused(Model::read(large.as_bytes()), "its category sets take more than");
    let shared = model(by_split(&|at| at), by_split(&|_| 0), by_split(&|_| splits.len()));
    refused(Model::read(shared.as_bytes()), "are not there");
    let sound = model(by_split(&|at| at % 50), by_split(&|at| at), by_split(&|_| 1));
    assert!(Model::read(sound.as_bytes()).is_ok());
}
