//! Stock Yjs editors through the gateway: they converge, and what they have is what the log makes again;
//! traces of real editing arrive whole, however mangled; who is there is known, and events come and go by HTTP.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use serde_json::{Value, json};
use support::editors::{self, Script};
use support::engram::{Engram, Up};
use support::kafka::Kafka;
use support::wait_until;

const DEADLINE: Duration = Duration::from_secs(60);
/// Editors of a test send as fast as they can.
const FAST: &str = "[gateway]\nmessages_per_second = 100000\nmessages_burst = 100000\nbytes_per_second = 100000000\n";

struct Bed {
    engram: Engram,
    up: Up,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engram = Engram::embedded(&folder.path().join("data")).configured(FAST);
        let up = engram.up(&[]);
        Self { engram, up, _folder: folder }
    }

    /// On the broker that the tests of this process share.
    fn on_kafka() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engram = Engram::on_kafka(&folder.path().join("data"), Kafka::shared().brokers()).configured(FAST);
        let up = engram.up(&["--services", "collaboration"]);
        Self { engram, up, _folder: folder }
    }

    fn show(&self, document: &str) -> Value {
        self.up.get(&format!("/v1/documents/{document}"))
    }
}

/// A document is the same at the editors, at the gateway, in `document.state` and in a replay.
#[track_caller]
fn is_everywhere(bed: &Bed, result: &Value) {
    let document = result["document"].as_str().expect("its name");
    let shown = bed.show(document);
    assert_eq!(shown["roots"], result["roots"], "{document}");
    wait_until("the state is told", DEADLINE, || {
        let states = bed.engram.json(&["consume", "document.state", "--key", document]);
        let last = states.last().map(|record| record["value"].clone()).unwrap_or_default();
        last["seq"] == shown["seq"] && last["hash"] == shown["hash"]
    });
}

#[test]
fn stock_editors_converge_and_a_replay_makes_the_same() {
    let bed = Bed::start();
    let arguments = ["--document", "notes.md,src/main.rs", "--clients", "5", "--edits", "40", "--unique", "--formats"];
    let lines = editors::run("editors", &[&["--url", &bed.up.documents()], &arguments[..]].concat());
    let results: Vec<&Value> = lines.iter().filter(|line| line["converged"] == true).collect();
    assert_eq!(results.len(), 2, "{lines:?}");
    for result in &results {
        assert_eq!(result["acknowledged"], result["sent"], "{result}");
        is_everywhere(&bed, result);
    }
    // Right after the first edit there was just that.
    let place = bed.engram.consume("document.sequenced")[0]["value"].clone();
    let at = format!("{}:{}", place["partition"], place["offset"]);
    let document = place["document"].as_str().expect("its name");
    let past = bed.up.get_with(&format!("/v1/documents/{document}"), &[("at", &at)]);
    assert_eq!((&past["position"], &past["seq"]), (&json!(at), &json!(1)));
    bed.up.stop();
    bed.engram.replays("collaboration");
}

#[test]
fn traces_of_real_editing_arrive_whole() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/editing-traces");
    if !std::path::Path::new(data).exists() {
        println!("skipped: the editing traces are not beside this repository");
        return;
    }
    let bed = Bed::on_kafka();
    let soak = std::env::var_os("ENGRAM_SOAK").is_some();
    for (trace, mangle) in [("friendsforever", false), ("clownschool", true), ("rustcode", true)] {
        let (file, url) = (format!("{data}/{trace}.json.gz"), bed.up.documents());
        let mut arguments = vec!["--url", &url, "--document", trace, "--trace", &file, "--timeout", "600"];
        if mangle {
            arguments.push("--mangle");
        }
        if !soak {
            arguments.extend(["--limit", "3000"]);
        }
        let lines = editors::run("trace", &arguments);
        let last = lines.last().expect("a result");
        assert_eq!(last["converged"], true, "{last}");
        println!("{last}");
        let text = bed.show(trace)["roots"]["text"].as_str().expect("a text").to_owned();
        assert!(!text.is_empty());
    }
    bed.up.stop();
    bed.engram.replays("collaboration");
}

#[test]
fn who_is_there_is_seen_and_known() {
    let bed = Bed::start();
    let lines = editors::run("awareness", &["--url", &bed.up.documents(), "--document", "notes.md"]);
    assert!(lines.last().is_some_and(|line| line["removedMs"].is_number()), "{lines:?}");
    // Two came, and both are gone: one said so, of the other it was noticed.
    let events = || bed.engram.consume("presence.events");
    let sessions = |kind: &str| -> BTreeSet<String> {
        let of_kind = |record: &&Value| (record["value"]["reason"].is_string()) == (kind == "left");
        events().iter().filter(of_kind).map(|record| record["value"]["session"].to_string()).collect()
    };
    wait_until("both sessions are over", DEADLINE, || sessions("left").len() == 2);
    assert_eq!(sessions("seen"), sessions("left"));
    wait_until("nobody is there", DEADLINE, || {
        let current = bed.engram.consume("presence.current");
        let last: BTreeMap<&str, &Value> =
            current.iter().map(|record| (record["key"].as_str().expect("a key"), &record["value"])).collect();
        last.len() == 2 && last.values().all(|presence| presence.is_null())
    });
}

