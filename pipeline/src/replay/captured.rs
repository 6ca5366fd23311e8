//! Where a replay's records go: not into a log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::{CommitError, GroupPositions, Header, LogError, NewRecord, Producer, RecordRef, TopicPartition};

/// A record that a task has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub topic: String,
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

impl Written {
    /// A record that lies in a log.
    pub fn of(topic: &str, partition: i32, record: RecordRef<'_>, headers: &[Header]) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: headers.to_vec(),
        }
    }
}

/// What a task has written since this was emptied; shared with the producer that the task writes to.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<Written>>>);

impl Captured {
    pub fn producer(&self) -> Box<dyn Producer> {
        Box::new(Capture(self.clone()))
    }

    pub fn take(&self) -> Vec<Written> {
        std::mem::take(&mut self.records())
    }

    fn records(&self) -> MutexGuard<'_, Vec<Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A producer that keeps what it is given.
struct Capture(Captured);

impl Producer for Capture {
    fn write(&mut self, record: &NewRecord<'_>, _tracked: bool) -> Result<(), LogError> {
        self.0.records().push(Written {
            topic: record.topic.to_owned(),
            partition: record.partition,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.owned_headers(),
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
