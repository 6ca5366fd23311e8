//! The configuration file: everything that has a bound or a default, by name. Unknown names are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use engram_connectors::gateway::auth;
use engram_connectors::gateway::limits::Limits;
use engram_pipeline::snapshot::Policy;
use engram_pipeline::worker::{CommitOptions, Guarantee};
use engram_processors::activity::{ActivityConfig, Dimension, LateEvents, SourceConfig};
use engram_processors::collaboration::{self, documents::DocumentsConfig};
use engram_processors::scoring;
use serde::{Deserialize, Deserializer};

use crate::values::duration_ms;

mod errors;
pub use errors::Errors;

/// Partitions of a topic.
const PARTITIONS_MAX: i32 = 10_000;
/// Half of a transaction's timeout.
const COMMIT_MS_MAX: i64 = 5_000;
/// Of any bound on memory, in its own unit (MiB, KiB).
const MEMORY_MAX: usize = 1 << 20;
const REPLICAS_MAX: usize = 100;

/// See docs/configuration.md.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Partitions of topics that have to be created.
    pub partitions: Partitions,
    pub commit: Commit,
    pub memory: Memory,
    pub snapshots: Snapshots,
    pub standby: Standby,
    pub errors: Errors,
    pub activity: Activity,
    pub kafka: Kafka,
    pub http: Http,
    pub auth: auth::Config,
    pub gateway: Limits,
    pub collaboration: DocumentsConfig,
    pub scoring: Scoring,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scoring {
    /// Whose events models may score.
    pub topics: Vec<String>,
    /// A batch ends when it has so many rows, so many bytes of events, or is so old; and with every commit.
    pub batch_rows: usize,
    pub batch_bytes: usize,
    #[serde(deserialize_with = "duration")]
    pub batch_delay: i64,
    /// `auto`: a GPU where there is one and it is faster; `cpu`; `gpu`.
    pub device: String,
    /// Of the CPU, for each batch.
    pub threads: usize,
    /// Where models' files are: a folder, or the URL of an object store, for all processes; empty is the folder `models` of the
    /// data folder.
    pub models: String,
    /// Of the crate `object_store`.
    pub options: BTreeMap<String, String>,
    /// How long a model that could not be had is not asked for again.
    #[serde(deserialize_with = "duration")]
    pub retry: i64,
}

impl Default for Scoring {
    fn default() -> Self {
        Self {
            topics: vec![scoring::TELEMETRY.to_owned()],
            batch_rows: 65_536,
            batch_bytes: 16 << 20,
            batch_delay: 5,
            device: "auto".to_owned(),
            threads: 1,
            models: String::new(),
            options: BTreeMap::new(),
            retry: 10_000,
        }
    }
}

/// Of a batch, and of the threads that score it.
const BATCH_ROWS_MAX: usize = 1 << 20;
const BATCH_BYTES_MAX: usize = 1 << 30;
const SCORING_THREADS_MAX: usize = 1_024;

