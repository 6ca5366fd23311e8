//! What the cases share: names of their own, producers, and readers that wait for a partition's end.
//!
//! INVARIANT: nothing here sleeps to let something happen; everything asks again until it is so or the deadline passes.

use std::thread;
use std::time::{Duration, Instant};

use crate::log::{
    Cleanup, Consumer, Header, Log, NewRecord, OffsetRange, Producer, ProducerOptions, TopicPartition, TopicSpec,
};

/// How long a log may take for anything. A rebalance on Kafka waits for heartbeats, hence the size.
const DEADLINE: Duration = Duration::from_secs(30);
/// The timestamp of records whose timestamp does not matter.
pub const SOME_TIME_MS: i64 = 1_700_000_000_000;

/// A log, and names on it that no other case uses.
pub struct Fixture<'a> {
    pub log: &'a dyn Log,
    /// Topics, groups and transactional ids begin with it.
    pub prefix: String,
    /// For the cases that draw at random.
    pub seed: u64,
}

/// A record as a case read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

impl OwnedRecord {
    /// The value as text; `null` if there is none.
    pub fn text(&self) -> String {
        self.value.as_deref().map_or("null".into(), String::from_utf8_lossy).into_owned()
    }
}

impl<'a> Fixture<'a> {
    /// A name that belongs to this case.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Creates a topic that keeps all its records.
    pub fn topic(&self, name: &str, partitions: i32) -> String {
        self.topic_with(name, partitions, Cleanup::Keep, 1 << 20)
    }

    pub fn topic_with(&self, name: &str, partitions: i32, cleanup: Cleanup, max_message_bytes: usize) -> String {
        let name = self.name(name);
        let spec = TopicSpec { name: name.clone(), partitions, cleanup, max_message_bytes };
        self.log.create_topics(&[spec]).expect("a topic can be created");
        name
    }

    /// A producer without transactions.
    pub fn producer(&self) -> Box<dyn Producer> {
        self.producer_with(None)
    }

    /// A producer with transactions; the id is made this case's own.
    pub fn transactional(&self, id: &str) -> Box<dyn Producer> {
        self.producer_with(Some(self.name(id)))
    }

    fn producer_with(&self, transactional_id: Option<String>) -> Box<dyn Producer> {
        let options = ProducerOptions { client_id: self.prefix.clone(), transactional_id };
        self.log.producer(&options).expect("a producer can be made")
    }

    pub fn offsets(&self, partition: &TopicPartition) -> OffsetRange {
        let offsets = self.log.offsets(std::slice::from_ref(partition)).expect("the offsets of a partition are known");
        let [range] = offsets[..] else { panic!("one range for one partition, not {offsets:?}") };
        assert!(range.first <= range.stable && range.stable <= range.end, "offsets are ordered: {range:?}");
        range
    }

    /// The end of a partition, once no transaction is pending in it.
    ///
    /// A commit may return before the partitions know of it, so `stable` follows a little later.
    pub fn settled_end(&self, partition: &TopicPartition) -> i64 {
        until(&format!("no transaction is pending in {partition}"), || {
            let range = self.offsets(partition);
            (range.stable == range.end).then_some(range.end)
        })
    }

    /// A reader at the given positions.
    pub fn reader(&self, positions: &[(TopicPartition, i64)]) -> Reading {
        let mut consumer = self.log.reader().expect("a reader can be made");
        consumer.assign(positions).expect("partitions can be assigned");
        Reading::new(consumer, positions)
    }

    /// All committed records from `from` on, once no transaction is pending.
    pub fn read_all(&self, partition: &TopicPartition, from: i64) -> Vec<OwnedRecord> {
        let mut reader = self.reader(&[(partition.clone(), from)]);
        let end = self.settled_end(partition);
        reader.read_to(0, end);
        reader.records.remove(0)
    }

    /// The values of `read_all` from the start.
    pub fn values(&self, partition: &TopicPartition) -> Vec<String> {
        texts(&self.read_all(partition, 0))
    }

    /// The values that a new reader sees now, before the end of pending transactions.
    pub fn visible(&self, partition: &TopicPartition) -> Vec<String> {
        let mut reader = self.reader(&[(partition.clone(), 0)]);
        reader.read_to(0, self.offsets(partition).stable);
        texts(&reader.records[0])
    }
}

