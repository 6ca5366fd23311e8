//! The one place where concrete types meet: which log, which registry, which services.

use std::sync::Arc;

use anyhow::Context as _;
use engram_pipeline::log::Log;
use engram_pipeline::log::LogError;
use engram_pipeline::log::embedded::{EmbeddedLog, Forward};
use engram_pipeline::log::kafka::{KafkaLog, KafkaOptions};
use engram_pipeline::processor::Service;
use engram_pipeline::registry::LogRegistry;
use engram_pipeline::store::StoreSpec;
use engram_processors::activity;
use engram_schemas::registry::Registry;
use engram_schemas::registry::http::HttpRegistry;

use crate::cli::Global;
use crate::config::Config;
use crate::data_dir::{DataDir, RunningProcess};

/// The names of all services.
pub const SERVICES: &[&str] = &[activity::NAME];

/// A service by its name.
pub fn service(name: &str, config: &Config) -> anyhow::Result<Service> {
    match name {
        activity::NAME => Ok(activity::service(config.activity_config()?)),
        _ => anyhow::bail!(no_service(name)),
    }
}

/// The stores of a service.
pub fn stores(service: &str) -> anyhow::Result<Vec<StoreSpec>> {
    match service {
        activity::NAME => Ok(activity::stores()),
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
    /// Runs services: the folder must be held.
    Run,
}

/// A log with its registry, as the command line asks for them.
pub struct Connection {
    pub log: Arc<dyn Log>,
    pub registry: Arc<dyn Registry>,
    pub config: Config,
    pub data: DataDir,
    /// The embedded log, where this process is its owner and serves it to others.
    pub owned: Option<Arc<EmbeddedLog>>,
}

impl Connection {
    pub fn open(global: &Global, access: Access) -> anyhow::Result<Self> {
        let config = Config::load(global.config.as_deref())?;
        let data = DataDir::new(&global.data);
        let mut owned = None;
        let log: Arc<dyn Log> = match &global.brokers {
            Some(brokers) => {
                let mut options = KafkaOptions::new(brokers);
                options.properties = config.kafka.properties.clone();
                options.prefetch_kib = config.memory.prefetch_kib;
                Arc::new(KafkaLog::connect(options)?)
            }
            None => {
                let log = Arc::new(embedded(&data, access)?);
                owned = Some(Arc::clone(&log));
                log
            }
        };
        let registry: Arc<dyn Registry> = match &global.registry {
            Some(url) => Arc::new(HttpRegistry::new(url)?),
            None => Arc::new(LogRegistry::new(Arc::clone(&log))),
        };
        Ok(Self { log, registry, config, data, owned })
    }
}

fn embedded(data: &DataDir, access: Access) -> anyhow::Result<EmbeddedLog> {
    if access == Access::Read {
        anyhow::ensure!(
            data.has_log(),
            "there is no log in {}: start with 'engram ingest git PATH' or 'engram up', or give --data or --brokers",
            data.path().display()
        );
    }
    if let Some(running) = data.running().filter(|_| access != Access::Run) {
        return Ok(EmbeddedLog::open_beside(data.path(), Arc::new(Forwarded(running)))?);
    }
    if access == Access::Read {
        return Ok(EmbeddedLog::open_beside(data.path(), Arc::new(ReadOnly))?);
    }
    data.create()?;
    EmbeddedLog::open(data.path()).context(format!("cannot open the log in {}", data.path().display()))
}

/// Writes go to the process that owns the log.
struct Forwarded(RunningProcess);

impl Forward for Forwarded {
    fn forward(&self, request: &[u8]) -> Result<Vec<u8>, LogError> {
        let url = format!("http://{}{}", self.0.http, engram_connectors::http::LOG_PATH);
        let unreachable = |error: ureq::Error| LogError::Unreachable {
            address: url.clone(),
            reason: format!("the 'engram up' of this data folder (process {}) does not answer: {error}", self.0.pid),
        };
        let mut response = ureq::post(&url).send(request).map_err(unreachable)?;
        response.body_mut().with_config().limit(u64::MAX).read_to_vec().map_err(unreachable)
    }
}

/// Nobody owns the log, and this command only reads.
struct ReadOnly;

impl Forward for ReadOnly {
    fn forward(&self, _request: &[u8]) -> Result<Vec<u8>, LogError> {
        Err(LogError::Refused("this command only reads".to_owned()))
    }
}
