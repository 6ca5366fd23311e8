//! Every log keeps the promises of the log port: the whole conformance suite on each.

mod support;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use engram_pipeline::log::conformance::{CASES, Case};
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::kafka::{GroupProtocol, KafkaLog, KafkaOptions};
use engram_pipeline::log::{Cleanup, Log, LogError, MemberOptions, TopicSpec};

use support::kafka::Kafka;
use support::wait_until;

#[test]
fn the_embedded_log_in_memory_conforms() {
    check(&EmbeddedLog::in_memory(), "memory", 1, |_| true);
}

#[test]
fn the_embedded_log_on_disk_conforms() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    check(&EmbeddedLog::open(dir.path()).expect("a log can be made"), "disk", 1, |_| true);
}

#[test]
fn apache_kafka_conforms() {
    let log = KafkaLog::connect(KafkaOptions::new(Kafka::shared().brokers())).expect("the broker answers");
    // Joining a group takes seconds, most of them waiting.
    check(&log, "kafka", 4, |_| true);
}

/// Apache Kafka 4.0 and later; 3.9 says that it cannot. By this protocol a static member that is still there keeps its
/// place, and the newcomer is turned away.
#[test]
fn groups_by_the_consumer_protocol_conform() {
    let mut options = KafkaOptions::new(Kafka::shared().brokers());
    options.group_protocol = GroupProtocol::Consumer;
    let log = KafkaLog::connect(options).expect("the broker answers");
    if std::env::var("KAFKA_VERSION").is_ok_and(|version| version.starts_with("3.")) {
        return is_refused(&log);
    }
    check(&log, "consumer", 6, |case| {
        case.name != "a_static_member_returns_to_its_place"
            && (case.name.contains("member") || case.name.contains("group"))
    });
}

fn is_refused(log: &KafkaLog) {
    let topic =
        TopicSpec { name: "refused".to_owned(), partitions: 1, cleanup: Cleanup::Keep, max_message_bytes: 1 << 20 };
    log.create_topics(std::slice::from_ref(&topic)).expect("created");
    let options = MemberOptions {
        group: "refused".to_owned(),
        topics: vec![topic.name],
        client_id: "test".to_owned(),
        instance_id: None,
    };
    let mut member = log.member(&options).expect("the brokers are asked later");
    let mut refusal = None;
    wait_until("the protocol is refused", Duration::from_secs(20), || {
        refusal = member.poll_group().err();
        refusal.is_some()
    });
    let refusal = refusal.expect("there is one");
    assert!(matches!(&refusal, LogError::Refused(reason) if reason.contains("4.0")), "{refusal:?}");
}

/// Runs all cases, on some threads, and fails with the list of those that failed.
///
/// `ENGRAM_SEED` replays the random ones; a failure tells their seed.
fn check(log: &dyn Log, unique: &str, threads: usize, wanted: fn(&Case) -> bool) {
    let seed: u64 = match std::env::var("ENGRAM_SEED") {
        Ok(seed) => seed.parse().expect("ENGRAM_SEED is a number"),
        Err(_) => rand::random(),
    };
    let cases: Vec<&Case> = CASES.iter().filter(|case| wanted(case)).collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // A case leaves nothing behind that others could trip over: its names are its own.
                    let run = AssertUnwindSafe(|| case.check(log, unique, seed));
                    if let Err(panic) = catch_unwind(run) {
                        let failure = format!("{}: {}", case.name, message(&*panic));
                        failures.lock().expect("no thread panics while it holds the list").push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panics while it holds the list");
    assert!(
        failures.is_empty(),
        "{} of {} cases failed (seed {seed}):\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}
