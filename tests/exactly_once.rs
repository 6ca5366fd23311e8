//! Exactly once on a real Apache Kafka: while a million events are written, `engram up` is killed at random moments, the
//! broker once, and what comes out is what a sequential recomputation of the inputs gives.
//!
//! `ENGRAM_SOAK=1` (as `make soak` sets it) runs it whole: 1,000,000 events and 20 kills; without it, 150,000 and 5. With
//! `ENGRAM_SEED` a run's random choices can be repeated.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use engram_pipeline::changelog;
use engram_pipeline::clock::Clock;
use engram_pipeline::log::Log as _;
use engram_pipeline::store::{Budget, Files, META};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use support::activity::{Bed, Expected, MINUTE_MS, check_manifests, check_outputs, seed};
use support::engram::{Engram, Up};
use support::kafka::Kafka;
use support::wait_until;

const PARTITIONS: i32 = 4;

/// Windows of a minute that never close, so that every event counts in whatever order the partitions are read.
const CONFIGURATION: &str = "
partitions = 4
[kafka]
static_membership = true
[activity.sources.default]
window = \"1m\"
grace = \"forever\"
";

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
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);

    let kafka = Kafka::start_to_be_killed();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::on_kafka(&folder.path().join("data"), kafka.brokers()).configured(CONFIGURATION);
    let bed = Bed::new(kafka.brokers(), PARTITIONS, MINUTE_MS);

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
    engram.replays("activity");
    let changelog_records = check_manifests_and_stores(&bed, &stores);
    println!("a restart restored at most {restored_most} of {changelog_records} changelog records");
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
    let mut records = 0;
    for (partition, store) in (0..).zip(stores) {
        check_manifests(bed, "activity", partition);
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
        for key in [&b"position"[..], b"written", b"inputs"] {
            stored.remove([&[META][..], key].concat().as_slice());
        }
        assert_eq!(stored.len(), folded.len(), "task {partition}: entries");
        let differing: BTreeSet<_> = stored.iter().filter(|(key, value)| folded.get(*key) != Some(value)).collect();
        assert!(differing.is_empty(), "task {partition}: {} entries differ", differing.len());
    }
    records
}
