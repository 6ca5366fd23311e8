//! The thread that takes snapshots of a service's tasks in turn.
//!
//! It fails softly: an object store that cannot be reached costs a warning and a pause, the longer the more often, and
//! processing goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{SnapshotError, Snapshots};
use crate::worker::chain;

/// First pause after a failure; it doubles up to the interval.
const BACKOFF: Duration = Duration::from_secs(10);
/// How often the thread looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// An upload that is on its way when the service stops is waited for so long.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The thread; it ends with `stop`.
pub struct Turns {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Turns {
    pub fn start(snapshots: Arc<Snapshots>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name(format!("{}-snapshots", snapshots.service))
            .spawn(move || run(&snapshots, &told))?;
        Ok(Self { stop, thread })
    }

    /// Waits for the thread, unless it is held up by the object store. What is half uploaded then is never seen.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let until = Instant::now() + STOP_MAX;
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(LOOK / 10);
        }
        if self.thread.is_finished() {
            let _ = self.thread.join();
        } else {
            tracing::info!("a snapshot was given up");
        }
    }
}

fn run(snapshots: &Snapshots, stop: &AtomicBool) {
    let interval = snapshots.policy.interval;
    let (mut pause, mut backoff) = (interval, BACKOFF);
    loop {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(LOOK.min(pause));
        }
        match turn(snapshots, stop) {
            Ok(()) => (pause, backoff) = (interval, BACKOFF),
            Err(error) => {
                pause = backoff.min(interval);
                backoff = (backoff * 2).min(interval);
                metrics::counter!("engram_snapshot_failures_total", "service" => snapshots.service.clone())
                    .increment(1);
                tracing::warn!(
                    service = snapshots.service,
                    error = %chain(&error),
                    retry_s = pause.as_secs(),
                    "no snapshot could be taken; processing goes on"
                );
            }
        }
    }
}

fn turn(snapshots: &Snapshots, stop: &AtomicBool) -> Result<(), SnapshotError> {
    for partition in snapshots.running() {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(taken) = snapshots.take_in_turn(partition)? else { continue };
        let pruned = snapshots.prune(partition)?;
        let service = || snapshots.service.clone();
        metrics::counter!("engram_snapshots_total", "service" => service()).increment(1);
        metrics::counter!("engram_snapshot_bytes_total", "service" => service()).increment(taken.uploaded_bytes);
        metrics::histogram!("engram_snapshot_seconds", "service" => service()).record(taken.took.as_secs_f64());
        tracing::info!(
            service = snapshots.service,
            task = partition,
            sequence = taken.sequence,
            bytes = taken.bytes,
            uploaded_bytes = taken.uploaded_bytes,
            checkpoint_ms = taken.checkpoint.as_millis() as u64,
            took_ms = taken.took.as_millis() as u64,
            pruned_files = pruned.files_deleted,
            "snapshot taken"
        );
    }
    Ok(())
}
