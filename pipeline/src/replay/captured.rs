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

/// What a task has written since this was emptied; shared with the producer that the task writes to.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Records>>);

#[derive(Default)]
struct Records {
    written: Vec<Written>,
    /// Each name once.
    topics: Vec<Arc<str>>,
}

impl Captured {
    pub fn producer(&self) -> Box<dyn Producer> {
        Box::new(Capture(self.clone()))
    }

    pub fn take(&self) -> Vec<Written> {
        std::mem::take(&mut self.records().written)
    }

    /// Those from the `start`-th on.
    pub fn from(&self, start: usize) -> Vec<Written> {
        self.records().written[start..].to_vec()
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A producer that keeps what it is given.
struct Capture(Captured);

impl Producer for Capture {
    fn write(&mut self, record: &NewRecord<'_>, _tracked: bool) -> Result<(), LogError> {
        let mut records = self.0.records();
        let known = records.topics.iter().find(|topic| ***topic == *record.topic).cloned();
        let topic = known.unwrap_or_else(|| {
            records.topics.push(record.topic.into());
            record.topic.into()
        });
        records.written.push(Written {
            topic,
            partition: record.partition,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
        });
        Ok(())
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
