//! Events of the shared graph. The fields are described in the `.avsc` files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{Event, Invalid, check_filled, check_finite, check_time};

/// A relation was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelationCreated {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    pub from: String,
    pub to: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default = "one")]
    pub strength: f64,
    #[serde(default)]
    pub actor: String,
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

fn one() -> f64 {
    1.0
}

impl Event for RelationCreated {
    const NAME: &'static str = "engram.graph.RelationCreated";
    const SCHEMA: &'static str = include_str!("../avsc/engram.graph.RelationCreated.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_filled("id", &self.id)?;
        check_time("time", self.time)?;
        check_filled("workspace", &self.workspace)?;
        check_filled("from", &self.from)?;
        check_filled("to", &self.to)?;
        check_filled("type", &self.kind)?;
        check_finite("strength", self.strength)
    }
}
