//! Which processes run a service, and which partitions they own: each says so in the compacted topic `services.registry`,
//! so that whoever can read the log finds the owner of a partition.
//!
//! INVARIANT: an entry is believed only while it is fresh. A process that was killed says nothing, so after `GONE` it
//! counts as gone; until then it may be named although its partitions are others' already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::operations::{ServiceInstance, WorkerTasks};
use engram_schemas::registry::Registry;

use crate::changelog;
use crate::clock::{Clock, Moment};
use crate::log::{Cleanup, Log, LogError, NewRecord, Producer, ProducerOptions, TopicInfo, TopicPartition, TopicSpec};

pub const TOPIC: &str = "services.registry";

/// How often a process says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How soon it says that its partitions have changed.
const LOOK: Duration = Duration::from_millis(100);
/// Of whom nothing was heard for so long, is gone.
pub const GONE: Duration = Duration::from_secs(10);
/// Largest entry: thousands of partitions.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The service instances that are there, ordered by service and instance.
pub fn instances(log: &dyn Log, registry: &Arc<dyn Registry>, clock: &Clock) -> Result<Vec<ServiceInstance>, LogError> {
    if !log.topics()?.iter().any(|topic| topic.name == TOPIC) {
        return Ok(Vec::new());
    }
    let oldest = clock.now_ms() - GONE.as_millis() as i64;
    let partition = TopicPartition::new(TOPIC, 0);
    // What was written before is of those that have gone. Clocks differ a little, so a little more is read.
    let Some(start) = log.offset_at(&partition, oldest - GONE.as_millis() as i64)? else { return Ok(Vec::new()) };
    let end = log.offsets(std::slice::from_ref(&partition))?[0].stable;
    let mut decoder = Decoder::new(Arc::clone(registry));
    let mut found = BTreeMap::new();
    let read = changelog::read(log, &partition, start, end, |_, key, value| {
        // What is not readable is by a later version of this program.
        match value.and_then(|value| decoder.decode::<ServiceInstance>(value).ok()) {
            Some(instance) => drop(found.insert(key.to_vec(), instance)),
            None => drop(found.remove(key)),
        }
        Ok(())
    });
    read.map_err(|error| LogError::failed(format!("cannot read {TOPIC}"), error))?;
    Ok(found.into_values().filter(|instance| instance.time >= oldest).collect())
}

/// The topics and service instances of a log.
#[derive(Debug, Default)]
pub struct View {
    pub topics: Vec<TopicInfo>,
    /// Ordered by service and instance.
    pub instances: Vec<ServiceInstance>,
}

/// What the log told last of topics and instances, so that not everyone who wants to know asks it.
pub struct Directory {
    log: Arc<dyn Log>,
    registry: Arc<dyn Registry>,
    clock: Clock,
    told: Mutex<Option<(Moment, Arc<View>)>>,
}

impl Directory {
    pub fn new(log: Arc<dyn Log>, registry: Arc<dyn Registry>, clock: Clock) -> Self {
        Self { log, registry, clock, told: Mutex::default() }
    }

    /// What was told within `age_max`; else the log is asked, and while it is out of reach the last that it told goes on to
    /// be believed: what this process has can still be read then.
    ///
    /// Errors: the log's, if it has never told anything.
    pub fn view(&self, age_max: Duration) -> Result<Arc<View>, LogError> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, view)) = told.as_ref().filter(|(when, _)| self.clock.since(*when) < age_max) {
            return Ok(Arc::clone(view));
        }
        let asked = self.ask().map(Arc::new);
        let view = match (asked, told.take()) {
            (Err(error), None) => return Err(error),
            (Err(_), Some((_, before))) => before,
            (Ok(view), _) => view,
        };
        // After the log has answered, or has not: both may have taken long.
        *told = Some((self.clock.now(), Arc::clone(&view)));
        Ok(view)
    }

    fn ask(&self) -> Result<View, LogError> {
        Ok(View { topics: self.log.topics()?, instances: instances(&*self.log, &self.registry, &self.clock)? })
    }
}

/// What a process says of itself.
#[derive(Clone)]
pub struct About {
    pub instance: String,
    /// Where others reach it, HOST:PORT.
    pub http: Option<String>,
    /// Its services with what their workers hold at this moment.
    pub services: Arc<dyn Fn() -> Vec<(String, Vec<WorkerTasks>)> + Send + Sync>,
}

/// Says that this process is there, until it is stopped.
pub struct Announcer {
    stop: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Announcer {
    /// Creates the topic, and begins.
    pub fn start(log: &Arc<dyn Log>, registry: &dyn Registry, clock: Clock, about: About) -> Result<Self, LogError> {
        log.create_topics(&[TopicSpec {
            name: TOPIC.to_owned(),
            partitions: 1,
            cleanup: Cleanup::Compact,
            max_message_bytes: MESSAGE_BYTES_MAX,
        }])?;
        let encoder = Encoder::<ServiceInstance>::register(registry, TOPIC)
            .map_err(|error| LogError::failed(format!("cannot register the schema of {TOPIC}"), error))?;
        let started = clock.now_ms();
        let mut said = Said {
            log: Arc::clone(log),
            encoder,
            clock,
            about,
            started,
            producer: None,
            last: Vec::new(),
            known: BTreeSet::new(),
        };
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("announcer".to_owned())
            .spawn(move || {
                let mut beat = said.clock.now();
                loop {
                    let holds = (said.about.services)();
                    if holds != said.last || said.clock.since(beat) >= HEARTBEAT {
                        beat = said.clock.now();
                        // A log that is out of reach is told about by the workers; the next look tries again.
                        if let Err(error) = said.say(&holds) {
                            tracing::debug!(%error, "cannot announce this process");
                            said.producer = None;
                        }
                        said.last = holds;
                    }
                    if !matches!(stopped.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout)) {
                        break;
                    }
                }
                if let Err(error) = said.withdraw() {
                    tracing::debug!(%error, "cannot withdraw this process: it counts as gone soon");
                }
            })
            .map_err(|error| LogError::failed("cannot start the announcer's thread", error))?;
        Ok(Self { stop, thread })
    }

