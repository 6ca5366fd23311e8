//! What the tasks of a worker write, on its way to the log: into the producer's open transaction or, while the transaction
//! before it is being committed and the producer is away, into memory until the producer is back.
//!
//! INVARIANT: records reach the producer in the order in which they were written here.

use std::cell::RefCell;
use std::rc::Rc;

use crate::log::{LogError, NewRecord, Producer};

/// The worker's outbox, shared by its tasks; all of them live on the worker's thread.
pub type SharedOutbox = Rc<RefCell<Outbox>>;

/// The length of a header's value that is null.
const NULL: u32 = u32::MAX;

pub struct Outbox {
    /// `None` while it commits.
    producer: Option<Box<dyn Producer>>,
    waiting: Waiting,
}

/// Records that wait for the producer: their bytes one after the other, without an allocation for each.
#[derive(Default)]
struct Waiting {
    records: Vec<Held>,
    bytes: Vec<u8>,
    /// Names of topics, each once.
    topics: Vec<Box<str>>,
}

struct Held {
    topic: usize,
    partition: i32,
    timestamp_ms: Option<i64>,
    /// Where the record's bytes begin: key, value, then each header's name and value behind their lengths (u32;
    /// `NULL` for no value).
    start: usize,
    key_len: Option<usize>,
    value_len: Option<usize>,
    /// How many.
    headers: usize,
    tracked: bool,
}

impl Outbox {
    pub fn new(producer: Box<dyn Producer>) -> Self {
        Self { producer: Some(producer), waiting: Waiting::default() }
    }

    /// As `Producer::write`. An error of a record that waits comes with `give_back`.
    pub fn write(&mut self, record: &NewRecord<'_>, tracked: bool) -> Result<(), LogError> {
        match &mut self.producer {
            Some(producer) => producer.write(record, tracked),
            None => {
                self.waiting.push(record, tracked);
                Ok(())
            }
        }
    }

    /// Whether headers are kept of what is written now.
    pub fn keeps_headers(&self) -> bool {
        self.producer.as_ref().is_none_or(|producer| producer.keeps_headers())
    }

    /// Hands the producer over for a commit. Panics if it is away.
    pub fn lend(&mut self) -> Box<dyn Producer> {
        self.producer.take().expect("one commit at a time")
    }

    /// Takes the producer back, and writes what has waited for it.
    pub fn give_back(&mut self, producer: Box<dyn Producer>) -> Result<(), LogError> {
        let producer = self.producer.insert(producer);
        self.waiting.drain(|record, tracked| producer.write(record, tracked))
    }

    /// Takes the producer back after a commit that failed: what has waited for it belongs to a past that never was.
    pub fn give_back_after_abort(&mut self, producer: Box<dyn Producer>) {
        self.producer = Some(producer);
        self.waiting.clear();
    }

    /// Forgets what waits for the producer: it is not to be written.
    pub fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Aborts the open transaction. The producer must be here.
    pub fn abort(&mut self) -> Result<(), LogError> {
        self.waiting.clear();
        self.producer.as_mut().map_or(Ok(()), |producer| producer.abort())
    }

    /// Bytes that wait for the producer.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.bytes.len()
    }
}

impl Waiting {
    fn push(&mut self, record: &NewRecord<'_>, tracked: bool) {
        let topic = self.topics.iter().position(|topic| **topic == *record.topic).unwrap_or_else(|| {
            self.topics.push(record.topic.into());
            self.topics.len() - 1
        });
        self.records.push(Held {
            topic,
            partition: record.partition,
            timestamp_ms: record.timestamp_ms,
            start: self.bytes.len(),
            key_len: record.key.map(<[u8]>::len),
            value_len: record.value.map(<[u8]>::len),
            headers: record.headers.len(),
            tracked,
        });
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        self.bytes.extend_from_slice(record.value.unwrap_or_default());
        for (name, value) in record.headers {
            self.bytes.extend_from_slice(&(name.len() as u32).to_be_bytes());
            self.bytes.extend_from_slice(name.as_bytes());
            self.bytes.extend_from_slice(&value.map_or(NULL, |value| value.len() as u32).to_be_bytes());
            self.bytes.extend_from_slice(value.unwrap_or_default());
        }
    }

    /// Gives each record to `write`, in order; after an error the rest is forgotten, as its transaction is void.
    fn drain(&mut self, mut write: impl FnMut(&NewRecord<'_>, bool) -> Result<(), LogError>) -> Result<(), LogError> {
        // One for all records: no allocation for each.
        let mut headers: Vec<(&str, Option<&[u8]>)> = Vec::new();
        let outcome = self.records.iter().try_for_each(|held| {
            let mut rest = &self.bytes[held.start..];
            let mut take = |len: usize| {
                let (taken, after) = rest.split_at(len);
                rest = after;
                taken
            };
            let key = held.key_len.map(&mut take);
            let value = held.value_len.map(&mut take);
            let mut field = || {
                let len = take(4).try_into().map_or(0, u32::from_be_bytes);
                (len != NULL).then(|| take(len as usize))
            };
            headers.clear();
            headers.extend((0..held.headers).map(|_| {
                let name = field().unwrap_or_default();
                (std::str::from_utf8(name).expect("names are text"), field())
            }));
            let record = NewRecord {
                topic: &self.topics[held.topic],
                partition: held.partition,
                timestamp_ms: held.timestamp_ms,
                key,
                value,
                headers: &headers,
            };
            write(&record, held.tracked)
        });
        self.clear();
        outcome
    }

    fn clear(&mut self) {
        self.records.clear();
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waited_comes_out_as_it_went_in() {
        let headers: [(&str, Option<&[u8]>); 3] = [("ce_id", Some(b"1-2")), ("", Some(b"")), ("null", None)];
        let record = |partition, key, value, headers| NewRecord {
            topic: if partition == 1 { "a" } else { "b" },
            partition,
            timestamp_ms: (partition == 1).then_some(7),
            key,
            value,
            headers,
        };
        let records = [
            record(1, Some(b"key".as_slice()), Some(b"value".as_slice()), headers.as_slice()),
            record(2, None, Some(b"".as_slice()), [].as_slice()),
            record(1, Some(b"".as_slice()), None, headers.as_slice()),
        ];
        let mut waiting = Waiting::default();
        for record in &records {
            waiting.push(record, record.key.is_some());
        }
        let mut seen = 0;
        let drained = waiting.drain(|record, tracked| {
            let wanted = &records[seen];
            seen += 1;
            let fields = |record: &NewRecord<'_>| format!("{record:?}");
            assert_eq!((fields(record), tracked), (fields(wanted), wanted.key.is_some()));
            Ok(())
        });
        assert!(drained.is_ok() && seen == 3 && waiting.bytes.is_empty());
    }
}
