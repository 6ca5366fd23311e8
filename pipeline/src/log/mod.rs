//! The log port: what Engram asks of a log, in Kafka's own words. A record's way begins and ends here: a `Consumer`
//! reads it, a `Producer` writes what came of it.
//!
//! Two logs stand behind the port: `kafka` (Apache Kafka through librdkafka) and `embedded` (one RocksDB inside the
//! process). One conformance suite (`conformance`) runs on both.
//!
//! INVARIANT: consumers read only committed records (`isolation.level=read_committed`), so nothing above this port can
//! see the records of an open or aborted transaction.

pub mod conformance;
mod copartition;
pub mod embedded;
pub mod error;
pub mod kafka;
pub mod partitioner;
pub mod record;

use std::sync::Arc;
use std::time::Duration;

pub use error::{CommitError, LogError};
pub use record::{Batch, Header, NewRecord, RecordRef, TopicPartition};

/// A log: topics, and the consumers and producers that reach them.
///
/// All calls block the calling thread, for at most the log's request timeout (10 s).
pub trait Log: Send + Sync {
    /// A name that no other log has, so that stores are never taken for those of another: `kafka-CLUSTER-ID`, or
    /// `embedded` for the one log of a data folder. Fit for the name of a folder.
    fn id(&self) -> Result<String, LogError>;

    /// All topics, ordered by name; Kafka's own internal ones (`__*`) are left out.
    fn topics(&self) -> Result<Vec<TopicInfo>, LogError>;

    /// Creates the topics that do not exist; those that do are left as they are.
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError>;

    /// Deletes topics with all their records; unknown names are ignored.
    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError>;

    /// First and end offsets of each partition, in the order asked for.
    fn offsets(&self, partitions: &[TopicPartition]) -> Result<Vec<OffsetRange>, LogError>;

    /// The first offset whose record's timestamp is at or after `timestamp_ms`; `None` if there is none.
    fn offset_at(&self, partition: &TopicPartition, timestamp_ms: i64) -> Result<Option<i64>, LogError>;

    /// A group's committed positions, in the order asked for. Waits until no transaction that carries positions of
    /// these partitions is pending (KIP-447), so a restarted worker never starts from a stale one.
    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError>;

    /// The consumer groups, ordered by name.
    fn groups(&self) -> Result<Vec<GroupInfo>, LogError>;

    /// Forgets a group and its committed positions; refused while it has members. Unknown groups are ignored.
    fn delete_group(&self, group: &str) -> Result<(), LogError>;

    /// A consumer with assigned partitions: joins no group, commits nothing.
    fn reader(&self) -> Result<Box<dyn Consumer>, LogError>;

    /// A consumer that joins `options.group` and shares its topics' partitions with the other members (`range`).
    fn member(&self, options: &MemberOptions) -> Result<Box<dyn GroupConsumer>, LogError>;

    /// A producer. With a transactional id it fences every earlier producer of that id and resolves the transaction
    /// that one may have left open; without one it is idempotent.
    fn producer(&self, options: &ProducerOptions) -> Result<Box<dyn Producer>, LogError>;
}

/// What a topic is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    pub name: String,
    pub partitions: i32,
}

/// How many partitions a topic has; 0 if there is no such topic.
pub fn partitions_of(topics: &[TopicInfo], name: &str) -> i32 {
    topics.iter().find(|topic| topic.name == name).map_or(0, |topic| topic.partitions)
}

/// How long a reader of a compacted topic may be away and still learn what was deleted: 30 days.
pub const TOMBSTONE_RETENTION_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

/// What a topic is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    pub cleanup: Cleanup,
    /// `max.message.bytes`: the largest record batch that the topic takes.
    pub max_message_bytes: usize,
}

/// `cleanup.policy`. Either way nothing is deleted by age: the log is the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Keep every record for ever (`delete` with `retention.ms=-1`).
    Keep,
    /// Keep the last record of each key; a null value deletes the key, and is itself kept for `TOMBSTONE_RETENTION_MS`.
    Compact,
}

/// The offsets of one partition: `first <= stable <= end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// Offset of the oldest record kept.
    pub first: i64,
    /// Last stable offset: before it no transaction is open.
    pub stable: i64,
    /// High watermark: the offset that the next record will have.
    pub end: i64,
}

/// A consumer group as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    pub name: String,
    /// Kafka's word for it: `Stable`, `Empty`, `PreparingRebalance`, ...
    pub state: String,
    pub members: usize,
}

