//! Events into the log: framed, keyed, partitioned, and committed in transactions together with the position.
//!
//! INVARIANT: at most one writer per source; opening one fences the one before and ends its open transaction.

use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{CommitError, Log, LogError, NewRecord, Producer, ProducerOptions};
use engram_schemas::activity::Interaction;
use engram_schemas::codec::Encoder;
use engram_schemas::document::Edit;
use engram_schemas::event::Event;
use engram_schemas::graph::RelationCreated;
use engram_schemas::registry::Registry;

use super::documents::EDITS;
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
    /// With the number of partitions; `None` where no documents are written.
    edits: Option<(Encoder<Edit>, i32)>,
    value: Vec<u8>,
    pub pending: Written,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub commits: u64,
    pub activity: u64,
    pub relations: u64,
    pub edits: u64,
    /// Of the values of edits.
    pub edit_bytes: usize,
}

/// What the headers of an event say about it.
struct Facts<'a> {
    id: &'a str,
    kind: &'static str,
    time_ms: i64,
    actor: &'a str,
}

impl Writer {
    pub fn open(
        log: &dyn Log,
        registry: &dyn Registry,
        source: &str,
        with_documents: bool,
    ) -> Result<Self, IngestError> {
        let topics = log.topics()?;
        let partitions = |name: &str| {
            let topic = topics.iter().find(|topic| topic.name == name);
            topic.map(|topic| topic.partitions).ok_or_else(|| LogError::Refused(format!("there is no topic {name}")))
        };
        let edits = match with_documents {
            true => Some((Encoder::register(registry, EDITS)?, partitions(EDITS)?)),
            false => None,
        };
        Ok(Self {
            edits,
            interactions: Encoder::register(registry, ACTIVITY)?,
            relations: Encoder::register(registry, GRAPH)?,
            activity_partitions: partitions(ACTIVITY)?,
            graph_partition: partition_for(source.as_bytes(), partitions(GRAPH)?),
            producer: log.producer(&ProducerOptions {
                client_id: format!("engram-ingest-git-{source}"),
                transactional_id: Some(format!("engram-ingest-git-{source}")),
            })?,
            source: source.to_owned(),
            ce_source: ce_source(source),
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

    /// Key: the document. Panics if the writer was opened without documents.
    pub fn edit(&mut self, event: &Edit) -> Result<(), IngestError> {
        let (encoder, partitions) = self.edits.as_ref().expect("it was opened with documents");
        encoder.encode(event, &mut self.value)?;
        let partition = partition_for(event.document.as_bytes(), *partitions);
        let facts = Facts { id: &event.id, kind: Edit::NAME, time_ms: event.time, actor: &event.actor };
        self.write(EDITS, partition, &event.document, &facts)?;
        self.pending.edits += 1;
        self.pending.edit_bytes += self.value.len();
        Ok(())
    }

    /// Commits the transaction with the position that it leads to, of the topic where such positions are, and returns what
    /// was in it.
    pub fn commit(&mut self, topic: &str, position: &[u8]) -> Result<Written, IngestError> {
        let record = NewRecord {
            topic,
            partition: 0,
            timestamp_ms: None,
            key: Some(self.source.as_bytes()),
            value: Some(position),
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

/// By which a source's events are known.
pub fn ce_source(source: &str) -> String {
    format!("/{source}")
}
