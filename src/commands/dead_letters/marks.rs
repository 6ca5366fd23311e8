//! Which letters were sent back: the topic `dead-letters.replays`, a record for each, written in the transaction that sent it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use engram_pipeline::clock;
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{Cleanup, Log, NewRecord, Producer, TopicSpec};
use engram_pipeline::service::TOPIC_MESSAGE_BYTES_MAX;
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::dead_letter::LetterReplayed;

use crate::reading;
use crate::values::{Place, Start};
use crate::wire::Connection;

pub const TOPIC: &str = "dead-letters.replays";

/// The last time that each letter was sent back.
pub type Marks = BTreeMap<Place, LetterReplayed>;

/// Those of all transactions that have ended.
pub fn read(connection: &Connection) -> anyhow::Result<Marks> {
    let log = &*connection.log;
    let mut marks = Marks::new();
    let Some(topic) = log.topics()?.into_iter().find(|topic| topic.name == TOPIC) else { return Ok(marks) };
    let mut decoder = Decoder::new(connection.registry.clone());
    let spans = reading::spans(log, &topic, Start::Beginning, Some(Start::End))?;
    reading::read(log, &spans, &AtomicBool::new(false), |found| {
        if let Some(value) = found.and_then(|(_, record)| record.value) {
            let mark: LetterReplayed = decoder.decode(value)?;
            marks.insert(Place { partition: mark.letter_partition, offset: mark.letter_offset }, mark);
        }
        Ok(())
    })?;
    Ok(marks)
}

/// Writes marks.
pub struct Marker {
    encoder: Encoder<LetterReplayed>,
    partitions: i32,
    value: Vec<u8>,
}

impl Marker {
    /// Creates the topic if need be.
    pub fn new(connection: &Connection) -> anyhow::Result<Self> {
        let partitions = |log: &dyn Log| -> anyhow::Result<Option<i32>> {
            Ok(log.topics()?.into_iter().find(|topic| topic.name == TOPIC).map(|topic| topic.partitions))
        };
        let known = match partitions(&*connection.log)? {
            Some(known) => known,
            None => {
                connection.log.create_topics(&[TopicSpec {
                    name: TOPIC.to_owned(),
                    partitions: 1,
                    cleanup: Cleanup::Compact,
                    max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
                }])?;
                1
            }
        };
        Ok(Self { encoder: Encoder::register(&*connection.registry, TOPIC)?, partitions: known, value: Vec::new() })
    }

    /// Into the producer's open transaction.
    pub fn write(
        &mut self,
        producer: &mut dyn Producer,
        letter: Place,
        topic: &str,
        partition: i32,
        mended: bool,
    ) -> anyhow::Result<()> {
        let mark = LetterReplayed {
            letter_partition: letter.partition,
            letter_offset: letter.offset,
            topic: topic.to_owned(),
            partition,
            mended,
            time: clock::now_ms(),
        };
        self.encoder.encode(&mark, &mut self.value)?;
        let key = letter.to_string();
        let record = NewRecord {
            topic: TOPIC,
            partition: partition_for(key.as_bytes(), self.partitions),
            timestamp_ms: None,
            key: Some(key.as_bytes()),
            value: Some(&self.value),
            headers: &[],
        };
        Ok(producer.write(&record, false)?)
    }
}
