//! Records that nobody should have written: each is a dead letter with its bytes, its place and its cause, what is good
//! around it is counted, and nothing stops. On both logs.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::kafka::{KafkaLog, KafkaOptions};
use engram_pipeline::log::{Cleanup, Log, NewRecord, TopicSpec};
use engram_pipeline::registry::LogRegistry;
use engram_schemas::activity::{Interaction, TaskClock, WindowCount, WindowDelta};
use engram_schemas::codec::{Encoder, json_to_avro};
use engram_schemas::registry::Registry;
use engram_schemas::{Event as _, SchemaId, wire};
use serde_json::json;
use support::engram::Engram;
use support::kafka::Kafka;
use support::log;

const TOPIC: &str = "activity.events";
const NOW_MS: i64 = 1_700_000_000_000;

/// A bad record, and what its dead letter must say.
struct Bad {
    cause: &'static str,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

fn good(number: usize) -> Interaction {
    Interaction {
        id: number.to_string(),
        time: NOW_MS,
        user: "ada".to_owned(),
        kind: "edit".to_owned(),
        target: None,
        source: "test".to_owned(),
        value: Some(0.25),
        attributes: BTreeMap::new(),
    }
}

/// Bytes of an event that Engram's own encoder would refuse.
fn unchecked(id: SchemaId, event: &Interaction) -> Vec<u8> {
    let json = serde_json::to_value(event).expect("JSON");
    wire::join(id, &json_to_avro(Interaction::SCHEMA, &json).expect("it fits the schema"))
}

fn bad_records(registry: &dyn Registry) -> Vec<Bad> {
    let encoder = Encoder::<Interaction>::register(registry, TOPIC).expect("registered");
    let mut whole = Vec::new();
    encoder.encode(&good(0), &mut whole).expect("encoded");
    let (id, _) = wire::split(&whole).expect("framed");
    let other = registry.register("other-value", WindowCount::SCHEMA).expect("registered");
    let with = |bytes: &[u8], to: &[u8]| {
        let at = whole.windows(bytes.len()).position(|found| found == bytes).expect("it is in there");
        [&whole[..at], to, &whole[at + bytes.len()..]].concat()
    };
    let ada = || Some(b"ada".to_vec());
    let bad = |cause, value: Vec<u8>| Bad { cause, key: ada(), value: Some(value) };
    vec![
        bad("malformed", whole[..whole.len() - 3].to_vec()),
        bad("malformed", [&whole[..], b"more"].concat()),
        bad("not-framed", b"{\"user\":\"ada\"}".to_vec()),
        bad("not-framed", Vec::new()),
        bad("not-framed", whole[..4].to_vec()),
        bad("unknown-schema-id", wire::join(SchemaId(4_000_000_000), &whole[5..])),
        bad("wrong-schema", wire::join(other, &whole[5..])),
        bad("malformed", with(b"edit", b"ed\xff\xfe")),
        bad("not-finite", with(&0.25_f64.to_le_bytes(), &f64::NAN.to_le_bytes())),
        bad("not-finite", with(&0.25_f64.to_le_bytes(), &f64::INFINITY.to_le_bytes())),
        bad("time-out-of-range", unchecked(id, &Interaction { time: i64::MAX, ..good(0) })),
        bad("future-time", unchecked(id, &Interaction { time: NOW_MS + 1_000 * 365 * 86_400_000, ..good(0) })),
        bad("empty-field", unchecked(id, &Interaction { kind: String::new(), ..good(0) })),
        bad("too-large", vec![7; 11 << 20]),
        Bad { cause: "null-value", key: ada(), value: None },
        Bad { cause: "null-key", key: None, value: Some(whole.clone()) },
        Bad { cause: "wrong-key", key: Some(b"bob".to_vec()), value: Some(whole.clone()) },
        Bad { cause: "wrong-key", key: Some(b"\xff\xfe".to_vec()), value: Some(whole) },
    ]
}

/// Writes a good record before, between and after the bad ones, all to one partition. Returns how many.
fn write(log: &Arc<dyn Log>) -> (Vec<Bad>, usize) {
    let registry: Arc<dyn Registry> = Arc::new(LogRegistry::new(Arc::clone(log)));
    log::create_topic(&**log, TOPIC, 2);
    let bad = bad_records(&*registry);
    let encoder = Encoder::<Interaction>::register(&*registry, TOPIC).expect("registered");
    let mut producer = log::producer(&**log);
    let mut write = |key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]| {
        let record = NewRecord { topic: TOPIC, partition: 1, timestamp_ms: Some(NOW_MS), key, value, headers };
        log::write(&mut *producer, &record);
    };
    let mut value = Vec::new();
    for number in 0..=bad.len() {
        encoder.encode(&good(number), &mut value).expect("encoded");
        write(Some(b"ada"), Some(&value), &[]);
        if let Some(bad) = bad.get(number) {
            write(bad.key.as_deref(), bad.value.as_deref(), &[("origin", Some(b"test\xff"))]);
        }
    }
    producer.flush().expect("flushed");
    let good = bad.len() + 1;
    (bad, good)
}

