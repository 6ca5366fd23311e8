//! A memory: its properties, what each event makes of them, and how it is kept and told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use engram_pipeline::processor::ProcessError;
use engram_schemas::memory::{METADATA_MAX, Memory, TAGS_MAX};

use super::conflict::Conflicts;
use super::stamp::{Additions, History, Register, Stamp, Taken};

/// Its key in the store, by parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryKey {
    pub workspace: String,
    pub memory: String,
}

/// What an event asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum MemoryChange {
    Create(Box<Values>),
    /// Field (`engram_schemas::memory::FIELDS`) and value.
    Edit(String, String),
    AddTag(String),
    RemoveTag(String),
    /// Key and value; `None` removes the entry.
    SetMetadata(String, Option<String>),
    Delete,
    Restore,
    SetEmbedding(Embedding),
}

/// What a memory is made with.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    pub kind: String,
    pub title: String,
    pub content: String,
    pub tags: BTreeSet<String>,
    pub metadata: BTreeMap<String, String>,
    pub embedding: Option<Embedding>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    pub vector: Vec<f32>,
    pub model: String,
}

impl Embedding {
    /// `None` if there are no numbers.
    pub fn new(vector: Vec<f32>, model: String) -> Option<Self> {
        (!vector.is_empty()).then_some(Self { vector, model })
    }
}

/// As a conflict shows it.
impl fmt::Display for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} numbers by {:?}", self.vector.len(), self.model)
    }
}

/// A memory as it is kept, deleted or not.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryState {
    pub kind: Register<String>,
    pub title: Register<String>,
    pub content: Register<String>,
    pub tags: BTreeMap<String, Additions>,
    pub metadata: BTreeMap<String, Register<String>>,
    pub embedding: Option<Register<Embedding>>,
    /// The events that made or restored it; none while it is deleted.
    pub added: Additions,
    pub deleted: Option<Stamp>,
    pub history: History,
}

impl MemoryState {
    /// What an event makes of a memory; `before` is `None` if there has never been one. Rejects what cannot be, and then
    /// nothing has happened.
    pub fn apply(
        before: Option<Self>,
        change: MemoryChange,
        conflicts: &mut Conflicts<'_>,
    ) -> Result<Self, ProcessError> {
        let mut state = match (before, &change) {
            (Some(state), _) => state,
            (None, MemoryChange::Create(values)) => Self::new(values, conflicts.taken),
            (None, _) => {
                let detail = "the workspace has no such memory: it must be created first";
                return Err(ProcessError::reject("unknown-memory", detail));
            }
        };
        let has_effect = state.change(change, conflicts);
        for (what, count, most) in
            [("tags", state.tags.len(), TAGS_MAX), ("entries of metadata", state.metadata.len(), METADATA_MAX)]
        {
            if count > most {
                let detail = format!("the memory would have {count} {what}, more than {most}");
                return Err(ProcessError::reject("too-many", detail));
            }
        }
        state.history.note(conflicts.taken, has_effect);
        Ok(state)
    }

    fn new(values: &Values, taken: &Taken) -> Self {
        let register = |value: &String| Register { value: value.clone(), stamp: taken.stamp() };
        Self {
            kind: register(&values.kind),
            title: register(&values.title),
            content: register(&values.content),
            tags: BTreeMap::new(),
            metadata: BTreeMap::new(),
            embedding: None,
            added: Additions::default(),
            deleted: None,
            history: History::new(taken),
        }
    }

    /// Returns whether it had an effect.
    fn change(&mut self, change: MemoryChange, conflicts: &mut Conflicts<'_>) -> bool {
        match change {
            MemoryChange::Create(values) => {
                self.create(*values, conflicts);
                true
            }
            MemoryChange::Delete => self.delete(conflicts),
            MemoryChange::Restore => {
                self.added.add(conflicts.taken);
                self.deleted.take().is_some()
            }
            MemoryChange::Edit(field, value) => {
                self.tell_if_deleted(&field, &value, conflicts);
                let register = match field.as_str() {
                    "title" => &mut self.title,
                    "content" => &mut self.content,
                    _ => &mut self.kind,
                };
                conflicts.set(&field, register, value);
                true
            }
            MemoryChange::AddTag(tag) => {
                self.tell_if_deleted(&tag_property(&tag), "", conflicts);
                self.tags.entry(tag).or_default().add(conflicts.taken);
                true
            }
            MemoryChange::RemoveTag(tag) => self.remove_tag(&tag, conflicts),
            MemoryChange::SetMetadata(key, value) => {
                if value.is_none() && !self.metadata.contains_key(&key) {
                    return false;
                }
                let property = metadata_property(&key);
                self.tell_if_deleted(&property, value.as_deref().unwrap_or_default(), conflicts);
                conflicts.set_entry(&property, &mut self.metadata, key, value);
                true
            }
            MemoryChange::SetEmbedding(embedding) => {
                self.tell_if_deleted("embedding", &embedding.to_string(), conflicts);
                self.set_embedding(embedding, conflicts);
                true
            }
        }
    }

