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
use engram_pipeline::store::{Place, StoreSpec};
use engram_schemas::Event;
use engram_schemas::activity::{Interaction, Session, TaskClock, WindowCount, WindowDelta};
use serde_json::{Value, json};

pub use config::{ActivityConfig, Dimension, LateEvents, SourceConfig};
use processor::ActivityProcessor;
use sessions::SessionKey;
use windows::{Step, WindowKey};

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
        StoreSpec { locate: locate_window, ..StoreSpec::new("windows", describe_window) },
        StoreSpec { locate: locate_session, ..StoreSpec::new("sessions", describe_session) },
        StoreSpec::new("clock", describe_clock),
        StoreSpec::new("settings", describe_setting),
    ]
}

/// The name of a source fits into a store's key, as all do that come with events.
fn is_source(name: &&str) -> bool {
    name.len() <= usize::from(u8::MAX)
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
    match (WindowKey::read(key), windows::Counted::from_bytes(value)) {
        (Some(key), Some(counted)) => (
            json!({"dimension": key.dimension.name(), "key": key.key, "window_start": key.start, "source": key.source}),
            json!({"count": counted.count, "first_ts": counted.first, "last_ts": counted.last}),
        ),
        _ => unreadable(key, value),
    }
}

fn locate_window(key: &Value) -> Option<Place> {
    let text = |field: &str| key[field].as_str();
    let (source, key_text) = (text("source").filter(is_source)?, text("key")?);
    let (dimension, start) = (Dimension::from_name(text("dimension")?)?, key["window_start"].as_i64()?);
    let step = if dimension == Dimension::User { Step::Users } else { Step::Gathered };
    let mut bytes = Vec::new();
    WindowKey { step, source, start, dimension, key: key_text }.write(&mut bytes);
    let routed_by = match step {
        Step::Users => key_text.to_owned(),
        Step::Gathered => windows::repartition_key(dimension, key_text),
    };
    Some(Place { key: bytes, routed_by: routed_by.into_bytes() })
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

fn locate_session(key: &Value) -> Option<Place> {
    let (source, user) = (key["source"].as_str().filter(is_source)?, key["user"].as_str()?);
    let bytes = SessionKey { source, user, start: key["session_start"].as_i64()? }.to_bytes();
    Some(Place { key: bytes, routed_by: user.as_bytes().to_vec() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_as_it_is_shown_is_found_where_it_was_put() {
        let start = 1_700_000_000_000;
        for (dimension, step, routed_by) in
            [(Dimension::User, Step::Users, "ada"), (Dimension::Target, Step::Gathered, "target:ada")]
        {
            let mut key = Vec::new();
            WindowKey { step, source: "git", start, dimension, key: "ada" }.write(&mut key);
            let (shown, _) = describe_window(&key, &windows::Counted::one(0).to_bytes());
            assert_eq!(locate_window(&shown), Some(Place { key, routed_by: routed_by.into() }));
        }
        let key = SessionKey { source: "", user: "ada", start }.to_bytes();
        let (shown, _) = describe_session(&key, &sessions::SessionValue { end: start, count: 1 }.to_bytes());
        assert_eq!(locate_session(&shown), Some(Place { key, routed_by: "ada".into() }));
        for part in [json!("ada"), json!({"user": "ada"}), json!(null), json!({"dimension": "x", "key": 1})] {
            assert_eq!((locate_window(&part), locate_session(&part)), (None, None), "{part}");
        }
    }
}
