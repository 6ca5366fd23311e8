//! What the stores hold: their bytes, and how `engram state` shows and finds them.
//!
//! ```text
//! memories        (workspace, memory)                   the memory, deleted or not
//! relations       (workspace, from, type, to)           the relation, or that it was removed
//! node-relations  (workspace, node, from, type, to)     nothing: the relation is there, and one end of it is the node
//! workspaces      workspace                             how many of its events were taken
//! ```

use engram_pipeline::operators::ValueStore;
use engram_pipeline::store::codec::{Codec, to_bytes};
use engram_pipeline::store::{Place, StoreSpec};
use serde_json::{Value, json};

use super::memory::{Embedding, MemoryKey, MemoryState};
use super::relation::{RelationKey, RelationState};
use super::stamp::Register;

pub type Memories = ValueStore<MemoryKey, MemoryState>;
pub type Relations = ValueStore<RelationKey, RelationState>;
pub type NodeRelations = ValueStore<NodeRelation, ()>;
pub type Workspaces = ValueStore<String, i64>;

/// The stores, in the order of their indexes (`collaboration::at`).
pub fn stores() -> [StoreSpec; 4] {
    [
        StoreSpec { locate: locate::<MemoryKey>, ..Memories::spec("memories") },
        StoreSpec { locate: locate::<RelationKey>, ..Relations::spec("relations") },
        StoreSpec { locate: locate::<NodeRelation>, ..NodeRelations::spec("node-relations") },
        StoreSpec { locate: locate_workspace, ..Workspaces::spec("workspaces") },
    ]
}

/// A relation, found by one of its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRelation {
    pub node: MemoryKey,
    pub relation: RelationKey,
}

/// A key that is shown as an object.
trait Shown: Codec {
    /// What `Codec::describe` has shown.
    fn of(shown: &Value) -> Option<Self>;
    fn workspace(&self) -> &str;
}

fn locate<K: Shown>(shown: &Value) -> Option<Place> {
    let key = K::of(shown)?;
    Some(Place { key: to_bytes(&key), routed_by: key.workspace().as_bytes().to_vec() })
}

fn locate_workspace(shown: &Value) -> Option<Place> {
    let workspace = shown.as_str()?.to_owned();
    Some(Place { key: to_bytes(&workspace), routed_by: workspace.into_bytes() })
}

fn text(shown: &Value, field: &str) -> Option<String> {
    shown[field].as_str().map(str::to_owned)
}

impl Codec for MemoryKey {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.workspace.write(bytes);
        self.memory.write(bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { workspace: String::read(bytes)?, memory: String::read(bytes)? })
    }

    fn describe(&self) -> Value {
        json!({"workspace": self.workspace, "memory": self.memory})
    }
}

impl Shown for MemoryKey {
    fn of(shown: &Value) -> Option<Self> {
        Some(Self { workspace: text(shown, "workspace")?, memory: text(shown, "memory")? })
    }

    fn workspace(&self) -> &str {
        &self.workspace
    }
}

impl Codec for RelationKey {
    fn write(&self, bytes: &mut Vec<u8>) {
        for part in [&self.workspace, &self.from, &self.kind, &self.to] {
            part.write(bytes);
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut part = || String::read(bytes);
        Some(Self { workspace: part()?, from: part()?, kind: part()?, to: part()? })
    }

    fn describe(&self) -> Value {
        json!({"workspace": self.workspace, "from": self.from, "type": self.kind, "to": self.to})
    }
}

impl Shown for RelationKey {
    fn of(shown: &Value) -> Option<Self> {
        Some(Self {
            workspace: text(shown, "workspace")?,
            from: text(shown, "from")?,
            kind: text(shown, "type")?,
            to: text(shown, "to")?,
        })
    }

    fn workspace(&self) -> &str {
        &self.workspace
    }
}

/// The workspace, which they share, once.
impl Codec for NodeRelation {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.node.write(bytes);
        for part in [&self.relation.from, &self.relation.kind, &self.relation.to] {
            part.write(bytes);
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let node = MemoryKey::read(bytes)?;
        let mut part = || String::read(bytes);
        let relation = RelationKey { workspace: node.workspace.clone(), from: part()?, kind: part()?, to: part()? };
        Some(Self { node, relation })
    }

    fn describe(&self) -> Value {
        let mut shown = json!({"workspace": self.node.workspace, "node": self.node.memory});
        shown["from"] = json!(self.relation.from);
        shown["type"] = json!(self.relation.kind);
        shown["to"] = json!(self.relation.to);
        shown
    }
}

impl Shown for NodeRelation {
    fn of(shown: &Value) -> Option<Self> {
        let relation = RelationKey::of(shown)?;
        Some(Self { node: MemoryKey { workspace: relation.workspace.clone(), memory: text(shown, "node")? }, relation })
    }

    fn workspace(&self) -> &str {
        &self.node.workspace
    }
}

impl Codec for Embedding {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.vector.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>().write(bytes);
        self.model.write(bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let numbers = Vec::<u8>::read(bytes)?;
        let (numbers, rest) = numbers.as_chunks();
        let vector = numbers.iter().map(|number| f32::from_be_bytes(*number)).collect();
        rest.is_empty().then_some(Self { vector, model: String::read(bytes)? })
    }

    fn describe(&self) -> Value {
        json!({"numbers": self.vector.len(), "model": self.model})
    }
}

impl Codec for MemoryState {
    fn write(&self, bytes: &mut Vec<u8>) {
        for register in [&self.kind, &self.title, &self.content] {
            register.write(bytes);
        }
        self.tags.write(bytes);
        self.metadata.write(bytes);
        self.embedding.write(bytes);
        self.added.write(bytes);
        self.deleted.write(bytes);
        self.history.write(bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            kind: Register::read(bytes)?,
            title: Register::read(bytes)?,
            content: Register::read(bytes)?,
            tags: Codec::read(bytes)?,
            metadata: Codec::read(bytes)?,
            embedding: Codec::read(bytes)?,
            added: Codec::read(bytes)?,
            deleted: Codec::read(bytes)?,
            history: Codec::read(bytes)?,
        })
    }

    /// Tags with the versions at which they were added.
    fn describe(&self) -> Value {
        let mut shown = json!({
            "type": self.kind.value, "title": self.title.value, "content": self.content.value,
            "tags": self.tags.describe(), "metadata": self.metadata.describe(), "embedding": self.embedding.describe(),
            "deleted": self.deleted.is_some(),
        });
        extend(&mut shown, self.history.describe());
        shown
    }
}

impl Codec for RelationState {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.strength.write(bytes);
        self.attributes.write(bytes);
        self.added.write(bytes);
        self.removed.write(bytes);
        self.from_is_deleted.write(bytes);
        self.to_is_deleted.write(bytes);
        self.history.write(bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            strength: Register::read(bytes)?,
            attributes: Codec::read(bytes)?,
            added: Codec::read(bytes)?,
            removed: Codec::read(bytes)?,
            from_is_deleted: bool::read(bytes)?,
            to_is_deleted: bool::read(bytes)?,
            history: Codec::read(bytes)?,
        })
    }

    fn describe(&self) -> Value {
        let mut shown = json!({
            "strength": self.strength.value, "attributes": self.attributes.describe(), "removed": self.removed.is_some(),
            "visible": self.removed.is_none() && !self.from_is_deleted && !self.to_is_deleted,
        });
        extend(&mut shown, self.history.describe());
        shown
    }
}

fn extend(shown: &mut Value, more: Value) {
    if let (Value::Object(shown), Value::Object(more)) = (shown, more) {
        shown.extend(more);
    }
}