impl Scoring {
    fn check(&self) -> anyhow::Result<()> {
        let within = |name: &str, value: usize, max: usize| {
            anyhow::ensure!((1..=max).contains(&value), "scoring.{name} is {value}: it must be 1 to {max}");
            Ok(())
        };
        within("batch_rows", self.batch_rows, BATCH_ROWS_MAX)?;
        within("batch_bytes", self.batch_bytes, BATCH_BYTES_MAX)?;
        within("threads", self.threads, SCORING_THREADS_MAX)?;
        anyhow::ensure!(self.batch_delay >= 0 && self.retry >= 0, "scoring.batch_delay and retry must not be negative");
        anyhow::ensure!(
            matches!(self.device.as_str(), "auto" | "cpu" | "gpu"),
            "scoring.device is {:?}: it must be auto, cpu or gpu",
            self.device
        );
        let distinct: BTreeSet<&String> = self.topics.iter().collect();
        anyhow::ensure!(
            distinct.len() == self.topics.len() && !self.topics.iter().any(|topic| topic == scoring::COMMANDS),
            "scoring.topics names a topic twice, or {}, which is read anyway",
            scoring::COMMANDS
        );
        Ok(())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// HOST:PORT by which other processes reach this one's HTTP interface.
    pub advertise: Option<String>,
    /// A file with a secret that all processes have: with it they may ask each other where callers have to prove who they are.
    pub secret_file: Option<String>,
}

/// Shortest secret, bytes.
const SECRET_BYTES_MIN: usize = 32;

impl Http {
    /// The secret, without the line end after it.
    pub fn secret(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.secret_file else { return Ok(None) };
        let secret = std::fs::read_to_string(path).with_context(|| format!("cannot read http.secret_file {path}"))?;
        let secret = secret.trim_end();
        anyhow::ensure!(
            secret.len() >= SECRET_BYTES_MIN && secret.bytes().all(|byte| byte.is_ascii_graphic()),
            "http.secret_file {path} must have at least {SECRET_BYTES_MIN} visible characters, such as of 'openssl rand -hex 32'"
        );
        Ok(Some(secret.to_owned()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Partitions(pub i32);

impl Default for Partitions {
    fn default() -> Self {
        Self(4)
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Commit {
    /// `exactly-once` or `at-least-once`.
    pub guarantee: String,
    #[serde(deserialize_with = "duration")]
    pub interval: i64,
    pub records_max: i64,
    pub bytes_max: usize,
}

impl Default for Commit {
    fn default() -> Self {
        let options = CommitOptions::default();
        Self {
            guarantee: "exactly-once".to_owned(),
            interval: options.interval.as_millis() as i64,
            records_max: options.records_max,
            bytes_max: options.bytes_max,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// RocksDB's block cache and write buffers, all stores of the process together.
    pub stores_mib: usize,
    /// Cached entries of each store of each task.
    pub store_cache_mib: usize,
    /// Records fetched ahead of each partition.
    pub prefetch_kib: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { stores_mib: 64, store_cache_mib: 16, prefetch_kib: 2048 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Snapshots {
    /// A folder, or the URL of an object store; empty is the folder `snapshots` of the data folder, `none` switches them off.
    pub url: String,
    #[serde(deserialize_with = "duration")]
    pub interval: i64,
    pub keep: usize,
    #[serde(deserialize_with = "duration")]
    pub keep_every: i64,
    #[serde(deserialize_with = "duration")]
    pub keep_for: i64,
    #[serde(deserialize_with = "duration")]
    pub grace: i64,
    /// Of the crate `object_store`, such as `aws_endpoint`.
    pub options: BTreeMap<String, String>,
}

impl Default for Snapshots {
    fn default() -> Self {
        let policy = Policy::default();
        let ms = |duration: Duration| duration.as_millis() as i64;
        Self {
            url: String::new(),
            interval: ms(policy.interval),
            keep: policy.keep,
            keep_every: ms(policy.keep_every),
            keep_for: ms(policy.keep_for),
            grace: ms(policy.grace),
            options: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Standby {
    /// Warm copies of each task, in other processes.
    pub replicas: usize,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Activity {
    pub dimensions: Vec<String>,
    pub sessions: bool,
    #[serde(deserialize_with = "duration")]
    pub session_gap: i64,
    #[serde(deserialize_with = "duration")]
    pub idle: i64,
    #[serde(deserialize_with = "duration")]
    pub future_max: i64,
    /// `drop` or `topic`.
    pub late: String,
    /// By source; `default` for all that are not named.
    pub sources: BTreeMap<String, Source>,
}

impl Default for Activity {
    fn default() -> Self {
        let config = ActivityConfig::default();
        Self {
            dimensions: config.dimensions.iter().map(|dimension| dimension.name().to_owned()).collect(),
            sessions: config.sessions,
            session_gap: config.session_gap_ms,
            idle: config.idle_ms,
            future_max: config.future_ms_max,
            late: "drop".to_owned(),
            sources: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub window: Option<String>,
    /// A duration, or `forever`.
    pub grace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// librdkafka's own properties, for security and the like.
    pub properties: BTreeMap<String, String>,
    /// How a service's members share its partitions: `classic`, or `consumer` (KIP-848).
    pub group_protocol: GroupProtocol,
    /// Static membership (KIP-345): a process that is killed and comes back within the session timeout keeps its
    /// partitions, and one that is stopped keeps them as long, too.
    pub static_membership: bool,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    #[default]
    Classic,
    Consumer,
}

impl Config {
    /// Reads the file; without one, everything has its default.
    pub fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        let config: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
            anyhow::anyhow!("{} line {line}: {}", path.display(), error.message())
        })?;
        config.check().with_context(|| format!("the configuration file {} cannot be used", path.display()))?;
        Ok(config)
    }

    /// Refuses what cannot work, naming the field.
    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            (1..=PARTITIONS_MAX).contains(&self.partitions.0),
            "partitions is {}: it must be 1 to {PARTITIONS_MAX}",
            self.partitions.0
        );
        for (name, value) in [
            ("stores_mib", self.memory.stores_mib),
            ("store_cache_mib", self.memory.store_cache_mib),
            ("prefetch_kib", self.memory.prefetch_kib),
        ] {
            anyhow::ensure!(
                (1..=MEMORY_MAX).contains(&value),
                "memory.{name} is {value}: it must be 1 to {MEMORY_MAX}"
            );
        }
        self.commit_options()?;
        self.snapshot_policy()?;
        anyhow::ensure!(
            self.standby.replicas <= REPLICAS_MAX,
            "standby.replicas is {}: it must be 0 to {REPLICAS_MAX}",
            self.standby.replicas
        );
        self.activity_config()?;
        self.errors.check()?;
        self.auth.check()?;
        self.gateway.check()?;
        self.collaboration.check().map_err(anyhow::Error::msg)?;
        self.scoring.check()
    }

    pub fn snapshot_policy(&self) -> anyhow::Result<Policy> {
        let wanted = &self.snapshots;
        let duration = |ms: i64| Duration::from_millis(ms.max(0) as u64);
        anyhow::ensure!(wanted.interval >= 1_000, "snapshots.interval must be at least 1s");
        anyhow::ensure!(wanted.keep >= 1, "snapshots.keep must be at least 1");
        anyhow::ensure!(wanted.keep_every >= 1_000, "snapshots.keep_every must be at least 1s");
        anyhow::ensure!(wanted.grace >= 60_000, "snapshots.grace must be at least 1m: an upload may take half of it");
        Ok(Policy {
            interval: duration(wanted.interval),
            keep: wanted.keep,
            keep_every: duration(wanted.keep_every),
            keep_for: duration(wanted.keep_for),
            grace: duration(wanted.grace),
        })
    }

    /// How a service commits: people wait for what collaboration has committed, so it has an interval of its own.
    pub fn commit_options_of(&self, service: &str) -> anyhow::Result<CommitOptions> {
        let mut options = self.commit_options()?;
        if service == collaboration::NAME {
            options.interval = Duration::from_millis(self.collaboration.commit_interval_ms.into());
        }
        Ok(options)
    }

    pub fn commit_options(&self) -> anyhow::Result<CommitOptions> {
        let guarantee = match self.commit.guarantee.as_str() {
            "exactly-once" => Guarantee::ExactlyOnce,
            "at-least-once" => Guarantee::AtLeastOnce,
            other => anyhow::bail!("commit.guarantee is {other:?}: it must be exactly-once or at-least-once"),
        };
        anyhow::ensure!(
            (1..=COMMIT_MS_MAX).contains(&self.commit.interval),
            "commit.interval must be 1ms to {COMMIT_MS_MAX}ms: a transaction that lasts longer is given up by the log"
        );
        anyhow::ensure!(self.commit.records_max > 0, "commit.records_max must be greater than 0");
        anyhow::ensure!(self.commit.bytes_max > 0, "commit.bytes_max must be greater than 0");
        Ok(CommitOptions {
            guarantee,
            interval: Duration::from_millis(self.commit.interval as u64),
            records_max: self.commit.records_max,
            bytes_max: self.commit.bytes_max,
            ..CommitOptions::default()
        })
    }

    pub fn activity_config(&self) -> anyhow::Result<ActivityConfig> {
        let mut config = ActivityConfig {
            sessions: self.activity.sessions,
            session_gap_ms: self.activity.session_gap,
            idle_ms: self.activity.idle,
            future_ms_max: self.activity.future_max,
            ..ActivityConfig::default()
        };
        let dimension = |name: &String| {
            Dimension::from_name(name)
                .ok_or_else(|| anyhow::anyhow!("activity.dimensions has {name:?}: it must be user, target or type"))
        };
        config.late = LateEvents::from_name(&self.activity.late)
            .ok_or_else(|| anyhow::anyhow!("activity.late is {:?}: it must be drop or topic", self.activity.late))?;
        config.dimensions = self.activity.dimensions.iter().map(dimension).collect::<anyhow::Result<_>>()?;
        for (name, source) in &self.activity.sources {
            let name = if name == "default" { "" } else { name };
            let mut wanted = SourceConfig { source: name.to_owned(), ..config.source(name).clone() };
            if let Some(window) = &source.window {
                wanted.size_ms = duration_ms(window).map_err(anyhow::Error::msg)?;
            }
            match source.grace.as_deref() {
                None => {}
                Some("forever") => wanted.grace_ms = None,
                Some(grace) => wanted.grace_ms = Some(duration_ms(grace).map_err(anyhow::Error::msg)?),
            }
            config.sources.retain(|known| known.source != name);
            config.sources.push(wanted);
        }
        config.check().map_err(anyhow::Error::msg)?;
        Ok(config)
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration_ms(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use engram_pipeline::errors::ErrorPolicy;

    use super::*;

    #[test]
    fn sources_replace_the_defaults() {
        let text = "[activity.sources.default]\nwindow = \"1h\"\ngrace = \"forever\"\n[activity.sources.git]\nwindow = \"1d\"\n";
        let config: Config = toml::from_str(text).expect("valid");
        let activity = config.activity_config().expect("valid");
        assert_eq!(activity.source("anything").size_ms, 3_600_000);
        assert_eq!(activity.source("anything").grace_ms, None);
        assert_eq!((activity.source("git").size_ms, activity.source("git").grace_ms), (86_400_000, None));
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let text = include_str!("../docs/configuration.md");
        let (_, rest) = text.split_once("```toml\n").expect("a block of TOML");
        let (block, _) = rest.split_once("```").expect("the block ends");
        let (documented, default): (Config, _) = (toml::from_str(block).expect("valid"), Config::default());
        documented.check().expect("it can be used");
        assert_eq!(documented.activity_config().expect("valid"), default.activity_config().expect("valid"));
        let errors = |config: &Config| config.errors.policy("activity").expect("valid");
        assert_eq!((errors(&documented), errors(&default)), (ErrorPolicy::default(), ErrorPolicy::default()));
        let shown = |config: &Config| {
            let Config {
                partitions, commit, memory, snapshots, standby, auth, gateway, collaboration, scoring, ..
            } = config;
            format!(
                "{partitions:?} {commit:?} {memory:?} {snapshots:?} {standby:?} {auth:?} {gateway:?} {collaboration:?} {scoring:?}"
            )
        };
        assert_eq!(shown(&documented), shown(&default));
    }

    #[test]
    fn bounds_are_checked() {
        for text in [
            "partitions = 0",
            "[memory]\nstores_mib = 0",
            "[commit]\nrecords_max = 0",
            "[commit]\nbytes_max = 0",
            "[commit]\ninterval = \"0ms\"",
            "[commit]\ninterval = \"1h\"",
            "[snapshots]\ninterval = \"0s\"",
            "[snapshots]\nkeep = 0",
            "[snapshots]\ngrace = \"1s\"",
            "[standby]\nreplicas = 1000",
            "[activity]\ndimensions = [\"user\", \"user\"]",
            "[activity]\nsession_gap = \"0s\"",
            "[auth]\nleeway_s = 301",
            "[auth]\nissuer = \"https://id.example\"",
            "[auth]\njwks = \"http://id.example/keys\"",
            "[gateway]\njson_depth_max = 0",
            "[collaboration]\nnesting_max = 0",
            "[gateway]\nbytes_burst = 1000",
            "[scoring]\nbatch_rows = 0",
            "[scoring]\ndevice = \"tpu\"",
            "[scoring]\ntopics = [\"a\", \"a\"]",
        ] {
            let config: Config = toml::from_str(text).expect("valid TOML");
            assert!(config.check().is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_names_and_wrong_values_are_refused() {
        for text in [
            "partitons = 3",
            "[auth]\nkey = []",
            "[auth]\nkeys = [{ algorithm = \"none\", file = \"a\" }]",
            "[auth]\nkeys = [{ algorithm = \"HS256\", file = \"a\", secret = \"b\" }]",
            "[gateway]\nmessage_bytes_max = -1",
            "[gateway]\nlimit = 1",
        ] {
            assert!(toml::from_str::<Config>(text).is_err(), "{text}");
        }
        let config: Config = toml::from_str("[commit]\nguarantee = \"twice\"").expect("valid toml");
        assert!(config.commit_options().is_err());
        let config: Config = toml::from_str("[activity]\nlate = \"keep\"").expect("valid toml");
        assert!(config.activity_config().is_err());
        let config: Config = toml::from_str("[activity]\ndimensions = [\"color\"]").expect("valid toml");
        assert!(config.activity_config().is_err());
    }
}
