//! Events from and to framed values, one by one, through serde: no tree of generic values in between.
//!
//! A value that was written with the event's current schema is read straight into its struct. One that was written with
//! another version goes through Avro's schema resolution first, by a tree of values: it is slower, and right for whatever
//! compatibility rules let a schema become. Aliases are not followed, so the contract's schemas have none.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use thiserror::Error;

use crate::event::{Event, Invalid, subject};
use crate::registry::{Registry, RegistryError};
use crate::{SchemaId, bounds, intern, json, wire};

pub use crate::json::json_to_avro;

/// The largest string, array or map that a value may announce. Lengths are checked before memory is taken for them.
pub const ALLOCATION_BYTES_MAX: usize = 64 << 20;

/// Writes events of one type to one topic.
pub struct Encoder<E> {
    id: SchemaId,
    writer: GenericDatumWriter<'static>,
    event: PhantomData<fn(&E)>,
}

/// Why an event could not be written.
#[derive(Debug, Error)]
pub enum EncodeError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The struct does not fit its own schema, which `tests/contract.rs` would have found.
    #[error("the event does not fit the schema {name}: {reason}")]
    Schema { name: &'static str, reason: String },
}

impl<E: Event> Encoder<E> {
    /// Registers the event's schema for the topic and writes with the id that it has there.
    pub fn register(registry: &dyn Registry, topic: &str) -> Result<Self, RegistryError> {
        let id = registry.register(&subject(topic, E::NAME), E::SCHEMA)?;
        let schema = intern::parse(E::SCHEMA).expect("the contract's schemas parse");
        let writer = GenericDatumWriter::builder(schema).build().expect("the contract's schemas are whole");
        Ok(Self { id, writer, event: PhantomData })
    }

    /// Writes the framed event over what is in `value`.
    pub fn encode(&self, event: &E, value: &mut Vec<u8>) -> Result<(), EncodeError> {
        event.check()?;
        value.clear();
        value.extend_from_slice(&wire::frame(self.id));
        let written = self.writer.write_ser(value, event);
        written.map(|_| ()).map_err(|error| EncodeError::Schema { name: E::NAME, reason: error.to_string() })
    }
}

/// Reads framed values whose schemas it gets from a registry, each once.
pub struct Decoder {
    registry: Arc<dyn Registry>,
    known: BTreeMap<u32, Written>,
}

/// What is known of a schema id.
struct Written {
    name: Option<String>,
    schema: &'static Schema,
    reader: GenericDatumReader<'static>,
    /// How its values become events of the type of that name; made with the first.
    way: Option<Way>,
}

/// How values become events.
enum Way {
    /// They were written with the event's own schema.
    Straight,
    /// By schema resolution.
    Resolved(GenericDatumReader<'static>),
}

/// Why a value could not be read. All but `Registry` are the value's own fault.
#[derive(Debug, Error)]
pub enum DecodeError {
    #[error("the value is not framed: it must begin with a zero byte and a 4-byte schema id")]
    NotFramed,
    #[error("the registry knows no schema {0}")]
    UnknownSchema(SchemaId),
    #[error("schema {id} is {found}, not {expected}")]
    WrongSchema { id: SchemaId, found: String, expected: &'static str },
    #[error("schema {id} cannot be used: {reason}")]
    UnusableSchema { id: SchemaId, reason: String },
    #[error("the body does not fit schema {id}: {reason}")]
    Malformed { id: SchemaId, reason: String },
    #[error("{0} bytes follow the event")]
    Trailing(usize),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The registry could not be asked: try again later.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl DecodeError {
    /// A stable word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFramed => "not-framed",
            Self::UnknownSchema(_) => "unknown-schema-id",
            Self::WrongSchema { .. } => "wrong-schema",
            Self::UnusableSchema { .. } => "unusable-schema",
            Self::Malformed { .. } | Self::Trailing(_) => "malformed",
            Self::Invalid(invalid) => invalid.code(),
            Self::Registry(_) => "registry-unreachable",
        }
    }
}

impl Decoder {
    pub fn new(registry: Arc<dyn Registry>) -> Self {
        apache_avro::util::max_allocation_bytes(ALLOCATION_BYTES_MAX);
        Self { registry, known: BTreeMap::new() }
    }

