//! The scoring service: events become Arrow batches, models score every row, `scores` come out.
//!
//! ```text
//! control.commands (in every partition) -> models in service
//! telemetry.metrics, ...                -> projection -> batch -> features -> a model, or a detector --> scores
//!                                                          |         | histories        | states
//!                                                          |         '-> cannot be had: robust z
//!                                                          '-> manifest: where it ended, and what stood in
//! ```
//!
//! A command has its place among a task's inputs. A model of a new name scores what comes after it. One that takes another's place
//! is made ready by a thread meanwhile, and takes it when that one's batch ends, or a commit begins. When that is, where batches end, and whether a
//! model could be had, does not follow from the log: the manifest tells, and a replay does as it says.
//!
//! INVARIANT: an event has one score of each model that is in service for it when it is taken. What the score is depends on
//! the log and on the file of the model, which its hash names; not on batches, devices or time.

mod active;
mod fallback;
mod next;
mod processor;
mod series;

use std::sync::Arc;
use std::time::Duration;

use engram_models::ModelFile;
use engram_models::clock::Clock;
use engram_models::device::Device;
use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::log::{Cleanup, TopicSpec};
use engram_pipeline::processor::{Output, Service};
use engram_pipeline::service::TOPIC_MESSAGE_BYTES_MAX;
use engram_pipeline::store::StoreSpec;
use engram_pipeline::store::codec::{self, Json};
use engram_schemas::Event;
use engram_schemas::scoring::Score;
use serde_json::{Value, json};

pub use active::check;
use processor::{InService, ScoringProcessor};

pub const NAME: &str = "scoring";
pub const COMMANDS: &str = "control.commands";
pub const TELEMETRY: &str = "telemetry.metrics";
pub const SCORES: &str = "scores";

/// Indexes into the service's inputs, outputs and stores.
pub(crate) mod at {
    pub const COMMANDS: usize = 0;

    pub const OUT_SCORES: usize = 0;

    pub const MODELS_STORE: usize = 0;
    pub const HISTORIES_STORE: usize = 1;
    pub const FALLBACK_STORE: usize = 2;
    pub const DETECTORS_STORE: usize = 3;
}

/// The files of models and detectors, by the hash of what is in them.
pub trait ModelFiles: Send + Sync {
    /// Errors: one clause that says why it cannot be had now.
    fn file(&self, hash: &str) -> Result<Arc<ModelFile>, String>;
}

/// How events are scored.
#[derive(Clone)]
pub struct ScoringConfig {
    /// Whose events can be scored.
    pub topics: Vec<String>,
    /// Rows, bytes of events, and age at which a batch ends. A commit ends it, too.
    pub batch_rows: usize,
    pub batch_bytes: usize,
    pub batch_delay: Duration,
    /// How long a model that could not be had is not asked for again.
    pub retry: Duration,
    pub files: Arc<dyn ModelFiles>,
    pub cpu: Arc<dyn Device>,
    /// The GPU, if there is one: opened when a model is first loaded.
    pub gpu: Arc<dyn Fn() -> Option<Arc<dyn Device>> + Send + Sync>,
    pub clock: Arc<dyn Clock>,
}

/// The stores, by name, as `engram state` lists them.
pub fn stores() -> Vec<StoreSpec> {
    let models = |key: &[u8], value: &[u8]| codec::describe::<String, Json<InService>>(key, value);
    vec![
        StoreSpec::new("models", models),
        StoreSpec::new("histories", |key, value| {
            (describe_key::<(String, String)>(key), json!({"bytes": value.len()}))
        }),
        StoreSpec::new("fallback", |key, value| {
            (describe_key::<(String, String, String)>(key), json!({"bytes": value.len()}))
        }),
        StoreSpec::new("detectors", |key, value| {
            (describe_key::<(String, String, u32)>(key), json!({"bytes": value.len()}))
        }),
    ]
}

fn describe_key<K: codec::Codec>(key: &[u8]) -> Value {
    codec::read_whole::<K>(key).map_or_else(|| json!({"unreadable": key}), |key| key.describe())
}

/// The service.
pub fn service(config: ScoringConfig) -> Service {
    let topic = |name: &str| TopicSpec {
        name: name.to_owned(),
        partitions: 0,
        cleanup: Cleanup::Keep,
        max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
    };
    let inputs: Vec<String> = std::iter::once(COMMANDS.to_owned()).chain(config.topics.iter().cloned()).collect();
    let topics = inputs.iter().map(String::as_str).chain([SCORES]).map(topic).collect();
    Service {
        name: NAME,
        inputs,
        outputs: vec![Output { topic: SCORES.to_owned(), event: Some(Score::NAME) }],
        topics,
        stores: stores(),
        processor: Box::new(move |setup| Ok(Box::new(ScoringProcessor::new(config.clone(), setup)?))),
        errors: ErrorPolicy::default(),
    }
}
