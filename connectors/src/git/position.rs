//! How far a repository has been ingested: one record per source in a compacted topic, written in the transaction of the
//! events that it speaks of. So both are in the log or neither is, and a killed ingest goes on where it was.

use std::collections::BTreeMap;

use engram_pipeline::changelog;
use engram_pipeline::log::{Cleanup, Log, LogError, TopicPartition, TopicSpec};
use engram_pipeline::service::TOPIC_MESSAGE_BYTES_MAX;
use engram_pipeline::store::StoreError;
use gix::ObjectId;
use serde::{Deserialize, Serialize};

use super::IngestError;

/// One partition; key: the source's name, value: a `Position` as JSON.
pub const TOPIC: &str = "engram-git-positions";

/// Where an ingest is on its way through a history. Ids are in hexadecimal digits.
///
/// ```text
///   {} --> {done: D, target: T, commits: N} --> {done: heads of D and T} --> {done, target: T', commits: N'} --> ...
///          the first N of the walk D..T are in   all of D..T is in
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// All that can be reached from these commits is in the log.
    pub done: Vec<String>,
    /// What can be reached from these is being written; empty between two runs that came to their end.
    pub target: Vec<String>,
    /// How many commits of the walk from `done` to `target` are in the log.
    pub commits: usize,
    /// The last of those: a walk that has another commit in its place is no longer the one that was begun.
    #[serde(default)]
    pub last: Option<String>,
}

impl Position {
    /// Reads the position of a source, the default if it has none. To be called once the source's producer is open:
    /// from then on nobody else can move it.
    pub fn read(log: &dyn Log, source: &str) -> Result<Self, IngestError> {
        Ok(Self::read_all(log)?.remove(source).unwrap_or_default())
    }

    /// Reads the positions of all sources.
    pub fn read_all(log: &dyn Log) -> Result<BTreeMap<String, Self>, IngestError> {
        let positions = read_values(log, TOPIC)?.into_iter();
        positions
            .map(|(source, value)| match serde_json::from_slice(&value) {
                Ok(position) => Ok((source, position)),
                Err(error) => Err(damaged(TOPIC, &source, error.to_string()).into()),
            })
            .collect()
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and a number are valid JSON")
    }
}

/// The ids that a position names.
pub fn ids(source: &str, hex: &[String]) -> Result<Vec<ObjectId>, IngestError> {
    hex.iter()
        .map(|hex| {
            let id = ObjectId::from_hex(hex.as_bytes());
            id.map_err(|_| damaged(TOPIC, source, format!("{hex:?} is no id")).into())
        })
        .collect()
}

/// The last value of each source in a topic of positions.
pub fn read_values(log: &dyn Log, topic: &str) -> Result<BTreeMap<String, Vec<u8>>, IngestError> {
    let partition = TopicPartition::new(topic, 0);
    let range = log.offsets(std::slice::from_ref(&partition))?[0];
    let mut found: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    changelog::read(log, &partition, range.first, range.end, |_, key, value| {
        found.insert(String::from_utf8_lossy(key).into_owned(), value.map(<[u8]>::to_vec));
        Ok(())
    })
    .map_err(|error| match error {
        StoreError::Log(error) => error,
        error => LogError::failed(format!("cannot read {partition}"), error),
    })?;
    Ok(found.into_iter().filter_map(|(source, value)| Some((source, value?))).collect())
}

pub fn create_topic(log: &dyn Log) -> Result<(), LogError> {
    create_compacted(log, TOPIC)
}

/// A topic of positions.
pub fn create_compacted(log: &dyn Log, topic: &str) -> Result<(), LogError> {
    log.create_topics(&[TopicSpec {
        name: topic.to_owned(),
        partitions: 1,
        cleanup: Cleanup::Compact,
        max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
    }])
}

pub fn damaged(topic: &str, source: &str, reason: String) -> LogError {
    LogError::Corrupt { what: format!("the position of {source} in {topic}"), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_were_written() {
        let id = "ab".repeat(20);
        let position =
            Position { done: vec![id.clone()], target: vec![id.clone()], commits: 7, last: Some(id.clone()) };
        let json = position.to_json();
        let text = format!(r#"{{"done":["{id}"],"target":["{id}"],"commits":7,"last":"{id}"}}"#);
        assert_eq!(String::from_utf8_lossy(&json), text);
        assert_eq!(serde_json::from_slice::<Position>(&json).expect("it is one"), position);
        let ids = ids("engram", &position.done).expect("an id");
        assert_eq!(ids[0].to_string(), id);
        assert!(super::ids("engram", &["xyz".to_owned()]).is_err());
    }
}
