//! Where a replay's records go: not into a log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::{CommitError, GroupPositions, LogError, NewRecord, Producer, RecordRef, TopicPartition};

/// A record that a task has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub topic: Arc<str>,
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

impl Written {
    /// A record that lies in a log.
    pub fn of(partition: &TopicPartition, record: RecordRef<'_>) -> Self {
        Self {
            topic: Arc::clone(&partition.topic),
            partition: partition.partition,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
        }
    }
}

/// A record that a task has written, where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenRef<'a> {
    /// Index of its topic in `Captured::topics`.
    pub topic_index: usize,
    pub topic: &'a Arc<str>,
    pub partition: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

impl WrittenRef<'_> {
    pub fn to_written(self) -> Written {
        Written {
            topic: Arc::clone(self.topic),
            partition: self.partition,
            key: self.key.map(<[u8]>::to_vec),
            value: self.value.map(<[u8]>::to_vec),
        }
    }
}

/// Records that a task has written, in order: their bytes one after the other, without an allocation for each.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    records: Vec<Place>,
    bytes: Vec<u8>,
    /// Each name once.
    topics: Vec<Arc<str>>,
}

#[derive(Debug, Clone)]
struct Place {
    topic: usize,
    partition: i32,
    /// Where the key begins, which the value follows.
    start: usize,
    key_len: Option<usize>,
    value_len: Option<usize>,
}

impl Captured {
    /// The names of topics, each once; there may be some that none of these records is of.
    pub fn topics(&self) -> &[Arc<str>] {
        &self.topics
    }

    pub fn iter(&self) -> impl Iterator<Item = WrittenRef<'_>> {
        self.records.iter().map(|place| {
            let key_end = place.start + place.key_len.unwrap_or(0);
            WrittenRef {
                topic_index: place.topic,
                topic: &self.topics[place.topic],
                partition: place.partition,
                key: place.key_len.map(|_| &self.bytes[place.start..key_end]),
                value: place.value_len.map(|len| &self.bytes[key_end..key_end + len]),
            }
        })
    }

    fn push(&mut self, record: &NewRecord<'_>) {
        let topic = self.topics.iter().position(|topic| **topic == *record.topic).unwrap_or_else(|| {
            self.topics.push(record.topic.into());
            self.topics.len() - 1
        });
        self.records.push(Place {
            topic,
            partition: record.partition,
            start: self.bytes.len(),
            key_len: record.key.map(<[u8]>::len),
            value_len: record.value.map(<[u8]>::len),
        });
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        self.bytes.extend_from_slice(record.value.unwrap_or_default());
    }
}

/// What a task has written since this was emptied, all or without the changelog; shared with the producer that the task writes to.
#[derive(Clone, Default)]
pub struct Capture(Arc<Mutex<Capturing>>);

#[derive(Default)]
struct Capturing {
    captured: Captured,
    /// Its room is used again.
    spare: Captured,
    without_changelog: bool,
}

impl Capture {
    pub fn producer(&self) -> Box<dyn Producer> {
        Box::new(CaptureProducer(self.clone()))
    }

    /// From now on the changelog is left out.
    pub fn leave_out_changelog(&self) {
        self.lock().without_changelog = true;
    }

    pub fn take(&self) -> Captured {
        let capturing = &mut *self.lock();
        std::mem::replace(&mut capturing.captured, std::mem::take(&mut capturing.spare))
    }

    /// Takes back what is no longer needed, for its room.
    pub fn recycle(&self, mut captured: Captured) {
        captured.records.clear();
        captured.bytes.clear();
        self.lock().spare = captured;
    }

    /// Those from the `start`-th on.
    pub fn from(&self, start: usize) -> Vec<Written> {
        self.lock().captured.iter().skip(start).map(WrittenRef::to_written).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Capturing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A producer that keeps what it is given, but for headers and times.
struct CaptureProducer(Capture);

impl Producer for CaptureProducer {
    fn write(&mut self, record: &NewRecord<'_>, tracked: bool) -> Result<(), LogError> {
        let mut capturing = self.0.lock();
        // Of what a task writes, the changelog alone is tracked.
        if !(tracked && capturing.without_changelog) {
            capturing.captured.push(record);
        }
        Ok(())
    }

    fn keeps_headers(&self) -> bool {
        false
    }

    fn flush(&mut self) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        Ok(Vec::new())
    }

    fn commit(&mut self, _positions: Option<GroupPositions<'_>>) -> Result<(), CommitError> {
        Ok(())
    }

    fn abort(&mut self) -> Result<(), LogError> {
        Ok(())
    }
}
