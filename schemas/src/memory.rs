//! Events of memories, the nodes of the shared graph that have a content of their own. The fields are described in the
//! `.avsc` files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{Event, Invalid, check_bytes, check_chars, check_count, check_filled, check_one_of, check_time};

pub const MEMORY_TYPES: &[&str] = &["procedural", "semantic", "episodic", "declarative"];
/// What `MemoryFieldEdited` can edit.
pub const FIELDS: &[&str] = &["title", "content", "type"];
pub const TITLE_CHARS_MAX: usize = 200;
pub const CONTENT_BYTES_MAX: usize = 1 << 20;
/// Tags of one memory.
pub const TAGS_MAX: usize = 20;
pub const TAG_CHARS_MAX: usize = 50;
/// Entries of one memory's metadata.
pub const METADATA_MAX: usize = 64;
pub const METADATA_KEY_CHARS_MAX: usize = 100;
pub const METADATA_VALUE_CHARS_MAX: usize = 2_000;
/// Numbers of an embedding.
pub const EMBEDDING_MAX: usize = 4_096;
/// Of ids, workspaces, actors and models.
pub const NAME_CHARS_MAX: usize = 200;

/// The key of a record in `memory.current`, as JSON text: either part may have any character in it.
pub fn memory_key(workspace: &str, memory: &str) -> String {
    serde_json::json!([workspace, memory]).to_string()
}

/// A memory was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryCreated {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    #[serde(default)]
    pub actor: String,
    pub memory: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    #[serde(default)]
    pub content: String,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// None if it is empty.
    #[serde(default)]
    pub embedding: Vec<f32>,
    #[serde(default)]
    pub model: String,
    #[serde(default)]
    pub observed: Option<i64>,
}

impl Event for MemoryCreated {
    const NAME: &'static str = "engram.memory.MemoryCreated";
    const SCHEMA: &'static str = include_str!("../avsc/engram.memory.MemoryCreated.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_head(&self.id, self.time, &self.workspace, &self.actor, &self.memory)?;
        check_one_of("type", &self.kind, MEMORY_TYPES)?;
        check_chars("title", &self.title, TITLE_CHARS_MAX)?;
        check_bytes("content", &self.content, CONTENT_BYTES_MAX)?;
        check_count("tags", self.tags.len(), TAGS_MAX)?;
        self.tags.iter().try_for_each(|tag| check_tag("tags", tag))?;
        check_count("metadata", self.metadata.len(), METADATA_MAX)?;
        self.metadata.iter().try_for_each(|(key, value)| check_metadata("metadata", key, Some(value)))?;
        check_embedding(&self.embedding, &self.model)
    }
}

/// A field of a memory was given a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFieldEdited {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    #[serde(default)]
    pub actor: String,
    pub memory: String,
    /// `title`, `content` or `type`.
    pub field: String,
    pub value: String,
    #[serde(default)]
    pub observed: Option<i64>,
}

impl Event for MemoryFieldEdited {
    const NAME: &'static str = "engram.memory.MemoryFieldEdited";
    const SCHEMA: &'static str = include_str!("../avsc/engram.memory.MemoryFieldEdited.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_head(&self.id, self.time, &self.workspace, &self.actor, &self.memory)?;
        check_one_of("field", &self.field, FIELDS)?;
        match self.field.as_str() {
            "title" => check_chars("value", &self.value, TITLE_CHARS_MAX),
            "content" => check_bytes("value", &self.value, CONTENT_BYTES_MAX),
            _ => check_one_of("value", &self.value, MEMORY_TYPES),
        }
    }
}

/// A memory was given a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryTagAdded {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    #[serde(default)]
    pub actor: String,
    pub memory: String,
    pub tag: String,
    #[serde(default)]
    pub observed: Option<i64>,
}

impl Event for MemoryTagAdded {
    const NAME: &'static str = "engram.memory.MemoryTagAdded";
    const SCHEMA: &'static str = include_str!("../avsc/engram.memory.MemoryTagAdded.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_head(&self.id, self.time, &self.workspace, &self.actor, &self.memory)?;
        check_tag("tag", &self.tag)
    }
}

/// A tag was taken from a memory, as far as its author had seen it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryTagRemoved {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    #[serde(default)]
    pub actor: String,
    pub memory: String,
    pub tag: String,
    #[serde(default)]
    pub observed: Option<i64>,
}

impl Event for MemoryTagRemoved {
    const NAME: &'static str = "engram.memory.MemoryTagRemoved";
    const SCHEMA: &'static str = include_str!("../avsc/engram.memory.MemoryTagRemoved.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_head(&self.id, self.time, &self.workspace, &self.actor, &self.memory)?;
        check_tag("tag", &self.tag)
    }
}

