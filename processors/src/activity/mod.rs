//! The activity service: `activity.events` -> `activity.windows` and `activity.sessions`.
//!
//! ```text
//! activity.events (by user) -> step 1: windows by user, sessions ------------------> activity.windows, activity.sessions
//!                                |  targets and types: what a commit gathered
//!                                v  (one record for each key and window)
//!                              engram-activity-repartition (by dimension and key) -> step 2: windows --> activity.windows
//! ```
//!
//! Events are partitioned by user, so only per-user counts are whole within a task. The others are gathered per commit,
//! so that a key with a million events costs one record a commit, and are counted by the task that their key belongs to.
//!
//! An event whose producer has another partitioner than Kafka's own (librdkafka's default is one) is passed on, as it is,
//! to the task of its user, by the same topic. It costs a detour and changes nothing.
//!
//! Windows close by the event time of all tasks, which they tell each other by the same topic too (`clock`).

pub mod clock;
pub mod config;
pub mod processor;
mod progress;
pub mod sessions;
pub mod windows;

use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::log::{Cleanup, TopicSpec};
use engram_pipeline::processor::{Output, Service};
use engram_pipeline::service::TOPIC_MESSAGE_BYTES_MAX;
use engram_pipeline::store::StoreSpec;
use engram_schemas::Event;
use engram_schemas::activity::{Interaction, Session, TaskClock, WindowCount, WindowDelta};
use serde_json::{Value, json};

pub use config::{ActivityConfig, Dimension, LateEvents, SourceConfig};
use processor::ActivityProcessor;

pub const NAME: &str = "activity";
pub const EVENTS: &str = "activity.events";
pub const WINDOWS: &str = "activity.windows";
pub const SESSIONS: &str = "activity.sessions";
pub const LATE: &str = "activity.late";
pub const REPARTITION: &str = "engram-activity-repartition";

/// Indexes into the service's inputs, outputs and stores.
pub(crate) mod at {
    pub const EVENTS: usize = 0;
    pub const REPARTITION: usize = 1;

    pub const OUT_WINDOWS: usize = 0;
    pub const OUT_SESSIONS: usize = 1;
    pub const OUT_REPARTITION: usize = 2;
    pub const OUT_PASSED_ON: usize = 3;
    pub const OUT_CLOCK: usize = 4;
    /// Only where late events go to their topic.
    pub const OUT_LATE: usize = 5;

    pub const WINDOW_STORE: usize = 0;
    pub const SESSION_STORE: usize = 1;
    pub const CLOCK_STORE: usize = 2;
    pub const SETTINGS_STORE: usize = 3;
}

/// The stores, by name, as `engram state` lists them.
pub fn stores() -> Vec<StoreSpec> {
    vec![
        StoreSpec { name: "windows", describe: describe_window },
        StoreSpec { name: "sessions", describe: describe_session },
        StoreSpec { name: "clock", describe: describe_clock },
        StoreSpec { name: "settings", describe: describe_setting },
    ]
}

/// The service. The configuration must have been checked (`ActivityConfig::check`).
pub fn service(config: ActivityConfig) -> Service {
    let topic = |name: &str| TopicSpec {
        name: name.to_owned(),
        partitions: 0,
        cleanup: Cleanup::Keep,
        max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
    };
    let mut outputs = vec![
        Output { topic: WINDOWS.to_owned(), event: Some(WindowCount::NAME) },
        Output { topic: SESSIONS.to_owned(), event: Some(Session::NAME) },
        Output { topic: REPARTITION.to_owned(), event: Some(WindowDelta::NAME) },
        Output { topic: REPARTITION.to_owned(), event: Some(Interaction::NAME) },
        Output { topic: REPARTITION.to_owned(), event: Some(TaskClock::NAME) },
    ];
    let mut topics = [EVENTS, WINDOWS, SESSIONS, REPARTITION].map(topic).to_vec();
    if config.late == LateEvents::Topic {
        outputs.push(Output { topic: LATE.to_owned(), event: Some(Interaction::NAME) });
        topics.push(topic(LATE));
    }
    Service {
        name: NAME,
        inputs: vec![EVENTS.to_owned(), REPARTITION.to_owned()],
        outputs,
        topics,
        stores: stores(),
        processor: Box::new(move |setup| Ok(Box::new(ActivityProcessor::new(config.clone(), setup)?))),
        errors: ErrorPolicy::default(),
    }
}

fn describe_window(key: &[u8], value: &[u8]) -> (Value, Value) {
    match (windows::WindowKey::read(key), windows::Counted::from_bytes(value)) {
        (Some(key), Some(counted)) => (
            json!({"dimension": key.dimension.name(), "key": key.key, "window_start": key.start, "source": key.source}),
            json!({"count": counted.count, "first_ts": counted.first, "last_ts": counted.last}),
        ),
        _ => unreadable(key, value),
    }
}

fn describe_session(key: &[u8], value: &[u8]) -> (Value, Value) {
    match sessions::to_event(key, value, false) {
        Some(session) => (
            json!({"user": session.user, "session_start": session.session_start, "source": session.source}),
            json!({"session_end": session.session_end, "count": session.count}),
        ),
        None => unreadable(key, value),
    }
}

fn describe_clock(key: &[u8], value: &[u8]) -> (Value, Value) {
    match (windows::split_source(key), clock::Clock::stream_time_of(value)) {
        (Some((source, [])), time) => (json!({"source": source}), json!({"stream_time": time})),
        _ => unreadable(key, value),
    }
}

fn describe_setting(key: &[u8], value: &[u8]) -> (Value, Value) {
    let text = |bytes: &[u8]| json!(String::from_utf8_lossy(bytes));
    (text(key), text(value))
}

fn unreadable(key: &[u8], value: &[u8]) -> (Value, Value) {
    (json!({"unreadable": key}), json!({"unreadable": value}))
}
