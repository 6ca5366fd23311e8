//! Python's own client, Confluent's serializers included, reads what Engram writes and writes what Engram reads, through
//! the registry that `engram up` serves.

mod support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::engram::Engram;
use support::kafka::Kafka;
use support::wait_until;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Runs the client with `input` on its standard input, and returns the lines that it printed.
#[track_caller]
fn client(arguments: &[&str], input: &str) -> Vec<Value> {
    let python = format!("{CLIENTS}/.venv/bin/python");
    let mut child = Command::new(&python)
        .arg(format!("{CLIENTS}/avro_client.py"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{python}: {error}; 'make test' installs it"));
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn pythons_client_reads_and_writes_what_engram_does() {
    let kafka = Kafka::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::on_kafka(&folder.path().join("data"), kafka.brokers());
    let up = engram.up(&[]);
    let events = concat!(
        "{\"id\":\"1\",\"time\":1700000000000,\"user\":\"ada\",\"type\":\"open\"}\n",
        "{\"id\":\"2\",\"time\":1700000001000,\"user\":\"ada\",\"type\":\"edit\"}\n"
    );
    engram.run_with(&["produce", "activity.events"], events);

    // Two events of one user: a window by user, and one for each type. Updates may come in one commit or in two.
    let read = |count: &str| client(&["consume", kafka.brokers(), &up.http, "activity.windows", count], "");
    let ours = || engram.consume("activity.windows");
    wait_until("both events are counted", Duration::from_secs(30), || {
        let windows = ours();
        let is = |dimension: &str, key: &str, count: i64| {
            windows.iter().any(|window| {
                let window = &window["value"];
                window["dimension"] == dimension && window["key"] == key && window["count"] == count
            })
        };
        is("user", "ada", 2) && is("type", "open", 1) && is("type", "edit", 1)
    });
    let ours = ours();
    let theirs = read(&ours.len().to_string());
    let sorted = |records: &[Value]| {
        let mut lines: Vec<String> =
            records.iter().map(|record| json!([record["key"], record["value"]]).to_string()).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&theirs), sorted(&ours), "the same records, by either client");
    assert!(theirs.iter().all(|record| record["value"]["window_start"] == 1_699_999_980_000_i64));

    // And back: their serializer registers the schema and writes; Engram counts the event, though librdkafka's default
    // partitioner has put it where this user's other events are not.
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/avsc/engram.activity.Interaction.avsc");
    let event = json!({
        "id": "3", "time": 1_700_000_002_000_i64, "user": "ada", "type": "edit", "target": null, "source": "",
        "value": 1.5, "attributes": {"from": "python"}
    });
    let produced = client(&["produce", kafka.brokers(), &up.http, schema], &format!("{event}\n"));
    assert_eq!(produced, [json!(1)]);
    wait_until("the event is counted", Duration::from_secs(30), || {
        let windows = engram.consume("activity.windows");
        windows.iter().any(|window| window["value"]["dimension"] == "user" && window["value"]["count"] == 3)
    });
    assert_eq!(engram.consume("dead-letters").len(), 0);
    // It is the same schema, so it got no new version.
    let subjects = engram.json(&["schemas", "list"]);
    let subject = subjects.iter().find(|subject| subject["subject"] == "activity.events-engram.activity.Interaction");
    assert_eq!(subject.expect("it is registered")["versions"], json!([1]));
    up.stop();
}
