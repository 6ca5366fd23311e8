//! Records that cannot be processed, under every error policy: outputs, dead letters and what is still to come again are
//! together the inputs, each once, and the state is that of the outputs. On the in-memory log with many seeds, and on a
//! real Apache Kafka.
//!
//! `ENGRAM_SEED` runs one seed.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engram_pipeline::clock::Clock;
use engram_pipeline::errors::{Action, ErrorPolicy};
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::kafka::{KafkaLog, KafkaOptions};
use engram_pipeline::log::{Cleanup, Header, Log, NewRecord, ProducerOptions, TopicPartition, TopicSpec};
use engram_pipeline::processor::{Context, Input, Output, ProcessError, Processor, Service};
use engram_pipeline::replay::{Past, Program, RerunOptions, Times, verify};
use engram_pipeline::service::{self, Running};
use engram_pipeline::store::{self, Budget, Files, StoreSpec};
use engram_pipeline::worker::{CommitOptions, Overlap, WorkerOptions};
use engram_pipeline::{dead_letter, manifest, retry};
use engram_schemas::codec::Decoder;
use engram_schemas::dead_letter::DeadLetter;
use engram_schemas::manifest::Manifest;
use engram_schemas::registry::Registry;
use engram_schemas::registry::memory::MemoryRegistry;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use support::kafka::Kafka;
use support::wait_until;

const INPUTS: [&str; 2] = ["orders", "payments"];
const OUT: &str = "out";
const PARTITIONS: i32 = 2;
/// Of the topic of outputs.
const OUT_BYTES_MAX: usize = 256 << 10;

/// What the processor does with a record: its value is one of these, `:` and a number.
const KINDS: &[&str] = &["ok", "ok", "ok", "ok", "ok", "reject", "flaky", "panic", "late", "large"];

/// How often each record was processed, over all lives of the processors: the world outside, which is at times not to be had.
type World = Arc<Mutex<HashMap<String, u32>>>;

struct Judge {
    world: World,
    /// Panics at the end of the commit.
    panics_late: bool,
}

impl Processor for Judge {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let value = std::str::from_utf8(input.record.value.expect("a value")).expect("text");
        let (kind, _) = value.split_once(':').expect("a kind");
        let times = {
            let mut world = self.world.lock().expect("no holder panics");
            let times = world.entry(value.to_owned()).or_default();
            *times += 1;
            *times
        };
        match kind {
            "reject" => return Err(ProcessError::reject("refused", "it is not wanted")),
            "flaky" if times < 3 => return Err(ProcessError::reject("flaky", "not yet")),
            "outage" if times < 4 => return Err(ProcessError::Retry("it is out".to_owned())),
            _ => {}
        }
        // From here on a failure leaves the task half changed.
        let key = input.record.key.expect("a key");
        context.store(0).update(key, |count| {
            let before = count.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            count.clear();
            count.extend((before + 1).to_be_bytes());
            true
        })?;
        let (place, record) = (input.partition, input.record);
        let seen = format!("{value} {} {place} {} {}", INPUTS[input.source], record.offset, record.timestamp_ms);
        context.emit(0, key, Some(seen.as_bytes()))?;
        match kind {
            "panic" => panic!("record {value}\nis poison"),
            "large" => context.emit(0, key, Some(&vec![b'x'; 2 * OUT_BYTES_MAX])),
            "late" => {
                self.panics_late = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn before_commit(&mut self, _context: &mut Context<'_>) -> Result<(), ProcessError> {
        assert!(!self.panics_late, "not a good moment");
        Ok(())
    }

    fn reset(&mut self) {
        self.panics_late = false;
    }
}

fn topic(name: &str, max_message_bytes: usize) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions: PARTITIONS, cleanup: Cleanup::Keep, max_message_bytes }
}

struct Bed {
    log: Arc<dyn Log>,
    registry: Arc<dyn Registry>,
    folder: tempfile::TempDir,
    world: World,
    commit: CommitOptions,
    workers: usize,
}

