//! Exactly once on a real Apache Kafka: while a million events are written, `engram up` is killed at random moments, the
//! broker once, and what comes out is what a sequential recomputation of the inputs gives.
//!
//! `ENGRAM_SOAK=1` (as `make soak` sets it) runs it whole: 1,000,000 events and 20 kills; without it, 150,000 and 5. With
//! `ENGRAM_SEED` a run's random choices can be repeated.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use engram_pipeline::changelog;
use engram_pipeline::clock::Clock;
use engram_pipeline::log::kafka::{KafkaLog, KafkaOptions};
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{Cleanup, Log, NewRecord, ProducerOptions, TopicPartition, TopicSpec};
use engram_pipeline::registry::LogRegistry;
use engram_pipeline::store::{Budget, Files, META};
use engram_schemas::activity::{Interaction, Session, WindowCount};
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::manifest::Manifest;
use engram_schemas::registry::Registry;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use support::engram::{Engram, Up};
use support::kafka::Kafka;
use support::wait_until;

const PARTITIONS: i32 = 4;
const EVENTS_TOPIC: &str = "activity.events";
const REPARTITION: &str = "engram-activity-repartition";
const MINUTE_MS: i64 = 60_000;
const SESSION_GAP_MS: i64 = 30 * MINUTE_MS;
const START_MS: i64 = 1_700_000_000_000;

/// Windows of a minute that never close, so that every event counts in whatever order the partitions are read.
const CONFIGURATION: &str = "
partitions = 4
[activity.sources.default]
window = \"1m\"
grace = \"forever\"
";

/// The `number`-th event: times go forwards with jumps back, and every user pauses for two of six hours.
fn event(number: u64, random: &mut StdRng) -> Interaction {
    let time = START_MS + (number / 50) as i64 * 8_000 - random.random_range(0..5 * MINUTE_MS);
    let mut user = random.random_range(0..500_i64);
    if (time / (120 * MINUTE_MS) + user) % 3 == 0 {
        user += 1;
    }
    Interaction {
        id: format!("{number}"),
        time,
        user: format!("user-{user}"),
        kind: ["open", "edit", "close"][random.random_range(0..3)].to_owned(),
        target: random.random_bool(0.8).then(|| format!("document-{}", random.random_range(0..200_u32))),
        source: "test".to_owned(),
        value: None,
        attributes: BTreeMap::new(),
    }
}

/// Windows by (dimension, key, start), sessions by (user, start): what everything is compared with.
#[derive(Default)]
struct Expected {
    windows: BTreeMap<(String, String, i64), (i64, i64, i64)>,
    times: BTreeMap<String, Vec<i64>>,
}

impl Expected {
    fn add(&mut self, event: &Interaction) {
        let start = event.time - event.time.rem_euclid(MINUTE_MS);
        let mut count = |dimension: &str, key: &str| {
            let window = self.windows.entry((dimension.to_owned(), key.to_owned(), start));
            let (count, first, last) = window.or_insert((0, i64::MAX, i64::MIN));
            (*count, *first, *last) = (*count + 1, (*first).min(event.time), (*last).max(event.time));
        };
        count("user", &event.user);
        count("type", &event.kind);
        if let Some(target) = &event.target {
            count("target", target);
        }
        self.times.entry(event.user.clone()).or_default().push(event.time);
    }

    /// (user, start) -> (end, count), by sorting each user's times.
    fn sessions(&self) -> BTreeMap<(String, i64), (i64, i64)> {
        let mut sessions = BTreeMap::new();
        for (user, times) in &self.times {
            let mut times = times.clone();
            times.sort_unstable();
            let mut start = times[0];
            for (index, &time) in times.iter().enumerate() {
                if index > 0 && time - times[index - 1] > SESSION_GAP_MS {
                    start = time;
                }
                let (end, count) = sessions.entry((user.clone(), start)).or_insert((time, 0));
                (*end, *count) = (time, *count + 1);
            }
        }
        sessions
    }
}

struct Bed {
    log: Arc<KafkaLog>,
    registry: Arc<dyn Registry>,
}

impl Bed {
    fn new(brokers: &str) -> Self {
        let log = Arc::new(KafkaLog::connect(KafkaOptions::new(brokers)).expect("the broker answers"));
        let registry = Arc::new(LogRegistry::new(Arc::clone(&log) as Arc<dyn Log>));
        Self { log, registry }
    }

