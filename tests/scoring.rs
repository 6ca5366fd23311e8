//! The scoring service on the binary: every event has one score of each model, whatever is killed, and they are what the model
//! and the features give when they are reckoned anew; what stood in for a model, and when, is the same when it is replayed.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use engram_models::ModelFile;
use engram_models::series::State;
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::{Log, NewRecord};
use engram_pipeline::registry::LogRegistry;
use engram_schemas::codec::json_to_avro;
use engram_schemas::registry::Registry as _;
use engram_schemas::scoring::ModelLoaded;
use engram_schemas::{Event as _, wire};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use support::activity::seed;
use support::engram::Engram;
use support::kafka::Kafka;
use support::log;
use support::wait_until;

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

/// The detectors with the most to remember.
const DETECTORS: [&str; 2] = [
    "# of both columns\n[detector]\nmethod = \"half-space-trees\"\nwindow = 16\ntrees = 5\nshingle = 3\n",
    "[detector]\nmethod = \"random-cut-forest\"\nwindow = 24\nsample = 16\ntrees = 5\n",
];

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

/// Of a sample: its entity, and the columns that are made of it.
struct Row {
    entity: String,
    height: Option<f64>,
    width: Option<f64>,
}

/// The samples in the order of each partition.
fn rows(engram: &Engram) -> BTreeMap<Place, Row> {
    let mut records = engram.consume("telemetry.metrics");
    records.sort_by_key(place);
    let mut heights: HashMap<String, Vec<Option<f64>>> = HashMap::new();
    let mut rows = BTreeMap::new();
    for record in records {
        let values = &record["value"]["values"];
        if values.is_null() {
            continue;
        }
        let entity = record["value"]["entity"].as_str().expect("an entity").to_owned();
        let heights = heights.entry(entity.clone()).or_default();
        heights.push(values["height"].as_f64());
        let last: Vec<f64> = heights.iter().rev().take(3).flatten().copied().collect();
        let height = (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64);
        rows.insert(place(&record), Row { entity, height, width: values["width"].as_f64() });
    }
    rows
}

/// The model's score of each sample.
fn expected(engram: &Engram) -> BTreeMap<Place, f64> {
    let of_row = |row: &Row| match (row.width, row.height) {
        (Some(width), _) if width <= 1.5 => 0.25,
        (_, Some(mean)) if mean > 10.0 => -2.0,
        _ => 1.0,
    };
    rows(engram).iter().map(|(place, row)| (*place, of_row(row))).collect()
}

/// What a detector says of both columns of each sample.
fn detected(engram: &Engram, file: &str) -> BTreeMap<Place, [Option<f64>; 2]> {
    let Ok(ModelFile::Detector { detector, .. }) = ModelFile::read(file.as_bytes()) else { panic!("{file}") };
    let mut states: HashMap<(String, usize), State> = HashMap::new();
    let mut score = |row: &Row, column: usize, value: Option<f64>| {
        let state = states.entry((row.entity.clone(), column)).or_insert_with(|| detector.begin());
        let score = detector.score(state, 0, value.map_or(f32::NAN, |value| value as f32));
        score.is_finite().then_some(score)
    };
    let mut of_row = |row: &Row| [score(row, 0, row.height), score(row, 1, row.width)];
    rows(engram).iter().map(|(place, row)| (*place, of_row(row))).collect()
}

/// Equal, but for the last bit, with which JSON is not read exactly.
fn is_same(scores: &Value, wanted: &[Option<f64>]) -> bool {
    let scores = scores.as_array().expect("a list");
    let is_close = |(score, wanted): (&Value, &Option<f64>)| match (score.as_f64(), wanted) {
        (Some(score), Some(wanted)) => (score - wanted).abs() <= 2.0 * f64::EPSILON * wanted.abs(),
        (score, wanted) => score.is_none() && wanted.is_none(),
    };
    scores.len() == wanted.len() && scores.iter().zip(wanted).all(is_close)
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
            load(engram, folder, "trees", DETECTORS[0]);
            load(engram, folder, "cuts", DETECTORS[1]);
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
        let detected = DETECTORS.map(|file| detected(engram, file));
        assert_eq!(scores.len(), 4 * expected.len(), "each sample has a score of each model");
        for ((model, place), score) in &scores {
            let (kernel, wanted): (_, &[Option<f64>]) = match model.as_str() {
                "trees" => ("half-space-trees-1", &detected[0][place]),
                "cuts" => ("random-cut-forest-1", &detected[1][place]),
                _ => ("forest-1", &[Some(expected[place])]),
            };
            assert!(is_same(&score["scores"], wanted), "{model} {place:?}: {score}, not {wanted:?}");
            assert_eq!((&score["kernel"], &score["is_fallback"]), (&json!(kernel), &json!(false)), "{score}");
        }
        let of_chunk = scores.iter().filter(|((model, _), score)| model == "shapes" && score["hash"] == hashes[chunk]);
        assert_eq!(of_chunk.count(), events, "the model was swapped between the chunks");
    }
    let manifests = engram.consume("engram-scoring-manifests");
    let batches = || manifests.iter().flat_map(|record| record["value"]["batches"].as_array().expect("a list"));
    let rows: i64 = batches().map(|batch| batch["rows"].as_i64().expect("a number")).sum();
    assert_eq!(rows as usize, 4 * chunks * events, "each row is in one batch of each model");
    engram.replays("scoring");
}

