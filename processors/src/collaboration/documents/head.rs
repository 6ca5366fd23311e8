//! What the stores hold of a document.
//!
//! ```text
//! documents    document -> head
//! updates      document, seq -> the edit of that number, since the checkpoint before the last
//! checkpoints  document -> the whole document, as one update, as of the head's `checkpoint_seq`
//! ```

use std::collections::BTreeMap;

use engram_pipeline::store::codec::{Codec, read_whole, to_bytes};
use engram_pipeline::store::{Place, StoreSpec};
use serde_json::{Value, json};

use super::projection::RootKind;

/// Where a document is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Number of the last edit, from 1.
    pub seq: i64,
    /// The last edit's place in `document.edits`, and its time.
    pub offset: i64,
    pub time: i64,
    pub checkpoint_seq: i64,
    /// The edits in the store are those after this.
    pub checkpoint_before: i64,
    pub checkpoint_bytes: i64,
    /// Of the updates since the checkpoint.
    pub update_bytes: i64,
    /// A timer will tell the document's state.
    pub state_is_due: bool,
    /// Why it takes no edits; empty if it does.
    pub quarantine: String,
    pub roots: BTreeMap<String, RootKind>,
}

impl Codec for Head {
    fn write(&self, bytes: &mut Vec<u8>) {
        for number in [
            self.seq,
            self.offset,
            self.time,
            self.checkpoint_seq,
            self.checkpoint_before,
            self.checkpoint_bytes,
            self.update_bytes,
        ] {
            number.write(bytes);
        }
        self.state_is_due.write(bytes);
        self.quarantine.write(bytes);
        for (name, kind) in &self.roots {
            name.write(bytes);
            (*kind as u8).write(bytes);
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut number = || i64::read(bytes);
        let mut head = Self {
            seq: number()?,
            offset: number()?,
            time: number()?,
            checkpoint_seq: number()?,
            checkpoint_before: number()?,
            checkpoint_bytes: number()?,
            update_bytes: number()?,
            state_is_due: bool::read(bytes)?,
            quarantine: String::read(bytes)?,
            roots: BTreeMap::new(),
        };
        while !bytes.is_empty() {
            let name = String::read(bytes)?;
            head.roots.insert(name, RootKind::from_byte(u8::read(bytes)?)?);
        }
        Some(head)
    }

    fn describe(&self) -> Value {
        json!({
            "seq": self.seq, "offset": self.offset, "time": self.time, "checkpoint_seq": self.checkpoint_seq,
            "checkpoint_bytes": self.checkpoint_bytes, "update_bytes": self.update_bytes,
            "roots": self.roots.keys().collect::<Vec<_>>(), "quarantine": self.quarantine
        })
    }
}

/// An edit, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEdit {
    pub actor: String,
    /// In `document.edits`.
    pub offset: i64,
    pub time: i64,
    pub update: Vec<u8>,
}

impl Codec for StoredEdit {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.offset.write(bytes);
        self.time.write(bytes);
        self.actor.write(bytes);
        bytes.extend_from_slice(&self.update);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (offset, time, actor) = (i64::read(bytes)?, i64::read(bytes)?, String::read(bytes)?);
        Some(Self { actor, offset, time, update: std::mem::take(bytes).to_vec() })
    }

    fn describe(&self) -> Value {
        json!({"actor": self.actor, "offset": self.offset, "time": self.time, "update": hex(&self.update)})
    }
}

/// The stores, by name.
pub fn stores() -> [StoreSpec; 3] {
    [
        StoreSpec { locate: locate_document, ..StoreSpec::new("documents", describe_head) },
        StoreSpec { locate: locate_update, ..StoreSpec::new("updates", describe_update) },
        StoreSpec { locate: locate_document, ..StoreSpec::new("checkpoints", describe_checkpoint) },
    ]
}

pub fn document_key(document: &str) -> Vec<u8> {
    to_bytes(&document.to_owned())
}

pub fn update_key(document: &str, seq: i64) -> Vec<u8> {
    to_bytes(&(document.to_owned(), seq))
}

fn locate_document(key: &Value) -> Option<Place> {
    let document = key.as_str()?;
    Some(Place { key: document_key(document), routed_by: document.as_bytes().to_vec() })
}

fn locate_update(key: &Value) -> Option<Place> {
    let (document, seq) = (key["document"].as_str()?, key["seq"].as_i64()?);
    Some(Place { key: update_key(document, seq), routed_by: document.as_bytes().to_vec() })
}

fn describe_head(key: &[u8], value: &[u8]) -> (Value, Value) {
    engram_pipeline::store::codec::describe::<String, Head>(key, value)
}

fn describe_update(key: &[u8], value: &[u8]) -> (Value, Value) {
    let key = read_whole::<(String, i64)>(key)
        .map_or_else(|| json!({"unreadable": key}), |(document, seq)| json!({"document": document, "seq": seq}));
    (key, read_whole::<StoredEdit>(value).map_or_else(|| json!({"unreadable": value}), |edit| edit.describe()))
}

fn describe_checkpoint(key: &[u8], value: &[u8]) -> (Value, Value) {
    let key = read_whole::<String>(key).map_or_else(|| json!({"unreadable": key}), |document| json!(document));
    (key, json!({"state": hex(value)}))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