    /// The event of a framed value.
    pub fn decode<E: Event>(&mut self, value: &[u8]) -> Result<E, DecodeError> {
        let (id, mut body) = wire::split(value).ok_or(DecodeError::NotFramed)?;
        let written = self.written(id)?;
        if written.name.as_deref() != Some(E::NAME) {
            let found = written.name.clone().unwrap_or_else(|| "no record".to_owned());
            return Err(DecodeError::WrongSchema { id, found, expected: E::NAME });
        }
        if written.way.is_none() {
            written.way = Some(Way::to::<E>(id, written.schema)?);
        }
        let malformed = |error: apache_avro::Error| DecodeError::Malformed { id, reason: error.to_string() };
        let event: E = match &written.way {
            Some(Way::Resolved(reader)) => {
                apache_avro::from_value(&read_whole(id, reader, body)?).map_err(malformed)?
            }
            _ => {
                let event = written.reader.read_deser(&mut body).map_err(malformed)?;
                if !body.is_empty() {
                    return Err(DecodeError::Trailing(body.len()));
                }
                event
            }
        };
        event.check()?;
        Ok(event)
    }

    /// Full name of the record that a framed value holds, for topics that carry several types; `None` if it is no record.
    pub fn type_name(&mut self, value: &[u8]) -> Result<Option<&str>, DecodeError> {
        let (id, _) = wire::split(value).ok_or(DecodeError::NotFramed)?;
        Ok(self.written(id)?.name.as_deref())
    }

    /// A framed value of any schema, as JSON for people; bytes are written as hexadecimal digits.
    pub fn decode_json(&mut self, value: &[u8]) -> Result<serde_json::Value, DecodeError> {
        let (id, body) = wire::split(value).ok_or(DecodeError::NotFramed)?;
        Ok(json::from_avro(read_whole(id, &self.written(id)?.reader, body)?))
    }

    /// The ids of all schemas that were met, ascending.
    pub fn ids_seen(&self) -> Vec<u32> {
        self.known.keys().copied().collect()
    }

    fn written(&mut self, id: SchemaId) -> Result<&mut Written, DecodeError> {
        // Looked up twice where it is new; a single borrow would not let go in the other case.
        if !self.known.contains_key(&id.0) {
            let written = Written::load(&*self.registry, id)?;
            self.known.insert(id.0, written);
        }
        Ok(self.known.get_mut(&id.0).expect("inserted above"))
    }
}

impl Written {
    fn load(registry: &dyn Registry, id: SchemaId) -> Result<Self, DecodeError> {
        let schema = load_schema(registry, id)?;
        let reader = GenericDatumReader::builder(schema).build().map_err(|error| unusable(id, error))?;
        Ok(Self { name: intern::record_name(schema), schema, reader, way: None })
    }
}

impl Way {
    fn to<E: Event>(id: SchemaId, written: &'static Schema) -> Result<Self, DecodeError> {
        let current = intern::parse(E::SCHEMA).expect("the contract's schemas parse");
        if written.canonical_form() == current.canonical_form() {
            return Ok(Self::Straight);
        }
        let reader = GenericDatumReader::builder(written).reader_schema(current).build();
        reader.map(Self::Resolved).map_err(|error| unusable(id, error))
    }
}

/// Reads a body, all of it.
///
/// SUBTLE: the generic reader takes the end of its input inside a string, a boolean or a union for a null, so that it has
/// to be watched from below.
fn read_whole(id: SchemaId, reader: &GenericDatumReader<'_>, body: &[u8]) -> Result<Avro, DecodeError> {
    let mut input = Watched { rest: body, is_short: false };
    let read =
        reader.read_value(&mut input).map_err(|error| DecodeError::Malformed { id, reason: error.to_string() })?;
    match input {
        Watched { is_short: true, .. } => Err(DecodeError::Malformed { id, reason: "the body breaks off".to_owned() }),
        Watched { rest: [], .. } => Ok(read),
        Watched { rest, .. } => Err(DecodeError::Trailing(rest.len())),
    }
}

struct Watched<'a> {
    rest: &'a [u8],
    /// More was asked for than there was.
    is_short: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.rest.read(buffer)?;
        self.is_short |= read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

pub(crate) fn load_schema(registry: &dyn Registry, id: SchemaId) -> Result<&'static Schema, DecodeError> {
    let text = registry.schema(id)?.ok_or(DecodeError::UnknownSchema(id))?;
    let schema = intern::parse(&text).map_err(|reason| unusable(id, reason))?;
    bounds::check(schema).map_err(|reason| unusable(id, reason))?;
    Ok(schema)
}

pub(crate) fn unusable(id: SchemaId, reason: impl std::fmt::Display) -> DecodeError {
    DecodeError::UnusableSchema { id, reason: reason.to_string() }
}
