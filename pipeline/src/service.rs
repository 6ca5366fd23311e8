//! Running a service: its topics, and its workers' threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::changelog;
use crate::dead_letter;
use crate::log::{Cleanup, Log, LogError, TopicSpec};
use crate::manifest;
use crate::processor::{ProcessError, Service};
use crate::retry;
use crate::snapshot::{Snapshots, Turns};
use crate::standby::{Standby, Warm};
use crate::status::{Snapshot, WorkerStatus};
use crate::store::Files;
use crate::worker::{self, WorkerOptions};

/// `max.message.bytes` of the topics that a service creates: above the largest record that is processed, so that a
/// larger one arrives and becomes a dead letter instead of blocking its producer with a riddle.
pub const TOPIC_MESSAGE_BYTES_MAX: usize = 24 << 20;

/// The topics that a service needs for itself: changelog, manifests, dead letters and, by its error policy, retries.
fn own_topics(service: &Service, partitions: i32) -> Vec<TopicSpec> {
    let own =
        |name: String, cleanup| TopicSpec { name, partitions, cleanup, max_message_bytes: TOPIC_MESSAGE_BYTES_MAX };
    let mut topics = vec![
        own(changelog::topic(service.name), Cleanup::Compact),
        own(manifest::topic(service.name), Cleanup::Keep),
        dead_letter::topic_spec(partitions),
    ];
    let retries = retry::topic(service.name);
    if service.inputs.contains(&retries) {
        topics.push(own(retries, Cleanup::Keep));
    }
    topics
}

/// Creates what is missing of a service's topics, and checks that those which must have the same number of partitions
/// do. `partitions` is for inputs that do not exist yet; where one does, its count holds for all.
///
/// Errors: `Refused`, naming the topics and their counts.
pub fn prepare_topics(log: &dyn Log, service: &Service, partitions: i32) -> Result<i32, LogError> {
    let known = log.topics()?;
    let count = |name: &str| known.iter().find(|topic| topic.name == name).map(|topic| topic.partitions);
    let partitions = service.inputs.iter().find_map(|name| count(name)).unwrap_or(partitions);
    let mut wanted: Vec<TopicSpec> = service.topics.clone();
    for topic in &mut wanted {
        if topic.partitions == 0 {
            topic.partitions = partitions;
        }
    }
    wanted.extend(own_topics(service, partitions));
    let must_match = |name: &str| {
        name != dead_letter::TOPIC
            && (service.inputs.iter().any(|input| input == name)
                || service.outputs.iter().any(|output| output.topic == name)
                || name == changelog::topic(service.name)
                || name == manifest::topic(service.name))
    };
    let wrong: Vec<String> = wanted
        .iter()
        .filter(|topic| must_match(&topic.name))
        .filter_map(|topic| count(&topic.name).filter(|&count| count != partitions).map(|count| (topic, count)))
        .map(|(topic, count)| format!("{} has {count}", topic.name))
        .collect();
    if !wrong.is_empty() {
        return Err(LogError::Refused(format!(
            "the topics of service {} need equal partition counts: {} has {partitions}, but {}; recreate them with the same \
             number",
            service.name,
            service.inputs.iter().find(|name| count(name).is_some()).map_or("the default", String::as_str),
            wrong.join(", ")
        )));
    }
    wanted.retain(|topic| count(&topic.name).is_none());
    log.create_topics(&wanted)?;
    Ok(partitions)
}

/// A service that is running: threads, and how they are.
pub struct Running {
    name: &'static str,
    stop: Arc<AtomicBool>,
    workers: Vec<Worker>,
    snapshots: Option<Arc<Snapshots>>,
    turns: Option<Turns>,
    standby: Option<Arc<Standby>>,
}

struct Worker {
    status: Arc<WorkerStatus>,
    thread: JoinHandle<Result<(), ProcessError>>,
}

impl Running {
    /// Starts `workers` threads. `options.instance` gets the worker's number appended.
    pub fn start(options: &WorkerOptions, workers: usize) -> Result<Self, LogError> {
        let turns = options.snapshots.clone().map(Turns::start).transpose();
        let mut running = Self {
            name: options.service.name,
            stop: Arc::clone(&options.stop),
            workers: Vec::with_capacity(workers),
            snapshots: options.snapshots.clone(),
            turns: turns.map_err(|error| LogError::failed("cannot start the snapshots' thread", error))?,
            standby: options.standby.clone(),
        };
        for number in 0..workers {
            let status = Arc::new(WorkerStatus::default());
            let options = WorkerOptions {
                instance: format!("{}-{number}", options.instance),
                status: Arc::clone(&status),
                ..options.clone()
            };
            let thread = std::thread::Builder::new()
                .name(format!("{}-{number}", options.service.name))
                .spawn(move || worker::run(&options))
                .map_err(|error| LogError::failed("cannot start a worker's thread", error))?;
            running.workers.push(Worker { status, thread });
        }
        Ok(running)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn workers(&self) -> Vec<Snapshot> {
        self.workers.iter().map(|worker| worker.status.snapshot()).collect()
    }

    /// The files of all tasks that are open in this process, see `WorkerStatus::files`.
    pub fn files(&self) -> Vec<(i32, Arc<Files>)> {
        self.workers.iter().flat_map(|worker| worker.status.files()).collect()
    }

    /// Its snapshots, if they are on.
    pub fn snapshots(&self) -> Option<&Arc<Snapshots>> {
        self.snapshots.as_ref()
    }

    /// The warm copies that it keeps of tasks that others run.
    pub fn standby(&self) -> Vec<Warm> {
        self.standby.as_ref().map(|standby| standby.warm()).unwrap_or_default()
    }

    /// Every worker has had nothing to do for at least `ms`.
    pub fn is_idle(&self, ms: i64) -> bool {
        self.workers.iter().all(|worker| worker.status.snapshot().idle_ms.is_some_and(|idle_ms| idle_ms >= ms))
    }

    /// Some worker has ended, which none does unless it was told to or has failed.
    pub fn has_failed(&self) -> bool {
        self.workers.iter().any(|worker| worker.status.has_ended() || worker.thread.is_finished())
    }

    /// Tells the workers to commit and stop.
    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// All workers have ended.
    pub fn has_ended(&self) -> bool {
        self.workers.iter().all(|worker| worker.thread.is_finished())
    }

    /// Tells the workers to commit and stop, and waits for them. The first error is returned.
    pub fn stop(self) -> Result<(), ProcessError> {
        self.ask_to_stop();
        let mut outcome = Ok(());
        for worker in self.workers {
            let ended = worker
                .thread
                .join()
                .unwrap_or_else(|_| Err(LogError::failed("a worker has panicked", "see the message above").into()));
            outcome = outcome.and(ended);
        }
        if let Some(turns) = self.turns {
            turns.stop();
        }
        if let Some(standby) = self.standby {
            standby.stop();
        }
        outcome
    }
}