/// A consumer with what it has read so far, by the index of the partition.
pub struct Reading {
    consumer: Box<dyn Consumer>,
    partitions: Vec<TopicPartition>,
    positions: Vec<i64>,
    pub records: Vec<Vec<OwnedRecord>>,
    /// The last end that a fetch reported.
    pub ends: Vec<Option<i64>>,
}

impl Reading {
    fn new(consumer: Box<dyn Consumer>, positions: &[(TopicPartition, i64)]) -> Self {
        let (partitions, positions): (Vec<_>, Vec<_>) = positions.iter().cloned().unzip();
        let count = partitions.len();
        Self { consumer, partitions, positions, records: vec![Vec::new(); count], ends: vec![None; count] }
    }

    /// Replaces the assignment and forgets what was read.
    pub fn assign(&mut self, positions: &[(TopicPartition, i64)]) {
        self.consumer.assign(positions).expect("partitions can be assigned");
        let (partitions, positions): (Vec<_>, Vec<_>) = positions.iter().cloned().unzip();
        let count = partitions.len();
        (self.records, self.ends) = (vec![Vec::new(); count], vec![None; count]);
        (self.partitions, self.positions) = (partitions, positions);
    }

    /// Fetches once from a partition; answers how many records came.
    pub fn fetch(&mut self, index: usize, records_max: usize) -> usize {
        let partition = &self.partitions[index];
        let fetched = self.consumer.fetch(index, records_max).unwrap_or_else(|error| panic!("{partition}: {error}"));
        let mut count = 0;
        if let Some(batch) = fetched.records {
            count = batch.len();
            assert!(!batch.is_empty(), "{partition}: a batch without records is no batch");
            assert!(count <= records_max, "{partition}: {count} records where at most {records_max} were asked for");
            for number in 0..count {
                let record = batch.record(number);
                let position = self.positions[index];
                assert!(record.offset >= position, "{partition}: offset {} before {position}", record.offset);
                self.positions[index] = record.offset + 1;
                self.records[index].push(OwnedRecord {
                    offset: record.offset,
                    timestamp_ms: record.timestamp_ms,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: batch.headers(number),
                });
            }
        }
        if let Some(end) = fetched.end {
            let position = self.positions[index];
            assert!(end >= position, "{partition}: the end {end} lies before the position {position}");
            (self.positions[index], self.ends[index]) = (end, Some(end));
        }
        count
    }

    pub fn wait(&mut self) {
        self.consumer.wait(Duration::from_millis(20)).expect("a reader can wait");
    }

    /// Reads a partition until the end is reported at `end` or later.
    pub fn read_to(&mut self, index: usize, end: i64) {
        let what = format!("{} is read to its end {end}", self.partitions[index]);
        until(&what, || {
            while self.fetch(index, 1_000) > 0 {}
            let reached = self.ends[index].is_some_and(|reported| reported >= end);
            if !reached {
                self.wait();
            }
            reached.then_some(())
        });
    }
}

/// Asks every few milliseconds until there is an answer. Panics, naming `what`, when the deadline passes.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn texts(records: &[OwnedRecord]) -> Vec<String> {
    records.iter().map(OwnedRecord::text).collect()
}

/// A record whose value alone matters.
pub fn record<'a>(partition: &'a TopicPartition, value: &'a str) -> NewRecord<'a> {
    NewRecord {
        topic: &partition.topic,
        partition: partition.partition,
        timestamp_ms: Some(SOME_TIME_MS),
        key: None,
        value: Some(value.as_bytes()),
        headers: &[],
    }
}

/// Hands over tracked records.
#[track_caller]
pub fn write(producer: &mut dyn Producer, partition: &TopicPartition, values: &[&str]) {
    for value in values {
        producer.write(&record(partition, value), true).expect("a record can be written");
    }
}

/// Flushes, and answers the tracked ends ordered by partition.
#[track_caller]
pub fn flush(producer: &mut dyn Producer) -> Vec<(TopicPartition, i64)> {
    let mut ends = producer.flush().expect("records can be flushed");
    ends.sort();
    ends
}

/// Commits without positions.
#[track_caller]
pub fn commit(producer: &mut dyn Producer) {
    producer.commit(None).expect("a transaction can be committed");
}