impl Bed {
    fn new(log: Arc<dyn Log>, random: &mut StdRng) -> Self {
        log.create_topics(&[topic(INPUTS[0], 1 << 20), topic(INPUTS[1], 1 << 20), topic(OUT, OUT_BYTES_MAX)])
            .expect("created");
        let commit = CommitOptions {
            interval: Duration::from_millis(random.random_range(1..20)),
            records_max: *[1, 7, 50, 100_000].choose(random).expect("some"),
            overlap: *[Overlap::Off, Overlap::Thread].choose(random).expect("some"),
            ..CommitOptions::default()
        };
        Self {
            log,
            registry: Arc::new(MemoryRegistry::default()),
            folder: tempfile::tempdir().expect("a temporary folder"),
            world: World::default(),
            commit,
            workers: random.random_range(1..3),
        }
    }

    fn service(&self, policy: ErrorPolicy) -> Service {
        let world = Arc::clone(&self.world);
        let service = Service {
            name: "judge",
            inputs: INPUTS.map(str::to_owned).to_vec(),
            outputs: vec![Output { topic: OUT.to_owned(), event: None }],
            topics: Vec::new(),
            stores: vec![StoreSpec::new("counts", |_, _| Default::default())],
            processor: Box::new(move |_| Ok(Box::new(Judge { world: Arc::clone(&world), panics_late: false }))),
            errors: ErrorPolicy::default(),
        };
        service.with_errors(policy, &*self.log).expect("the log answers")
    }

    fn start(&self, policy: &ErrorPolicy) -> Running {
        let service = Arc::new(self.service(policy.clone()));
        service::prepare_topics(&*self.log, &service, PARTITIONS).expect("topics");
        let stores = self.folder.path().to_owned();
        let options = WorkerOptions {
            static_membership: true,
            commit: self.commit,
            ..WorkerOptions::new(service, Arc::clone(&self.log), Arc::clone(&self.registry), stores)
        };
        Running::start(&options, self.workers).expect("started")
    }

    /// What was committed comes out again.
    fn replay(&self, policy: &ErrorPolicy) {
        let (service, budget) = (Arc::new(self.service(policy.clone())), Budget::new(8 << 20));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rerun = RerunOptions {
            service: &service,
            log: &*self.log,
            registry: &self.registry,
            budget: &budget,
            partitions: PARTITIONS,
            dead_letter_partitions: PARTITIONS,
            memory_bytes_max: 0,
            program: Program::Same,
            stop: None,
        };
        let tasks: Vec<_> = (0..PARTITIONS).map(|task| Past { rerun, snapshots: None, task }).collect();
        let times = Times { from_ms: i64::MIN, to_ms: i64::MAX };
        let verified = verify(&tasks, times, folder.path(), |_, _| true).expect("replayed");
        assert!(verified.difference.is_none() && verified.commits > 0, "{verified:?}");
    }

    /// Writes records of these kinds, and then `more` of any that do not cost a pause.
    fn write(&self, kinds: &[&str], more: usize, random: &mut StdRng) {
        let options = ProducerOptions { client_id: "test".to_owned(), transactional_id: None };
        let mut producer = self.log.producer(&options).expect("a producer");
        for number in 0..kinds.len() + more {
            let kind = kinds.get(number).unwrap_or_else(|| KINDS.choose(random).expect("some"));
            let key = format!("key-{}", random.random_range(0..7_u32));
            let value = format!("{kind}:{number}");
            let record = NewRecord {
                topic: INPUTS[random.random_range(0..2)],
                partition: random.random_range(0..PARTITIONS),
                timestamp_ms: Some(1_700_000_000_000 + random.random_range(0..1_000)),
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                headers: &[("origin", Some(value.as_bytes())), ("null", None)],
            };
            producer.write(&record, false).expect("written");
        }
        producer.flush().expect("flushed");
    }

