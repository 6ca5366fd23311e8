//! `engram dead-letters` as a user runs it, on both logs: what was refused is listed and shown, and goes back once, as it
//! was or mended.

mod support;

use std::sync::Arc;
use std::time::Duration;

use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::kafka::{KafkaLog, KafkaOptions};
use engram_pipeline::log::{Log, NewRecord};
use serde_json::{Value, json};
use support::engram::{Engram, failure};
use support::kafka::Kafka;
use support::log;

const TOPIC: &str = "activity.events";
const GOOD: &str = r#"{"id":"7","time":"2026-01-01T09:00:00Z","user":"ada","type":"edit","target":"notes.md"}"#;

/// Three records that nobody can decode, the first with a header whose value is null, and one too large for a letter.
fn write(log: &dyn Log) {
    log::create_topic(log, TOPIC, 2);
    let mut producer = log::producer(log);
    let large = vec![b'k'; 12 << 20];
    for (key, value) in [
        (Some(b"ada".as_slice()), Some(b"{\"user\":\"ada\"}".as_slice())),
        (None, Some(b"\0\xff".as_slice())),
        (Some(b"bob".as_slice()), None),
        (Some(large.as_slice()), Some(&large[..11 << 20])),
    ] {
        let headers: &[(&str, Option<&[u8]>)] = &[("origin", Some(b"test")), ("nothing", None)];
        let record = NewRecord { topic: TOPIC, partition: 1, timestamp_ms: None, key, value, headers };
        log::write(&mut *producer, &record);
    }
    producer.flush().expect("flushed");
}

fn texts<'a>(letters: &'a [Value], field: &str) -> Vec<&'a str> {
    letters.iter().map(|letter| letter[field].as_str().unwrap_or_default()).collect()
}

fn walk(engram: &Engram) {
    engram.catch_up();
    let letters = engram.json(&["dead-letters", "list"]);
    assert_eq!(texts(&letters, "cause"), ["not-framed", "not-framed", "null-value", "too-large"]);
    assert!(letters.iter().all(|letter| letter["replayed"].is_null() && letter["topic"] == TOPIC));
    let place = |at: usize| letters[at]["place"].as_str().expect("a place");

    assert_eq!(engram.json(&["dead-letters", "list", "--cause", "null-value"]).len(), 1);
    assert_eq!(engram.json(&["dead-letters", "list", "--service", "graph"]), Vec::<Value>::new());
    assert_eq!(engram.json(&["dead-letters", "list", "--limit", "1"]), letters[3..], "the newest");
    assert_eq!(engram.json(&["dead-letters", "list", "--from", "end"]), Vec::<Value>::new());
    assert!(engram.run(&["dead-letters", "list"]).contains("activity.events/1/0"));

    let shown = &engram.json(&["dead-letters", "show", place(0)])[0];
    assert_eq!((&shown["value"], &shown["value_as"]), (&json!({"user": "ada"}), &json!("text")));
    assert_eq!(shown["headers"], json!([{"key": "origin", "value": "test"}, {"key": "nothing", "value": null}]));
    let shown = &engram.json(&["dead-letters", "show", place(1)])[0];
    assert_eq!((&shown["key"], &shown["value"], &shown["value_as"]), (&json!(null), &json!("00ff"), &json!("hex")));
    assert!(engram.run(&["dead-letters", "show", place(3)]).contains("too-large"));

    // As it was: it is refused again, for the same reason, and says where it was before.
    let sent = engram.run(&["dead-letters", "replay", place(0), place(0)]);
    assert_eq!(sent, "1 records sent back: activity.events 1\n");
    engram.catch_up();
    let again = engram.json(&["dead-letters", "list"]);
    assert_eq!(texts(&again, "cause"), ["not-framed", "not-framed", "null-value", "too-large", "not-framed"]);
    assert!(again[0]["replayed"].is_string() && again[4]["replayed"].is_null());
    let shown = &engram.json(&["dead-letters", "show", again[4]["place"].as_str().expect("a place")])[0];
    assert_eq!(
        (&shown["key"], &shown["value"], &shown["partition"]),
        (&json!("ada"), &json!({"user": "ada"}), &json!(1))
    );
    assert_eq!(
        shown["headers"],
        json!([
            {"key": "origin", "value": "test"}, {"key": "nothing", "value": null},
            {"key": "dead-letter", "value": place(0)}
        ])
    );

    // Not a second time by accident.
    let refused = engram.fails(1, &["dead-letters", "replay", place(0)]);
    assert!(refused.contains("--again"), "{refused}");
    assert_eq!(engram.json(&["dead-letters", "list"]).len(), 5);

    // Mended: it is counted.
    let wrong = engram.output_with(&["dead-letters", "replay", place(1), "--value", "-"], r#"{"id":"7","user":"ada"}"#);
    let reason = failure(&wrong, 1, &["dead-letters", "replay"]);
    assert!(reason.contains("field \"type\" is missing"), "{reason}");
    assert!(engram.json(&["dead-letters", "list"])[1]["replayed"].is_null(), "nothing was sent");
    engram.run_with(&["dead-letters", "replay", place(1), "--value", "-"], GOOD);
    engram.catch_up();
    let windows = engram.consume("activity.windows");
    assert!(
        windows.iter().any(|window| window["value"]["key"] == "ada" && window["value"]["count"] == 1),
        "{windows:?}"
    );
    assert_eq!(engram.json(&["dead-letters", "list"]).len(), 5, "no new letter");

    // Everything that is left: the one too large for a letter cannot, and says so; the others are sent nevertheless.
    let refused = engram.command(&["dead-letters", "replay", "--all"]).output().expect("engram runs");
    let reasons = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), reasons.lines().count()), (Some(1), 2), "{reasons}");
    assert!(reasons.contains("offset 3 of activity.events/1"), "{reasons}");
    assert_eq!(String::from_utf8_lossy(&refused.stdout), "2 records sent back: activity.events 2; 2 had been before\n");
    engram.catch_up();
    let all = engram.json(&["dead-letters", "list"]);
    assert_eq!(texts(&all, "cause")[5..], ["null-value", "not-framed"]);
    assert_eq!(engram.json(&["dead-letters", "replay", "--all", "--cause", "wrong-key"])[0]["replayed"], 0);
}

