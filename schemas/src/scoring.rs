//! Models and what they say. The fields are described in the `.avsc` files.

use serde::{Deserialize, Serialize};

use crate::event::{Event, Invalid, check_bytes, check_filled, check_time};

/// Of a model's name, which is a part of keys.
const NAME_BYTES_MAX: usize = 200;

/// What a model says of one event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub series: String,
    #[serde(default)]
    pub time: Option<i64>,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub model: String,
    pub hash: String,
    pub kernel: String,
    #[serde(default)]
    pub is_fallback: bool,
    pub scores: Vec<Option<f64>>,
}

impl Event for Score {
    const NAME: &'static str = "engram.scoring.Score";
    const SCHEMA: &'static str = include_str!("../avsc/engram.scoring.Score.avsc");
}

/// A model scores these events from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelLoaded {
    pub time: i64,
    pub name: String,
    pub hash: String,
    pub topic: String,
    pub event: String,
    #[serde(default)]
    pub series: String,
    #[serde(default)]
    pub time_field: String,
    pub features: Vec<Feature>,
}

/// A column of a model's input.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    pub field: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub lag: Option<i64>,
    #[serde(default)]
    pub aggregate: Option<String>,
    #[serde(default)]
    pub rows: Option<i64>,
    #[serde(default)]
    pub window: Option<String>,
    #[serde(default)]
    pub one_hot: Option<String>,
    #[serde(default)]
    pub categories: Option<Vec<String>>,
}

impl Event for ModelLoaded {
    const NAME: &'static str = "engram.control.ModelLoaded";
    const SCHEMA: &'static str = include_str!("../avsc/engram.control.ModelLoaded.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_time("time", self.time)?;
        check_name(&self.name)?;
        check_filled("hash", &self.hash)?;
        check_filled("topic", &self.topic)?;
        check_filled("event", &self.event)
    }
}

/// A model scores nothing from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUnloaded {
    pub time: i64,
    pub name: String,
}

impl Event for ModelUnloaded {
    const NAME: &'static str = "engram.control.ModelUnloaded";
    const SCHEMA: &'static str = include_str!("../avsc/engram.control.ModelUnloaded.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_time("time", self.time)?;
        check_name(&self.name)
    }
}

fn check_name(name: &str) -> Result<(), Invalid> {
    check_filled("name", name)?;
    check_bytes("name", name, NAME_BYTES_MAX)
}