    fn read(&self, name: &str) -> Vec<(TopicPartition, Record)> {
        let Some(info) = self.log.topics().expect("topics").into_iter().find(|topic| topic.name == name) else {
            return Vec::new();
        };
        let mut records = Vec::new();
        for number in 0..info.partitions {
            let place = TopicPartition::new(name, number);
            let end = self.log.offsets(std::slice::from_ref(&place)).expect("offsets")[0].end;
            let mut reader = self.log.reader().expect("a reader");
            reader.assign(&[(place.clone(), 0)]).expect("assigned");
            let mut position = 0;
            wait_until("the partition was read", Duration::from_secs(60), || {
                let fetched = reader.fetch(0, 1_000).expect("fetched");
                if let Some(batch) = fetched.records {
                    for at in 0..batch.len() {
                        let record = batch.record(at);
                        position = record.offset + 1;
                        let bytes = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
                        let (key, value) = (bytes(record.key), bytes(record.value));
                        let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
                        let headers = batch.headers(at);
                        records.push((place.clone(), Record { offset, timestamp_ms, key, value, headers }));
                    }
                }
                position = position.max(fetched.end.unwrap_or(0));
                position >= end
            });
        }
        records
    }

    /// The inputs, by value.
    fn inputs(&self) -> BTreeMap<String, (TopicPartition, Record)> {
        let records = INPUTS.iter().flat_map(|input| self.read(input));
        records.map(|(place, record)| (text(&record.value).to_owned(), (place, record))).collect()
    }

    /// What the store of each task has: by partition and key.
    fn counts(&self) -> BTreeMap<(i32, String), u64> {
        let budget = Budget::new(8 << 20);
        let mut counts = BTreeMap::new();
        for number in 0..PARTITIONS {
            let path = self.folder.path().join(number.to_string());
            let files = Files::open(&path, &budget, &Clock::default()).expect("opened");
            for entry in files.all(store::prefix(0)) {
                let (key, count) = entry.expect("readable");
                let count = u64::from_be_bytes(count.as_ref().try_into().expect("8 bytes"));
                counts.insert((number, text(&key[1..]).to_owned()), count);
            }
        }
        counts
    }

    /// Waits until nothing is left to do, and stops.
    fn finish(&self, running: Running, deadline: Duration) {
        wait_until("all was processed", deadline, || {
            assert!(!running.has_failed(), "{:?}", running.workers());
            running.is_idle(100)
        });
        running.stop().expect("stopped");
    }

    fn check(&self, policy: &ErrorPolicy) {
        let inputs = self.inputs();
        let mut left: BTreeSet<&str> = inputs.keys().map(String::as_str).collect();
        let mut counts: BTreeMap<(i32, String), u64> = BTreeMap::new();
        let mut last: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        let outputs = self.read(OUT);
        for (out, record) in &outputs {
            let seen = text(&record.value);
            let value = seen.split(' ').next().expect("a value");
            assert!(left.remove(value), "{value} came out twice, or never was");
            let (place, input) = &inputs[value];
            // The processor saw the record as it came, however often it came again.
            assert_eq!(seen, format!("{value} {} {place} {} {}", place.topic, input.offset, input.timestamp_ms));
            assert_eq!(out.partition, place.partition);
            let kind = value.split(':').next().expect("a kind");
            assert!(["ok", "outage", "flaky"].contains(&kind), "{value} came out");
            if kind == "ok" {
                let before = last.insert(place.clone(), input.offset);
                assert!(before.is_none_or(|before| before < input.offset), "{value} is out of order");
            }
            *counts.entry((place.partition, text(&record.key).to_owned())).or_default() += 1;
        }
        let mut decoder = Decoder::new(Arc::clone(&self.registry));
        for (_, record) in self.read(dead_letter::TOPIC) {
            let letter: DeadLetter = decoder.decode(&record.value).expect("a letter");
            let value = text(letter.value.as_deref().expect("whole")).to_owned();
            assert!(left.remove(value.as_str()), "{value} is a dead letter and something else, too");
            let (place, input) = &inputs[&value];
            assert_eq!((&*place.topic, place.partition), (letter.topic.as_str(), letter.partition));
            assert_eq!((letter.offset, letter.timestamp), (input.offset, input.timestamp_ms));
            assert_eq!(letter.key.as_deref(), Some(input.key.as_slice()));
            let headers: Vec<_> = letter.headers.into_iter().map(|header| (header.key, header.value)).collect();
            let expected: Vec<_> =
                input.headers.iter().map(|header| (header.key.clone(), header.value.clone())).collect();
            assert_eq!(headers, expected, "its own headers, and no others");
            let causes: &[&str] = match value.split(':').next().expect("a kind") {
                "reject" => &["refused"],
                "flaky" => &["flaky"],
                "panic" => &["panic"],
                "large" => &["output-too-large", "commit-fails"],
                "late" => &["commit-fails"],
                other => panic!("{other} is a dead letter: {}", letter.detail),
            };
            assert!(causes.contains(&letter.cause.as_str()), "{value}: {} {}", letter.cause, letter.detail);
            if letter.cause == "refused" && policy.on_reject == Action::Retry {
                assert!(letter.detail.ends_with(&format!("again {} times", policy.attempts_max)), "{}", letter.detail);
            }
        }
        assert!(left.is_empty(), "neither out nor a dead letter: {left:?}");
        assert_eq!(self.counts(), counts, "the state is that of the outputs");
        self.check_manifests(&mut decoder);
    }