    /// Writes the events, never more than are `allowed` at the time, so that there is work left after each kill.
    fn produce(&self, events: u64, seed: u64, allowed: &AtomicU64, written: &AtomicU64) -> Expected {
        let encoder = Encoder::<Interaction>::register(&*self.registry, EVENTS_TOPIC).expect("the registry answers");
        let options = ProducerOptions { client_id: "test".to_owned(), transactional_id: None };
        let mut producer = self.log.producer(&options).expect("a producer");
        let mut random = StdRng::seed_from_u64(seed);
        let (mut expected, mut value) = (Expected::default(), Vec::new());
        for number in 0..events {
            let event = event(number, &mut random);
            expected.add(&event);
            encoder.encode(&event, &mut value).expect("it fits its schema");
            let record = NewRecord {
                topic: EVENTS_TOPIC,
                partition: partition_for(event.user.as_bytes(), PARTITIONS),
                timestamp_ms: None,
                key: Some(event.user.as_bytes()),
                value: Some(&value),
                headers: &[],
            };
            producer.write(&record, false).expect("written");
            if number % 1_000 == 999 {
                producer.flush().expect("flushed, whatever the broker does");
                written.store(number + 1, Ordering::Relaxed);
                wait_until("more is wanted", Duration::from_secs(120), || allowed.load(Ordering::Relaxed) > number + 1);
            }
        }
        producer.flush().expect("flushed");
        written.store(events, Ordering::Relaxed);
        expected
    }

    /// All committed records of a partition: (key, value), in order.
    fn records(&self, topic: &str, partition: i32) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let place = TopicPartition::new(topic, partition);
        let range = self.log.offsets(std::slice::from_ref(&place)).expect("offsets")[0];
        let mut reader = self.log.reader().expect("a reader");
        reader.assign(&[(place, range.first)]).expect("assigned");
        let (mut records, mut position) = (Vec::new(), range.first);
        wait_until("the partition was read", Duration::from_secs(60), || {
            loop {
                let fetched = reader.fetch(0, 10_000).expect("fetched");
                let Some(batch) = fetched.records else {
                    position = position.max(fetched.end.unwrap_or(0));
                    return position >= range.end;
                };
                for at in 0..batch.len() {
                    let record = batch.record(at);
                    assert!(record.offset >= position, "offsets never go back");
                    position = record.offset + 1;
                    records.push((record.key.unwrap_or_default().to_vec(), record.value.map(<[u8]>::to_vec)));
                }
            }
        });
        records
    }

    fn committed(&self) -> Vec<Option<i64>> {
        let inputs: Vec<TopicPartition> = [EVENTS_TOPIC, REPARTITION]
            .iter()
            .flat_map(|topic| (0..PARTITIONS).map(|partition| TopicPartition::new(*topic, partition)))
            .collect();
        self.log.committed("activity", &inputs).unwrap_or_else(|_| vec![None; inputs.len()])
    }
}

