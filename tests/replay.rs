//! Any past state: what `engram state range --at` shows is what the inputs until then give when they are counted anew, at
//! records and at times, from snapshots and from the beginning, on both logs.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use support::activity::seeded;
use support::engram::Engram;
use support::kafka::Kafka;

const DAY_MS: i64 = 86_400_000;
const COMMITS: usize = 1_500;

/// Moments looked at on each log: so many by record, and so many by time.
fn moments() -> usize {
    if std::env::var_os("ENGRAM_SOAK").is_some() { 500 } else { 10 }
}

/// An input record: whose, and when.
struct Event {
    user: String,
    time_ms: i64,
}

/// (user, day) -> (count, first, last).
type Windows = BTreeMap<(String, i64), (i64, i64, i64)>;

fn milliseconds(time: &Value) -> i64 {
    let time: jiff::Timestamp = time.as_str().expect("a time").parse().expect("RFC 3339");
    time.as_millisecond()
}

/// The inputs, by partition, in offset order. Their offsets have gaps.
fn inputs(engram: &Engram) -> BTreeMap<i64, BTreeMap<i64, Event>> {
    let mut inputs: BTreeMap<i64, BTreeMap<i64, Event>> = BTreeMap::new();
    for record in engram.consume("activity.events") {
        let (partition, offset) =
            (record["partition"].as_i64().expect("a number"), record["offset"].as_i64().expect("a number"));
        let user = record["value"]["user"].as_str().expect("a user").to_owned();
        let event = Event { user, time_ms: record["value"]["time"].as_i64().expect("a number") };
        inputs.entry(partition).or_default().insert(offset, event);
    }
    inputs
}

fn counted<'a>(events: impl Iterator<Item = &'a Event>) -> Windows {
    let mut windows = Windows::new();
    for Event { user, time_ms } in events {
        let window =
            windows.entry((user.clone(), time_ms - time_ms.rem_euclid(DAY_MS))).or_insert((0, i64::MAX, i64::MIN));
        *window = (window.0 + 1, window.1.min(*time_ms), window.2.max(*time_ms));
    }
    windows
}

/// The windows by user that the store had then.
fn shown(engram: &Engram, at: &str) -> Windows {
    let mut windows = Windows::new();
    for entry in engram.json(&["state", "range", "activity", "windows", "--limit", "1000000", "--at", at]) {
        let (key, value) = (&entry["key"], &entry["value"]);
        if key["dimension"] == "user" {
            let number = |field: &Value| field.as_i64().expect("a number");
            let window = (key["key"].as_str().expect("a user").to_owned(), number(&key["window_start"]));
            windows.insert(window, (number(&value["count"]), number(&value["first_ts"]), number(&value["last_ts"])));
        }
    }
    windows
}

/// At records, and one key of the moment by itself.
fn at_records(engram: &Engram, inputs: &BTreeMap<i64, BTreeMap<i64, Event>>, random: &mut StdRng) {
    let places: Vec<(i64, i64)> =
        inputs.iter().flat_map(|(&partition, events)| events.keys().map(move |&offset| (partition, offset))).collect();
    for _ in 0..moments() {
        let (partition, offset) = places[random.random_range(0..places.len())];
        let at = format!("{partition}:{offset}");
        let expected = counted(inputs[&partition].range(..=offset).map(|(_, event)| event));
        assert_eq!(shown(engram, &at), expected, "at {at}");
        let (user, day) = expected.keys().nth(random.random_range(0..expected.len())).expect("there is one");
        let key = json!({"dimension": "user", "key": user, "window_start": day, "source": "git"}).to_string();
        let entry = &engram.json(&["state", "get", "activity", "windows", &key, "--at", &at])[0];
        assert_eq!(entry["value"]["count"], expected[&(user.clone(), *day)].0, "{key} at {at}");
    }
}

