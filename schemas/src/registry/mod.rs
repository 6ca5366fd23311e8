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

use serde_json::Value;

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
/// White space, the order of attributes and the ways to write one name or one primitive type do not count: clients send
/// a schema as it stands in a file, or as their library prints it. Docs, aliases and defaults do count, unlike in Avro's
/// parsing canonical form: they matter to readers. Text that is not JSON (other kinds of schema) stands for itself.
///
/// Source: Confluent Schema Registry, `AvroSchema::canonicalString`.
pub fn canonical(schema: &str) -> String {
    match serde_json::from_str::<Value>(schema) {
        Ok(mut value) => {
            unify(&mut value, "");
            value.sort_all_objects();
            value.to_string()
        }
        Err(_) => schema.to_owned(),
    }
}

/// Writes a type, and those within, in one way: `{"type": T}` as T, names in full, no `order` that is the default.
/// `namespace` is the enclosing one.
fn unify(schema: &mut Value, namespace: &str) {
    match schema {
        Value::String(name) => *name = full_name(name, namespace),
        Value::Array(branches) => branches.iter_mut().for_each(|branch| unify(branch, namespace)),
        Value::Object(attributes) if attributes.len() == 1 && attributes.contains_key("type") => {
            let mut inner = attributes["type"].take();
            unify(&mut inner, namespace);
            *schema = inner;
        }
        Value::Object(attributes) => {
            let own = attributes.remove("namespace");
            let mut inner = own.as_ref().and_then(Value::as_str).unwrap_or(namespace).to_owned();
            if let Some(Value::String(name)) = attributes.get_mut("name") {
                *name = full_name(name, &inner);
                inner = name.rsplit_once('.').map_or_else(String::new, |(namespace, _)| namespace.to_owned());
            }
            for attribute in ["type", "items", "values"] {
                if let Some(nested) = attributes.get_mut(attribute) {
                    unify(nested, &inner);
                }
            }
            for field in attributes.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                let Some(field) = field.as_object_mut() else { continue };
                if let Some(nested) = field.get_mut("type") {
                    unify(nested, &inner);
                }
                if field.get("order").is_some_and(|order| order == "ascending") {
                    field.remove("order");
                }
            }
        }
        _ => {}
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    const TYPES: [&str; 14] = [
        "null", "boolean", "int", "long", "float", "double", "bytes", "string", "record", "error", "enum", "array",
        "map", "fixed",
    ];
    if namespace.is_empty() || name.contains('.') || TYPES.contains(&name) {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn one_schema_has_one_form() {
        let file = r#"{"type": "record", "name": "R", "namespace": "a.b", "fields": [
            {"name": "x", "type": {"type": "string"}, "order": "ascending"},
            {"name": "y", "type": ["null", {"type": "fixed", "name": "F", "size": 2}]},
            {"name": "z", "type": {"type": "array", "items": "a.b.F"}, "default": []}]}"#;
        let printed = r#"{"name": "a.b.R", "type": "record", "fields": [
            {"type": "string", "name": "x"}, {"type": ["null", {"type": "fixed", "namespace": "a.b", "name": "F", "size": 2}],
            "name": "y"}, {"default": [], "type": {"items": "F", "type": "array"}, "name": "z"}]}"#;
        assert_eq!(canonical(file), canonical(printed));
        assert_eq!(canonical(r#"{"type": "string"}"#), canonical(r#""string""#));
        assert_ne!(canonical(r#"{"type": "fixed", "name": "F", "size": 2}"#), canonical(&file.replace('R', "F")));
        let elsewhere = file.replace("\"a.b\"", "\"a.c\"");
        assert_ne!(canonical(file), canonical(&elsewhere));
    }

    #[test]
    fn white_space_and_order_do_not_count_but_docs_do() {
        let one = canonical(r#"{"type": "record", "name": "R", "fields": []}"#);
        assert_eq!(one, canonical("{\"fields\":[],\n\"name\":\"R\",\"type\":\"record\"}"));
        assert_ne!(one, canonical(r#"{"type": "record", "name": "R", "doc": "what it is", "fields": []}"#));
        assert_eq!(canonical("message M {}"), "message M {}");
    }
}
