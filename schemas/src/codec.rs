//! Events from and to framed values, one by one, through serde: no tree of generic values in between.
//!
//! Reading goes by the schema that the value was written with: fields are matched by name, those that the struct does
//! not have are skipped, those that the value does not have get their default. That is Avro's schema resolution for what
//! `FULL_TRANSITIVE` lets a schema become.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::marker::PhantomData;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use thiserror::Error;

use crate::event::{Event, Invalid, subject};
use crate::registry::{Registry, RegistryError};
use crate::{SchemaId, intern, json, wire};

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
    reader: GenericDatumReader<'static>,
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
        let event: E = written
            .reader
            .read_deser(&mut body)
            .map_err(|error| DecodeError::Malformed { id, reason: error.to_string() })?;
        if !body.is_empty() {
            return Err(DecodeError::Trailing(body.len()));
        }
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
        let (id, mut body) = wire::split(value).ok_or(DecodeError::NotFramed)?;
        let read = self.written(id)?.reader.read_value(&mut body.by_ref());
        let read = read.map_err(|error| DecodeError::Malformed { id, reason: error.to_string() })?;
        if !body.is_empty() {
            return Err(DecodeError::Trailing(body.len()));
        }
        Ok(json::from_avro(read))
    }

    /// The ids of all schemas that were met, ascending.
    pub fn ids_seen(&self) -> Vec<u32> {
        self.known.keys().copied().collect()
    }

    fn written(&mut self, id: SchemaId) -> Result<&Written, DecodeError> {
        // Looked up twice where it is new; a single borrow would not let go in the other case.
        if !self.known.contains_key(&id.0) {
            let written = Written::load(&*self.registry, id)?;
            self.known.insert(id.0, written);
        }
        Ok(&self.known[&id.0])
    }
}

impl Written {
    fn load(registry: &dyn Registry, id: SchemaId) -> Result<Self, DecodeError> {
        let schema = load_schema(registry, id)?;
        let reader = GenericDatumReader::builder(schema)
            .build()
            .map_err(|error| DecodeError::UnusableSchema { id, reason: error.to_string() })?;
        Ok(Self { name: intern::record_name(schema), reader })
    }
}

pub(crate) fn load_schema(registry: &dyn Registry, id: SchemaId) -> Result<&'static Schema, DecodeError> {
    let text = registry.schema(id)?.ok_or(DecodeError::UnknownSchema(id))?;
    intern::parse(&text).map_err(|reason| DecodeError::UnusableSchema { id, reason })
}
