//! Events into the log: framed, keyed, partitioned, and committed in transactions together with the position.
//!
//! INVARIANT: at most one writer per source; opening one fences the one before and ends its open transaction.

use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{CommitError, Log, LogError, NewRecord, Producer, ProducerOptions};
use engram_schemas::activity::Interaction;
use engram_schemas::codec::Encoder;
use engram_schemas::event::Event;
use engram_schemas::graph::RelationCreated;
use engram_schemas::registry::Registry;

use super::position::{self, Position};
use super::{ACTIVITY, GRAPH, IngestError};

/// Writes the events of one source.
pub struct Writer {
    producer: Box<dyn Producer>,
    source: String,
    /// The CloudEvents attribute: a URI reference.
    ce_source: String,
    interactions: Encoder<Interaction>,
    relations: Encoder<RelationCreated>,
    activity_partitions: i32,
    /// All relations of a source are in one partition, in order.
    graph_partition: i32,
    value: Vec<u8>,
    pub pending: Written,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub commits: u64,
    pub activity: u64,
    pub relations: u64,
}

/// What the headers of an event say about it.
struct Facts<'a> {
    id: &'a str,
    kind: &'static str,
    time_ms: i64,
    actor: &'a str,
}

impl Writer {
    pub fn open(log: &dyn Log, registry: &dyn Registry, source: &str) -> Result<Self, IngestError> {
        let topics = log.topics()?;
        let partitions = |name: &str| {
            let topic = topics.iter().find(|topic| topic.name == name);
            topic.map(|topic| topic.partitions).ok_or_else(|| LogError::Refused(format!("there is no topic {name}")))
        };
        Ok(Self {
            interactions: Encoder::register(registry, ACTIVITY)?,
            relations: Encoder::register(registry, GRAPH)?,
            activity_partitions: partitions(ACTIVITY)?,
            graph_partition: partition_for(source.as_bytes(), partitions(GRAPH)?),
            producer: log.producer(&ProducerOptions {
                client_id: format!("engram-ingest-git-{source}"),
                transactional_id: Some(format!("engram-ingest-git-{source}")),
            })?,
            source: source.to_owned(),
            ce_source: format!("/{source}"),
            value: Vec::new(),
            pending: Written::default(),
        })
    }

    /// Key: the user, so that all that somebody did is in order.
    pub fn interaction(&mut self, event: &Interaction) -> Result<(), IngestError> {
        self.interactions.encode(event, &mut self.value)?;
        let partition = partition_for(event.user.as_bytes(), self.activity_partitions);
        let facts = Facts { id: &event.id, kind: Interaction::NAME, time_ms: event.time, actor: &event.user };
        self.write(ACTIVITY, partition, &event.user, &facts)?;
        self.pending.activity += 1;
        Ok(())
    }

    /// Key: the workspace, which is the source.
    pub fn relation(&mut self, event: &RelationCreated) -> Result<(), IngestError> {
        self.relations.encode(event, &mut self.value)?;
        let facts = Facts { id: &event.id, kind: RelationCreated::NAME, time_ms: event.time, actor: &event.actor };
        self.write(GRAPH, self.graph_partition, &event.workspace, &facts)?;
        self.pending.relations += 1;
        Ok(())
    }

    /// Commits the transaction with the position that it leads to, and returns what was in it.
    pub fn commit(&mut self, position: &Position) -> Result<Written, IngestError> {
        let value = position.to_json();
        let record = NewRecord {
            topic: position::TOPIC,
            partition: 0,
            timestamp_ms: None,
            key: Some(self.source.as_bytes()),
            value: Some(&value),
            headers: &[],
        };
        self.producer.write(&record, false)?;
        self.producer.commit(None).map_err(|error| match error {
            CommitError::Log(error) => IngestError::Log(error),
            error => IngestError::Commit(error),
        })?;
        Ok(std::mem::take(&mut self.pending))
    }

    /// Takes back what was not committed, so that readers need not wait until the transaction times out.
    pub fn abort(&mut self) -> Result<(), LogError> {
        self.producer.abort()
    }

    /// Writes the event in `value`, with CloudEvents headers (Kafka protocol binding 1.0, binary content mode).
    fn write(&mut self, topic: &str, partition: i32, key: &str, facts: &Facts<'_>) -> Result<(), LogError> {
        // Years are between 1970 and 9999; the last hours of 9999 are beyond jiff.
        let time = jiff::Timestamp::from_millisecond(facts.time_ms).map(|time| time.to_string()).unwrap_or_default();
        let headers: [(&str, Option<&[u8]>); 7] = [
            ("ce_specversion", Some(b"1.0")),
            ("ce_id", Some(facts.id.as_bytes())),
            ("ce_type", Some(facts.kind.as_bytes())),
            ("ce_source", Some(self.ce_source.as_bytes())),
            ("content-type", Some(b"application/avro")),
            ("actor", Some(facts.actor.as_bytes())),
            ("ce_time", Some(time.as_bytes())),
        ];
        let record = NewRecord {
            topic,
            partition,
            timestamp_ms: None,
            key: Some(key.as_bytes()),
            value: Some(&self.value),
            // The time is optional, and last.
            headers: if time.is_empty() { &headers[..6] } else { &headers },
        };
        self.producer.write(&record, false)
    }
}