#[test]
fn events_come_and_go_by_http() {
    let bed = Bed::start();
    let post = |path: &str, key: Option<&str>, body: &str| {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request = agent.post(format!("{}{path}", bed.up.http)).content_type("application/json");
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let mut response = request.send(body).expect("an answer");
        let body: Value = response.body_mut().read_json().expect("JSON");
        (response.status().as_u16(), body)
    };
    let event = r#"{"id":"1","time":"2026-01-01T09:00:00Z","user":"ada","type":"document.open"}"#;
    let path = "/v1/topics/activity.events";
    assert_eq!(post(path, Some("k1"), event).1, json!({"topic": "activity.events", "written": 1}));
    // Again, as after an answer that was lost: nothing is written.
    assert_eq!(post(path, Some("k1"), event).1["repeated"], true);
    assert_eq!(post(path, None, &format!("[{event},{event}]")).1["written"], 2);
    assert_eq!(bed.engram.consume("activity.events").len(), 3);
    // All or none, and what is wrong with which.
    let (status, answer) = post(path, None, &format!(r#"[{event},{{"user":"ada"}}]"#));
    assert_eq!((status, &answer["errors"][0]["event"]), (422, &json!(2)), "{answer}");
    assert_eq!(bed.engram.consume("activity.events").len(), 3);
    for (path, body, status, says) in [
        ("/v1/topics/nothing", event, 404, "no events are known for topic"),
        ("/v1/topics/memory.events", event, 404, "?type="),
        (path, "", 400, "not JSON"),
        (path, "[]", 400, "no events"),
        (path, &"[".repeat(100_000), 400, "nested"),
        (path, &format!("\"{}\"", "x".repeat(5 << 20)), 413, "at most"),
    ] {
        let (found, answer) = post(path, None, body);
        let message = answer["message"].as_str().expect("a message").to_owned();
        assert!(found == status && message.contains(says), "{path}: {found} {message}");
    }
}

#[test]
fn a_stream_goes_on_where_it_broke_off() {
    let bed = Bed::start();
    let event = |id: usize| json!({"id": id.to_string(), "user": format!("user{id}"), "type": "edit"}).to_string();
    let produce = |from: usize, to: usize| {
        let lines: Vec<String> = (from..to).map(event).collect();
        bed.engram.run_with(&["produce", "activity.events"], &lines.join("\n"));
    };
    // Reads so many events, and the id of the last.
    let read = |last: Option<&str>, count: usize| {
        let mut request = ureq::get(format!("{}/v1/topics/activity.events/stream?from=beginning", bed.up.http));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.call().expect("a stream");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let (mut ids, mut last) = (Vec::new(), String::new());
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.expect("a line");
            if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut last);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data: Value = serde_json::from_str(data).expect("JSON");
                ids.push(data["value"]["id"].as_str().expect("an id").to_owned());
            }
            if ids.len() == count && !last.is_empty() && line.is_empty() {
                break;
            }
        }
        (ids, last)
    };
    produce(0, 20);
    let (mut ids, last) = read(None, 12);
    produce(20, 40);
    ids.extend(read(Some(&last), 28).0);
    let all: BTreeSet<usize> = ids.iter().map(|id| id.parse().expect("a number")).collect();
    assert_eq!((ids.len(), all), (40, (0..40).collect()));
}

#[test]
fn an_editor_that_comes_while_the_gateway_stops_and_starts_again_loses_nothing() {
    let bed = Bed::start();
    let address = bed.up.http.trim_start_matches("http://").to_owned();
    let url = bed.up.documents();
    let arguments = ["--document", "d", "--clients", "3", "--edits", "200", "--rate", "50", "--unique", "--forgetful"];
    let script = Script::start("editors", &[&["--url", &url, "--timeout", "120"], &arguments[..]].concat());
    let Bed { engram, up, _folder } = bed;
    let mut up = Some(up);
    for kill in [true, false] {
        std::thread::sleep(Duration::from_millis(1_500));
        let running = up.take().expect("it runs");
        if kill {
            running.kill()
        } else {
            running.stop()
        }
        up = Some(engram.up_at(&address, &[]));
    }
    let lines = script.finish();
    let result = lines.iter().find(|line| line["converged"] == true).expect("a result");
    println!(
        "{}",
        json!({"sent": result["sent"], "acknowledged": result["acknowledged"], "reconnects": result["reconnects"]})
    );
    assert_eq!(result["lost"], json!([]), "{result}");
    up.expect("it runs").stop();
    engram.replays("collaboration");
}
