//! Framed values of one event type into Arrow batches: a column a field, no struct for each event.
//!
//! Values written with different versions of the schema come out in the columns of the current one (Avro's schema
//! resolution, by arrow-avro).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow_avro::reader::{Decoder, DecoderMode, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};

use crate::codec::{DecodeError, load_schema, unusable};
use crate::event::Event;
use crate::registry::Registry;
use crate::{SchemaId, intern, wire};

/// Collects events of one type into batches.
pub struct BatchDecoder {
    registry: Arc<dyn Registry>,
    name: &'static str,
    reader_schema: &'static str,
    rows_max: usize,
    decoders: BTreeMap<u32, Decoder>,
    /// Schema id of the rows that its decoder has not given out yet.
    current: Option<SchemaId>,
    /// The bodies of those rows: a body that breaks off leaves its decoder's columns uneven, and they are read again.
    bodies: Vec<u8>,
    ends: Vec<usize>,
    finished: Vec<RecordBatch>,
    rows: usize,
}

impl BatchDecoder {
    /// Batches of `E` with at most `rows_max` rows.
    pub fn new<E: Event>(registry: Arc<dyn Registry>, rows_max: usize) -> Self {
        Self::of(registry, E::NAME, E::SCHEMA, rows_max)
    }

    /// The same for the type with this name and schema.
    pub fn of(registry: Arc<dyn Registry>, name: &'static str, schema: &'static str, rows_max: usize) -> Self {
        Self {
            registry,
            name,
            reader_schema: schema,
            rows_max: rows_max.max(1),
            decoders: BTreeMap::new(),
            current: None,
            bodies: Vec::new(),
            ends: Vec::new(),
            finished: Vec::new(),
            rows: 0,
        }
    }

    /// Adds a row. A value that cannot be read adds none and leaves the others as they are.
    ///
    /// # Panics
    /// If the batch is full: call `finish` when `is_full`.
    pub fn push(&mut self, value: &[u8]) -> Result<(), DecodeError> {
        assert!(!self.is_full(), "the batch is full");
        let (id, body) = wire::split(value).ok_or(DecodeError::NotFramed)?;
        if !self.decoders.contains_key(&id.0) {
            let decoder = self.decoder(id)?;
            self.decoders.insert(id.0, decoder);
        }
        if self.current.is_some_and(|current| current != id) {
            self.finish_current()?;
        }
        self.current = Some(id);
        match decode_one(self.decoders.get_mut(&id.0).expect("inserted above"), id, body) {
            Ok(()) => {
                self.bodies.extend_from_slice(body);
                self.ends.push(self.bodies.len());
                self.rows += 1;
                Ok(())
            }
            Err(error) => {
                self.read_again(id)?;
                Err(error)
            }
        }
    }

    pub fn is_full(&self) -> bool {
        self.rows >= self.rows_max
    }

    /// The rows since the last call, in the order in which they were pushed; `None` if there were none.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, DecodeError> {
        self.finish_current()?;
        self.rows = 0;
        let batches = std::mem::take(&mut self.finished);
        match batches.as_slice() {
            [] => Ok(None),
            [_] => Ok(batches.into_iter().next()),
            [first, ..] => {
                let whole = concat_batches(&first.schema(), &batches);
                whole.map(Some).map_err(|error| unusable(SchemaId(0), error))
            }
        }
    }

    fn finish_current(&mut self) -> Result<(), DecodeError> {
        let Some(id) = self.current.take() else { return Ok(()) };
        self.bodies.clear();
        self.ends.clear();
        let decoder = self.decoders.get_mut(&id.0).expect("it is the current one");
        if let Some(batch) = decoder.flush().map_err(|error| unusable(id, error))? {
            self.finished.push(batch);
        }
        Ok(())
    }

    fn read_again(&mut self, id: SchemaId) -> Result<(), DecodeError> {
        let mut decoder = self.decoder(id)?;
        let mut start = 0;
        for &end in &self.ends {
            decode_one(&mut decoder, id, &self.bodies[start..end])?;
            start = end;
        }
        self.decoders.insert(id.0, decoder);
        Ok(())
    }

    fn decoder(&self, id: SchemaId) -> Result<Decoder, DecodeError> {
        let schema = load_schema(&*self.registry, id)?;
        if intern::record_name(schema).as_deref() != Some(self.name) {
            let found = intern::record_name(schema).unwrap_or_else(|| "no record".to_owned());
            return Err(DecodeError::WrongSchema { id, found, expected: self.name });
        }
        let text = serde_json::to_string(schema).map_err(|error| unusable(id, error))?;
        let fingerprint = Fingerprint::Id(id.0);
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(fingerprint, AvroSchema::new(text)).map_err(|error| unusable(id, error))?;
        ReaderBuilder::new()
            .with_writer_schema_store(store)
            .with_active_fingerprint(fingerprint)
            .with_reader_schema(AvroSchema::new(self.reader_schema.to_owned()))
            .with_decoder_mode(DecoderMode::UnframedDatum)
            .with_batch_size(self.rows_max)
            .build_decoder()
            .map_err(|error| unusable(id, error))
    }
}

fn decode_one(decoder: &mut Decoder, id: SchemaId, body: &[u8]) -> Result<(), DecodeError> {
    let read = decoder.decode(body).map_err(|error| DecodeError::Malformed { id, reason: error.to_string() })?;
    if read < body.len() { Err(DecodeError::Trailing(body.len() - read)) } else { Ok(()) }
}
