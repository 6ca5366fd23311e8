//! The scoring service on the binary: every event has one score of each model, whatever is killed, and they are what the model
//! and the features give when they are reckoned anew; what stood in for a model, and when, is the same when it is replayed.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use support::activity::seed;
use support::engram::Engram;
use support::kafka::Kafka;

/// width <= 1.5 and not missing: 0.25; else height <= 10, or missing: 1.0, else -2.0. A LightGBM model as it writes them.
const MODEL: &str = include_str!("support/model.txt");

/// The width as it is, and the mean of an entity's last three heights.
const FEATURES: &str = r#"
topic = "telemetry.metrics"
event = "engram.telemetry.Sample"
series = "entity"
time = "time"
[[features]]
name = "height"
field = "values.height"
aggregate = "mean"
rows = 3
[[features]]
name = "width"
field = "values.width"
"#;

/// Commits that are small, so that many are killed; batches that end by every bound.
const CONFIGURATION: &str = "
partitions = 2
[kafka]
static_membership = true
[commit]
interval = \"20ms\"
records_max = 400
[scoring]
batch_rows = 90
batch_delay = \"2ms\"
retry = \"0s\"
";

const ENTITIES: usize = 7;

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("the file can be written");
    path
}

fn load(engram: &Engram, folder: &Path, name: &str, model: &str) {
    let (model, features) = (write(folder, "model.txt", model), write(folder, "features.toml", FEATURES));
    let paths = [model.display().to_string(), features.display().to_string()];
    engram.run(&["models", "load", name, "--model", &paths[0], "--features", &paths[1]]);
}

/// Samples as JSON lines; some lack a width or a height, some are of another type.
fn produce(engram: &Engram, events: usize, random: &mut StdRng) {
    let lines: String = (0..events)
        .map(|number| {
            let mut values = serde_json::Map::new();
            if random.random_bool(0.9) {
                values.insert("width".to_owned(), json!(f64::from(random.random_range(0..30)) / 10.0));
            }
            if random.random_bool(0.8) {
                values.insert("height".to_owned(), json!(random.random_range(0..20)));
            }
            let entity = format!("entity-{}", random.random_range(0..ENTITIES));
            format!("{}\n", json!({"time": 1_700_000_000_000_i64 + number as i64, "entity": entity, "values": values}))
        })
        .collect();
    engram.run_with(&["produce", "telemetry.metrics", "--type", "engram.telemetry.Sample"], &lines);
    let other = json!({"time": 0, "entity": "entity-0", "metric": "width", "value": 1.0}).to_string();
    engram.run_with(&["produce", "telemetry.metrics", "--type", "engram.telemetry.Metric"], &other);
}

fn catch_up(engram: &Engram) {
    engram.run(&["up", "--http", "127.0.0.1:0", "--services", "scoring", "--exit-when-idle", "1"]);
}

/// Where an event lies.
type Place = (i64, i64);

fn place(record: &Value) -> Place {
    (record["partition"].as_i64().expect("a number"), record["offset"].as_i64().expect("a number"))
}

/// The score of each sample, in the order of each partition.
fn expected(engram: &Engram) -> BTreeMap<Place, f64> {
    let mut records = engram.consume("telemetry.metrics");
    records.sort_by_key(place);
    let mut heights: HashMap<String, Vec<Option<f64>>> = HashMap::new();
    let mut expected = BTreeMap::new();
    for record in records {
        let values = &record["value"]["values"];
        if values.is_null() {
            continue;
        }
        let entity = record["value"]["entity"].as_str().expect("an entity").to_owned();
        let heights = heights.entry(entity).or_default();
        heights.push(values["height"].as_f64());
        let last: Vec<f64> = heights.iter().rev().take(3).flatten().copied().collect();
        let mean = (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64);
        let score = match (values["width"].as_f64(), mean) {
            (Some(width), _) if width <= 1.5 => 0.25,
            (_, Some(mean)) if mean > 10.0 => -2.0,
            _ => 1.0,
        };
        expected.insert(place(&record), score);
    }
    expected
}

/// The scores by model and by the event's place. Panics on two of one event.
fn scores(engram: &Engram) -> BTreeMap<(String, Place), Value> {
    let mut scores = BTreeMap::new();
    for record in engram.consume("scores") {
        let value = record["value"].clone();
        let of = (value["model"].as_str().expect("a model").to_owned(), place(&value));
        assert!(scores.insert(of.clone(), value).is_none(), "{of:?} has two scores");
    }
    scores
}

