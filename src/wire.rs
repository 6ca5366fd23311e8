//! The one place where concrete types meet: which log, which registry, which services.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use engram_connectors::http;
use engram_pipeline::clock::Clock;
use engram_pipeline::log::Log;
use engram_pipeline::log::LogError;
use engram_pipeline::log::embedded::{EmbeddedLog, Forward};
use engram_pipeline::log::kafka::{GroupProtocol, KafkaLog, KafkaOptions};
use engram_pipeline::processor::Service;
use engram_pipeline::registry::LogRegistry;
use engram_pipeline::snapshot::{Objects, Snapshots};
use engram_pipeline::store::StoreSpec;
use engram_processors::{activity, collaboration, passthrough, scoring};
use engram_schemas::registry::Registry;
use engram_schemas::registry::http::HttpRegistry;

use crate::cli::Global;
use crate::config::{self, Config};
use crate::data_dir::{DataDir, Held, Holder, RunningProcess};
use crate::models;

/// How long a command that writes waits for another one, or for an `engram up` that is just starting.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// The names of all services.
pub const SERVICES: &[&str] = &[activity::NAME, collaboration::NAME, scoring::NAME];

/// Those and the one that tests and measurements run.
pub const ALL_SERVICES: &[&str] = &[activity::NAME, collaboration::NAME, scoring::NAME, PASSTHROUGH];

/// Not among them, but to be had by name: every event as it came. Its output shows what the runtime does to the order of
/// records, so tests and measurements run it.
const PASSTHROUGH: &str = "passthrough";
const PASSTHROUGH_OUTPUT: &str = "passthrough.events";

/// A service by its name. `data`: where the files of models are, if they are nowhere else.
pub fn service(name: &str, config: &Config, data: &DataDir) -> anyhow::Result<Service> {
    match name {
        activity::NAME => Ok(activity::service(config.activity_config()?)),
        collaboration::NAME => Ok(collaboration::service(config.collaboration)),
        scoring::NAME => Ok(scoring::service(models::scoring(&config.scoring, data)?)),
        PASSTHROUGH => Ok(passthrough::service(activity::EVENTS, PASSTHROUGH_OUTPUT)),
        _ => anyhow::bail!(no_service(name)),
    }
}

/// A service by its name, with the error policy that the configuration gives it on this log.
pub fn service_on(connection: &Connection, name: &str) -> anyhow::Result<Service> {
    let service = service(name, &connection.config, &connection.data)?;
    Ok(service.with_errors(connection.config.errors.policy(name)?, &*connection.log)?)
}

/// The stores of a service.
pub fn stores(service: &str) -> anyhow::Result<Vec<StoreSpec>> {
    match service {
        activity::NAME => Ok(activity::stores()),
        collaboration::NAME => Ok(collaboration::stores()),
        scoring::NAME => Ok(scoring::stores()),
        PASSTHROUGH => Ok(Vec::new()),
        _ => anyhow::bail!(no_service(service)),
    }
}

fn no_service(name: &str) -> String {
    format!("there is no service {name:?}; there is: {}", SERVICES.join(", "))
}

/// What a command does with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// The caller holds the folder.
    Held,
}

/// A log with its registry, as the command line asks for them.
pub struct Connection {
    pub log: Arc<dyn Log>,
    pub registry: Arc<dyn Registry>,
    pub config: Config,
    pub data: DataDir,
    /// The embedded log, where this process is its owner and serves it to others.
    pub owned: Option<Arc<EmbeddedLog>>,
    /// Last, so that it is given back after the log: of a command that writes while no `engram up` runs.
    _held: Option<Held>,
}

impl Connection {
    pub fn open(global: &Global, access: Access) -> anyhow::Result<Self> {
        let config = Config::load(global.config.as_deref())?;
        let data = DataDir::new(&global.data);
        let (mut owned, mut held) = (None, None);
        let log: Arc<dyn Log> = match &global.brokers {
            Some(brokers) => {
                let mut options = KafkaOptions::new(brokers);
                options.properties = config.kafka.properties.clone();
                options.prefetch_kib = config.memory.prefetch_kib;
                options.group_protocol = match config.kafka.group_protocol {
                    config::GroupProtocol::Classic => GroupProtocol::Classic,
                    config::GroupProtocol::Consumer => GroupProtocol::Consumer,
                };
                Arc::new(KafkaLog::connect(options)?)
            }
            None => {
                let (log, lock) = embedded(&data, access)?;
                let log = Arc::new(log);
                held = lock;
                owned = Some(Arc::clone(&log));
                log
            }
        };
        let registry: Arc<dyn Registry> = match &global.registry {
            Some(url) => Arc::new(HttpRegistry::new(url)?),
            None => Arc::new(LogRegistry::new(Arc::clone(&log))),
        };
        Ok(Self { log, registry, config, data, owned, _held: held })
    }

