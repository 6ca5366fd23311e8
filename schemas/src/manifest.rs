//! The record of a commit. The fields are described in the `.avsc` file.

use serde::{Deserialize, Serialize};

use crate::event::Event;

/// One commit of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub service: String,
    pub partition: i32,
    pub sequence: i64,
    #[serde(default)]
    pub inputs: Vec<InputRange>,
    #[serde(default)]
    pub interleaving: Vec<Run>,
    #[serde(default)]
    pub changelog: Vec<ChangelogEnd>,
    #[serde(default)]
    pub wall_clock: Vec<i64>,
    #[serde(default)]
    pub firings: Vec<Firing>,
    #[serde(default)]
    pub set_aside: Vec<SetAside>,
    #[serde(default)]
    pub batches: Vec<Batch>,
    #[serde(default)]
    pub seed: i64,
    #[serde(default)]
    pub schema_ids: Vec<i32>,
    #[serde(default)]
    pub build: String,
    #[serde(default)]
    pub stream_time: Option<i64>,
    #[serde(default)]
    pub outputs: i64,
    #[serde(default)]
    pub state_changes: i64,
    #[serde(with = "apache_avro::serde::bytes")]
    pub digest: Vec<u8>,
    #[serde(with = "apache_avro::serde::bytes")]
    pub previous_digest: Vec<u8>,
}

/// Positions of an input before and after the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRange {
    pub topic: String,
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

/// `count` records in a row from the `input`-th input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub input: i32,
    pub count: i64,
}

/// Timers that were fired between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    pub after: i64,
    pub wall_clock: bool,
    pub time: i64,
    pub count: i64,
}

/// A record that the processor did not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    pub after: i64,
    pub cause: String,
}

/// Rows that a model scored at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub model: String,
    pub hash: String,
    pub rows: i64,
    pub is_fallback: bool,
}

/// The offset after the commit's last changelog record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangelogEnd {
    pub topic: String,
    pub partition: i32,
    pub end: i64,
}

impl Event for Manifest {
    const NAME: &'static str = "engram.pipeline.Manifest";
    const SCHEMA: &'static str = include_str!("../avsc/engram.pipeline.Manifest.avsc");
}