fn each_event_has_one_score(engram: &Engram, folder: &Path, chunks: usize, events: usize) {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut hashes = Vec::new();
    for chunk in 0..chunks {
        // Another file, and the same trees: its hash tells which scored an event.
        load(engram, folder, "shapes", &format!("{MODEL}chunk={chunk}\n"));
        if chunk == 0 {
            load(engram, folder, "others", MODEL);
        }
        let listed = engram.json(&["models", "list"]);
        hashes.push(listed.iter().find(|model| model["name"] == "shapes").expect("it is loaded")["hash"].clone());
        catch_up(engram);
        produce(engram, events, &mut random);
        for _ in 0..4 {
            let up = engram.up(&["--services", "scoring"]);
            std::thread::sleep(Duration::from_millis(random.random_range(0..200)));
            up.kill();
        }
        catch_up(engram);
        let (expected, scores) = (expected(engram), scores(engram));
        assert_eq!(scores.len(), 2 * expected.len(), "each sample has a score of both models");
        for ((model, place), score) in &scores {
            assert_eq!(score["scores"], json!([expected[place]]), "{model} {place:?}: {score}");
            assert_eq!((&score["kernel"], &score["is_fallback"]), (&json!("forest-1"), &json!(false)), "{score}");
        }
        let of_chunk = scores.iter().filter(|((model, _), score)| model == "shapes" && score["hash"] == hashes[chunk]);
        assert_eq!(of_chunk.count(), events, "the model was swapped between the chunks");
    }
    let manifests = engram.consume("engram-scoring-manifests");
    let batches = || manifests.iter().flat_map(|record| record["value"]["batches"].as_array().expect("a list"));
    let rows: i64 = batches().map(|batch| batch["rows"].as_i64().expect("a number")).sum();
    assert_eq!(rows as usize, 2 * chunks * events, "each row is in one batch of each model");
    engram.replays("scoring");
}

#[test]
fn each_event_has_one_score_of_each_model_whatever_is_killed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data")).configured(CONFIGURATION);
    each_event_has_one_score(&engram, folder.path(), 3, 6_000);
}

#[test]
fn each_event_has_one_score_of_each_model_on_kafka_too() {
    let kafka = Kafka::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::on_kafka(&folder.path().join("data"), kafka.brokers()).configured(CONFIGURATION);
    each_event_has_one_score(&engram, folder.path(), 2, 3_000);
}

#[test]
fn a_model_that_cannot_be_had_is_stood_in_for_and_a_replay_knows_when() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data")).configured(CONFIGURATION);
    let mut random = StdRng::seed_from_u64(seed());
    load(&engram, folder.path(), "shapes", MODEL);
    let hash = engram.json(&["models", "list"])[0]["hash"].as_str().expect("a hash").to_owned();
    let file = engram.data().join("models").join(&hash);
    let away = folder.path().join("away");
    let fallbacks = || scores(&engram).values().filter(|score| score["is_fallback"] == json!(true)).count();
    catch_up(&engram);

    produce(&engram, 500, &mut random);
    catch_up(&engram);
    assert_eq!((scores(&engram).len(), fallbacks()), (500, 0));

    std::fs::rename(&file, &away).expect("moved");
    produce(&engram, 500, &mut random);
    catch_up(&engram);
    assert_eq!((scores(&engram).len(), fallbacks()), (1_000, 500), "each is marked");
    let all = scores(&engram);
    let of_fallback = || all.values().filter(|score| score["is_fallback"] == json!(true));
    assert!(of_fallback().all(|score| score["kernel"] == "robust-z-1" && score["hash"] == hash.as_str()));
    assert!(of_fallback().any(|score| score["scores"][0].as_f64().is_some_and(|score| score != 0.0)), "it gets warm");
    // A replay needs the model for what it has scored, and says so.
    let error = engram.fails(1, &["replay", "scoring", "--verify"]);
    assert!(error.contains("model shapes") && error.contains("cannot be had"), "{error}");

    std::fs::rename(&away, &file).expect("moved back");
    produce(&engram, 500, &mut random);
    catch_up(&engram);
    assert_eq!((scores(&engram).len(), fallbacks()), (1_500, 500));
    let expected = expected(&engram);
    for ((_, place), score) in scores(&engram).iter().filter(|(_, score)| score["is_fallback"] == json!(false)) {
        assert_eq!(score["scores"], json!([expected[place]]), "histories went on: {score}");
    }
    engram.replays("scoring");

    engram.run(&["models", "unload", "shapes"]);
    catch_up(&engram);
    produce(&engram, 100, &mut random);
    catch_up(&engram);
    assert_eq!(scores(&engram).len(), 1_500, "nothing is scored any more");
    assert!(engram.json(&["state", "range", "scoring", "histories"]).is_empty(), "nothing is kept for it");
    engram.replays("scoring");
}

