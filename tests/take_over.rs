//! A process with much state is killed under load and started again; then others, with empty disks, take over: from a
//! snapshot, and from the changelog alone. Whoever it is counts on from where the one before it was.
//!
//! `ENGRAM_SOAK=1` (as `make soak` sets it) runs it with 2 GB of state; without it, with 30 MB. What it prints, from the start
//! of a process to the first record that it has committed, stands in docs/performance.md.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{Log as _, NewRecord, ProducerOptions, TopicPartition};
use engram_schemas::activity::Interaction;
use engram_schemas::codec::Encoder;
use rand::distr::{Alphanumeric, SampleString as _};
use rand::rngs::StdRng;
use serde_json::json;
use support::activity::{Bed, EVENTS_TOPIC, MINUTE_MS, seeded};
use support::engram::{Engram, Up};
use support::kafka::Kafka;
use support::wait_until;

const PARTITIONS: i32 = 4;
/// Length of a user's and a target's name. An event makes a window and a session of the one, and a window of the other.
const NAME_BYTES: usize = 500;
/// Every tenth event is by one of so many users who come again and again: their counts tell what was kept.
const REGULARS: u64 = 8;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const TIME: i64 = 1_700_000_000_000;
const DEADLINE: Duration = Duration::from_secs(600);

#[test]
fn a_killed_process_and_new_ones_go_on_from_where_it_was() {
    let count: u64 = if std::env::var_os("ENGRAM_SOAK").is_some() { 1_400_000 } else { 20_000 };
    let (kafka, folder) = (Kafka::start_to_be_killed(), tempfile::tempdir().expect("a temporary folder"));
    let bed = Bed::new(kafka.brokers(), PARTITIONS, HOUR_MS);
    let mut events = Events { written: 0, random: seeded() };
    let shared = folder.path().join("snapshots").display().to_string();
    let machine = |name: &str, snapshots: &str| {
        // A static member that is killed and comes back has its place at once.
        Engram::on_kafka(&folder.path().join(name), kafka.brokers()).configured(&format!(
            "[activity.sources.default]\nwindow = \"1h\"\ngrace = \"forever\"\n[snapshots]\nurl = \"{snapshots}\"\n\
             [kafka]\nstatic_membership = true\n[kafka.properties]\n\"session.timeout.ms\" = \"3000\"\n"
        ))
    };
    let first = machine("first", &shared);

    events.write(&bed, count);
    let started = Instant::now();
    let up = start(&first);
    up.wait_until_idle(DEADLINE);
    let took = started.elapsed().as_secs_f64();
    assert_eq!(first.json(&["snapshot", "create", "activity"]).len(), PARTITIONS as usize);
    let state = bytes(&first.data().join("stores"));
    println!("{count} events, {} MB of state, made in {took:.1} s", state / 1_000_000);

    // When it is killed it is at work, and not all that it has done is on disk.
    let before = records(&up);
    events.write(&bed, count / 10);
    wait_until("it is at work", DEADLINE, || records(&up) > before + count / 50);
    up.kill();
    let up = first_record("killed, and started again", &first, state);
    up.wait_until_idle(DEADLINE);
    events.check(&up);
    up.stop();

    for (name, snapshots) in [("snapshot", shared.as_str()), ("changelog", "none")] {
        wait_until("nobody is a member any more", DEADLINE, || {
            let groups = bed.log.groups().expect("groups");
            groups.iter().all(|group| group.name != "activity" || group.members == 0)
        });
        if snapshots == "none" {
            read_changelog(&bed);
        }
        events.write(&bed, 100);
        let up = first_record(&format!("with an empty disk, from the {name}"), &machine(name, snapshots), state);
        let restores = up.restores();
        assert_eq!(restores.len(), PARTITIONS as usize);
        assert!(restores.iter().all(|restored| restored["snapshot"].is_i64() == (snapshots != "none")), "{restores:?}");
        up.wait_until_idle(DEADLINE);
        events.check(&up);
        up.stop();
    }
}

/// A stream of events of which nine in ten make state that nobody comes back to.
struct Events {
    written: u64,
    random: StdRng,
}