/// At times of commits: of each task what its commits until then had taken.
fn at_times(engram: &Engram, inputs: &BTreeMap<i64, BTreeMap<i64, Event>>, random: &mut StdRng) {
    let manifests = engram.consume("engram-activity-manifests");
    for _ in 0..moments() {
        let time_ms = milliseconds(&manifests[random.random_range(0..manifests.len())]["timestamp"]);
        let mut ends = BTreeMap::new();
        for manifest in manifests.iter().filter(|manifest| milliseconds(&manifest["timestamp"]) <= time_ms) {
            let ranges = manifest["value"]["inputs"].as_array().expect("inputs");
            let range = ranges.iter().find(|range| range["topic"] == "activity.events").expect("its input");
            ends.insert(range["partition"].as_i64().expect("a number"), range["to"].as_i64().expect("a number"));
        }
        let at = jiff::Timestamp::from_millisecond(time_ms).expect("a time").to_string();
        let expected =
            counted(ends.iter().flat_map(|(partition, &end)| inputs[partition].range(..end)).map(|(_, event)| event));
        assert_eq!(shown(engram, &at), expected, "at {at}");
    }
}

fn refusals(engram: &Engram) {
    let fails = |at: &str| engram.fails(1, &["state", "range", "activity", "windows", "--at", at]);
    assert!(fails("0:99999999").contains("no commit has taken activity.events/0/99999999 yet"));
    assert!(fails("99:0").contains("there is no partition 99"));
    assert!(fails("graph.events/0/0").contains("graph.events is none of its inputs: activity.events"));
    assert!(engram.fails(2, &["state", "range", "activity", "windows", "--at", "then"]).contains("expected a time"));
    let stale = ["state", "range", "activity", "windows", "--at", "0:0", "--stale"];
    assert!(engram.fails(2, &stale).contains("cannot be used with"));
    assert!(
        engram.run(&["state", "range", "activity", "windows", "--at", "2001-01-01T00:00:00Z"]).lines().count() <= 1
    );
}

/// Everything that was committed comes out again, and into files.
fn verified(engram: &Engram, folder: &Path) {
    let found = &engram.json(&["replay", "activity", "--verify"])[0];
    let number = |name: &str| found[name].as_u64().expect("a number");
    let manifests = engram.consume("engram-activity-manifests");
    let sum =
        |name: &str| manifests.iter().map(|manifest| manifest["value"][name].as_u64().expect("a number")).sum::<u64>();
    assert!(found["difference"].is_null(), "{found}");
    assert_eq!((number("commits"), number("outputs")), (manifests.len() as u64, sum("outputs")));
    assert_eq!((number("equal") + number("gone"), number("unnamed")), (sum("outputs"), 0), "{found}");

    let out = folder.join("out");
    // As numbers: as texts their fractions differ in length, and do not sort.
    let last = manifests.iter().max_by_key(|manifest| milliseconds(&manifest["timestamp"])).expect("there are commits");
    let from = last["timestamp"].as_str().expect("a time");
    let found = &engram.json(&["replay", "activity", "--out", &out.display().to_string(), "--from", from])[0];
    let commits = manifests.iter().filter(|manifest| manifest["timestamp"] == from).count();
    assert_eq!(found["commits"], commits, "{found}");
    let inside = |folder: &Path| -> Vec<_> {
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
    };
    let lines: usize = inside(&out)
        .iter()
        .flat_map(|topic| inside(topic))
        .map(|file| std::fs::read_to_string(file).expect("text").lines().count())
        .sum();
    assert_eq!(found["outputs"], lines);
    assert!(engram.fails(2, &["replay", "activity"]).contains("--verify"));
    assert!(engram.fails(2, &["replay", "activity", "--verify", "--from", "0:1"]).contains("expected a time"));
    assert!(engram.fails(1, &["replay", "nobody", "--verify"]).contains("nobody"));
}

/// Two parts of a history with a snapshot between them, each in many commits.
fn walk(engram: &Engram, folder: &Path) {
    let mut random = seeded();
    engram.ingest_in_parts(folder, COMMITS, &mut random);
    let inputs = inputs(engram);
    let before = engram.run(&["topics", "--json"]);
    at_records(engram, &inputs, &mut random);
    at_times(engram, &inputs, &mut random);
    refusals(engram);
    verified(engram, folder);
    assert_eq!(engram.run(&["topics", "--json"]), before, "nothing was written");
}

#[test]
fn any_past_state_on_the_embedded_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data")).configured("[commit]\nrecords_max = 50\n");
    walk(&engram, folder.path());
}

#[test]
fn any_past_state_on_apache_kafka() {
    let kafka = Kafka::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram =
        Engram::on_kafka(&folder.path().join("data"), kafka.brokers()).configured("[commit]\nrecords_max = 50\n");
    walk(&engram, folder.path());
}