/// An entry of a memory's metadata was set or, for `None`, removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryMetadataSet {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    #[serde(default)]
    pub actor: String,
    pub memory: String,
    pub key: String,
    #[serde(default)]
    pub value: Option<String>,
    #[serde(default)]
    pub observed: Option<i64>,
}

impl Event for MemoryMetadataSet {
    const NAME: &'static str = "engram.memory.MemoryMetadataSet";
    const SCHEMA: &'static str = include_str!("../avsc/engram.memory.MemoryMetadataSet.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_head(&self.id, self.time, &self.workspace, &self.actor, &self.memory)?;
        check_metadata("key", &self.key, None)?;
        check_metadata("value", "value", self.value.as_ref())
    }
}

/// A memory was deleted, as far as its author had seen it. It is kept, to be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryDeleted {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    #[serde(default)]
    pub actor: String,
    pub memory: String,
    #[serde(default)]
    pub observed: Option<i64>,
}

impl Event for MemoryDeleted {
    const NAME: &'static str = "engram.memory.MemoryDeleted";
    const SCHEMA: &'static str = include_str!("../avsc/engram.memory.MemoryDeleted.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_head(&self.id, self.time, &self.workspace, &self.actor, &self.memory)
    }
}

/// A memory is to be there, deleted or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRestored {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    #[serde(default)]
    pub actor: String,
    pub memory: String,
    #[serde(default)]
    pub observed: Option<i64>,
}

impl Event for MemoryRestored {
    const NAME: &'static str = "engram.memory.MemoryRestored";
    const SCHEMA: &'static str = include_str!("../avsc/engram.memory.MemoryRestored.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_head(&self.id, self.time, &self.workspace, &self.actor, &self.memory)
    }
}

/// A memory was given an embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryEmbeddingUpdated {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    #[serde(default)]
    pub actor: String,
    pub memory: String,
    pub embedding: Vec<f32>,
    #[serde(default)]
    pub model: String,
    #[serde(default)]
    pub observed: Option<i64>,
}

impl Event for MemoryEmbeddingUpdated {
    const NAME: &'static str = "engram.memory.MemoryEmbeddingUpdated";
    const SCHEMA: &'static str = include_str!("../avsc/engram.memory.MemoryEmbeddingUpdated.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_head(&self.id, self.time, &self.workspace, &self.actor, &self.memory)?;
        if self.embedding.is_empty() {
            return Err(Invalid::Empty("embedding"));
        }
        check_embedding(&self.embedding, &self.model)
    }
}

/// A memory as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    pub workspace: String,
    pub memory: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub content: String,
    pub tags: Vec<String>,
    pub metadata: BTreeMap<String, String>,
    pub embedding: Vec<f32>,
    pub model: String,
    pub deleted: bool,
    pub version: i64,
    pub created: i64,
    pub created_by: String,
    pub updated: i64,
    pub updated_by: String,
}

impl Event for Memory {
    const NAME: &'static str = "engram.memory.Memory";
    const SCHEMA: &'static str = include_str!("../avsc/engram.memory.Memory.avsc");
}

fn check_head(id: &str, time: i64, workspace: &str, actor: &str, memory: &str) -> Result<(), Invalid> {
    for (field, text) in [("id", id), ("workspace", workspace), ("memory", memory)] {
        check_filled(field, text)?;
        check_chars(field, text, NAME_CHARS_MAX)?;
    }
    check_chars("actor", actor, NAME_CHARS_MAX)?;
    check_time("time", time)
}

fn check_tag(field: &'static str, tag: &str) -> Result<(), Invalid> {
    check_filled(field, tag)?;
    check_chars(field, tag, TAG_CHARS_MAX)
}

fn check_metadata(field: &'static str, key: &str, value: Option<&String>) -> Result<(), Invalid> {
    check_filled(field, key)?;
    check_chars(field, key, METADATA_KEY_CHARS_MAX)?;
    value.map_or(Ok(()), |value| check_chars(field, value, METADATA_VALUE_CHARS_MAX))
}

fn check_embedding(embedding: &[f32], model: &str) -> Result<(), Invalid> {
    check_count("embedding", embedding.len(), EMBEDDING_MAX)?;
    check_chars("model", model, NAME_CHARS_MAX)?;
    if embedding.iter().all(|number| number.is_finite()) { Ok(()) } else { Err(Invalid::NotFinite("embedding")) }
}
