//! Running a worker until it is told to stop: what may pass is tried again, each time from the last commit.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Worker, WorkerOptions};
use crate::log::LogError;
use crate::processor::ProcessError;
use crate::store::StoreError;

/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Runs a worker until it is told to stop. What may pass (a broker that restarts, a fenced producer, a registry out of
/// reach) is tried again with backoff, each time from the last commit; what will not is returned.
pub fn run(options: &WorkerOptions) -> Result<(), ProcessError> {
    let clock = &options.clock;
    let mut backoff = BACKOFF.0;
    let outcome = loop {
        let started = clock.now();
        let outcome = Worker::start(options).and_then(|mut worker| worker.run());
        options.status.unassigned();
        if let Some(standby) = &options.standby {
            standby.own(&options.instance, &[]);
        }
        let error = match outcome {
            Ok(()) => break Ok(()),
            Err(error) if !may_pass(&error) => break Err(error),
            Err(error) => error,
        };
        if clock.since(started) > BACKOFF.1 * 2 || options.status.poison().take_condemned() {
            backoff = BACKOFF.0;
        }
        tracing::warn!(worker = options.instance, error = %chain(&error), retry_ms = backoff.as_millis() as u64, "starting anew from the last commit");
        options.status.trouble(Some(chain(&error)));
        metrics::counter!("engram_worker_restarts_total", "service" => options.service.name).increment(1);
        let failed = clock.now();
        while clock.since(failed) < backoff && !options.stop.load(Ordering::Relaxed) {
            clock.sleep(Duration::from_millis(10));
        }
        if options.stop.load(Ordering::Relaxed) {
            break Ok(());
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    };
    options.status.end();
    outcome
}

/// Whether starting anew may help.
pub fn may_pass(error: &ProcessError) -> bool {
    let log = |error: &LogError| {
        matches!(
            error,
            LogError::Unreachable { .. } | LogError::Fenced(_) | LogError::Failed { .. } | LogError::TooLarge(_)
        )
    };
    match error {
        ProcessError::Retry(_) | ProcessError::Poisoned(_) | ProcessError::Panicked(_) => true,
        ProcessError::Log(error) | ProcessError::Store(StoreError::Log(error)) => log(error),
        // By a worker of this process that is about to give it back: `up` has the folder for itself.
        ProcessError::Store(StoreError::InUse { .. }) => true,
        ProcessError::Store(_) | ProcessError::Reject { .. } | ProcessError::Refused(_) => false,
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_line = cause.to_string();
        if !line.contains(&cause_line) {
            line.push_str(": ");
            line.push_str(&cause_line);
        }
        source = cause.source();
    }
    line
}
