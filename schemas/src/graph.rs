//! Events of the shared graph: typed, directed relations, and what came of those who changed the same. The fields are
//! described in the `.avsc` files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{Event, Invalid, check_chars, check_count, check_filled, check_finite, check_one_of, check_time};

/// The types of a relation; the last two are those of the git source.
pub const RELATION_TYPES: &[&str] = &[
    "related_to",
    "depends_on",
    "part_of",
    "similar_to",
    "contradicts",
    "supports",
    "follows",
    "precedes",
    "AUTHORED",
    "CHANGED_WITH",
];
/// Attributes of one relation.
pub const ATTRIBUTES_MAX: usize = 64;
pub const ATTRIBUTE_KEY_CHARS_MAX: usize = 100;
pub const ATTRIBUTE_VALUE_CHARS_MAX: usize = 2_000;

/// The kinds of conflicts.
pub mod conflicts {
    /// The winner's value stands in place of the loser's, which the winner had not seen.
    pub const OVERWRITTEN: &str = "overwritten";
    /// The loser has removed what the winner had made again meanwhile, so it is there.
    pub const KEPT: &str = "kept";
    /// The winner has deleted what the loser has changed or joined, whichever came first.
    pub const REMOVED: &str = "removed";
}

/// The key of a record in `graph.current`, as JSON text: node ids may have any character in them.
pub fn relation_key(workspace: &str, from: &str, kind: &str, to: &str) -> String {
    serde_json::json!([workspace, from, kind, to]).to_string()
}

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
    #[serde(default)]
    pub observed: Option<i64>,
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
        check_ends(&self.workspace, &self.from, &self.to, &self.kind)?;
        check_finite("strength", self.strength)?;
        check_attributes(self.attributes.iter().map(|(key, value)| (key, Some(value))))
    }
}

/// A relation was given another strength, or other attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelationModified {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    #[serde(default)]
    pub actor: String,
    pub from: String,
    pub to: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub strength: Option<f64>,
    /// `None` removes an attribute.
    #[serde(default)]
    pub attributes: BTreeMap<String, Option<String>>,
    #[serde(default)]
    pub observed: Option<i64>,
}

impl Event for RelationModified {
    const NAME: &'static str = "engram.graph.RelationModified";
    const SCHEMA: &'static str = include_str!("../avsc/engram.graph.RelationModified.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_filled("id", &self.id)?;
        check_time("time", self.time)?;
        check_ends(&self.workspace, &self.from, &self.to, &self.kind)?;
        self.strength.map_or(Ok(()), |strength| check_finite("strength", strength))?;
        check_attributes(self.attributes.iter().map(|(key, value)| (key, value.as_ref())))
    }
}

/// A relation was removed, as far as its author had seen it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationDeleted {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    #[serde(default)]
    pub actor: String,
    pub from: String,
    pub to: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub observed: Option<i64>,
}

impl Event for RelationDeleted {
    const NAME: &'static str = "engram.graph.RelationDeleted";
    const SCHEMA: &'static str = include_str!("../avsc/engram.graph.RelationDeleted.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_filled("id", &self.id)?;
        check_time("time", self.time)?;
        check_ends(&self.workspace, &self.from, &self.to, &self.kind)
    }
}

/// A relation as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    pub workspace: String,
    pub from: String,
    pub to: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub strength: f64,
    pub attributes: BTreeMap<String, String>,
    pub visible: bool,
    pub hidden_by: Vec<String>,
    pub version: i64,
    pub created: i64,
    pub created_by: String,
    pub updated: i64,
    pub updated_by: String,
}

impl Event for Relation {
    const NAME: &'static str = "engram.graph.Relation";
    const SCHEMA: &'static str = include_str!("../avsc/engram.graph.Relation.avsc");
}

/// Two have changed the same, and one did not get what they wanted. `kind` is one of `conflicts`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GraphConflict {
    pub workspace: String,
    pub kind: String,
    pub subject: String,
    #[serde(default)]
    pub property: String,
    pub winner: String,
    pub loser: String,
    #[serde(default)]
    pub winner_value: String,
    #[serde(default)]
    pub loser_value: String,
    pub winner_place: String,
    pub loser_place: String,
    pub version: i64,
    pub time: i64,
}

impl Event for GraphConflict {
    const NAME: &'static str = "engram.graph.GraphConflict";
    const SCHEMA: &'static str = include_str!("../avsc/engram.graph.GraphConflict.avsc");
}

fn check_ends(workspace: &str, from: &str, to: &str, kind: &str) -> Result<(), Invalid> {
    check_filled("workspace", workspace)?;
    check_filled("from", from)?;
    check_filled("to", to)?;
    check_filled("type", kind)?;
    check_one_of("type", kind, RELATION_TYPES)
}

fn check_attributes<'a>(
    mut attributes: impl ExactSizeIterator<Item = (&'a String, Option<&'a String>)>,
) -> Result<(), Invalid> {
    check_count("attributes", attributes.len(), ATTRIBUTES_MAX)?;
    attributes.try_for_each(|(key, value)| {
        check_chars("attributes", key, ATTRIBUTE_KEY_CHARS_MAX)?;
        value.map_or(Ok(()), |value| check_chars("attributes", value, ATTRIBUTE_VALUE_CHARS_MAX))
    })
}
