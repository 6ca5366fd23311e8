//! A registry in this process's memory: for tests, and for tools that need ids and nobody else to know them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::state::{Append, Plan, State};
use super::{RegisteredSchema, Registry, RegistryError, Version};
use crate::SchemaId;
use crate::compatibility::Level;

#[derive(Default)]
pub struct MemoryRegistry(Mutex<State>);

impl MemoryRegistry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for MemoryRegistry {
    fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, RegistryError> {
        let mut state = self.state();
        loop {
            match state.plan_register(subject, schema)? {
                Plan::Existing(id) => return Ok(id),
                Plan::Append(Append { key, value }) => state.apply(&key, value.as_deref()),
            }
        }
    }

    fn schema(&self, id: SchemaId) -> Result<Option<String>, RegistryError> {
        Ok(self.state().schema(id).map(str::to_owned))
    }

    fn subjects(&self) -> Result<Vec<String>, RegistryError> {
        Ok(self.state().subjects())
    }

    fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        Ok(self.state().versions(subject))
    }

    fn version(&self, subject: &str, version: Version) -> Result<Option<RegisteredSchema>, RegistryError> {
        Ok(self.state().version(subject, version))
    }

    fn lookup(&self, subject: &str, schema: &str) -> Result<Option<RegisteredSchema>, RegistryError> {
        self.state().lookup(subject, schema)
    }

    fn check(&self, subject: &str, version: Version, schema: &str) -> Result<Vec<String>, RegistryError> {
        self.state().check(subject, version, schema)
    }

    fn compatibility(&self, subject: Option<&str>) -> Result<Level, RegistryError> {
        Ok(self.state().compatibility(subject))
    }

    fn set_compatibility(&self, subject: Option<&str>, level: Level) -> Result<(), RegistryError> {
        let mut state = self.state();
        let Append { key, value } = state.plan_compatibility(subject, level);
        state.apply(&key, value.as_deref());
        Ok(())
    }

    fn delete_subject(&self, subject: &str, permanent: bool) -> Result<Vec<u32>, RegistryError> {
        let mut state = self.state();
        let versions = if permanent { state.retained_versions(subject) } else { state.versions(subject) };
        for Append { key, value } in state.plan_delete(subject, permanent)? {
            state.apply(&key, value.as_deref());
        }
        Ok(versions)
    }
}
