//! What is measured of machines and programs. The fields are described in the `.avsc` files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{Event, Invalid, check_filled, check_finite, check_time};

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    pub time: i64,
    pub entity: String,
    pub metric: String,
    pub value: f64,
    #[serde(default)]
    pub unit: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Event for Metric {
    const NAME: &'static str = "engram.telemetry.Metric";
    const SCHEMA: &'static str = include_str!("../avsc/engram.telemetry.Metric.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_time("time", self.time)?;
        check_filled("entity", &self.entity)?;
        check_filled("metric", &self.metric)?;
        check_finite("value", self.value)
    }
}

/// Several values that were measured at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub time: i64,
    pub entity: String,
    pub values: BTreeMap<String, f64>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Event for Sample {
    const NAME: &'static str = "engram.telemetry.Sample";
    const SCHEMA: &'static str = include_str!("../avsc/engram.telemetry.Sample.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_time("time", self.time)?;
        check_filled("entity", &self.entity)?;
        self.values.values().try_for_each(|value| check_finite("values", *value))
    }
}
