//! The log of a driver: records in memory, and one transaction. It has no groups: the driver keeps the positions itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::log::{
    Batch, CommitError, Consumer, Fetched, GroupConsumer, GroupInfo, GroupPositions, Header, Log, LogError,
    MemberOptions, NewRecord, OffsetRange, Producer, ProducerOptions, RecordRef, TopicInfo, TopicPartition, TopicSpec,
};

/// A record as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

/// Shared by the driver, its readers and its producer.
#[derive(Clone, Default)]
pub struct MemoryLog(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    committed: BTreeMap<TopicPartition, Vec<Record>>,
    /// Of the open transaction.
    open: Vec<(TopicPartition, Record, bool)>,
    aborts: bool,
    clock: Clock,
}

impl MemoryLog {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `clock` stamps the records without a timestamp.
    pub fn new(clock: Clock) -> Self {
        let log = Self::default();
        log.state().clock = clock;
        log
    }

    /// The next commit is aborted.
    pub fn abort_next(&self) {
        self.state().aborts = true;
    }

    /// Writes a record outside of any transaction, as another client would.
    pub fn append(&self, topic: &str, record: Record) {
        let place = TopicPartition::new(topic, record.partition);
        let mut state = self.state();
        let records = state.committed.entry(place).or_default();
        records.push(Record { offset: records.len() as i64, ..record });
    }

    /// Changes a committed record, as a faulty disk might. Panics if there is none.
    pub fn damage(&self, place: &TopicPartition, offset: i64, change: impl FnOnce(&mut Record)) {
        let mut state = self.state();
        let records = state.committed.get_mut(place).expect("it has records");
        change(&mut records[usize::try_from(offset).expect("an offset")]);
    }

    /// All committed records of a topic, by partition and offset.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        let state = self.state();
        let of_topic = state.committed.iter().filter(|(place, _)| &*place.topic == topic);
        of_topic.flat_map(|(_, records)| records.iter().cloned()).collect()
    }

    /// The committed records from a position on, and the position after them.
    pub fn fetch(&self, place: &TopicPartition, position: i64, most: usize) -> Fetched {
        let state = self.state();
        let records = state.committed.get(place).map_or(&[] as &[Record], Vec::as_slice);
        let start = usize::try_from(position).unwrap_or(0).min(records.len());
        let end = records.len().min(start.saturating_add(most));
        let taken = (start < end).then(|| Box::new(Taken(records[start..end].to_vec())) as Box<dyn Batch>);
        Fetched { records: taken, end: (end == records.len()).then_some(end as i64) }
    }
}

struct Taken(Vec<Record>);

impl Batch for Taken {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn record(&self, index: usize) -> RecordRef<'_> {
        let Record { offset, timestamp_ms, key, value, .. } = &self.0[index];
        RecordRef { offset: *offset, timestamp_ms: *timestamp_ms, key: key.as_deref(), value: value.as_deref() }
    }

    fn visit_headers(&self, index: usize, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        self.0[index].headers.iter().for_each(|header| visit(&header.key, header.value.as_deref()));
    }
}

impl Producer for MemoryLog {
    fn write(&mut self, record: &NewRecord<'_>, tracked: bool) -> Result<(), LogError> {
        let mut state = self.state();
        let written = Record {
            partition: record.partition,
            offset: 0,
            timestamp_ms: record.timestamp_ms.unwrap_or(state.clock.now_ms()),
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.owned_headers(),
        };
        state.open.push((TopicPartition::new(record.topic, record.partition), written, tracked));
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        let mut ends: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        let state = self.state();
        for (place, _, _) in state.open.iter().filter(|(_, _, tracked)| *tracked) {
            let before = state.committed.get(place).map_or(0, Vec::len) as i64;
            *ends.entry(place.clone()).or_insert(before) += 1;
        }
        Ok(ends.into_iter().collect())
    }

    fn commit(&mut self, _positions: Option<GroupPositions<'_>>) -> Result<(), CommitError> {
        let mut state = self.state();
        if std::mem::take(&mut state.aborts) {
            state.open.clear();
            return Err(CommitError::Aborted("the driver was told so".to_owned()));
        }
        for (place, record, _) in std::mem::take(&mut state.open) {
            let records = state.committed.entry(place).or_default();
            records.push(Record { offset: records.len() as i64, ..record });
        }
        Ok(())
    }

    fn abort(&mut self) -> Result<(), LogError> {
        self.state().open.clear();
        Ok(())
    }
}

/// Reads the committed records of what it was assigned.
struct Reader {
    log: MemoryLog,
    positions: Vec<(TopicPartition, i64)>,
}

impl Consumer for Reader {
    fn assign(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        self.positions = positions.to_vec();
        Ok(())
    }

    fn fetch(&mut self, index: usize, records_max: usize) -> Result<Fetched, LogError> {
        let (place, position) = &mut self.positions[index];
        let fetched = self.log.fetch(place, *position, records_max);
        *position += fetched.records.as_ref().map_or(0, |batch| batch.len()) as i64;
        Ok(fetched)
    }

    fn wait(&mut self, _timeout: Duration) -> Result<(), LogError> {
        Ok(())
    }
}

fn has_none<T>(what: &str) -> Result<T, LogError> {
    Err(LogError::Refused(format!("a driver's log has no {what}")))
}

impl Log for MemoryLog {
    fn id(&self) -> Result<String, LogError> {
        Ok("driver".to_owned())
    }

    fn topics(&self) -> Result<Vec<TopicInfo>, LogError> {
        let mut counts: BTreeMap<Arc<str>, i32> = BTreeMap::new();
        for place in self.state().committed.keys() {
            let count = counts.entry(Arc::clone(&place.topic)).or_default();
            *count = (*count).max(place.partition + 1);
        }
        Ok(counts.into_iter().map(|(name, partitions)| TopicInfo { name: name.to_string(), partitions }).collect())
    }

    /// Topics are there when they are written to.
    fn create_topics(&self, _topics: &[TopicSpec]) -> Result<(), LogError> {
        Ok(())
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError> {
        self.state().committed.retain(|place, _| !topics.contains(&&*place.topic));
        Ok(())
    }

    fn offsets(&self, partitions: &[TopicPartition]) -> Result<Vec<OffsetRange>, LogError> {
        let state = self.state();
        let end = |place| state.committed.get(place).map_or(0, Vec::len) as i64;
        Ok(partitions.iter().map(|place| OffsetRange { first: 0, stable: end(place), end: end(place) }).collect())
    }

    fn offset_at(&self, partition: &TopicPartition, timestamp_ms: i64) -> Result<Option<i64>, LogError> {
        let state = self.state();
        let records = state.committed.get(partition).map_or(&[] as &[Record], Vec::as_slice);
        Ok(records.iter().find(|record| record.timestamp_ms >= timestamp_ms).map(|record| record.offset))
    }

    fn committed(&self, _group: &str, _partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        has_none("groups")
    }

    fn groups(&self) -> Result<Vec<GroupInfo>, LogError> {
        Ok(Vec::new())
    }

    fn delete_group(&self, _group: &str) -> Result<(), LogError> {
        has_none("groups")
    }

    fn reader(&self) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(Reader { log: self.clone(), positions: Vec::new() }))
    }

    fn member(&self, _options: &MemberOptions) -> Result<Box<dyn GroupConsumer>, LogError> {
        has_none("groups")
    }

    fn producer(&self, _options: &ProducerOptions) -> Result<Box<dyn Producer>, LogError> {
        Ok(Box::new(self.clone()))
    }
}