    fn create(&mut self, values: Values, conflicts: &mut Conflicts<'_>) {
        self.added.add(conflicts.taken);
        self.deleted = None;
        conflicts.set("type", &mut self.kind, values.kind);
        conflicts.set("title", &mut self.title, values.title);
        conflicts.set("content", &mut self.content, values.content);
        for tag in values.tags {
            self.tags.entry(tag).or_default().add(conflicts.taken);
        }
        for (key, value) in values.metadata {
            conflicts.set_entry(&metadata_property(&key), &mut self.metadata, key, Some(value));
        }
        if let Some(embedding) = values.embedding {
            self.set_embedding(embedding, conflicts);
        }
    }

    fn delete(&mut self, conflicts: &mut Conflicts<'_>) -> bool {
        if self.deleted.is_some() {
            return false;
        }
        if let Some(kept_by) = self.added.remove(conflicts.taken) {
            conflicts.kept("", &kept_by);
            return false;
        }
        for (property, register) in [("type", &self.kind), ("title", &self.title), ("content", &self.content)] {
            conflicts.takes_along(property, &register.stamp, || register.value.clone());
        }
        if let Some(register) = &self.embedding {
            conflicts.takes_along("embedding", &register.stamp, || register.value.to_string());
        }
        for (tag, added) in &self.tags {
            if let Some(stamp) = added.last_unseen(conflicts.taken) {
                conflicts.takes_along(&tag_property(tag), stamp, String::new);
            }
        }
        for (key, register) in &self.metadata {
            conflicts.takes_along(&metadata_property(key), &register.stamp, || register.value.clone());
        }
        self.deleted = Some(conflicts.taken.stamp());
        true
    }

    fn remove_tag(&mut self, tag: &str, conflicts: &mut Conflicts<'_>) -> bool {
        let Some(added) = self.tags.get_mut(tag) else { return false };
        let property = tag_property(tag);
        if let Some(kept_by) = added.remove(conflicts.taken) {
            conflicts.kept(&property, &kept_by);
            return false;
        }
        self.tell_if_deleted(&property, "", conflicts);
        self.tags.remove(tag);
        true
    }

    fn set_embedding(&mut self, embedding: Embedding, conflicts: &mut Conflicts<'_>) {
        match &mut self.embedding {
            Some(register) => conflicts.set("embedding", register, embedding),
            None => self.embedding = Some(Register { value: embedding, stamp: conflicts.taken.stamp() }),
        }
    }

    /// What is done to a deleted memory is kept for when it is restored.
    fn tell_if_deleted(&self, property: &str, value: &str, conflicts: &mut Conflicts<'_>) {
        if let Some(deleted) = &self.deleted {
            conflicts.came_too_late(property, deleted, value.to_owned());
        }
    }

    /// As `memory.current` tells it.
    pub fn to_event(&self, key: MemoryKey) -> Memory {
        let embedding = self.embedding.as_ref().map(|register| register.value.clone());
        let Embedding { vector, model } = embedding.unwrap_or(Embedding { vector: Vec::new(), model: String::new() });
        let ((created, created_by), (updated, updated_by)) =
            (self.history.created.clone(), self.history.updated.clone());
        Memory {
            workspace: key.workspace,
            memory: key.memory,
            kind: self.kind.value.clone(),
            title: self.title.value.clone(),
            content: self.content.value.clone(),
            tags: self.tags.keys().cloned().collect(),
            metadata: self.metadata.iter().map(|(key, register)| (key.clone(), register.value.clone())).collect(),
            embedding: vector,
            model,
            deleted: self.deleted.is_some(),
            version: self.history.version,
            created,
            created_by,
            updated,
            updated_by,
        }
    }
}

fn tag_property(tag: &str) -> String {
    format!("tag:{tag}")
}

fn metadata_property(key: &str) -> String {
    format!("metadata:{key}")
}
