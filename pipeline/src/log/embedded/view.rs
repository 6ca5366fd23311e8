//! What is read of the log, by its owner and beside it: topics, offsets, records, positions.

use std::collections::BTreeMap;
use std::time::Instant;

use super::bytes::Input;
use super::files::Files;
use super::keys;
use super::stored::Stored;
use crate::log::{Cleanup, GroupInfo, LogError, OffsetRange, TopicPartition, TopicSpec};

/// Nothing is ever removed from the front of a partition; what compaction removes leaves holes.
pub const FIRST_OFFSET: i64 = 0;
/// A topic has fewer.
pub const PARTITIONS_MAX: i32 = 1 << 16;

/// The log as one that reads it sees it.
pub trait View: Send + Sync {
    fn files(&self) -> &Files;

    /// The topics with their names, ordered by name.
    fn topics(&self) -> Result<Vec<(String, Topic)>, LogError>;

    fn topic(&self, name: &str) -> Result<Option<Topic>, LogError>;

    /// `stable` and `end` of a partition that exists.
    fn ends(&self, place: Place) -> Result<Ends, LogError>;

    /// A number that changes with every commit, where such a number is known.
    fn version(&self) -> u64;

    /// Waits until `version` differs from this one, or there may be something new, at most until the deadline.
    fn wait(&self, version: u64, deadline: Instant);
}

/// What a topic is, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    pub id: u32,
    pub partitions: u32,
    pub cleanup: Cleanup,
    pub max_message_bytes: usize,
}

impl Topic {
    pub fn new(id: u32, spec: &TopicSpec) -> Self {
        let partitions = spec.partitions.cast_unsigned();
        Self { id, partitions, cleanup: spec.cleanup, max_message_bytes: spec.max_message_bytes }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(17);
        out.extend(self.id.to_be_bytes());
        out.extend(self.partitions.to_be_bytes());
        out.push(cleanup_byte(self.cleanup));
        out.extend((self.max_message_bytes as u64).to_be_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input::new(bytes);
        let (id, partitions) = (input.u32()?, input.u32()?);
        let cleanup = cleanup_of(input.u8()?)?;
        let max_message_bytes = usize::try_from(input.u64()?).ok()?;
        input.is_at_end().then_some(Self { id, partitions, cleanup, max_message_bytes })
    }

    /// The place of one of its partitions.
    ///
    /// Errors: `Refused` if it has no such partition.
    pub fn place(&self, name: &str, partition: i32) -> Result<Place, LogError> {
        match u32::try_from(partition) {
            Ok(partition) if partition < self.partitions => Ok(Place { topic: self.id, partition }),
            _ => Err(LogError::Refused(format!(
                "topic {name} has the partitions 0 to {}, not {partition}: choose one of these",
                i64::from(self.partitions) - 1
            ))),
        }
    }
}

pub fn cleanup_byte(cleanup: Cleanup) -> u8 {
    match cleanup {
        Cleanup::Keep => 0,
        Cleanup::Compact => 1,
    }
}

pub fn cleanup_of(byte: u8) -> Option<Cleanup> {
    match byte {
        0 => Some(Cleanup::Keep),
        1 => Some(Cleanup::Compact),
        _ => None,
    }
}

/// A partition by its topic's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub topic: u32,
    pub partition: u32,
}

/// Where a partition ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    pub stable: i64,
    pub end: i64,
    /// The greatest timestamp that was ever given to the partition.
    pub timestamp_max_ms: i64,
}

impl Ends {
    pub fn encode(&self) -> Vec<u8> {
        [self.stable, self.end, self.timestamp_max_ms].map(i64::to_be_bytes).concat()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input::new(bytes);
        let ends = Self { stable: input.i64()?, end: input.i64()?, timestamp_max_ms: input.i64()? };
        input.is_at_end().then_some(ends)
    }
}

/// A partition that nothing was ever written to.
pub const NO_RECORDS: Ends = Ends { stable: FIRST_OFFSET, end: FIRST_OFFSET, timestamp_max_ms: i64::MIN };

/// A topic that must be there.
pub fn existing(view: &dyn View, name: &str) -> Result<Topic, LogError> {
    view.topic(name)?.ok_or_else(|| no_topic(name))
}

pub fn no_topic(name: &str) -> LogError {
    LogError::Refused(format!("there is no topic {name} in the log: create it first"))
}

pub fn place(view: &dyn View, partition: &TopicPartition) -> Result<Place, LogError> {
    existing(view, &partition.topic)?.place(&partition.topic, partition.partition)
}

pub fn offsets(view: &dyn View, partition: &TopicPartition) -> Result<OffsetRange, LogError> {
    let Ends { stable, end, .. } = view.ends(place(view, partition)?)?;
    Ok(OffsetRange { first: FIRST_OFFSET, stable, end })
}

