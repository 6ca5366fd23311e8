//! Events of the activity service. The fields are described in the `.avsc` files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{Event, Invalid, check_filled, check_finite, check_time};

/// Somebody did something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interaction {
    pub id: String,
    pub time: i64,
    pub user: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub target: Option<String>,
    #[serde(default)]
    pub source: String,
    #[serde(default)]
    pub value: Option<f64>,
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

impl Event for Interaction {
    const NAME: &'static str = "engram.activity.Interaction";
    const SCHEMA: &'static str = include_str!("../avsc/engram.activity.Interaction.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_filled("id", &self.id)?;
        check_time("time", self.time)?;
        check_filled("user", &self.user)?;
        check_filled("type", &self.kind)?;
        self.value.map_or(Ok(()), |value| check_finite("value", value))
    }
}

/// The events of one key in one window, so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowCount {
    pub window_start: i64,
    pub window_end: i64,
    pub dimension: String,
    pub key: String,
    #[serde(default)]
    pub source: String,
    pub count: i64,
    pub first_ts: i64,
    pub last_ts: i64,
    #[serde(default, rename = "final")]
    pub is_final: bool,
}

impl Event for WindowCount {
    const NAME: &'static str = "engram.activity.WindowCount";
    const SCHEMA: &'static str = include_str!("../avsc/engram.activity.WindowCount.avsc");
}

/// A user's events, each within the gap of the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub user: String,
    pub session_start: i64,
    pub session_end: i64,
    #[serde(default)]
    pub source: String,
    pub count: i64,
    #[serde(default, rename = "final")]
    pub is_final: bool,
}

impl Event for Session {
    const NAME: &'static str = "engram.activity.Session";
    const SCHEMA: &'static str = include_str!("../avsc/engram.activity.Session.avsc");
}

/// What one commit adds to a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowDelta {
    #[serde(default)]
    pub source: String,
    pub dimension: String,
    pub key: String,
    pub window_start: i64,
    pub count: i64,
    pub first_ts: i64,
    pub last_ts: i64,
}

/// How far in event time a task has read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskClock {
    #[serde(default)]
    pub source: String,
    pub task: i32,
    #[serde(default)]
    pub stream_time: Option<i64>,
    #[serde(default)]
    pub users: Option<i64>,
}

impl Event for TaskClock {
    const NAME: &'static str = "engram.activity.TaskClock";
    const SCHEMA: &'static str = include_str!("../avsc/engram.activity.TaskClock.avsc");

    fn check(&self) -> Result<(), Invalid> {
        self.stream_time.map_or(Ok(()), |time| check_time("stream_time", time))?;
        self.users.map_or(Ok(()), |time| check_time("users", time))
    }
}

impl Event for WindowDelta {
    const NAME: &'static str = "engram.activity.WindowDelta";
    const SCHEMA: &'static str = include_str!("../avsc/engram.activity.WindowDelta.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_time("window_start", self.window_start)?;
        check_time("first_ts", self.first_ts)?;
        check_time("last_ts", self.last_ts)
    }
}