    /// What the manifests say was taken is all that there was, each once.
    fn check_manifests(&self, decoder: &mut Decoder) {
        let mut there: BTreeMap<(String, i32), i64> = BTreeMap::new();
        let retries = retry::topic("judge");
        for (place, _) in INPUTS.iter().chain([&retries.as_str()]).flat_map(|name| self.read(name)) {
            *there.entry((place.topic.to_string(), place.partition)).or_default() += 1;
        }
        let mut taken: BTreeMap<(String, i32), i64> = BTreeMap::new();
        let mut ends: BTreeMap<(String, i32), i64> = BTreeMap::new();
        for (_, record) in self.read(&manifest::topic("judge")) {
            let manifest: Manifest = decoder.decode(&record.value).expect("a manifest");
            for run in &manifest.interleaving {
                let input = &manifest.inputs[run.input as usize];
                *taken.entry((input.topic.clone(), input.partition)).or_default() += run.count;
            }
            for input in manifest.inputs {
                let end = ends.insert((input.topic.clone(), input.partition), input.to);
                assert!(end.is_none_or(|end| end <= input.from), "{}: read twice", input.topic);
            }
        }
        assert_eq!(taken, there);
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

struct Record {
    offset: i64,
    timestamp_ms: i64,
    key: Vec<u8>,
    value: Vec<u8>,
    headers: Vec<Header>,
}

fn policy(random: &mut StdRng) -> ErrorPolicy {
    let retries = random.random_bool(0.7);
    ErrorPolicy {
        on_reject: if retries { Action::Retry } else { Action::DeadLetter },
        on_unavailable: random.random_bool(0.5).then_some(Action::Retry),
        in_place_max: 2,
        attempts_max: 4,
        backoff_ms: 5,
        backoff_ms_max: 40,
    }
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let bed = Bed::new(Arc::new(EmbeddedLog::in_memory()), &mut random);
    let policy = policy(&mut random);
    println!("seed {seed}: {policy:?} {:?} {} workers", bed.commit, bed.workers);
    bed.write(&["outage", "reject", "flaky", "panic", "late", "large"], 50, &mut random);
    let mut running = bed.start(&policy);
    for _ in 0..random.random_range(0..3) {
        // Not a wait for a condition: the moment of the stop is what is random.
        std::thread::sleep(Duration::from_millis(random.random_range(0..200)));
        running.stop().expect("stopped");
        running = bed.start(&policy);
    }
    bed.finish(running, Duration::from_secs(60));
    bed.check(&policy);
}

#[test]
fn every_record_is_processed_a_dead_letter_or_to_come_again() {
    if let Some(seed) = std::env::var("ENGRAM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return run(seed);
    }
    for seed in 0..12 {
        run(seed);
    }
}

/// Whatever waits in the retry topic is processed, though the policy has changed since.
#[test]
fn retries_are_not_left_behind_when_the_policy_changes() {
    let mut random = StdRng::seed_from_u64(1);
    let bed = Bed::new(Arc::new(EmbeddedLog::in_memory()), &mut random);
    let later = ErrorPolicy { on_reject: Action::Retry, backoff_ms: 1_500, ..ErrorPolicy::default() };
    bed.write(&["ok", "flaky", "flaky", "flaky"], 0, &mut random);
    let running = bed.start(&later);
    wait_until("they wait", Duration::from_secs(30), || bed.read(&retry::topic("judge")).len() == 3);
    assert_eq!(bed.read(OUT).len(), 1, "what is not due holds nothing up, and is not taken");
    running.stop().expect("stopped");
    let running = bed.start(&ErrorPolicy::default());
    bed.finish(running, Duration::from_secs(30));
    assert_eq!(bed.read(dead_letter::TOPIC).len(), 3);
    bed.check(&ErrorPolicy::default());
}

#[test]
fn a_service_stops_before_the_record_and_goes_on_when_told_to() {
    let mut random = StdRng::seed_from_u64(2);
    let bed = Bed { workers: 1, ..Bed::new(Arc::new(EmbeddedLog::in_memory()), &mut random) };
    bed.write(&["ok", "reject", "panic", "ok"], 0, &mut random);
    let stop = ErrorPolicy { on_reject: Action::Stop, ..ErrorPolicy::default() };
    for _ in 0..2 {
        let running = bed.start(&stop);
        wait_until("it has stopped", Duration::from_secs(30), || running.has_failed());
        let error = running.stop().expect_err("it stops").to_string();
        let found = ["reject:1", "panic:2"].iter().any(|value| {
            let (place, record) = &bed.inputs()[*value];
            error.starts_with(&format!("{place} offset {} could not be processed", record.offset))
        });
        assert!(found && error.contains("[errors.judge] on_reject") && !error.contains('\n'), "{error}");
    }
    bed.finish(bed.start(&ErrorPolicy::default()), Duration::from_secs(30));
    bed.check(&ErrorPolicy::default());
}

/// A key that is never to be had: the policy decides whether all behind it waits.
#[test]
fn what_is_never_to_be_had_does_not_hold_up_the_others() {
    let mut random = StdRng::seed_from_u64(3);
    let bed = Bed::new(Arc::new(EmbeddedLog::in_memory()), &mut random);
    bed.write(&["outage", "ok", "ok"], 0, &mut random);
    bed.world.lock().expect("no holder panics").insert("outage:0".to_owned(), 0);
    let policy = ErrorPolicy {
        on_unavailable: Some(Action::Retry),
        in_place_max: 1,
        attempts_max: 1,
        backoff_ms: 5,
        ..ErrorPolicy::default()
    };
    // It would work with the fourth try: one in place, one retried and one in place there are too few.
    let running = bed.start(&policy);
    bed.finish(running, Duration::from_secs(30));
    let mut decoder = Decoder::new(Arc::clone(&bed.registry));
    let letters = bed.read(dead_letter::TOPIC);
    let letter: DeadLetter = decoder.decode(&letters[0].1.value).expect("a letter");
    assert_eq!((letters.len(), letter.cause.as_str()), (1, "unavailable"));
    assert_eq!(letter.detail, "it is out; it had come again once");
    assert_eq!(bed.read(OUT).len(), 2);
    // By now the record could be processed; a replay does what was done then.
    bed.replay(&policy);
}

/// On a real broker, which refuses a record that is too large for its topic only when the commit is under way.
#[test]
fn every_record_is_accounted_for_on_apache_kafka() {
    let kafka = Kafka::start();
    let mut random = StdRng::seed_from_u64(4);
    let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(KafkaOptions::new(kafka.brokers())).expect("it answers"));
    let bed = Bed::new(log, &mut random);
    let policy = ErrorPolicy {
        on_reject: Action::Retry,
        on_unavailable: Some(Action::Retry),
        in_place_max: 2,
        attempts_max: 4,
        backoff_ms: 100,
        backoff_ms_max: 1_000,
    };
    bed.write(&["outage", "reject", "flaky", "panic", "late", "large"], 20, &mut random);
    let running = bed.start(&policy);
    std::thread::sleep(Duration::from_secs(3));
    running.stop().expect("stopped");
    bed.finish(bed.start(&policy), Duration::from_secs(180));
    bed.check(&policy);
}
