//! Several processes share a service on a real Apache Kafka: they know of one another, a key is found whichever is asked,
//! and one that stops hands its partitions over at once, by either group protocol.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engram_pipeline::log::{Log as _, TopicPartition};
use serde_json::{Value, json};
use support::activity::{Bed, MINUTE_MS, seed};
use support::engram::{Engram, Up};
use support::kafka::Kafka;
use support::wait_until;

const PARTITIONS: i32 = 12;
const EVENTS: u64 = 60_000;
/// The promise is 2 s; a machine that does much else at the time gets more.
const HAND_OVER_MAX: Duration = Duration::from_secs(8);

#[test]
fn a_key_is_found_whichever_process_is_asked() {
    let (kafka, folder) = (Kafka::start(), tempfile::tempdir().expect("a temporary folder"));
    let bed = Bed::new(kafka.brokers(), PARTITIONS, MINUTE_MS);
    let engrams = [1, 2, 3].map(|number| engram(&kafka, folder.path(), number, "classic"));
    let ups: Vec<Up> = engrams.iter().map(|engram| engram.up(&["--workers", "2"])).collect();
    let (allowed, written) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let expected = bed.produce(EVENTS, seed(), &allowed, &written);
    share(&ups);
    ups.iter().for_each(|up| up.wait_until_idle(Duration::from_secs(60)));

    // The registry of processes shows all of them, and who owns what.
    wait_until("the processes have announced what they own", Duration::from_secs(20), || {
        let services = engrams[0].json(&["services"]);
        let instances = services[0]["instances"].as_array().expect("a list").clone();
        let owned: Vec<_> = instances.iter().flat_map(partitions).collect();
        instances.len() == 3 && owned.len() == PARTITIONS as usize && owned.iter().collect::<BTreeSet<_>>().len() == 12
    });

    let user = &expected.windows.keys().find(|(dimension, ..)| dimension == "user").expect("users").1.clone();
    let wanted: BTreeSet<(i64, i64)> = expected
        .windows
        .iter()
        .filter(|((dimension, key, _), _)| dimension == "user" && key == user)
        .map(|((.., start), (count, ..))| (*start, *count))
        .collect();
    for up in &ups {
        let answer = up.get(&format!("/v1/stores/activity/windows?key={user}&limit=100000"));
        assert_eq!(found(answer["entries"].as_array().expect("a list")), wanted);
        assert_eq!(answer["partitions"].as_array().expect("a list").len(), PARTITIONS as usize);
        let own = up.get(&format!("/v1/stores/activity/windows?key={user}&limit=100000&local=true"));
        assert!(own["partitions"].as_array().expect("a list").len() < PARTITIONS as usize, "one process's only");
    }
    // A whole key is looked up in the one task that may have it, wherever that is.
    for (dimension, key, start) in expected.windows.keys().step_by(expected.windows.len() / 20) {
        let whole = json!({"dimension": dimension, "key": key, "window_start": start, "source": ""}).to_string();
        let count = expected.windows[&(dimension.clone(), key.clone(), *start)].0;
        let answers = ups.iter().map(|up| up.get_with("/v1/stores/activity/windows", &[("key", &whole)]));
        for answer in answers {
            assert_eq!(answer["partitions"].as_array().expect("a list").len(), 1, "{answer}");
            assert_eq!(
                found(answer["entries"].as_array().expect("a list")),
                BTreeSet::from([(*start, count)]),
                "{whole}"
            );
        }
    }
    // Everything together is what the oracle says, in whichever process it is.
    let all = ups[1].get("/v1/stores/activity/windows?limit=100000");
    assert_eq!(all["entries"].as_array().expect("a list").len(), expected.windows.len());
    // A folder that has no store at all asks the others, too.
    let stranger = engram(&kafka, folder.path(), 9, "classic");
    assert_eq!(found(&stranger.json(&["state", "range", "activity", "windows", user, "--limit", "100000"])), wanted);
    let missing = ureq::get(format!("{}/v1/stores/activity/nothing", ups[0].http)).call();
    assert!(matches!(missing, Err(ureq::Error::StatusCode(404))), "{missing:?}");

    ups.into_iter().for_each(Up::stop);
    let services = engrams[0].json(&["services"]);
    assert_eq!(services[0]["instances"].as_array().expect("a list").len(), 0, "who stops says so");
    // Nobody answers any more: the state is rebuilt from the log.
    assert_eq!(found(&stranger.json(&["state", "range", "activity", "windows", user, "--limit", "100000"])), wanted);
}

#[test]
fn a_process_that_stops_hands_over_at_once() {
    hands_over("classic");
}

#[test]
fn a_process_that_stops_hands_over_at_once_by_the_consumer_protocol() {
    hands_over("consumer");
}

