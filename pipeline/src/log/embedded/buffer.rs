//! Records that a producer was given and the log does not have yet, by partition.

use std::collections::HashMap;
use std::sync::Arc;

use super::stored;
use super::view::Place;
use crate::log::{NewRecord, TopicPartition};

/// Records in memory, with what `flush` is to tell about them.
#[derive(Default)]
pub struct Buffer {
    /// Each topic's partitions, those that have nothing among them.
    topics: HashMap<Arc<str>, Vec<Records>>,
    bytes: usize,
}

/// Records of one partition, in order, as payloads one after the other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Records {
    pub payloads: Vec<u8>,
    /// Where each payload ends.
    pub ends: Vec<usize>,
    /// How many there are up to the last tracked one.
    pub tracked: Option<usize>,
}

/// Records that have been given offsets.
pub struct Reserved {
    pub partition: TopicPartition,
    pub place: Place,
    pub first: i64,
    /// The partition's greatest timestamp before these.
    pub timestamp_max_ms: i64,
    pub records: Records,
}

impl Buffer {
    /// Adds a record whose partition is known to exist, and which has a timestamp.
    pub fn push(&mut self, record: &NewRecord<'_>, tracked: bool) {
        let index = record.partition as usize;
        if let Some(partitions) = self.topics.get_mut(record.topic)
            && let Some(records) = partitions.get_mut(index)
        {
            self.bytes += records.push(record, tracked);
            return;
        }
        let partitions = self.topics.entry(record.topic.into()).or_default();
        partitions.resize_with(partitions.len().max(index + 1), Records::default);
        self.bytes += partitions[index].push(record, tracked);
    }

    /// Adds a whole partition, as another process sent it.
    pub fn insert(&mut self, partition: &TopicPartition, records: Records) {
        let partitions = self.topics.entry(Arc::clone(&partition.topic)).or_default();
        let index = partition.partition as usize;
        partitions.resize_with(partitions.len().max(index + 1), Records::default);
        self.bytes += records.payloads.len();
        partitions[index] = records;
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The partitions that have records, in no order.
    pub fn into_partitions(self) -> impl Iterator<Item = (TopicPartition, Records)> {
        self.topics.into_iter().flat_map(|(topic, partitions)| {
            let numbered = partitions.into_iter().enumerate().filter(|(_, records)| !records.ends.is_empty());
            numbered.map(move |(index, records)| (TopicPartition::new(Arc::clone(&topic), index as i32), records))
        })
    }
}

impl Records {
    fn push(&mut self, record: &NewRecord<'_>, tracked: bool) -> usize {
        let before = self.payloads.len();
        let timestamp_ms = record.timestamp_ms.expect("the producer has dated it");
        stored::put_payload(&mut self.payloads, record, timestamp_ms);
        self.ends.push(self.payloads.len());
        if tracked {
            self.tracked = Some(self.ends.len());
        }
        self.payloads.len() - before
    }

    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let payload = &self.payloads[start..end];
            start = end;
            payload
        })
    }

    /// Whether the payloads are whole, lie one after the other and fill the bytes.
    pub fn is_sound(&self) -> bool {
        self.ends.is_sorted()
            && self.ends.last() == Some(&self.payloads.len())
            && self.tracked.is_none_or(|tracked| (1..=self.ends.len()).contains(&tracked))
            && self.payloads().all(stored::is_payload)
    }
}

impl Reserved {
    /// The offset after the last tracked record.
    pub fn tracked_end(&self) -> Option<i64> {
        self.records.tracked.map(|count| self.first + count as i64)
    }
}
