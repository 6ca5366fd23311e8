//! Events of documents that people edit together. The fields are described in the `.avsc` files.

use serde::{Deserialize, Serialize};

use crate::event::{Event, Invalid, check_filled, check_time};

/// The tenant of those who have not set up any.
pub const DEFAULT_TENANT: &str = "default";

/// A document's key: its id, with the tenant and a colon before it. Documents of the tenant `default` are known by their
/// id alone, unless it has a colon in it.
///
/// INVARIANT: a tenant's name has no colon, so that no two (tenant, id) have one key.
pub fn document_key(tenant: &str, id: &str) -> String {
    if tenant == DEFAULT_TENANT && !id.contains(':') { id.to_owned() } else { format!("{tenant}:{id}") }
}

/// Tenant and id of a document's key.
pub fn split_document_key(key: &str) -> (&str, &str) {
    key.split_once(':').unwrap_or((DEFAULT_TENANT, key))
}

/// Somebody changed a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    pub id: String,
    pub time: i64,
    pub document: String,
    pub actor: String,
    #[serde(default)]
    pub session: String,
    #[serde(with = "apache_avro::serde::bytes")]
    pub update: Vec<u8>,
    #[serde(default)]
    pub source: String,
    #[serde(default)]
    pub purpose: String,
}

impl Event for Edit {
    const NAME: &'static str = "engram.document.Edit";
    const SCHEMA: &'static str = include_str!("../avsc/engram.document.Edit.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_filled("id", &self.id)?;
        check_time("time", self.time)?;
        check_filled("document", &self.document)?;
        check_filled("actor", &self.actor)
    }
}

/// An edit in its place among the others of its document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencedEdit {
    pub document: String,
    pub seq: i64,
    pub id: String,
    pub time: i64,
    pub actor: String,
    #[serde(default)]
    pub session: String,
    #[serde(with = "apache_avro::serde::bytes")]
    pub update: Vec<u8>,
    pub partition: i32,
    pub offset: i64,
    #[serde(default)]
    pub source: String,
    #[serde(default)]
    pub purpose: String,
}

impl Event for SequencedEdit {
    const NAME: &'static str = "engram.document.SequencedEdit";
    const SCHEMA: &'static str = include_str!("../avsc/engram.document.SequencedEdit.avsc");
}

/// A document as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentState {
    pub document: String,
    pub seq: i64,
    pub partition: i32,
    pub offset: i64,
    pub time: i64,
    pub hash: String,
    pub roots: String,
    #[serde(with = "apache_avro::serde::bytes")]
    pub state: Vec<u8>,
}

impl Event for DocumentState {
    const NAME: &'static str = "engram.document.DocumentState";
    const SCHEMA: &'static str = include_str!("../avsc/engram.document.DocumentState.avsc");
}

/// Two edits that did not know of each other and touch the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditConflict {
    pub document: String,
    pub kind: String,
    pub seq: i64,
    pub actor: String,
    pub partition: i32,
    pub offset: i64,
    pub other_seq: i64,
    #[serde(default)]
    pub other_actor: String,
    #[serde(default)]
    pub winner: i64,
    #[serde(default)]
    pub root: String,
    #[serde(default)]
    pub key: String,
}

impl Event for EditConflict {
    const NAME: &'static str = "engram.document.EditConflict";
    const SCHEMA: &'static str = include_str!("../avsc/engram.document.EditConflict.avsc");
}

/// An edit that did not become part of its document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditRejected {
    pub document: String,
    pub id: String,
    pub time: i64,
    pub actor: String,
    #[serde(default)]
    pub session: String,
    pub cause: String,
    pub detail: String,
    pub partition: i32,
    pub offset: i64,
}

impl Event for EditRejected {
    const NAME: &'static str = "engram.document.EditRejected";
    const SCHEMA: &'static str = include_str!("../avsc/engram.document.EditRejected.avsc");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_one_tenant_and_id() {
        for (tenant, id, key) in [
            ("default", "notes.md", "notes.md"),
            ("default", "a:b", "default:a:b"),
            ("acme", "notes.md", "acme:notes.md"),
            ("acme", "a:b", "acme:a:b"),
        ] {
            assert_eq!(document_key(tenant, id), key);
            assert_eq!(split_document_key(key), (tenant, id));
        }
    }
}
