//! Records that cannot be processed: each goes to the topic `dead-letters`, in the same transaction as everything else,
//! with its bytes, its place and the cause, so that it can be mended and sent again. Processing goes on.

use std::sync::Arc;

use engram_schemas::codec::Encoder;
use engram_schemas::dead_letter::{DeadLetter, Header};
use engram_schemas::registry::{Registry, RegistryError};

use crate::clock::Clock;
use crate::log::kafka::MESSAGE_BYTES_MAX;
use crate::log::{Cleanup, LogError, NewRecord, RecordRef, TopicPartition, TopicSpec};
use crate::outbox::SharedOutbox;

/// The topic of dead letters.
pub const TOPIC: &str = "dead-letters";

/// The largest key and value together that a processor is given; larger records are dead letters.
pub const RECORD_BYTES_MAX: usize = 10 << 20;

/// The largest letter: what a producer hands over, less what a batch takes for itself. A record that does not fit into one
/// (twice its key, its value and its headers) is named by its place only.
const LETTER_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (1 << 20);

/// The topic as it is created: it must take every record that an input can hold.
pub fn topic_spec(partitions: i32) -> TopicSpec {
    TopicSpec { name: TOPIC.to_owned(), partitions, cleanup: Cleanup::Keep, max_message_bytes: MESSAGE_BYTES_MAX }
}

fn size(record: &RecordRef<'_>, headers: &[crate::log::Header]) -> usize {
    let header = |header: &crate::log::Header| header.key.len() + header.value.as_ref().map_or(0, Vec::len) + 16;
    // The key is the letter's own too.
    record.size() + record.key.map_or(0, <[u8]>::len) + headers.iter().map(header).sum::<usize>()
}

/// Why a record is a dead letter.
pub struct Cause<'a> {
    /// Stable, for machines.
    pub code: &'a str,
    /// For people.
    pub detail: &'a str,
}

/// Writes a task's dead letters.
pub struct DeadLetters {
    outbox: SharedOutbox,
    clock: Clock,
    encoder: Encoder<DeadLetter>,
    service: String,
    partition: i32,
    buffer: Vec<u8>,
}

impl DeadLetters {
    /// `partition` of the topic takes the letters of this task.
    pub fn new(
        outbox: SharedOutbox,
        clock: Clock,
        registry: &Arc<dyn Registry>,
        service: &str,
        partition: i32,
    ) -> Result<Self, RegistryError> {
        let encoder = Encoder::register(&**registry, TOPIC)?;
        Ok(Self { outbox, clock, encoder, service: service.to_owned(), partition, buffer: Vec::new() })
    }

    pub fn send(
        &mut self,
        place: &TopicPartition,
        record: RecordRef<'_>,
        headers: Vec<crate::log::Header>,
        cause: &Cause<'_>,
    ) -> Result<(), LogError> {
        tracing::warn!(%place, offset = record.offset, cause = cause.code, detail = cause.detail, "dead letter");
        metrics::counter!("engram_dead_letters_total", "service" => self.service.clone(), "cause" => cause.code.to_owned())
            .increment(1);
        let size = size(&record, &headers);
        let is_whole = size <= LETTER_BYTES_MAX;
        let detail = if is_whole {
            cause.detail.to_owned()
        } else {
            format!("{}; the letter would be {size} bytes, so read the record at its place", cause.detail)
        };
        let (key, value) = if is_whole { (record.key, record.value) } else { (None, None) };
        let headers = if is_whole { headers } else { Vec::new() };
        let letter = DeadLetter {
            service: self.service.clone(),
            topic: place.topic.to_string(),
            partition: place.partition,
            offset: record.offset,
            timestamp: record.timestamp_ms,
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            headers: headers.into_iter().map(|header| Header { key: header.key, value: header.value }).collect(),
            cause: cause.code.to_owned(),
            detail,
            time: self.clock.now_ms(),
            whole: is_whole,
        };
        self.encoder
            .encode(&letter, &mut self.buffer)
            .map_err(|error| LogError::failed("cannot encode a dead letter", error))?;
        let record = NewRecord {
            topic: TOPIC,
            partition: self.partition,
            timestamp_ms: None,
            key,
            value: Some(&self.buffer),
            headers: &[("ce_specversion", Some(b"1.0")), ("ce_type", Some(b"engram.pipeline.DeadLetter"))],
        };
        self.outbox.borrow_mut().write(&record, false)
    }
}
