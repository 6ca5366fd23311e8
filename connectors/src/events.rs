//! Events as people write them: JSON objects, checked against the schema of their topic, on their way to a record.

use std::str::FromStr as _;
use std::sync::Arc;

use engram_pipeline::clock;
use engram_pipeline::dead_letter::RECORD_BYTES_MAX;
use engram_schemas::codec::{Decoder, json_to_avro};
use engram_schemas::registry::{Registry, RegistryError};
use engram_schemas::{CONTRACT, SchemaId, Subject, subject as registry_subject, wire};
use serde_json::Value;
use thiserror::Error;

/// No event type goes by this topic and name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct UnknownEvent(String);

/// Which event types of the contract may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The inputs of the services: what they write is theirs alone.
    Inputs,
    /// All, for records that are sent back to where they were.
    AnyTopic,
}

/// The event type of a topic, by name where it takes several.
pub fn subject(of: Of, topic: &str, name: Option<&str>) -> Result<&'static Subject, UnknownEvent> {
    let candidates = || CONTRACT.iter().filter(move |subject| of == Of::AnyTopic || is_input(subject.topic));
    let of_topic: Vec<_> = candidates().filter(|subject| subject.topic == topic).collect();
    let found = match name {
        Some(name) => of_topic.iter().find(|subject| subject.name == name),
        None if of_topic.len() == 1 => of_topic.first(),
        None => None,
    };
    let names = |subjects: &[&Subject]| subjects.iter().map(|subject| subject.name).collect::<Vec<_>>().join(", ");
    match found {
        Some(subject) => Ok(subject),
        None if of_topic.is_empty() => {
            let mut topics: Vec<&str> = candidates().map(|subject| subject.topic).collect();
            topics.dedup();
            Err(UnknownEvent(format!("no events are known for topic {topic:?}; there is: {}", topics.join(", "))))
        }
        None => Err(UnknownEvent(format!("topic {topic} takes: {}; say which with --type", names(&of_topic)))),
    }
}

fn is_input(topic: &str) -> bool {
    topic.ends_with(".events") || matches!(topic, "document.edits" | "telemetry.metrics")
}

/// Encodes events of one type.
pub struct JsonEncoder {
    pub subject: &'static Subject,
    id: SchemaId,
    decoder: Decoder,
}

/// An event, ready to be written.
pub struct Encoded {
    /// The event's own `id`; empty where it has none.
    pub id: String,
    pub key: String,
    pub value: Vec<u8>,
}

impl JsonEncoder {
    pub fn new(registry: &Arc<dyn Registry>, subject: &'static Subject) -> Result<Self, RegistryError> {
        let id = registry.register(&registry_subject(subject.topic, subject.name), subject.schema)?;
        Ok(Self { subject, id, decoder: Decoder::new(Arc::clone(registry)) })
    }

    /// The error is one clause that names the field.
    pub fn encode(&mut self, json: &[u8]) -> Result<Encoded, String> {
        let Subject { schema, key: key_field, check, .. } = *self.subject;
        let mut event: Value = serde_json::from_slice(json).map_err(|error| format!("not JSON: {error}"))?;
        let Some(fields) = event.as_object_mut() else { return Err("not a JSON object".to_owned()) };
        read_times(fields)?;
        let key = match fields.get(key_field) {
            Some(Value::String(key)) => key.clone(),
            Some(other) => return Err(format!("field {key_field:?} is the key and must be a string, not {other}")),
            None => return Err(format!("field {key_field:?} is missing: it is the key")),
        };
        let id = fields.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let body = json_to_avro(schema, &event)?;
        let value = wire::join(self.id, &body);
        let size = key.len() + value.len();
        if size > RECORD_BYTES_MAX {
            return Err(format!("{size} bytes are more than a service takes ({RECORD_BYTES_MAX})"));
        }
        check(&mut self.decoder, &value).map_err(|error| error.to_string())?;
        Ok(Encoded { id, key, value })
    }
}

/// Times may be given as RFC 3339; a missing `time` is now.
fn read_times(fields: &mut serde_json::Map<String, Value>) -> Result<(), String> {
    let time = fields.entry("time").or_insert_with(|| clock::now_ms().into());
    if let Some(text) = time.as_str() {
        let parsed = jiff::Timestamp::from_str(text)
            .map_err(|_| format!("field \"time\": {text:?} is neither milliseconds nor RFC 3339"))?;
        *time = parsed.as_millisecond().into();
    }
    Ok(())
}
