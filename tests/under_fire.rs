//! Several `engram up` share twelve partitions on a real Apache Kafka while processes are added, stopped, killed and
//! frozen past their session timeout, and the broker is killed twice. What comes out is what a sequential recomputation of
//! the inputs gives, in every partition and in order.
//!
//! Two services run side by side: `activity`, whose results are compared with the oracle's, and `passthrough`, whose output
//! must be its input, record by record. Both leave a chain of manifests a partition, which a commit of a process that had
//! lost its partitions would fork.
//!
//! `ENGRAM_SOAK=1` (as `make soak` sets it) runs it whole: 5,000,000 events and five rounds of trouble; without it, 120,000
//! and one. With `ENGRAM_SEED` a run's random choices can be repeated.

mod support;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use engram_pipeline::log::Log as _;
use engram_pipeline::log::TopicPartition;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use support::activity::{Bed, EVENTS_TOPIC, MINUTE_MS, check_manifests, check_outputs, seed};
use support::engram::{Engram, Up};
use support::kafka::Kafka;
use support::wait_until;

const PARTITIONS: i32 = 12;
const PROCESSES: usize = 3;
/// As the processes are configured, and by the consumer protocol as `kafka.sh` configures the broker.
const SESSION_TIMEOUT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(6));

/// Windows of an hour that never close, so that every event counts in whatever order the partitions are read.
const CONFIGURATION: &str = "
partitions = 12
[activity.sources.default]
window = \"1h\"
grace = \"forever\"
";

/// Two fleets at once would starve each other's brokers.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Add,
    Stop,
    Kill,
    Freeze,
    KillBroker,
}

/// Each of them in every round, the broker's death twice in all.
fn schedule(rounds: usize, random: &mut StdRng) -> Vec<Trouble> {
    let mut schedule = Vec::new();
    for round in 0..rounds {
        let mut troubles = vec![Trouble::Add, Trouble::Stop, Trouble::Kill, Trouble::Freeze];
        let last = round + 1 == rounds;
        troubles.extend((round == 0).then_some(Trouble::KillBroker));
        troubles.extend(last.then_some(Trouble::KillBroker));
        troubles.shuffle(random);
        schedule.extend(troubles);
    }
    schedule
}

/// The processes, each with a data folder that outlives it.
struct Fleet<'a> {
    kafka: &'a Kafka,
    folder: PathBuf,
    configuration: String,
    session_timeout: Duration,
    running: Vec<(Engram, Up)>,
    folders: usize,
}

impl Fleet<'_> {
    /// With an empty disk.
    fn add(&mut self) {
        self.folders += 1;
        self.start(self.engram(&format!("process-{}", self.folders)));
    }

    fn engram(&self, folder: &str) -> Engram {
        Engram::on_kafka(&self.folder.join(folder), self.kafka.brokers()).configured(&self.configuration)
    }

    fn start(&mut self, engram: Engram) {
        let workers = if self.folders.is_multiple_of(2) { "2" } else { "1" };
        let up = engram.up(&["--services", "activity,passthrough", "--workers", workers]);
        self.running.push((engram, up));
    }

    fn take(&mut self, random: &mut StdRng) -> (Engram, Up) {
        let index = random.random_range(0..self.running.len());
        self.running.swap_remove(index)
    }

    fn trouble(&mut self, trouble: Trouble, random: &mut StdRng) {
        match trouble {
            Trouble::Add => self.add(),
            Trouble::Stop => {
                let (engram, up) = self.take(random);
                up.stop();
                self.start(engram);
            }
            Trouble::Kill => {
                let (engram, up) = self.take(random);
                up.kill();
                pause(random, 0..2_000);
                self.start(engram);
            }
            Trouble::Freeze => {
                let (engram, up) = self.take(random);
                let held = tasks(&up);
                up.freeze();
                std::thread::sleep(self.session_timeout * 2);
                wait_until("the others have taken over", Duration::from_secs(60), || {
                    let others: Vec<_> = self.running.iter().flat_map(|(_, up)| tasks(up)).collect();
                    held.iter().all(|task| others.contains(task))
                });
                up.thaw();
                if !held.is_empty() {
                    wait_until("the zombie learns that it has lost its partitions", Duration::from_secs(60), || {
                        let log = up.log();
                        log.contains("partitions lost") || log.contains("starting anew")
                    });
                }
                self.running.push((engram, up));
            }
            Trouble::KillBroker => {
                self.kafka.kill();
                pause(random, 0..1_500);
                self.kafka.restart();
            }
        }
    }
}

/// The tasks of a process: (service, partition).
fn tasks(up: &Up) -> Vec<(String, i64)> {
    let services = up.get("/v1/services");
    let service = |service: &Value| {
        let name = service["service"].as_str().expect("a name").to_owned();
        let tasks = service["workers"].as_array().expect("a list").iter().flat_map(|worker| {
            worker["tasks"].as_array().expect("a list").iter().map(|task| task.as_i64().expect("a number"))
        });
        tasks.map(|task| (name.clone(), task)).collect::<Vec<_>>()
    };
    let services = services.as_array().expect("a list");
    // It goes on answering for a moment when a service has failed.
    assert!(!services.is_empty(), "no service runs\n{}", up.log());
    services.iter().flat_map(service).collect()
}