/// With the models' files that it was given, and batches and commits of its own.
fn a_fork_scores_as_its_origin(engram: &Engram, folder: &Path) {
    let fork = Engram::embedded(&folder.join("fork")).configured(CONFIGURATION);
    fork.run(&["fork", "--of", &engram.data().display().to_string()]);
    catch_up(&fork);
    let scores = |engram: &Engram| -> Vec<_> {
        let of_all = scores(engram).into_iter();
        // When a model takes another's place a fork decides by itself.
        of_all.map(|(of, score)| (of, score["scores"].clone(), score["is_fallback"].clone())).collect()
    };
    assert!(scores(&fork) == scores(engram), "a fork scores as its origin did");
}

#[test]
fn each_event_has_one_score_of_each_model_whatever_is_killed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data")).configured(CONFIGURATION);
    each_event_has_one_score(&engram, folder.path(), 3, 6_000);
    a_fork_scores_as_its_origin(&engram, folder.path());
}

#[test]
fn each_event_has_one_score_of_each_model_on_kafka_too() {
    let kafka = Kafka::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::on_kafka(&folder.path().join("data"), kafka.brokers()).configured(CONFIGURATION);
    each_event_has_one_score(&engram, folder.path(), 2, 3_000);
}

/// No event waits for a model that takes another's place, none is scored by both, and a replay does it at the same places.
#[test]
fn a_model_takes_anothers_place_while_that_one_scores() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data")).configured(CONFIGURATION);
    let mut random = StdRng::seed_from_u64(seed());
    let mut hashes = Vec::new();
    let mut load_next = |number: usize| {
        load(&engram, folder.path(), "shapes", &format!("{MODEL}version={number}\n"));
        hashes.push(engram.json(&["models", "list"])[0]["hash"].clone());
    };
    load_next(0);
    catch_up(&engram);
    let up = engram.up(&["--services", "scoring"]);
    for number in 1..4 {
        produce(&engram, 1_500, &mut random);
        load_next(number);
    }
    // Without events no batch ends, so it takes its place when the next commit begins.
    let last = hashes.last().expect("some were loaded").clone();
    let of_last = || scores(&engram).values().filter(|score| score["hash"] == last).count();
    let all_are_scored = || {
        wait_until("all are scored", Duration::from_secs(60), || scores(&engram).len() == expected(&engram).len());
    };
    wait_until("all of what comes is scored by the last one", Duration::from_secs(60), || {
        all_are_scored();
        let before = of_last();
        produce(&engram, 100, &mut random);
        all_are_scored();
        of_last() == before + 100
    });
    wait_until("the last one scores on both partitions", Duration::from_secs(60), || {
        produce(&engram, 300, &mut random);
        let scores = scores(&engram);
        let partitions = scores.iter().filter(|(_, score)| score["hash"] == last).map(|((_, place), _)| place.0);
        partitions.collect::<BTreeSet<_>>().len() == 2
    });
    up.wait_until_idle(Duration::from_secs(60));
    up.stop();
    let (expected, scored) = (expected(&engram), scores(&engram));
    assert_eq!(scored.len(), expected.len(), "each sample has one score");
    let mut before: BTreeMap<i64, usize> = BTreeMap::new();
    for ((_, place), score) in &scored {
        assert_eq!((&score["scores"], &score["is_fallback"]), (&json!([expected[place]]), &json!(false)), "{score}");
        let version = hashes.iter().position(|hash| *hash == score["hash"]).expect("one of them");
        let before = before.entry(place.0).or_default();
        assert!(*before <= version, "none comes back: {score}");
        *before = version;
    }
    let manifests = engram.consume("engram-scoring-manifests");
    let batches = manifests.iter().flat_map(|record| record["value"]["batches"].as_array().expect("a list"));
    assert!(batches.filter(|batch| batch["rows"] == 0).count() >= 2, "the manifests tell where they took their places");
    engram.replays("scoring");

    // One whose file is gone takes no place.
    load(&engram, folder.path(), "shapes", &format!("{MODEL}version=gone\n"));
    let gone = engram.json(&["models", "list"])[0]["hash"].as_str().expect("a hash").to_owned();
    let (file, away) = (engram.data().join("models").join(&gone), folder.path().join("away"));
    std::fs::rename(&file, &away).expect("moved");
    let mut of_gone = || {
        produce(&engram, 300, &mut random);
        catch_up(&engram);
        let scores = scores(&engram);
        assert!(scores.values().all(|score| score["is_fallback"] == json!(false)), "nothing stands in");
        scores.values().filter(|score| score["hash"] == gone.as_str()).count()
    };
    assert_eq!(of_gone(), 0, "the one before it goes on");
    std::fs::rename(&away, &file).expect("moved back");
    assert_eq!(of_gone(), 300);
    engram.replays("scoring");
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