fn hands_over(protocol: &str) {
    let (kafka, folder) = (Kafka::start(), tempfile::tempdir().expect("a temporary folder"));
    let bed = Bed::new(kafka.brokers(), PARTITIONS, MINUTE_MS);
    let engrams = [1, 2].map(|number| engram(&kafka, folder.path(), number, protocol));
    let ups = engrams.each_ref().map(|engram| engram.up(&["--services", "activity,passthrough"]));
    let (allowed, written, done) = (AtomicU64::new(EVENTS), AtomicU64::new(0), AtomicBool::new(false));
    share(&ups);
    let took = std::thread::scope(|scope| {
        scope.spawn(|| bed.produce(200_000, seed(), &allowed, &written));
        wait_until("there is some state", Duration::from_secs(60), || written.load(Ordering::Relaxed) >= EVENTS);
        // From here on a slow stream, so that there is always something to process.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                allowed.fetch_add(1_000, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
            allowed.store(u64::MAX, Ordering::Relaxed);
        });
        std::thread::sleep(Duration::from_secs(2));
        let [stopping, staying] = ups;
        let lost = tasks(&stopping);
        assert!(!lost.is_empty(), "both have partitions");
        let places: Vec<_> = lost.iter().map(|&task| TopicPartition::new("passthrough.events", task)).collect();
        let started = Instant::now();
        stopping.stop();
        let exited = started.elapsed();
        let ends = bed.log.offsets(&places).expect("offsets");
        let mut first = None;
        wait_until("all of its partitions go on", Duration::from_secs(60), || {
            let now = bed.log.offsets(&places).expect("offsets");
            let moved = now.iter().zip(&ends).filter(|(now, then)| now.stable > then.stable).count();
            if moved > 0 {
                first.get_or_insert(started.elapsed());
            }
            moved == places.len()
        });
        let all = started.elapsed();
        println!(
            "{protocol}: from SIGTERM to its exit {exited:?}, to the first record that another process has committed {:?}, \
             to one in each of its {} partitions {all:?}",
            first.expect("some were first"),
            places.len()
        );
        done.store(true, Ordering::Relaxed);
        allowed.store(u64::MAX, Ordering::Relaxed);
        drop(staying);
        all
    });
    assert!(took < HAND_OVER_MAX, "it took {took:?}");
}

#[test]
fn a_process_that_cannot_commit_gives_up_and_loses_nothing() {
    let (kafka, folder) = (Kafka::start_to_be_killed(), tempfile::tempdir().expect("a temporary folder"));
    let engram = Engram::on_kafka(&folder.path().join("data"), kafka.brokers())
        .configured("partitions = 1\n[commit]\ninterval = \"5s\"\n");
    let up = engram.up(&["--services", "activity"]);
    up.wait_until_idle(Duration::from_secs(60));
    let event = r#"{"id":"1","time":"2026-01-01T09:00:00Z","user":"ada","type":"document.open","target":"notes.md"}"#;
    engram.run_with(&["produce", "activity.events"], event);
    wait_until("the event is processed, and its commit far away", Duration::from_secs(60), || {
        up.get("/v1/services")[0]["workers"][0]["idle_ms"].is_null()
    });
    kafka.kill();
    let log = up.stop_fails();
    assert!(log.contains("no last commit within 20 s by activity"), "{log}");
    kafka.restart();
    engram.catch_up();
    let windows = engram.consume("activity.windows");
    assert!(windows.iter().any(|window| window["value"]["key"] == "ada"), "{windows:?}");
}

fn engram(kafka: &Kafka, folder: &std::path::Path, number: usize, protocol: &str) -> Engram {
    let configuration = format!(
        "partitions = 12\n[activity.sources.default]\nwindow = \"1m\"\ngrace = \"forever\"\n[kafka]\ngroup_protocol = \"{protocol}\"\n"
    );
    Engram::on_kafka(&folder.join(format!("process-{number}")), kafka.brokers()).configured(&configuration)
}

/// Waits until each process has a part of the partitions, and all together have all of them.
fn share(ups: &[Up]) {
    wait_until("all partitions have an owner", Duration::from_secs(60), || {
        let held: Vec<_> = ups.iter().map(tasks).collect();
        held.iter().all(|held| !held.is_empty()) && held.iter().map(Vec::len).sum::<usize>() == PARTITIONS as usize
    });
}

/// The tasks of a process's first service.
fn tasks(up: &Up) -> Vec<i32> {
    let services = up.get("/v1/services");
    // It goes on answering for a moment when a service has failed.
    assert!(services[0].is_object(), "no service runs\n{}", up.log());
    partitions(&services[0])
}

fn partitions(service: &Value) -> Vec<i32> {
    let workers = service["workers"].as_array().expect("a list");
    let tasks = workers.iter().flat_map(|worker| worker["tasks"].as_array().expect("a list"));
    tasks.map(|task| task.as_i64().expect("a number") as i32).collect()
}

/// (window's start, count) of entries.
fn found(entries: &[Value]) -> BTreeSet<(i64, i64)> {
    let number = |value: &Value| value.as_i64().expect("a number");
    entries.iter().map(|entry| (number(&entry["key"]["window_start"]), number(&entry["value"]["count"]))).collect()
}
