//! The embedded schema registry: Confluent's records in the compacted topic `_schemas`, so that every process that can
//! reach the log has the registry, with no server of its own.
//!
//! INVARIANT: the log decides. Whoever registers appends a record, reads the topic to its end, and looks whether that
//! record won; if another was first with its id or version, it tries again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engram_schemas::SchemaId;
use engram_schemas::compatibility::Level;
use engram_schemas::registry::state::{Append, Plan, State};
use engram_schemas::registry::{RegisteredSchema, Registry, RegistryError, Version};

use crate::log::{Cleanup, Consumer, Log, LogError, NewRecord, Producer, ProducerOptions, TopicPartition, TopicSpec};

/// Confluent's name for it.
pub const TOPIC: &str = "_schemas";

/// Longest wait for the topic's end.
const SYNC_MAX: Duration = Duration::from_secs(20);
/// Attempts to register against others that do the same.
const TRIES_MAX: usize = 20;

/// A registry whose storage is the log.
pub struct LogRegistry {
    log: Arc<dyn Log>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    state: State,
    position: i64,
    reader: Option<Box<dyn Consumer>>,
    producer: Option<Box<dyn Producer>>,
}

impl LogRegistry {
    /// Nothing is read or created before the first use.
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self { log, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state at the topic's end.
    fn current(&self) -> Result<MutexGuard<'_, Inner>, RegistryError> {
        let mut inner = self.lock();
        self.sync(&mut inner).map_err(unreachable)?;
        Ok(inner)
    }

    fn sync(&self, inner: &mut Inner) -> Result<(), LogError> {
        let partition = TopicPartition::new(TOPIC, 0);
        if inner.reader.is_none() {
            if !self.log.topics()?.iter().any(|topic| topic.name == TOPIC) {
                return Ok(());
            }
            let mut reader = self.log.reader()?;
            let first = self.log.offsets(std::slice::from_ref(&partition))?[0].first;
            reader.assign(&[(partition.clone(), first)])?;
            inner.position = first;
            inner.reader = Some(reader);
        }
        let end = self.log.offsets(std::slice::from_ref(&partition))?[0].end;
        let started = Instant::now();
        while inner.position < end {
            let reader = inner.reader.as_mut().expect("made above");
            // What a failed fetch leaves unread must not be passed over: the next reader begins anew.
            let fetched = match reader.fetch(0, 500) {
                Ok(fetched) => fetched,
                Err(error) => {
                    inner.reader = None;
                    return Err(error);
                }
            };
            if fetched.records.is_none() && fetched.end.is_none() {
                if started.elapsed() > SYNC_MAX {
                    inner.reader = None;
                    return Err(LogError::failed("cannot read the schemas", "the topic's end was not reached in time"));
                }
                reader.wait(Duration::from_millis(50))?;
                continue;
            }
            if let Some(batch) = fetched.records {
                for index in 0..batch.len() {
                    let record = batch.record(index);
                    if let Some(key) = record.key {
                        inner.state.apply(key, record.value);
                    }
                    inner.position = record.offset + 1;
                }
            }
            inner.position = inner.position.max(fetched.end.unwrap_or(0));
        }
        Ok(())
    }

    fn append(&self, inner: &mut Inner, records: &[Append]) -> Result<(), LogError> {
        if inner.producer.is_none() {
            self.log.create_topics(&[TopicSpec {
                name: TOPIC.to_owned(),
                partitions: 1,
                cleanup: Cleanup::Compact,
                max_message_bytes: 1 << 20,
            }])?;
            let options = ProducerOptions { client_id: "engram-registry".to_owned(), transactional_id: None };
            inner.producer = Some(self.log.producer(&options)?);
        }
        let mut producer = inner.producer.take().expect("made above");
        for Append { key, value } in records {
            let record = NewRecord {
                topic: TOPIC,
                partition: 0,
                timestamp_ms: None,
                key: Some(key),
                value: value.as_deref(),
                headers: &[],
            };
            producer.write(&record, false)?;
        }
        producer.flush()?;
        // One that has failed is not used again.
        inner.producer = Some(producer);
        Ok(())
    }