fn pause(random: &mut StdRng, ms: std::ops::Range<u64>) {
    // Not a wait for a condition: the moment of what follows is what is random.
    std::thread::sleep(Duration::from_millis(random.random_range(ms)));
}

#[test]
fn output_is_the_oracles_whatever_happens_to_processes_and_broker() {
    let timeout = SESSION_TIMEOUT.0;
    under_fire(&format!("[kafka.properties]\n\"session.timeout.ms\" = \"{}\"\n", timeout.as_millis()), timeout);
}

#[test]
fn it_is_by_the_consumer_protocol_too() {
    under_fire("[kafka]\ngroup_protocol = \"consumer\"\n", SESSION_TIMEOUT.1);
}

fn under_fire(kafka_configuration: &str, session_timeout: Duration) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let soak = std::env::var_os("ENGRAM_SOAK").is_some();
    let (events, rounds): (u64, usize) = if soak { (5_000_000, 5) } else { (120_000, 1) };
    let all_is_read_within = Duration::from_secs(if soak { 600 } else { 120 });
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let started = Instant::now();

    let kafka = Kafka::start_to_be_killed();
    let mut folder = tempfile::tempdir().expect("a temporary folder");
    folder.disable_cleanup(true);
    println!("what the processes have and say is in {}, and stays there if this fails", folder.path().display());
    let bed = Bed::new(kafka.brokers(), PARTITIONS, 60 * MINUTE_MS);
    let mut fleet = Fleet {
        kafka: &kafka,
        folder: folder.path().to_owned(),
        configuration: format!("{CONFIGURATION}{kafka_configuration}"),
        session_timeout,
        running: Vec::new(),
        folders: 0,
    };
    let schedule = schedule(rounds, &mut random);
    println!("{schedule:?}");

    let (allowed, written) = (AtomicU64::new(0), AtomicU64::new(0));
    let expected = std::thread::scope(|scope| {
        let producer = scope.spawn(|| bed.produce(events, seed, &allowed, &written));
        (0..PROCESSES).for_each(|_| fleet.add());
        for (step, &trouble) in schedule.iter().enumerate() {
            allowed.store(events * (step as u64 + 1) / (schedule.len() as u64 + 1), Ordering::Relaxed);
            pause(&mut random, 500..2_500);
            println!(
                "{:.1} s: {trouble:?}, {} events",
                started.elapsed().as_secs_f64(),
                written.load(Ordering::Relaxed)
            );
            fleet.trouble(trouble, &mut random);
        }
        allowed.store(u64::MAX, Ordering::Relaxed);
        producer.join().expect("the producer")
    });
    println!("{:.1} s: all events are written", started.elapsed().as_secs_f64());
    wait_until("all partitions have an owner, and all is read", all_is_read_within, || {
        let mut owned: Vec<_> = fleet.running.iter().flat_map(|(_, up)| tasks(up)).collect();
        owned.sort();
        owned.dedup();
        owned.len() == 2 * PARTITIONS as usize && is_read(&bed)
    });
    fleet.running.iter().for_each(|(_, up)| up.wait_until_idle(Duration::from_secs(120)));
    fleet.running.drain(..).for_each(|(_, up)| up.stop());
    println!("{:.1} s: all events are processed", started.elapsed().as_secs_f64());

    check_outputs(&bed, &expected);
    let mut copied = 0;
    for partition in 0..PARTITIONS {
        copied += check_copy(&bed, partition);
        for service in ["activity", "passthrough"] {
            check_manifests(&bed, service, partition);
        }
    }
    assert_eq!(copied, events, "every event went through, once");
    println!("{:.1} s: {events} events are right, in each of {PARTITIONS} partitions", started.elapsed().as_secs_f64());
    let engram = fleet.engram("replay");
    ["activity", "passthrough"].iter().for_each(|service| engram.replays(service));
    println!("{:.1} s: a replay of both services is right", started.elapsed().as_secs_f64());
    folder.disable_cleanup(false);
}

/// Both services' positions are at the ends of the events.
fn is_read(bed: &Bed) -> bool {
    let places: Vec<_> = (0..PARTITIONS).map(|partition| TopicPartition::new(EVENTS_TOPIC, partition)).collect();
    let ends = bed.log.offsets(&places).expect("offsets");
    ["activity", "passthrough"].iter().all(|group| {
        let positions = bed.log.committed(group, &places).expect("positions");
        positions.iter().zip(&ends).all(|(position, range)| position.is_some_and(|position| position >= range.end))
    })
}

/// A partition of the copy is the partition of the events, record by record. Returns their number.
fn check_copy(bed: &Bed, partition: i32) -> u64 {
    let events = bed.records(EVENTS_TOPIC, partition);
    let copies = bed.records("passthrough.events", partition);
    assert_eq!(copies.len(), events.len(), "records of partition {partition}");
    for (index, (event, copy)) in events.iter().zip(&copies).enumerate() {
        assert!(event == copy, "partition {partition}: record {index} is another one");
    }
    events.len() as u64
}