/// Calls `visit` with the records at `from <= offset < to` that are kept, until it answers false. Answers whether all
/// of them were visited.
pub fn for_each_record(
    files: &Files,
    place: Place,
    (from, to): (i64, i64),
    mut visit: impl FnMut(Stored<'_>) -> Result<bool, LogError>,
) -> Result<bool, LogError> {
    if from >= to {
        return Ok(true);
    }
    let key = |offset| keys::record(place.topic, place.partition, offset);
    let mut entries = files.scan(&key(from), &key(to));
    entries.seek_to_first();
    while let Some((key, value)) = entries.item() {
        let offset = keys::record_offset(key).ok_or_else(|| files.corrupt("a record's key is cut short"))?;
        let record = Stored::decode(offset, value).map_err(|reason| damaged(files, place, offset, reason))?;
        if !visit(record)? {
            entries.next();
            entries.status().map_err(|error| files.error(&error))?;
            return Ok(!entries.valid());
        }
        entries.next();
    }
    entries.status().map_err(|error| files.error(&error))?;
    Ok(true)
}

/// The first offset whose record is at or after a time.
///
/// The running maxima never fall, so the first one that reaches the time is found by halving. Its record need not reach
/// it itself: the one that raised the maximum may have been aborted, or compacted away. What is sought lies behind.
pub fn offset_at(view: &dyn View, partition: &TopicPartition, timestamp_ms: i64) -> Result<Option<i64>, LogError> {
    let (files, place) = (view.files(), place(view, partition)?);
    let stable = view.ends(place)?.stable;
    let (mut low, mut high) = (FIRST_OFFSET, stable);
    while low < high {
        let middle = low + (high - low) / 2;
        let mut reached = true;
        for_each_record(files, place, (middle, stable), |record| {
            reached = record.timestamp_max_ms >= timestamp_ms;
            Ok(false)
        })?;
        if reached {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let mut found = None;
    for_each_record(files, place, (low, stable), |record| {
        found = (record.timestamp_ms >= timestamp_ms).then_some(record.offset);
        Ok(found.is_none())
    })?;
    Ok(found)
}

pub fn committed(view: &dyn View, group: &str, partition: &TopicPartition) -> Result<Option<i64>, LogError> {
    let place = place(view, partition)?;
    view.files().get_i64(&keys::position(group, place.topic, place.partition))
}

/// The groups with stored positions, as if none had members.
pub fn groups(view: &dyn View) -> Result<BTreeMap<String, GroupInfo>, LogError> {
    let mut groups = BTreeMap::new();
    view.files().for_each(&[keys::POSITION], |key, _| {
        let (name, _) =
            keys::parse_position(key).ok_or_else(|| view.files().corrupt("a group's position has a strange key"))?;
        if !groups.contains_key(name) {
            let info = GroupInfo { name: name.to_owned(), state: "Empty".to_owned(), members: 0 };
            groups.insert(name.to_owned(), info);
        }
        Ok(())
    })?;
    Ok(groups)
}

/// The topics as they are stored.
pub fn stored_topics(files: &Files) -> Result<Vec<(String, Topic)>, LogError> {
    let mut topics = Vec::new();
    files.for_each(&[keys::TOPIC], |key, value| {
        let name = std::str::from_utf8(&key[1..]).map_err(|_| files.corrupt("a topic's name is not text"))?;
        let topic = Topic::decode(value).ok_or_else(|| files.corrupt("a topic's description is not readable"))?;
        topics.push((name.to_owned(), topic));
        Ok(())
    })?;
    Ok(topics)
}

pub fn stored_ends(files: &Files, place: Place) -> Result<Ends, LogError> {
    match files.get(&keys::partition(place.topic, place.partition))? {
        None => Ok(NO_RECORDS),
        Some(bytes) => Ends::decode(&bytes).ok_or_else(|| files.corrupt("a partition's end is not readable")),
    }
}

fn damaged(files: &Files, place: Place, offset: i64, reason: &str) -> LogError {
    let name = stored_topics(files)
        .ok()
        .and_then(|topics| topics.into_iter().find(|(_, topic)| topic.id == place.topic))
        .map_or_else(|| format!("(topic {})", place.topic), |(name, _)| name);
    LogError::Corrupt {
        what: format!("the record at {name}/{}/{offset} in {}", place.partition, files.dir()),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_ends_come_back() {
        let topic = Topic { id: 3, partitions: 4, cleanup: Cleanup::Compact, max_message_bytes: 1 << 20 };
        assert_eq!(topic.encode(), b"\0\0\0\x03\0\0\0\x04\x01\0\0\0\0\0\x10\0\0");
        assert_eq!(Topic::decode(&topic.encode()), Some(topic));
        assert_eq!(Ends::decode(&NO_RECORDS.encode()), Some(NO_RECORDS));
        assert_eq!(Ends::decode(&[0; 23]), None);
        assert!(topic.place("t", 3).is_ok() && topic.place("t", 4).is_err() && topic.place("t", -1).is_err());
    }
}
