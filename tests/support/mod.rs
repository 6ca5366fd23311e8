//! What the integration tests share: the binary, a real Apache Kafka, sample data, and waiting for something to become true.
#![allow(dead_code, reason = "each test program compiles this module and uses its own part of it")]

pub mod activity;
pub mod editors;
pub mod engram;
pub mod git_sample;
pub mod kafka;
pub mod log;
pub mod s3;

use std::thread;
use std::time::{Duration, Instant};

/// Asks `condition` every 20 ms until it holds. Panics, naming `what`, when it still does not after `deadline`.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
