//! Every log keeps the promises of the log port: the whole conformance suite on each.

mod support;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use engram_pipeline::log::Log;
use engram_pipeline::log::conformance::CASES;
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::kafka::{KafkaLog, KafkaOptions};

use support::kafka::Kafka;

#[test]
fn the_embedded_log_in_memory_conforms() {
    check(&EmbeddedLog::in_memory(), "memory", 1);
}

#[test]
fn the_embedded_log_on_disk_conforms() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    check(&EmbeddedLog::open(dir.path()).expect("a log can be made"), "disk", 1);
}

#[test]
fn apache_kafka_conforms() {
    let log = KafkaLog::connect(KafkaOptions::new(Kafka::shared().brokers())).expect("the broker answers");
    // Joining a group takes seconds, most of them waiting.
    check(&log, "kafka", 4);
}

/// Runs all cases, on some threads, and fails with the list of those that failed.
///
/// `ENGRAM_SEED` replays the random ones; a failure tells their seed.
fn check(log: &dyn Log, unique: &str, threads: usize) {
    let seed: u64 = match std::env::var("ENGRAM_SEED") {
        Ok(seed) => seed.parse().expect("ENGRAM_SEED is a number"),
        Err(_) => rand::random(),
    };
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = CASES.get(next.fetch_add(1, Ordering::Relaxed)) {
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
        CASES.len(),
        failures.join("\n")
    );
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}
