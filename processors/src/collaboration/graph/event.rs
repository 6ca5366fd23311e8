//! The events of the two topics, as they are read: who speaks, of what, and what they ask for.

use engram_pipeline::processor::{Input, ProcessError};
use engram_schemas::Event as _;
use engram_schemas::codec::Decoder;
use engram_schemas::graph::{RelationCreated, RelationDeleted, RelationModified};
use engram_schemas::memory::{
    MemoryCreated, MemoryDeleted, MemoryEmbeddingUpdated, MemoryFieldEdited, MemoryMetadataSet, MemoryRestored,
    MemoryTagAdded, MemoryTagRemoved,
};

use super::memory::{Embedding, MemoryChange, MemoryKey, Values};
use super::relation::{RelationChange, RelationKey};

/// Of a workspace's and a node's id, which are parts of keys. A path that can be checked out anywhere is shorter.
pub const NODE_BYTES_MAX: usize = 4_096;

/// What every event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub id: String,
    /// ms since the epoch, UTC.
    pub time: i64,
    /// Empty if it is not known.
    pub actor: String,
    /// The version that the author had seen of what it is about; `None`: all before it in the log.
    pub observed: Option<i64>,
}

/// An event of `memory.events`.
pub fn memory_event(decoder: &mut Decoder, input: &Input<'_>) -> Result<(Head, MemoryKey, MemoryChange), ProcessError> {
    let (value, name) = value_and_type(decoder, input)?;
    let read = match name.as_str() {
        MemoryCreated::NAME => {
            let event: MemoryCreated = decoder.decode(value)?;
            let values = Values {
                kind: event.kind,
                title: event.title,
                content: event.content,
                tags: event.tags.into_iter().collect(),
                metadata: event.metadata,
                embedding: Embedding::new(event.embedding, event.model),
            };
            let change = MemoryChange::Create(Box::new(values));
            (head(event.id, event.time, event.actor, event.observed), memory(event.workspace, event.memory), change)
        }
        MemoryFieldEdited::NAME => {
            let event: MemoryFieldEdited = decoder.decode(value)?;
            let change = MemoryChange::Edit(event.field, event.value);
            (head(event.id, event.time, event.actor, event.observed), memory(event.workspace, event.memory), change)
        }
        MemoryTagAdded::NAME => {
            let event: MemoryTagAdded = decoder.decode(value)?;
            let change = MemoryChange::AddTag(event.tag);
            (head(event.id, event.time, event.actor, event.observed), memory(event.workspace, event.memory), change)
        }
        MemoryTagRemoved::NAME => {
            let event: MemoryTagRemoved = decoder.decode(value)?;
            let change = MemoryChange::RemoveTag(event.tag);
            (head(event.id, event.time, event.actor, event.observed), memory(event.workspace, event.memory), change)
        }
        MemoryMetadataSet::NAME => {
            let event: MemoryMetadataSet = decoder.decode(value)?;
            let change = MemoryChange::SetMetadata(event.key, event.value);
            (head(event.id, event.time, event.actor, event.observed), memory(event.workspace, event.memory), change)
        }
        MemoryDeleted::NAME => {
            let event: MemoryDeleted = decoder.decode(value)?;
            let change = MemoryChange::Delete;
            (head(event.id, event.time, event.actor, event.observed), memory(event.workspace, event.memory), change)
        }
        MemoryRestored::NAME => {
            let event: MemoryRestored = decoder.decode(value)?;
            let change = MemoryChange::Restore;
            (head(event.id, event.time, event.actor, event.observed), memory(event.workspace, event.memory), change)
        }
        MemoryEmbeddingUpdated::NAME => {
            let event: MemoryEmbeddingUpdated = decoder.decode(value)?;
            let change = MemoryChange::SetEmbedding(Embedding { vector: event.embedding, model: event.model });
            (head(event.id, event.time, event.actor, event.observed), memory(event.workspace, event.memory), change)
        }
        other => return Err(wrong_type(input, other)),
    };
    check_key(input, &read.1.workspace)?;
    Ok(read)
}

/// An event of `graph.events`.
pub fn relation_event(
    decoder: &mut Decoder,
    input: &Input<'_>,
) -> Result<(Head, RelationKey, RelationChange), ProcessError> {
    let (value, name) = value_and_type(decoder, input)?;
    let (head, key, change) = match name.as_str() {
        RelationCreated::NAME => {
            let event: RelationCreated = decoder.decode(value)?;
            let change = RelationChange::Create(event.strength, event.attributes);
            let key = RelationKey { workspace: event.workspace, from: event.from, kind: event.kind, to: event.to };
            (head(event.id, event.time, event.actor, event.observed), key, change)
        }
        RelationModified::NAME => {
            let event: RelationModified = decoder.decode(value)?;
            let change = RelationChange::Modify(event.strength, event.attributes);
            let key = RelationKey { workspace: event.workspace, from: event.from, kind: event.kind, to: event.to };
            (head(event.id, event.time, event.actor, event.observed), key, change)
        }
        RelationDeleted::NAME => {
            let event: RelationDeleted = decoder.decode(value)?;
            let key = RelationKey { workspace: event.workspace, from: event.from, kind: event.kind, to: event.to };
            (head(event.id, event.time, event.actor, event.observed), key, RelationChange::Delete)
        }
        other => return Err(wrong_type(input, other)),
    };
    check_key(input, &key.workspace)?;
    for (field, text) in [("workspace", &key.workspace), ("from", &key.from), ("to", &key.to)] {
        if text.len() > NODE_BYTES_MAX {
            let detail = format!("field {field:?} is longer than {NODE_BYTES_MAX} bytes");
            return Err(ProcessError::reject("too-long", detail));
        }
    }
    Ok((head, key, change))
}

fn head(id: String, time: i64, actor: String, observed: Option<i64>) -> Head {
    Head { id, time, actor, observed }
}

fn memory(workspace: String, memory: String) -> MemoryKey {
    MemoryKey { workspace, memory }
}

fn value_and_type<'a>(decoder: &mut Decoder, input: &Input<'a>) -> Result<(&'a [u8], String), ProcessError> {
    let value = input.record.value.ok_or_else(|| ProcessError::reject("null-value", "an event cannot be null"))?;
    let name = decoder.type_name(value)?.unwrap_or("no record").to_owned();
    Ok((value, name))
}

fn wrong_type(input: &Input<'_>, name: &str) -> ProcessError {
    ProcessError::reject("wrong-schema", format!("{} takes no {name}", input.partition.topic))
}

fn check_key(input: &Input<'_>, workspace: &str) -> Result<(), ProcessError> {
    match input.record.key {
        Some(key) if key == workspace.as_bytes() => Ok(()),
        Some(_) => {
            let detail =
                "the key is not the event's workspace, so its workspace's events would be spread over partitions";
            Err(ProcessError::reject("wrong-key", detail))
        }
        None => Err(ProcessError::reject("null-key", "the key must be the event's workspace")),
    }
}