    /// Says that the process has gone.
    pub fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

struct Said {
    log: Arc<dyn Log>,
    encoder: Encoder<ServiceInstance>,
    clock: Clock,
    about: About,
    started: i64,
    producer: Option<Box<dyn Producer>>,
    /// What was said last.
    last: Vec<(String, Vec<WorkerTasks>)>,
    /// The services of which anything was said.
    known: BTreeSet<String>,
}

impl Said {
    fn say(&mut self, holds: &[(String, Vec<WorkerTasks>)]) -> Result<(), LogError> {
        for (service, workers) in holds {
            let instance = ServiceInstance {
                service: service.clone(),
                instance: self.about.instance.clone(),
                http: self.about.http.clone(),
                build: env!("CARGO_PKG_VERSION").to_owned(),
                started: self.started,
                time: self.clock.now_ms(),
                workers: workers.clone(),
            };
            let mut value = Vec::new();
            self.encoder
                .encode(&instance, &mut value)
                .map_err(|error| LogError::failed("cannot encode what this process holds", error))?;
            self.write(service, Some(&value))?;
            self.known.insert(service.clone());
        }
        self.flush()
    }

    fn withdraw(&mut self) -> Result<(), LogError> {
        for service in std::mem::take(&mut self.known) {
            self.write(&service, None)?;
        }
        self.flush()
    }

    fn write(&mut self, service: &str, value: Option<&[u8]>) -> Result<(), LogError> {
        if self.producer.is_none() {
            let options = ProducerOptions { client_id: self.about.instance.clone(), transactional_id: None };
            self.producer = Some(self.log.producer(&options)?);
        }
        let key = format!("{service}/{}", self.about.instance);
        let record = NewRecord {
            topic: TOPIC,
            partition: 0,
            timestamp_ms: Some(self.clock.now_ms()),
            key: Some(key.as_bytes()),
            value,
            headers: &[],
        };
        self.producer.as_mut().expect("made above").write(&record, false)
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.producer.as_mut().map_or(Ok(()), |producer| producer.flush().map(drop))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;
    use crate::clock::ManualClock;
    use crate::log::embedded::EmbeddedLog;
    use crate::registry::LogRegistry;

    #[test]
    fn a_process_is_there_with_what_it_holds_until_it_stops_or_is_silent() {
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory());
        let registry: Arc<dyn Registry> = Arc::new(LogRegistry::new(Arc::clone(&log)));
        let hand = ManualClock::new(1_700_000_000_000);
        assert_eq!(instances(&*log, &registry, &hand.clock()).expect("no topic is no instance"), []);
        let tasks = Arc::new(Mutex::new(vec![0, 1]));
        let held = Arc::clone(&tasks);
        let about = |instance: &str| About {
            instance: instance.to_owned(),
            http: Some(format!("{instance}:1")),
            services: {
                let held = Arc::clone(&held);
                Arc::new(move || {
                    let tasks = held.lock().expect("no test panics here").clone();
                    vec![("s".to_owned(), vec![WorkerTasks { tasks, standbys: Vec::new() }])]
                })
            },
        };
        let seen = || {
            let found = instances(&*log, &registry, &hand.clock()).expect("the topic can be read");
            found.into_iter().map(|found| (found.instance, found.workers[0].tasks.clone())).collect::<Vec<_>>()
        };
        let until = |wanted: &[(&str, &[i32])]| {
            let wanted: Vec<_> = wanted.iter().map(|(name, tasks)| ((*name).to_owned(), tasks.to_vec())).collect();
            let started = Instant::now();
            while seen() != wanted {
                assert!(started.elapsed() < Duration::from_secs(20), "{:?}, not {wanted:?}", seen());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let start = |name| Announcer::start(&log, &*registry, hand.clock(), about(name)).expect("started");
        let (one, two) = (start("one"), start("two"));
        until(&[("one", &[0, 1]), ("two", &[0, 1])]);
        *tasks.lock().expect("no test panics here") = vec![2];
        until(&[("one", &[2]), ("two", &[2])]);
        one.stop();
        assert_eq!(seen(), [("two".to_owned(), vec![2])]);
        two.stop();
        // One that is killed says nothing more.
        let mut silent = Said {
            log: Arc::clone(&log),
            encoder: Encoder::register(&*registry, TOPIC).expect("registered"),
            clock: hand.clock(),
            about: about("silent"),
            started: 0,
            producer: None,
            last: Vec::new(),
            known: BTreeSet::new(),
        };
        silent.say(&(about("silent").services)()).expect("said");
        until(&[("silent", &[2])]);
        hand.advance(GONE + Duration::from_millis(1));
        until(&[]);
    }
}