/// Area under the receiver operating characteristic: how often an anomaly's score is above another row's. Mann and Whitney 1947.
fn auc(rows: &[(bool, f64)]) -> f64 {
    let mut sorted: Vec<&(bool, f64)> = rows.iter().collect();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (mut ranks, mut from) = (0.0, 0);
    while from < sorted.len() {
        let to = from + sorted[from..].iter().take_while(|row| row.1 == sorted[from].1).count();
        // Equal scores share the mean of their ranks, which count from 1.
        let rank = (from + 1 + to) as f64 / 2.0;
        ranks += rank * sorted[from..to].iter().filter(|row| row.0).count() as f64;
        from = to;
    }
    let positives = rows.iter().filter(|row| row.0).count() as f64;
    (ranks - positives * (positives + 1.0) / 2.0) / (positives * (rows.len() as f64 - positives))
}

#[test]
fn anomalies_of_real_data_are_found_through_the_whole_pipeline() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/peers/make_shuttle.py");
    let python = std::env::var_os("ENGRAM_PEERS_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/peers/.venv/bin/python"),
        PathBuf::from,
    );
    let made = Command::new(&python).arg(script).arg(folder.path()).status();
    assert!(made.unwrap_or_else(|error| panic!("{}: {error}: run 'make setup'", python.display())).success());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let engram = Engram::embedded(&folder.path().join("data"));
    engram.run(&[
        "models",
        "load",
        "shuttle",
        "--model",
        &path("model.treelite"),
        "--features",
        &path("features.toml"),
    ]);
    catch_up(&engram);
    engram.run(&["produce", "telemetry.metrics", &path("events.ndjson"), "--type", "engram.telemetry.Sample"]);
    catch_up(&engram);

    let expected = std::fs::read_to_string(path("expected.csv")).expect("it was written");
    let expected: Vec<(bool, f64)> = expected
        .lines()
        .map(|line| line.split_once(',').expect("two columns"))
        .map(|(label, score)| (label == "1", score.parse().expect("a number")))
        .collect();
    let scored: BTreeMap<usize, f64> = scores(&engram)
        .values()
        .map(|score| (score["time"].as_u64().expect("a row") as usize, score["scores"][0].as_f64().expect("a score")))
        .collect();
    assert_eq!(scored.len(), expected.len(), "each row has a score");
    // Treelite keeps one of scikit-learn's constants as an f32.
    let furthest = scored.iter().map(|(row, score)| (score - expected[*row].1).abs()).fold(0.0, f64::max);
    let ours: Vec<(bool, f64)> = scored.iter().map(|(row, score)| (expected[*row].0, *score)).collect();
    println!("AUC {:.6}, scikit-learn {:.6}, scores within {furthest:e}", auc(&ours), auc(&expected));
    assert!(auc(&ours) >= 0.995 && furthest < 1e-6, "{} {furthest}", auc(&ours));
}

#[test]
fn what_cannot_be_loaded_is_told_in_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    let model = write(folder.path(), "model.txt", MODEL).display().to_string();
    let try_load = |features: &str| {
        let features = write(folder.path(), "features.toml", features).display().to_string();
        engram.fails(1, &["models", "load", "shapes", "--model", &model, "--features", &features])
    };
    for (from, to, wanted) in [
        ("topic = \"telemetry.metrics\"", "topic = \"activity.events\"", "takes: engram.activity.Interaction"),
        ("telemetry.metrics", "my.topic", "does not read my.topic: name it in scoring.topics"),
        ("engram.telemetry.Sample", "engram.telemetry.Nothing", "takes: engram.telemetry.Metric"),
        ("name = \"width\"", "name = \"breadth\"", "wants a column \"width\""),
        ("rows = 3", "rows = 0", "rows is 0"),
        ("rows = 3", "row = 3", "unknown field `row`"),
        ("aggregate = \"mean\"", "aggregate = \"median\"", "median"),
        ("[[features]]\nname = \"width\"\nfield = \"values.width\"\n", "", "wants 2 columns, and 1 features"),
        ("event = \"engram.telemetry.Sample\"", "", "missing field `event`"),
    ] {
        assert!(FEATURES.contains(from), "{from}");
        let error = try_load(&FEATURES.replace(from, to));
        assert!(error.contains(wanted), "{to}: {error}");
    }
    let features = write(folder.path(), "features.toml", FEATURES).display().to_string();
    let no_model = engram.fails(1, &["models", "load", "shapes", "--model", &features, "--features", &features]);
    assert!(no_model.contains("give XGBoost JSON"), "{no_model}");
    let unknown = engram.fails(1, &["models", "unload", "shapes"]);
    assert!(unknown.contains("there is"), "{unknown}");
}
