//! Where schemas get their ids: the port that serializers, the CLI and the REST API use, whatever stands behind it.
//!
//! A record's first five bytes carry a schema's id; whoever reads the record asks a registry for the schema. Two
//! registries exist: [`state`] replayed from the log's own topic, and [`http`] for any other that speaks Confluent's
//! API.
//!
//! INVARIANT: an id means one schema for ever; it may be cached without limit of time.

pub mod http;
pub mod memory;
pub mod state;

use std::error::Error;

use crate::SchemaId;
use crate::compatibility::Level;

/// Schemas by subject, version and id. All methods block.
///
/// Source: Confluent Schema Registry API reference, v1.
pub trait Registry: Send + Sync {
    /// The id of `schema` under `subject`; registers it as the subject's next version if it is new there.
    ///
    /// # Errors
    /// [`RegistryError::Incompatible`] with the subject's earlier versions, [`RegistryError::InvalidSchema`],
    /// [`RegistryError::Refused`], [`RegistryError::Unreachable`].
    fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, RegistryError>;

    /// The schema of an id, soft-deleted ones included; `None` where the registry does not know it.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`], [`RegistryError::Refused`].
    fn schema(&self, id: SchemaId) -> Result<Option<String>, RegistryError>;

    /// Subjects that have a version, in order of name.
    ///
    /// # Errors
    /// As [`Registry::schema`].
    fn subjects(&self) -> Result<Vec<String>, RegistryError>;

    /// A subject's versions, ascending; empty where there is no such subject.
    ///
    /// # Errors
    /// As [`Registry::schema`].
    fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError>;

    /// One version of a subject.
    ///
    /// # Errors
    /// As [`Registry::schema`].
    fn version(&self, subject: &str, version: Version) -> Result<Option<RegisteredSchema>, RegistryError>;

    /// The version of `subject` that holds this schema.
    ///
    /// # Errors
    /// As [`Registry::schema`], and [`RegistryError::InvalidSchema`].
    fn lookup(&self, subject: &str, schema: &str) -> Result<Option<RegisteredSchema>, RegistryError>;

    /// Why `schema` does not go with a version of `subject` at the subject's level; empty if it does. `Latest` asks
    /// whether it could be the next version, so looks at all that the level looks at, and at nothing where there is no
    /// subject.
    ///
    /// # Errors
    /// As [`Registry::lookup`], and [`RegistryError::NotFound`] where a version named by its number does not exist.
    fn check(&self, subject: &str, version: Version, schema: &str) -> Result<Vec<String>, RegistryError>;

    /// The level in force for `subject`, or the one for all subjects that have none of their own.
    ///
    /// # Errors
    /// As [`Registry::schema`].
    fn compatibility(&self, subject: Option<&str>) -> Result<Level, RegistryError>;

    /// Sets the level for one subject, or for all that have none of their own.
    ///
    /// # Errors
    /// As [`Registry::schema`].
    fn set_compatibility(&self, subject: Option<&str>, level: Level) -> Result<(), RegistryError>;

    /// Deletes a subject and answers with the versions that were deleted, none if there was no such subject. Its
    /// schemas still resolve by id, unless `permanent`.
    ///
    /// # Errors
    /// As [`Registry::schema`].
    fn delete_subject(&self, subject: &str, permanent: bool) -> Result<Vec<u32>, RegistryError>;
}

/// One version of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredSchema {
    pub subject: String,
    /// From 1.
    pub version: u32,
    pub id: SchemaId,
    /// JSON, as it was registered.
    pub schema: String,
}

/// Which version of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The highest that is not deleted.
    Latest,
    Number(u32),
}

/// Why a registry did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Worth another try, later.
    #[error("the schema registry at {url} cannot be used: check that it runs and that this process can reach it")]
    Unreachable { url: String, source: Box<dyn Error + Send + Sync> },
    /// Records in this schema would not be readable, or would not read, as the subject's level promises.
    #[error(
        "subject {subject} does not accept the schema ({}): change it, or the subject's compatibility level",
        .reasons.join("; ")
    )]
    Incompatible { subject: String, reasons: Vec<String> },
    #[error("the schema is not a valid Avro schema: correct it and register it again")]
    InvalidSchema(#[source] Box<dyn Error + Send + Sync>),
    /// A version that the caller named does not exist.
    #[error("subject {subject} has no version {version}: list its versions and choose one of them")]
    NotFound { subject: String, version: u32 },
    /// Another try will be answered alike.
    #[error("the schema registry refused: {0}")]
    Refused(String),
}

/// A schema's text for comparison: two schemas are the same if these are equal.
///
/// White space and the order of attributes do not count. Docs, aliases and defaults do, unlike in Avro's parsing
/// canonical form: they matter to readers. Text that is not JSON (other kinds of schema) stands for itself.
///
/// Source: Confluent Schema Registry, `AvroSchema::canonicalString`.
pub fn canonical(schema: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(schema) {
        Ok(mut value) => {
            value.sort_all_objects();
            value.to_string()
        }
        Err(_) => schema.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn white_space_and_order_do_not_count_but_docs_do() {
        let one = canonical(r#"{"type": "record", "name": "R", "fields": []}"#);
        assert_eq!(one, canonical("{\"fields\":[],\n\"name\":\"R\",\"type\":\"record\"}"));
        assert_ne!(one, canonical(r#"{"type": "record", "name": "R", "doc": "what it is", "fields": []}"#));
        assert_eq!(canonical("message M {}"), "message M {}");
    }
}
