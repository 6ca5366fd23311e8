//! Events for the activity service, what must come of them, and the checks of what did. The oracle recomputes from the
//! events alone and knows nothing of the runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engram_pipeline::log::kafka::{KafkaLog, KafkaOptions};
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{Cleanup, Log, LogError, NewRecord, Producer, ProducerOptions, TopicPartition, TopicSpec};
use engram_pipeline::registry::LogRegistry;
use engram_schemas::activity::{Interaction, Session, WindowCount};
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::manifest::{InputRange, Manifest};
use engram_schemas::registry::Registry;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::wait_until;

pub const EVENTS_TOPIC: &str = "activity.events";
pub const REPARTITION: &str = "engram-activity-repartition";
pub const MINUTE_MS: i64 = 60_000;
const SESSION_GAP_MS: i64 = 30 * MINUTE_MS;
const START_MS: i64 = 1_700_000_000_000;

/// The seed of a test's random choices: `ENGRAM_SEED`, or a new one. It is printed.
pub fn seed() -> u64 {
    let given = std::env::var("ENGRAM_SEED").ok().map(|seed| seed.parse().expect("ENGRAM_SEED is a number"));
    let seed = given.unwrap_or_else(rand::random);
    println!("ENGRAM_SEED={seed}");
    seed
}

/// The generator of a test's random choices, see `seed`.
pub fn seeded() -> StdRng {
    StdRng::seed_from_u64(seed())
}

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
pub struct Expected {
    window_ms: i64,
    pub windows: BTreeMap<(String, String, i64), (i64, i64, i64)>,
    times: BTreeMap<String, Vec<i64>>,
}

impl Expected {
    fn new(window_ms: i64) -> Self {
        Self { window_ms, windows: BTreeMap::new(), times: BTreeMap::new() }
    }

