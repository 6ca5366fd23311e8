//! Records as the log holds them: bytes at an offset of a topic's partition.

use std::fmt;
use std::sync::Arc;

/// A partition of a topic. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A record's header; Kafka allows a null value and repeated keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub key: String,
    pub value: Option<Vec<u8>>,
}

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    pub topic: &'a str,
    pub partition: i32,
    /// Milliseconds since the epoch, UTC; `None`, and 0 (which librdkafka takes for it), is the moment of writing.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// A name may repeat, and a value be null.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

impl NewRecord<'_> {
    pub fn owned_headers(&self) -> Vec<Header> {
        let owned =
            |(key, value): &(&str, Option<&[u8]>)| Header { key: (*key).to_owned(), value: value.map(<[u8]>::to_vec) };
        self.headers.iter().map(owned).collect()
    }
}

/// A record as read; borrows from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    pub offset: i64,
    /// Milliseconds since the epoch, UTC, as its producer set it.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

impl RecordRef<'_> {
    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len)
    }
}

/// Consecutive records of one partition, as one fetch brought them.
pub trait Batch: Send {
    fn len(&self) -> usize;

    /// Of all keys and values.
    fn bytes(&self) -> usize {
        (0..self.len()).map(|index| self.record(index).size()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `index`-th record. Panics if there is none.
    fn record(&self, index: usize) -> RecordRef<'_>;

    /// Visits the headers of the `index`-th record, in order; read only where they are needed, as they are costly.
    fn visit_headers(&self, index: usize, visit: &mut dyn FnMut(&str, Option<&[u8]>));

    fn headers(&self, index: usize) -> Vec<Header> {
        let mut found = Vec::new();
        self.visit_headers(index, &mut |key, value| {
            found.push(Header { key: key.to_owned(), value: value.map(<[u8]>::to_vec) });
        });
        found
    }
}