/// Samples the group's positions until told to stop; they may never go back.
fn watch_positions(bed: &Bed, done: &AtomicBool) -> u64 {
    let mut last = vec![None; 2 * PARTITIONS as usize];
    let mut samples = 0;
    while !done.load(Ordering::Relaxed) {
        let now = bed.committed();
        for (index, (before, now)) in last.iter().zip(&now).enumerate() {
            if let (Some(before), Some(now)) = (before, now) {
                assert!(now >= before, "committed position {index} went back from {before} to {now}");
            }
        }
        // A broker that is down tells nothing.
        last.iter_mut().zip(now).for_each(|(last, now)| *last = now.or(*last));
        samples += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    samples
}

/// Inode and modification time of the file that RocksDB writes once, when it creates a database.
fn birth(store: &Path) -> (u64, std::time::SystemTime) {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(store.join("IDENTITY")).expect("the store is there");
    (metadata.ino(), metadata.modified().expect("the system keeps times"))
}

fn restored(up: &Up) -> u64 {
    let services = up.get("/v1/services");
    services[0]["workers"][0]["restored_records"].as_u64().expect("a number")
}

#[test]
fn nothing_lost_and_nothing_twice_whatever_is_killed() {
    let soak = std::env::var_os("ENGRAM_SOAK").is_some();
    let (events, kills): (u64, u64) = if soak { (1_000_000, 20) } else { (150_000, 5) };
    let seed = std::env::var("ENGRAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("ENGRAM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let kafka = Kafka::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::on_kafka(&folder.path().join("data"), kafka.brokers()).configured(CONFIGURATION);
    let bed = Bed::new(kafka.brokers());
    let topic = TopicSpec {
        name: EVENTS_TOPIC.to_owned(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Keep,
        max_message_bytes: 1 << 20,
    };
    bed.log.create_topics(&[topic]).expect("created");

    let (allowed, written, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let service = engram.data().join("stores").join(bed.log.id().expect("the cluster has an id")).join("activity");
    let stores: Vec<_> = (0..PARTITIONS).map(|task| service.join(task.to_string())).collect();
    let mut births = Vec::new();
    let mut restored_most = 0;
    let expected = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_positions(&bed, &done));
        let producer = scope.spawn(|| bed.produce(events, seed, &allowed, &written));
        let broker_kill = random.random_range(1..kills);
        for kill in 0..kills {
            let up = engram.up(&[]);
            if births.is_empty() {
                wait_until("the stores are there", Duration::from_secs(60), || {
                    stores.iter().all(|store| store.join("IDENTITY").exists())
                });
                births = stores.iter().map(|store| birth(store)).collect();
            }
            allowed.store(events * (kill + 1) / (kills + 1), Ordering::Relaxed);
            // Not a wait for a condition: the moment of the kill is what is random.
            std::thread::sleep(Duration::from_millis(random.random_range(100..2_500)));
            if kill == broker_kill {
                kafka.kill();
                kafka.restart();
                std::thread::sleep(Duration::from_millis(random.random_range(0..2_000)));
            }
            restored_most = restored_most.max(restored(&up));
            println!("kill {kill} after {} events", written.load(Ordering::Relaxed));
            up.kill();
        }
        allowed.store(u64::MAX, Ordering::Relaxed);
        let up = engram.up(&[]);
        let expected = producer.join().expect("the producer");
        up.wait_until_idle(Duration::from_secs(300));
        up.stop();
        done.store(true, Ordering::Relaxed);
        println!("{} samples of the positions", watcher.join().expect("positions never go back"));
        expected
    });

    // A clean restart has nothing to restore, and no store was ever created anew.
    let up = engram.up(&[]);
    up.wait_until_idle(Duration::from_secs(60));
    assert_eq!(restored(&up), 0, "after a clean stop the stores are complete");
    up.stop();
    assert_eq!(stores.iter().map(|store| birth(store)).collect::<Vec<_>>(), births, "a store was wiped");

    check_outputs(&bed, &expected);
    check_state(&engram, &expected);
    let changelog_records = check_manifests_and_stores(&bed, &stores);
    println!("a restart restored at most {restored_most} of {changelog_records} changelog records");
}

/// The last record of every window and session is the expected one; counts of a window never go back.
fn check_outputs(bed: &Bed, expected: &Expected) {
    let mut decoder = Decoder::new(Arc::clone(&bed.registry));
    let mut windows = BTreeMap::new();
    let mut sessions = BTreeMap::new();
    for partition in 0..PARTITIONS {
        for (key, value) in bed.records("activity.windows", partition) {
            let window: WindowCount = decoder.decode(&value.expect("windows have no tombstones")).expect("a window");
            let id = (window.dimension, window.key, window.window_start);
            assert_eq!(String::from_utf8_lossy(&key), format!("{}:{}@{}", id.0, id.1, id.2));
            let before = windows.insert(id.clone(), (window.count, window.first_ts, window.last_ts));
            assert!(
                before.is_none_or(|(count, _, _)| count < window.count),
                "{id:?} went from {before:?} to {}",
                window.count
            );
        }
        for (key, value) in bed.records("activity.sessions", partition) {
            match value {
                // Also for one that began and was absorbed within one commit, of which nothing was ever told.
                None => drop(sessions.remove(&key)),
                Some(value) => {
                    let session: Session = decoder.decode(&value).expect("a session");
                    sessions.insert(key, ((session.user, session.session_start), (session.session_end, session.count)));
                }
            }
        }
    }
    assert_eq!(windows.len(), expected.windows.len(), "windows");
    for (id, window) in &expected.windows {
        assert_eq!(windows.get(id), Some(window), "{id:?}");
    }
    let sessions: BTreeMap<_, _> = sessions.into_values().collect();
    assert_eq!(sessions, expected.sessions());
    for partition in 0..PARTITIONS {
        assert_eq!(bed.records("dead-letters", partition).len(), 0);
    }
    println!("{} windows and {} sessions are right", windows.len(), sessions.len());
}

/// The stores are the fold of the inputs.
fn check_state(engram: &Engram, expected: &Expected) {
    let entries = |store: &str| engram.json(&["state", "range", "activity", store, "--limit", "1000000000"]);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let number = |value: &Value| value.as_i64().expect("a number");
    let windows: BTreeMap<_, _> = entries("windows")
        .iter()
        .map(|entry| (&entry["key"], &entry["value"]))
        .map(|(key, value)| {
            let id = (text(&key["dimension"]), text(&key["key"]), number(&key["window_start"]));
            (id, (number(&value["count"]), number(&value["first_ts"]), number(&value["last_ts"])))
        })
        .collect();
    assert!(windows == expected.windows, "the stored windows are not those of the inputs");
    let sessions: BTreeMap<_, _> = entries("sessions")
        .iter()
        .map(|entry| (&entry["key"], &entry["value"]))
        .map(|(key, value)| {
            let id = (text(&key["user"]), number(&key["session_start"]));
            (id, (number(&value["session_end"]), number(&value["count"])))
        })
        .collect();
    assert_eq!(sessions, expected.sessions(), "stored sessions");
}

/// Each task's manifests are one unbroken chain over its inputs, from the first offset to the end, and its store is the
/// fold of its changelog. Returns the number of changelog records.
fn check_manifests_and_stores(bed: &Bed, stores: &[std::path::PathBuf]) -> usize {
    let mut decoder = Decoder::new(Arc::clone(&bed.registry));
    let mut records = 0;
    for (partition, store) in (0..).zip(stores) {
        let mut last: Option<Manifest> = None;
        for (_, value) in bed.records("engram-activity-manifests", partition) {
            let manifest: Manifest = decoder.decode(&value.expect("a manifest")).expect("a manifest");
            let (sequence, digest, ends) = match &last {
                None => (0, vec![0; 16], vec![0, 0]),
                Some(last) => (last.sequence, last.digest.clone(), last.inputs.iter().map(|input| input.to).collect()),
            };
            assert_eq!(manifest.sequence, sequence + 1, "task {partition}: a commit is missing or twice");
            assert_eq!(manifest.previous_digest, digest, "task {partition}: commit {}", manifest.sequence);
            for (input, end) in manifest.inputs.iter().zip(ends) {
                // Between two manifests a position may move past control records, never past records or back.
                assert!(input.from >= end, "task {partition} commit {}: {input:?} after {end}", manifest.sequence);
            }
            let taken: i64 = manifest.interleaving.iter().map(|run| run.count).sum();
            assert!(taken > 0);
            last = Some(manifest);
        }
        let inputs = last.expect("there were commits").inputs;
        let places: Vec<_> =
            inputs.iter().map(|input| TopicPartition::new(input.topic.as_str(), input.partition)).collect();
        let events = places.iter().zip(bed.log.offsets(&places).expect("offsets")).next().expect("inputs").1;
        assert_eq!(inputs[0].to, events.end, "task {partition} has read its events to the end");

        let mut folded: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (key, value) in bed.records(&changelog::topic("activity"), partition) {
            records += 1;
            match value {
                Some(value) => folded.insert(key, value),
                None => folded.remove(&key),
            };
        }
        let files = Files::open(store, &Budget::new(32 << 20), &Clock::default()).expect("the store opens");
        let mut stored: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for prefix in 0..=4 {
            for entry in files.all(prefix) {
                let (key, value) = entry.expect("an entry");
                stored.insert(key.to_vec(), value.to_vec());
            }
        }
        // What only the files know: how far they are.
        for key in [&b"position"[..], b"written"] {
            stored.remove([&[META][..], key].concat().as_slice());
        }
        assert_eq!(stored.len(), folded.len(), "task {partition}: entries");
        let differing: BTreeSet<_> = stored.iter().filter(|(key, value)| folded.get(*key) != Some(value)).collect();
        assert!(differing.is_empty(), "task {partition}: {} entries differ", differing.len());
    }
    records
}