fn bad_input(engram: &Engram) {
    for (arguments, said) in [
        (&["show", "0:99"][..], "there is no dead letter at 0:99"),
        (&["show", "77:0"], "there is no dead letter at 77:0"),
        (&["replay", "0:99"], "there is no dead letter at 0:99"),
        (&["replay", "0:99", "--value", "/nowhere"], "cannot read the mended value from /nowhere"),
    ] {
        let line = engram.fails(1, &[&["dead-letters"], arguments].concat());
        assert!(line.contains(said), "{line}");
    }
    for (arguments, said) in [
        (&["show", "x"][..], "PARTITION:OFFSET"),
        (&["show", "0:-1"], "PARTITION:OFFSET"),
        (&["replay"], "PLACE"),
        (&["replay", "0:0", "--all"], "cannot be used with"),
        (&["replay", "0:0", "0:1", "--value", "-"], "one place"),
        (&["replay", "0:0", "--cause", "malformed"], "--all"),
        (&["list", "--limit", "x"], "invalid value"),
    ] {
        let line = engram.fails(2, &[&["dead-letters"], arguments].concat());
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn letters_go_back_on_the_embedded_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    let log = EmbeddedLog::open(engram.data()).expect("opened");
    write(&log);
    drop(log);
    walk(&engram);
    bad_input(&engram);
}

#[test]
fn letters_go_back_through_a_running_engram() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    let log = EmbeddedLog::open(engram.data()).expect("opened");
    write(&log);
    drop(log);
    let up = engram.up(&[]);
    up.wait_until_idle(Duration::from_secs(30));
    let letters = engram.json(&["dead-letters", "list"]);
    let place = letters[1]["place"].as_str().expect("a place");
    engram.run_with(&["dead-letters", "replay", place, "--value", "-"], GOOD);
    let refused = engram.output_with(&["dead-letters", "replay", place, "--value", "-"], GOOD);
    assert!(failure(&refused, 1, &["dead-letters", "replay"]).contains("--again"));
    support::wait_until("it was counted", Duration::from_secs(30), || {
        engram.consume("activity.windows").iter().any(|window| window["value"]["key"] == "ada")
    });
    up.stop();
}

#[test]
fn letters_go_back_on_apache_kafka() {
    let kafka = Kafka::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::on_kafka(&folder.path().join("data"), kafka.brokers());
    let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(KafkaOptions::new(kafka.brokers())).expect("it answers"));
    write(&*log);
    walk(&engram);
}

#[test]
fn without_letters_there_is_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    engram.run_with(&["produce", "activity.events"], GOOD);
    assert_eq!(engram.json(&["dead-letters", "list"]), Vec::<Value>::new());
    assert!(engram.fails(1, &["dead-letters", "show", "0:0"]).contains("there are no dead letters"));
    assert!(engram.fails(1, &["dead-letters", "replay", "0:0"]).contains("there are no dead letters"));
}