/// Reads the partitions that it was given.
pub trait Consumer: Send {
    /// Reads these partitions, each from the given position; replaces the assignment before it. Batches fetched
    /// earlier are dropped: the next one from a partition begins at its position. A member may only name what it holds.
    fn assign(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError>;

    /// The next records of the `index`-th assigned partition, at most `records_max`, without waiting.
    fn fetch(&mut self, index: usize, records_max: usize) -> Result<Fetched, LogError>;

    /// Waits until some partition may have something to fetch, at most `timeout`.
    fn wait(&mut self, timeout: Duration) -> Result<(), LogError>;
}

/// What a fetch found.
#[derive(Default)]
pub struct Fetched {
    /// The records, in offset order; `None` if there were none.
    pub records: Option<Box<dyn Batch>>,
    /// The position at the partition's end, when this fetch has reached it. It lies past control records, which are
    /// never delivered, so it is what to commit and to compare with the end offset when waiting for a partition's end.
    pub end: Option<i64>,
}

/// A consumer that is a member of a group.
pub trait GroupConsumer: Consumer {
    /// Serves the group: heartbeats, rebalances. To be called often (at least every 5 min on the embedded log, 15 min on Kafka).
    ///
    /// After `Assigned` the caller calls `take`; after `Revoked` it commits, closes what it had open on these partitions and
    /// calls `release`; after `Lost` it drops that, must not commit it, and calls `release`.
    fn poll_group(&mut self) -> Result<Option<Rebalance>, LogError>;

    /// Takes the partitions of the last `Assigned`, with the positions to read them from. They come after those that the
    /// member holds already, in the order given; `fetch` counts through all of them.
    fn take(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError>;

    /// Gives the partitions of the last `Revoked` or `Lost` back. The others keep their order.
    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// This member's place in the group now, for `Producer::commit`. To be read anew for every commit.
    fn membership(&self) -> Result<Membership, LogError>;
}

/// A change of a member's partitions: of all of them at once, or (KIP-848) of a few at a time, where partition p of one
/// topic may come or go before that of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebalance {
    /// These partitions are now this member's too.
    Assigned(Vec<TopicPartition>),
    /// These are to be given back, after a last commit.
    Revoked(Vec<TopicPartition>),
    /// These already belong to others: nothing may be committed for them any more.
    Lost(Vec<TopicPartition>),
}

/// A group member's id and generation, by which the log refuses the commits of a member that was replaced.
/// Opaque: each log has its own encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership(pub(crate) Arc<[u8]>);

/// How to join a group.
#[derive(Debug, Clone)]
pub struct MemberOptions {
    pub group: String,
    pub topics: Vec<String>,
    /// `client.id`, shown by tools that list members.
    pub client_id: String,
    /// `group.instance.id` (static membership, KIP-345): a member that comes back with it gets its partitions again at
    /// once, without waiting for the session timeout of its former life.
    pub instance_id: Option<String>,
}

/// What kind of producer.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    pub client_id: String,
    /// `None`: idempotent, without transactions.
    pub transactional_id: Option<String>,
}

/// Writes records, in transactions if it was made with a transactional id.
///
/// A transaction begins with the first `write` after a `commit` or `abort`.
pub trait Producer: Send {
    /// Hands a record over to be written. It is in the log once `flush` (without transactions) or `commit` has
    /// returned. With `tracked`, `flush` tells the offset that follows it.
    fn write(&mut self, record: &NewRecord<'_>, tracked: bool) -> Result<(), LogError>;

    /// Waits until all written records are in the log (though not committed), and returns for each partition that got
    /// a tracked record since the last flush, the offset after the last of them.
    fn flush(&mut self) -> Result<Vec<(TopicPartition, i64)>, LogError>;

    /// Whether anything is made of headers; if not, they need not be given.
    fn keeps_headers(&self) -> bool {
        true
    }

    /// Tells the positions that the next `commit` will carry: a log may take them while records are still on their way.
    /// After an error the transaction is to be treated as after the same error of `commit`.
    fn announce(&mut self, _positions: GroupPositions<'_>) -> Result<(), CommitError> {
        Ok(())
    }

    /// Commits the transaction, with a group's positions in it. Without transactions: flushes, then commits the
    /// positions by themselves (at-least-once).
    fn commit(&mut self, positions: Option<GroupPositions<'_>>) -> Result<(), CommitError>;

    /// Aborts the transaction: its records will never be seen. Does nothing when none is open.
    fn abort(&mut self) -> Result<(), LogError>;
}

/// The input positions that a transaction carries.
#[derive(Debug, Clone, Copy)]
pub struct GroupPositions<'a> {
    pub group: &'a str,
    pub membership: &'a Membership,
    /// Each partition with its next offset to read.
    pub positions: &'a [(TopicPartition, i64)],
}