impl Events {
    fn write(&mut self, bed: &Bed, count: u64) {
        let encoder = Encoder::<Interaction>::register(&*bed.registry, EVENTS_TOPIC).expect("the registry answers");
        let options = ProducerOptions { client_id: "test".to_owned(), transactional_id: None };
        let mut producer = bed.log.producer(&options).expect("a producer");
        let mut value = Vec::new();
        for number in self.written..self.written + count {
            let mut name = || Alphanumeric.sample_string(&mut self.random, NAME_BYTES);
            let (user, target) = match regular(number) {
                Some(regular) => (format!("regular-{regular}"), None),
                None => (name(), Some(name())),
            };
            let event = Interaction {
                id: number.to_string(),
                time: TIME,
                user,
                kind: "edit".to_owned(),
                target,
                source: String::new(),
                value: None,
                attributes: Default::default(),
            };
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
        }
        producer.flush().expect("flushed");
        self.written += count;
    }

    /// Every regular's count is of all events that were written.
    fn check(&self, up: &Up) {
        for user in 0..REGULARS {
            let key = json!({
                "dimension": "user", "key": format!("regular-{user}"), "window_start": TIME - TIME % HOUR_MS, "source": ""
            });
            let wanted = (0..self.written).filter(|&number| regular(number) == Some(user)).count();
            let answer = up.get_with("/v1/stores/activity/windows", &[("key", &key.to_string())]);
            assert_eq!(answer["entries"][0]["value"]["count"], wanted, "{answer}");
        }
    }
}

fn regular(number: u64) -> Option<u64> {
    number.is_multiple_of(10).then_some(number / 10 % REGULARS)
}

fn start(engram: &Engram) -> Up {
    engram.up(&["--services", "activity"])
}

/// Starts a process and waits until it has committed its first record.
fn first_record(what: &str, engram: &Engram, state: u64) -> Up {
    let (started, began) = (Instant::now(), jiff::Timestamp::now());
    let up = start(engram);
    wait_until("a record is committed", DEADLINE, || records(&up) > 0);
    let took = started.elapsed().as_secs_f64();
    let restores = up.restores();
    let restored: u64 = restores.iter().filter_map(|restored| restored["restored_records"].as_u64()).sum();
    let longest = restores.iter().filter_map(|restored| restored["took_ms"].as_u64()).max().unwrap_or(0);
    let opened = restores.iter().filter_map(|restored| restored["timestamp"].as_str()?.parse::<jiff::Timestamp>().ok());
    let opened = opened.max().expect("tasks were restored").duration_since(began).as_secs_f64();
    println!(
        "{what}: its tasks are open, and take records, after {opened:.2} s; the first record is committed after {took:.2} s; \
         {restored} records of the changelog were read; \
         restoring took {:.2} s, {:.0} MB/s of state",
        longest as f64 / 1e3,
        state as f64 / 1e3 / longest.max(1) as f64
    );
    up
}

/// Records that a process has committed.
fn records(up: &Up) -> u64 {
    up.get("/v1/services")[0]["workers"][0]["records"].as_u64().expect("a number")
}

/// What the same costs without Engram: one reader of all partitions.
fn read_changelog(bed: &Bed) {
    let places: Vec<TopicPartition> =
        (0..PARTITIONS).map(|partition| TopicPartition::new("engram-activity-changelog", partition)).collect();
    let ranges = bed.log.offsets(&places).expect("offsets");
    let positions: Vec<_> = places.into_iter().zip(&ranges).map(|(place, range)| (place, range.first)).collect();
    let started = Instant::now();
    let mut reader = bed.log.reader().expect("a reader");
    reader.assign(&positions).expect("assigned");
    let (mut records, mut size) = (0, 0);
    let mut at_end = [false; PARTITIONS as usize];
    while at_end.contains(&false) {
        let before = records;
        for (index, at_end) in at_end.iter_mut().enumerate() {
            let fetched = reader.fetch(index, 10_000).expect("fetched");
            if let Some(batch) = &fetched.records {
                records += batch.len();
                size += batch.bytes();
            }
            *at_end |= fetched.end.is_some_and(|end| end >= ranges[index].stable);
        }
        if records == before {
            reader.wait(Duration::from_millis(10)).expect("waited");
        }
    }
    let took = started.elapsed().as_secs_f64();
    println!("reading the changelog, the log alone: {records} records, {} MB in {took:.2} s", size / 1_000_000);
}

/// Size of a folder.
fn bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("read").path());
    entries.map(|path| if path.is_dir() { bytes(&path) } else { path.metadata().map_or(0, |file| file.len()) }).sum()
}