    fn change(&self, inner: &mut Inner, records: &[Append]) -> Result<(), RegistryError> {
        self.append(inner, records).map_err(unreachable)?;
        self.sync(inner).map_err(unreachable)
    }
}

impl Registry for LogRegistry {
    fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, RegistryError> {
        let mut inner = self.current()?;
        for _ in 0..TRIES_MAX {
            match inner.state.plan_register(subject, schema)? {
                Plan::Existing(id) => return Ok(id),
                Plan::Append(record) => self.change(&mut inner, &[record])?,
            }
        }
        Err(RegistryError::Unreachable {
            url: TOPIC.to_owned(),
            source: format!("others registered schemas faster than this process, {TRIES_MAX} times").into(),
        })
    }

    fn schema(&self, id: SchemaId) -> Result<Option<String>, RegistryError> {
        if let Some(known) = self.lock().state.schema(id) {
            return Ok(Some(known.to_owned()));
        }
        Ok(self.current()?.state.schema(id).map(str::to_owned))
    }

    fn subjects(&self) -> Result<Vec<String>, RegistryError> {
        Ok(self.current()?.state.subjects())
    }

    fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        Ok(self.current()?.state.versions(subject))
    }

    fn version(&self, subject: &str, version: Version) -> Result<Option<RegisteredSchema>, RegistryError> {
        Ok(self.current()?.state.version(subject, version))
    }

    fn lookup(&self, subject: &str, schema: &str) -> Result<Option<RegisteredSchema>, RegistryError> {
        self.current()?.state.lookup(subject, schema)
    }

    fn check(&self, subject: &str, version: Version, schema: &str) -> Result<Vec<String>, RegistryError> {
        self.current()?.state.check(subject, version, schema)
    }

    fn compatibility(&self, subject: Option<&str>) -> Result<Level, RegistryError> {
        Ok(self.current()?.state.compatibility(subject))
    }

    fn set_compatibility(&self, subject: Option<&str>, level: Level) -> Result<(), RegistryError> {
        let mut inner = self.current()?;
        let record = inner.state.plan_compatibility(subject, level);
        self.change(&mut inner, &[record])
    }

    fn delete_subject(&self, subject: &str, permanent: bool) -> Result<Vec<u32>, RegistryError> {
        let mut inner = self.current()?;
        let state = &inner.state;
        let versions = if permanent { state.retained_versions(subject) } else { state.versions(subject) };
        let records = state.plan_delete(subject, permanent)?;
        self.change(&mut inner, &records)?;
        Ok(versions)
    }
}

fn unreachable(error: LogError) -> RegistryError {
    RegistryError::Unreachable { url: format!("the log's topic {TOPIC}"), source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::log::embedded::EmbeddedLog;

    const SCHEMA: &str = r#"{"type": "record", "name": "R", "fields": []}"#;

    /// Runs what must not hang.
    fn within_seconds<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, outcome) = sync_channel(1);
        std::thread::spawn(move || done.send(work()));
        outcome.recv_timeout(Duration::from_secs(20)).expect("it ends")
    }

    #[test]
    fn subjects_are_registered_configured_and_deleted() {
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory());
        let registry = Arc::new(LogRegistry::new(Arc::clone(&log)));
        within_seconds(move || {
            let id = registry.register("s", SCHEMA).expect("registered");
            registry.set_compatibility(Some("s"), Level::None).expect("configured");
            // Another process sees the same.
            let other = LogRegistry::new(log);
            assert_eq!(other.register("s", SCHEMA).expect("known"), id);
            assert_eq!(other.compatibility(Some("s")).expect("known"), Level::None);
            assert_eq!(registry.delete_subject("s", false).expect("deleted"), [1]);
            assert_eq!(registry.delete_subject("never", false).expect("nothing to do"), Vec::<u32>::new());
            assert_eq!(other.subjects().expect("known"), Vec::<String>::new());
            assert!(other.schema(id).expect("known").is_some(), "records that were written with it can still be read");
            assert_eq!(registry.delete_subject("s", true).expect("deleted"), [1]);
            assert_eq!(registry.schema(id).expect("known"), None);
        });
    }
}