fn check(engram: &Engram, bad: &[Bad], good: usize) {
    engram.catch_up();
    let hex = |bytes: &Option<Vec<u8>>| {
        bytes.as_ref().map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };
    let letters = engram.consume("dead-letters");
    assert_eq!(letters.len(), bad.len());
    for (number, (letter, bad)) in letters.iter().zip(bad).enumerate() {
        let letter = &letter["value"];
        assert_eq!(letter["cause"], bad.cause, "{}", letter["detail"]);
        assert_eq!(letter["key"], json!(hex(&bad.key)), "{}", bad.cause);
        assert!(letter["value"] == json!(hex(&bad.value)), "{}: other bytes", bad.cause);
        let place = (&letter["topic"], &letter["partition"], &letter["offset"], &letter["timestamp"]);
        assert_eq!(place, (&json!(TOPIC), &json!(1), &json!(2 * number + 1), &json!(NOW_MS)));
        assert_eq!(letter["headers"], json!([{"key": "origin", "value": "74657374ff"}]));
        assert_eq!(letter["service"], "activity");
        assert!(letter["detail"].as_str().is_some_and(|detail| !detail.is_empty() && !detail.contains('\n')));
    }
    let windows = engram.consume("activity.windows");
    let mut users = windows.iter().filter(|window| window["value"]["dimension"] == "user");
    assert_eq!(users.next_back().expect("a window")["value"]["count"], good);
    // Nothing is left to do, and a second run does nothing.
    engram.catch_up();
    assert_eq!(engram.consume("dead-letters").len(), bad.len());
    assert!(engram.json(&["lag"]).iter().all(|line| line["lag"] == 0));
}

/// Key, value and headers of a dead letter must go into one record again; where they cannot, its place has to do.
#[test]
fn a_record_too_large_for_a_letter_is_named_by_its_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(engram.data()).expect("opened"));
    let topic =
        TopicSpec { name: TOPIC.to_owned(), partitions: 1, cleanup: Cleanup::Keep, max_message_bytes: 24 << 20 };
    log.create_topics(&[topic]).expect("created");
    let mut producer = log::producer(&*log);
    let (key, value) = (vec![b'k'; 12 << 20], vec![b'v'; 11 << 20]);
    let record = NewRecord {
        topic: TOPIC,
        partition: 0,
        timestamp_ms: Some(NOW_MS),
        key: Some(&key),
        value: Some(&value),
        headers: &[],
    };
    producer.write(&record, false).expect("written");
    producer.flush().expect("flushed");
    drop((producer, log));
    engram.catch_up();
    let letters = engram.consume("dead-letters");
    assert_eq!(letters.len(), 1);
    let letter = &letters[0]["value"];
    assert_eq!((&letter["cause"], &letter["offset"]), (&json!("too-large"), &json!(0)));
    assert_eq!((&letter["key"], &letter["value"]), (&json!(null), &json!(null)));
    assert!(
        letter["detail"].as_str().is_some_and(|detail| detail.contains("read the record at its place")),
        "{letter}"
    );
}

/// Any client may write to the service's own topic too.
#[test]
fn what_no_task_would_send_is_a_dead_letter() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    engram.catch_up();
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(engram.data()).expect("opened"));
    let registry: Arc<dyn Registry> = Arc::new(LogRegistry::new(Arc::clone(&log)));
    let repartition = "engram-activity-repartition";
    let deltas = Encoder::<WindowDelta>::register(&*registry, repartition).expect("registered");
    let clocks = Encoder::<TaskClock>::register(&*registry, repartition).expect("registered");
    let delta = |count| WindowDelta {
        source: String::new(),
        dimension: "target".to_owned(),
        key: "a.md".to_owned(),
        window_start: NOW_MS - NOW_MS % 60_000,
        count,
        first_ts: NOW_MS,
        last_ts: NOW_MS,
    };
    let mut values = vec![Vec::new(); 4];
    for (value, count) in values.iter_mut().zip([i64::MAX, i64::MAX, 0]) {
        deltas.encode(&delta(count), value).expect("encoded");
    }
    let clock = TaskClock { source: String::new(), task: 99, stream_time: None, users: None };
    clocks.encode(&clock, &mut values[3]).expect("encoded");
    let mut producer = log::producer(&*log);
    for value in &values {
        let (topic, timestamp_ms, key) = (repartition, Some(NOW_MS), Some(&b"target:a.md"[..]));
        let record = NewRecord { topic, partition: 0, timestamp_ms, key, value: Some(value), headers: &[] };
        log::write(&mut *producer, &record);
    }
    producer.flush().expect("flushed");
    drop((producer, registry, log));
    engram.catch_up();
    let causes: Vec<_> = engram.consume("dead-letters").iter().map(|letter| letter["value"]["cause"].clone()).collect();
    assert_eq!(causes, [json!("wrong-delta"), json!("wrong-task")]);
    let windows = engram.consume("activity.windows");
    assert_eq!(windows.last().expect("a window")["value"]["count"], i64::MAX, "it stays at the largest count");
}

#[test]
fn bad_records_are_dead_letters_on_the_embedded_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(engram.data()).expect("opened"));
    let (bad, good) = write(&log);
    drop(log);
    check(&engram, &bad, good);
}

#[test]
fn bad_records_are_dead_letters_on_apache_kafka() {
    let kafka = Kafka::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::on_kafka(&folder.path().join("data"), kafka.brokers());
    let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(KafkaOptions::new(kafka.brokers())).expect("it answers"));
    let (bad, good) = write(&log);
    check(&engram, &bad, good);
}