    /// The folder of a service's stores.
    pub fn stores(&self, service: &str) -> anyhow::Result<PathBuf> {
        Ok(self.data.stores(&self.log.id()?, service))
    }

    /// The snapshots of a service; `None` where they are switched off.
    pub fn snapshots(&self, service: &str) -> anyhow::Result<Option<Snapshots>> {
        let wanted = &self.config.snapshots;
        let url = match wanted.url.as_str() {
            "none" => return Ok(None),
            "" => self.data.path().join("snapshots").display().to_string(),
            url => url.to_owned(),
        };
        let objects = Arc::new(Objects::open(&url, &wanted.options)?);
        let stores = stores(service)?.iter().map(|store| store.name.to_owned()).collect();
        let (log, folder) = (self.log.id()?, self.stores(service)?);
        Ok(Some(Snapshots::new(
            objects,
            &log,
            service,
            stores,
            folder,
            self.config.snapshot_policy()?,
            Clock::default(),
        )))
    }
}

/// Commands for one that runs on this machine: past any proxy, and never waiting for ever.
pub fn local_agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .proxy(None)
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .build()
        .into()
}

/// Refuses a folder that has no embedded log.
pub fn check_has_log(data: &DataDir) -> anyhow::Result<()> {
    anyhow::ensure!(
        data.has_log(),
        "there is no log in {}: start with 'engram ingest git PATH' or 'engram up', or give --data or --brokers",
        data.path().display()
    );
    Ok(())
}

fn embedded(data: &DataDir, access: Access) -> anyhow::Result<(EmbeddedLog, Option<Held>)> {
    let beside = |forward: Arc<dyn Forward>| Ok((EmbeddedLog::open_beside(data.path(), forward)?, None));
    let own = || EmbeddedLog::open(data.path()).context(format!("cannot open the log in {}", data.path().display()));
    match access {
        Access::Held => Ok((own()?, None)),
        Access::Read => {
            check_has_log(data)?;
            match data.running() {
                Some(running) => beside(Arc::new(Forwarded(running, local_agent()))),
                None => beside(Arc::new(ReadOnly)),
            }
        }
        Access::Write => {
            let until = Instant::now() + BUSY_MAX;
            while matches!(data.holder(), Holder::Busy) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            if let Some(running) = data.running() {
                return beside(Arc::new(Forwarded(running, local_agent())));
            }
            let held = data.hold()?;
            Ok((own()?, Some(held)))
        }
    }
}

/// Writes go to the process that owns the log.
struct Forwarded(RunningProcess, ureq::Agent);

impl Forward for Forwarded {
    fn forward(&self, request: &[u8]) -> Result<Vec<u8>, LogError> {
        let Self(running, agent) = self;
        let url = format!("http://{}{}", running.http, http::LOG_PATH);
        let failed = |error: ureq::Error| match error {
            ureq::Error::StatusCode(404) => LogError::Refused(
                "the 'engram up' of this data folder runs on Apache Kafka: give its --brokers here too".to_owned(),
            ),
            ureq::Error::StatusCode(403) => LogError::Refused(format!(
                "another process than the 'engram up' of this data folder answers at {}: try again",
                running.http
            )),
            error => LogError::Unreachable {
                address: url.clone(),
                reason: format!(
                    "the 'engram up' of this data folder (process {}) does not answer: {error}",
                    running.pid
                ),
            },
        };
        let mut response = agent.post(&url).header(http::TOKEN_HEADER, &running.token).send(request).map_err(failed)?;
        response.body_mut().with_config().limit(u64::MAX).read_to_vec().map_err(failed)
    }
}

/// Nobody owns the log, and this command only reads.
struct ReadOnly;

impl Forward for ReadOnly {
    fn forward(&self, _request: &[u8]) -> Result<Vec<u8>, LogError> {
        Err(LogError::Refused("this command only reads".to_owned()))
    }
}
