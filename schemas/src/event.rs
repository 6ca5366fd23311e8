//! What makes a struct an event, and which events each topic takes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::codec::{DecodeError, Decoder};

/// A typed event: an Avro record that has a struct.
///
/// INVARIANT: the struct's serde field names, in order, are those of `SCHEMA`.
pub trait Event: Serialize + DeserializeOwned + Send + 'static {
    /// Full name of the Avro record, for example `engram.activity.Interaction`.
    const NAME: &'static str;
    /// Its current `.avsc`.
    const SCHEMA: &'static str;

    /// Refuses what the schema allows and Engram does not.
    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

/// An event that fits its schema and still cannot be true.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Invalid {
    #[error("field {0:?} is not a finite number")]
    NotFinite(&'static str),
    #[error("field {0:?} is empty")]
    Empty(&'static str),
    #[error("field {0:?} is not a time between the years 1 and 9999: {1} ms")]
    Time(&'static str, i64),
    #[error("field {0:?} is longer than {1} {2}")]
    TooLong(&'static str, usize, &'static str),
    #[error("field {0:?} has more than {1} entries")]
    TooMany(&'static str, usize),
    #[error("field {field:?} is {found:?}, not one of {}", .known.join(", "))]
    NotOneOf { field: &'static str, found: String, known: &'static [&'static str] },
}

impl Invalid {
    /// A stable word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFinite(_) => "not-finite",
            Self::Empty(_) => "empty-field",
            Self::Time(..) => "time-out-of-range",
            Self::TooLong(..) => "too-long",
            Self::TooMany(..) => "too-many",
            Self::NotOneOf { .. } => "unknown-value",
        }
    }
}

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999Z, ms since the epoch: what RFC 3339 can write.
pub const TIME_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

pub(crate) fn check_time(field: &'static str, time: i64) -> Result<(), Invalid> {
    if TIME_MS.contains(&time) { Ok(()) } else { Err(Invalid::Time(field, time)) }
}

pub(crate) fn check_filled(field: &'static str, text: &str) -> Result<(), Invalid> {
    if text.is_empty() { Err(Invalid::Empty(field)) } else { Ok(()) }
}

pub(crate) fn check_finite(field: &'static str, number: f64) -> Result<(), Invalid> {
    if number.is_finite() { Ok(()) } else { Err(Invalid::NotFinite(field)) }
}

/// Characters, as Unicode counts them.
pub(crate) fn check_chars(field: &'static str, text: &str, most: usize) -> Result<(), Invalid> {
    // No text has more characters than bytes: most need not be counted.
    if text.len() > most && text.chars().nth(most).is_some() {
        return Err(Invalid::TooLong(field, most, "characters"));
    }
    Ok(())
}

pub(crate) fn check_bytes(field: &'static str, text: &str, most: usize) -> Result<(), Invalid> {
    if text.len() > most { Err(Invalid::TooLong(field, most, "bytes")) } else { Ok(()) }
}

pub(crate) fn check_count(field: &'static str, count: usize, most: usize) -> Result<(), Invalid> {
    if count > most { Err(Invalid::TooMany(field, most)) } else { Ok(()) }
}

pub(crate) fn check_one_of(field: &'static str, text: &str, known: &'static [&'static str]) -> Result<(), Invalid> {
    if known.contains(&text) {
        return Ok(());
    }
    Err(Invalid::NotOneOf { field, found: text.chars().take(FOUND_CHARS_MAX).collect(), known })
}

/// Of a wrong value, as much as its refusal repeats.
const FOUND_CHARS_MAX: usize = 60;

/// An event type that a topic takes.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    pub topic: &'static str,
    /// Full name of the record.
    pub name: &'static str,
    /// Its current `.avsc`.
    pub schema: &'static str,
    /// The field that is the record's key when it is produced from JSON.
    pub key: &'static str,
    /// Reads a framed value, and says what is wrong with the event.
    pub check: fn(&mut Decoder, &[u8]) -> Result<(), DecodeError>,
}

/// All topics that the project itself writes events to; services add their `engram-SERVICE-manifests`.
pub const CONTRACT: &[Subject] = &[
    of::<crate::activity::Interaction>("activity.events", "user"),
    of::<crate::activity::WindowCount>("activity.windows", "key"),
    of::<crate::activity::Session>("activity.sessions", "user"),
    of::<crate::activity::WindowDelta>("engram-activity-repartition", "key"),
    of::<crate::activity::TaskClock>("engram-activity-repartition", "source"),
    of::<crate::graph::RelationCreated>("graph.events", "workspace"),
    of::<crate::graph::RelationModified>("graph.events", "workspace"),
    of::<crate::graph::RelationDeleted>("graph.events", "workspace"),
    of::<crate::graph::Relation>("graph.current", "workspace"),
    of::<crate::graph::GraphConflict>("graph.conflicts", "workspace"),
    of::<crate::memory::MemoryCreated>("memory.events", "workspace"),
    of::<crate::memory::MemoryFieldEdited>("memory.events", "workspace"),
    of::<crate::memory::MemoryTagAdded>("memory.events", "workspace"),
    of::<crate::memory::MemoryTagRemoved>("memory.events", "workspace"),
    of::<crate::memory::MemoryMetadataSet>("memory.events", "workspace"),
    of::<crate::memory::MemoryDeleted>("memory.events", "workspace"),
    of::<crate::memory::MemoryRestored>("memory.events", "workspace"),
    of::<crate::memory::MemoryEmbeddingUpdated>("memory.events", "workspace"),
    of::<crate::memory::Memory>("memory.current", "workspace"),
    of::<crate::document::Edit>("document.edits", "document"),
    of::<crate::document::SequencedEdit>("document.sequenced", "document"),
    of::<crate::document::DocumentState>("document.state", "document"),
    of::<crate::document::EditConflict>("document.conflicts", "document"),
    of::<crate::document::EditRejected>("document.rejects", "document"),
    of::<crate::presence::SessionSeen>("presence.events", "document"),
    of::<crate::presence::SessionLeft>("presence.events", "document"),
    of::<crate::presence::Presence>("presence.current", "document"),
    of::<crate::dead_letter::DeadLetter>("dead-letters", "topic"),
    of::<crate::operations::ServiceInstance>("services.registry", "service"),
    of::<crate::dead_letter::LetterReplayed>("dead-letters.replays", "topic"),
    of::<crate::manifest::Manifest>("engram-activity-manifests", "service"),
    of::<crate::manifest::Manifest>("engram-collaboration-manifests", "service"),
    of::<crate::manifest::Manifest>("engram-scoring-manifests", "service"),
    of::<crate::telemetry::Metric>("telemetry.metrics", "entity"),
    of::<crate::telemetry::Sample>("telemetry.metrics", "entity"),
    of::<crate::scoring::ModelLoaded>("control.commands", "name"),
    of::<crate::scoring::ModelUnloaded>("control.commands", "name"),
    of::<crate::scoring::Score>("scores", "series"),
];

const fn of<E: Event>(topic: &'static str, key: &'static str) -> Subject {
    Subject { topic, name: E::NAME, schema: E::SCHEMA, key, check: check::<E> }
}

fn check<E: Event>(decoder: &mut Decoder, value: &[u8]) -> Result<(), DecodeError> {
    decoder.decode::<E>(value).map(drop)
}

/// The registry's subject of an event type in a topic (Confluent's `TopicRecordNameStrategy`), so that one topic may
/// carry several types in key order.
pub fn subject(topic: &str, name: &str) -> String {
    format!("{topic}-{name}")
}
