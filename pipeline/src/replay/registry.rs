//! A registry that a replay may have: it is never written to.

use std::sync::Arc;

use engram_schemas::SchemaId;
use engram_schemas::compatibility::Level;
use engram_schemas::registry::{RegisteredSchema, Registry, RegistryError, Version};

/// Reads another registry. What is already registered can be registered again, which changes nothing.
pub struct ReadOnlyRegistry(pub Arc<dyn Registry>);

fn refused<T>(what: String) -> Result<T, RegistryError> {
    Err(RegistryError::Refused(format!("a replay does not {what}")))
}

impl Registry for ReadOnlyRegistry {
    fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, RegistryError> {
        match self.0.lookup(subject, schema)? {
            Some(found) => Ok(found.id),
            None => refused(format!(
                "register schemas, and this one is not under subject {subject}: 'engram up' registers it"
            )),
        }
    }

    fn schema(&self, id: SchemaId) -> Result<Option<String>, RegistryError> {
        self.0.schema(id)
    }

    fn subjects(&self) -> Result<Vec<String>, RegistryError> {
        self.0.subjects()
    }

    fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        self.0.versions(subject)
    }

    fn version(&self, subject: &str, version: Version) -> Result<Option<RegisteredSchema>, RegistryError> {
        self.0.version(subject, version)
    }

    fn lookup(&self, subject: &str, schema: &str) -> Result<Option<RegisteredSchema>, RegistryError> {
        self.0.lookup(subject, schema)
    }

    fn check(&self, subject: &str, version: Version, schema: &str) -> Result<Vec<String>, RegistryError> {
        self.0.check(subject, version, schema)
    }

    fn compatibility(&self, subject: Option<&str>) -> Result<Level, RegistryError> {
        self.0.compatibility(subject)
    }

    fn set_compatibility(&self, _subject: Option<&str>, _level: Level) -> Result<(), RegistryError> {
        refused("set levels of compatibility".to_owned())
    }

    fn delete_subject(&self, subject: &str, _permanent: bool) -> Result<Vec<u32>, RegistryError> {
        refused(format!("delete subject {subject}"))
    }
}