    fn add(&mut self, event: &Interaction) {
        let start = event.time - event.time.rem_euclid(self.window_ms);
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
    pub fn sessions(&self) -> BTreeMap<(String, i64), (i64, i64)> {
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

/// A log with its registry, and the events' topic.
pub struct Bed {
    pub log: Arc<KafkaLog>,
    pub registry: Arc<dyn Registry>,
    pub partitions: i32,
    /// Size of the windows that the service was configured with.
    pub window_ms: i64,
}

impl Bed {
    /// Creates the events' topic.
    pub fn new(brokers: &str, partitions: i32, window_ms: i64) -> Self {
        let log = Arc::new(KafkaLog::connect(KafkaOptions::new(brokers)).expect("the broker answers"));
        let registry = Arc::new(LogRegistry::new(Arc::clone(&log) as Arc<dyn Log>));
        let topic =
            TopicSpec { name: EVENTS_TOPIC.to_owned(), partitions, cleanup: Cleanup::Keep, max_message_bytes: 1 << 20 };
        log.create_topics(&[topic]).expect("created");
        Self { log, registry, partitions, window_ms }
    }

    /// Writes the events, never more than are `allowed` at the time, so that there is work left after each kill.
    pub fn produce(&self, events: u64, seed: u64, allowed: &AtomicU64, written: &AtomicU64) -> Expected {
        let encoder = Encoder::<Interaction>::register(&*self.registry, EVENTS_TOPIC).expect("the registry answers");
        let options = ProducerOptions { client_id: "test".to_owned(), transactional_id: None };
        let mut producer = self.log.producer(&options).expect("a producer");
        let mut random = StdRng::seed_from_u64(seed);
        let (mut expected, mut value) = (Expected::new(self.window_ms), Vec::new());
        for number in 0..events {
            let event = event(number, &mut random);
            expected.add(&event);
            encoder.encode(&event, &mut value).expect("it fits its schema");
            let record = NewRecord {
                topic: EVENTS_TOPIC,
                partition: partition_for(event.user.as_bytes(), self.partitions),
                timestamp_ms: None,
                key: Some(event.user.as_bytes()),
                value: Some(&value),
                headers: &[],
            };
            producer.write(&record, false).expect("written");
            if number % 1_000 == 999 {
                flush(&mut *producer);
                written.store(number + 1, Ordering::Relaxed);
                wait_until("more is wanted", Duration::from_secs(300), || allowed.load(Ordering::Relaxed) > number + 1);
            }
        }
        flush(&mut *producer);
        written.store(events, Ordering::Relaxed);
        expected
    }

    /// All committed records of a partition: (key, value), in order.
    pub fn records(&self, topic: &str, partition: i32) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let place = TopicPartition::new(topic, partition);
        let range = self.log.offsets(std::slice::from_ref(&place)).expect("offsets")[0];
        let mut reader = self.log.reader().expect("a reader");
        reader.assign(&[(place, range.first)]).expect("assigned");
        let (mut records, mut position) = (Vec::new(), range.first);
        let read = format!("{topic}/{partition} was read, of which {range:?} is known");
        wait_until(&read, Duration::from_secs(60), || {
            loop {
                let fetched = reader.fetch(0, 10_000).expect("fetched");
                // The end is told once, perhaps together with the last records.
                let end = fetched.end.unwrap_or(0);
                let Some(batch) = fetched.records else {
                    position = position.max(end);
                    return position >= range.end;
                };
                for at in 0..batch.len() {
                    let record = batch.record(at);
                    assert!(record.offset >= position, "offsets never go back");
                    position = record.offset + 1;
                    records.push((record.key.unwrap_or_default().to_vec(), record.value.map(<[u8]>::to_vec)));
                }
                position = position.max(end);
            }
        });
        records
    }

    pub fn committed(&self) -> Vec<Option<i64>> {
        let inputs: Vec<TopicPartition> = [EVENTS_TOPIC, REPARTITION]
            .iter()
            .flat_map(|topic| (0..self.partitions).map(|partition| TopicPartition::new(*topic, partition)))
            .collect();
        self.log.committed("activity", &inputs).unwrap_or_else(|_| vec![None; inputs.len()])
    }
}

/// Flushes, however long the broker is away. Records that were given up are no such case.
fn flush(producer: &mut dyn Producer) {
    for _ in 0..10 {
        match producer.flush() {
            Err(LogError::Failed { doing, .. }) if doing.contains("in time") => {}
            flushed => return drop(flushed.expect("flushed")),
        }
    }
    panic!("the broker does not come back");
}

/// The last record of every window and session is the expected one; counts of a window never go back.
pub fn check_outputs(bed: &Bed, expected: &Expected) {
    let mut decoder = Decoder::new(Arc::clone(&bed.registry));
    let mut windows = BTreeMap::new();
    let mut sessions = BTreeMap::new();
    for partition in 0..bed.partitions {
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
    for partition in 0..bed.partitions {
        assert_eq!(bed.records("dead-letters", partition).len(), 0);
    }
    println!("{} windows and {} sessions are right", windows.len(), sessions.len());
}

/// The manifests of a task are one unbroken chain over its inputs. Returns the positions after the last one, and how many
/// commits there were.
pub fn check_manifests(bed: &Bed, service: &str, partition: i32) -> (Vec<InputRange>, i64) {
    let mut decoder = Decoder::new(Arc::clone(&bed.registry));
    let mut last: Option<Manifest> = None;
    for (_, value) in bed.records(&format!("engram-{service}-manifests"), partition) {
        let manifest: Manifest = decoder.decode(&value.expect("a manifest")).expect("a manifest");
        let (sequence, digest, ends) = match &last {
            None => (0, vec![0; 16], vec![0; manifest.inputs.len()]),
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
    let Manifest { inputs, sequence, .. } = last.expect("there were commits");
    let place = TopicPartition::new(inputs[0].topic.as_str(), partition);
    let end = bed.log.offsets(&[place]).expect("offsets")[0].end;
    assert_eq!(inputs[0].to, end, "task {partition} of {service} has read its events to the end");
    (inputs, sequence)
}