/// Commands that Engram itself would not write, all into one partition.
fn write_commands(engram: &Engram, changes: impl Iterator<Item = Value>) {
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(engram.data()).expect("opened"));
    let registry = LogRegistry::new(Arc::clone(&log));
    let id = registry.register("control.commands-value", ModelLoaded::SCHEMA).expect("registered");
    let mut producer = log::producer(&*log);
    for change in changes {
        let mut command = json!({
            "time": 0, "name": "theirs", "hash": "0".repeat(64), "topic": "telemetry.metrics",
            "event": "engram.telemetry.Sample", "features": [{"field": "values.width"}]
        });
        command.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        let command: ModelLoaded = serde_json::from_value(command).expect("a command");
        let json = serde_json::to_value(command).expect("JSON");
        let value = wire::join(id, &json_to_avro(ModelLoaded::SCHEMA, &json).expect("it fits the schema"));
        let (topic, timestamp_ms) = ("control.commands", Some(0));
        let record = NewRecord { topic, partition: 0, timestamp_ms, key: None, value: Some(&value), headers: &[] };
        log::write(&mut *producer, &record);
    }
    producer.flush().expect("flushed");
}

/// Anyone may write to the topic of commands: what makes no sense is set aside, and what cannot be had is stood in for.
#[test]
fn commands_of_others_do_no_harm() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data")).configured(CONFIGURATION);
    let mut random = StdRng::seed_from_u64(seed());
    load(&engram, folder.path(), "shapes", MODEL);
    produce(&engram, 300, &mut random);
    catch_up(&engram);
    let refused = [
        (json!({"topic": "no.such.topic"}), "unknown-topic"),
        (json!({"name": ""}), "empty-field"),
        (json!({"features": [{"field": ""}]}), "invalid-features"),
        (json!({"features": [{"field": "values.width", "rows": i64::MAX, "aggregate": "sum"}]}), "invalid-features"),
        (json!({"features": [{"field": "values.width", "rows": -1, "aggregate": "sum"}]}), "invalid-features"),
        (json!({"features": [{"field": "values.width", "window": "5m", "aggregate": "worst"}]}), "invalid-features"),
        (json!({"features": [{"field": "values.width", "lag": 1, "one_hot": "a"}]}), "invalid-features"),
        (json!({"features": vec![json!({"field": "values.width"}); 5_000]}), "invalid-features"),
    ];
    // These are sound; there is no such file, or none can have that name.
    let sound = [("gone", "f".repeat(64)), ("elsewhere", "../../../etc/passwd".to_owned())];
    let sound = sound.iter().map(|(name, hash)| json!({"name": name, "hash": hash}));
    write_commands(&engram, refused.iter().map(|(change, _)| change.clone()).chain(sound));
    catch_up(&engram);
    let letters = engram.consume("dead-letters");
    let mut causes: Vec<&str> = letters.iter().filter_map(|letter| letter["value"]["cause"].as_str()).collect();
    let mut wanted: Vec<&str> = refused.iter().map(|(_, cause)| *cause).collect();
    causes.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(causes, wanted, "{letters:?}");

    produce(&engram, 300, &mut random);
    catch_up(&engram);
    let (expected, scores) = (expected(&engram), scores(&engram));
    let of = |wanted: &str| scores.iter().filter(|((model, _), _)| model == wanted).collect::<Vec<_>>();
    assert_eq!(of("shapes").len(), expected.len(), "what was in service stays there");
    for ((_, place), score) in of("shapes") {
        assert_eq!(score["scores"], json!([expected[place]]), "{score}");
    }
    // Each of these commands is in one partition only.
    assert!(!of("gone").is_empty() && !of("elsewhere").is_empty() && of("theirs").is_empty());
    assert!(of("gone").iter().chain(&of("elsewhere")).all(|(_, score)| score["is_fallback"] == json!(true)));
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
    let detector = write(folder.path(), "detector.toml", "[detector]\nmethod = \"robust-z\"\nwindow = 0\n");
    let features = write(folder.path(), "features.toml", FEATURES).display().to_string();
    let detector = detector.display().to_string();
    let wrong = engram.fails(1, &["models", "load", "usual", "--model", &detector, "--features", &features]);
    assert!(wrong.contains("window is 0, and must be from 1"), "{wrong}");
    let of_file = engram.fails(1, &["score", "--model", &detector, "--input", &features, "--output", "out.csv"]);
    assert!(of_file.contains("window is 0"), "{of_file}");
    let no_model = engram.fails(1, &["models", "load", "shapes", "--model", &features, "--features", &features]);
    assert!(no_model.contains("give XGBoost JSON") && no_model.contains("[detector]"), "{no_model}");
    let unknown = engram.fails(1, &["models", "unload", "shapes"]);
    assert!(unknown.contains("there is"), "{unknown}");
}
