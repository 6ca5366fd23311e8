//! The embedded log: Kafka's semantics in one process, over one RocksDB.
//!
//! One process owns the log, and all services run there; others read beside it and send the owner what they write.
//!
//! ```text
//! keys, stored, bytes    what is stored, byte for byte
//! files                  the RocksDB
//! view                   what is read: topics, offsets, records, positions
//! buffer, state, owner   how records get their offsets, and how a transaction is committed
//! admin                  topics and groups that come and go
//! group, range           who in a group reads what
//! compaction             how superseded records go
//! consumer, producer     the port's two ends
//! request, beside        the same from another process
//! ```
//!
//! INVARIANT: what `flush` (without transactions) or `commit` has acknowledged survives the process and the machine.

mod admin;
mod beside;
mod buffer;
mod bytes;
mod compaction;
mod consumer;
mod files;
mod group;
mod keys;
mod owner;
mod producer;
mod range;
mod request;
mod state;
mod stored;
mod view;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use beside::Beside;
use consumer::{Member, Reader};
use files::Files;
use owner::Owner;
use producer::{EmbeddedProducer, To};
use request::{Epoch, Request, encode_answer};
use view::View;

pub(crate) use files::is_lock_conflict;

use crate::clock::Clock;

use super::{
    CommitError, Consumer, GroupConsumer, GroupInfo, Log, LogError, MemberOptions, OffsetRange, Producer,
    ProducerOptions, TopicInfo, TopicPartition, TopicSpec, copartition,
};

/// The records of one transaction, in bytes; they are in memory until it is committed.
pub const TRANSACTION_BYTES_MAX: usize = 256 << 20;

/// How a process that does not own the log reaches the one that does.
pub trait Forward: Send + Sync {
    /// Hands over a request and waits for what `EmbeddedLog::serve` answers.
    ///
    /// Errors: `Unreachable`, `Refused`.
    fn forward(&self, request: &[u8]) -> Result<Vec<u8>, LogError>;
}

/// A log inside the process, in DIR/log. Cheap to clone; `keys` says what lies in its RocksDB.
#[derive(Clone)]
pub struct EmbeddedLog {
    access: Access,
}

#[derive(Clone)]
enum Access {
    Owner(Arc<Owner>),
    Beside(Arc<Beside>),
}

impl EmbeddedLog {
    /// Opens the log in a data folder as its one owner, or creates it.
    ///
    /// Errors: `Refused` if another process owns it or a newer Engram wrote it; `Corrupt`, `Full`.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        Ok(Self { access: Access::Owner(Arc::new(Owner::new(Files::open(dir)?, Clock::default())?)) })
    }

    /// Opens the log in a data folder for reading, whether or not a process owns it. What is written goes through
    /// `forward`; groups have members only in the owner.
    ///
    /// Errors: `Refused` if there is no log; `Corrupt`.
    pub fn open_beside(dir: &Path, forward: Arc<dyn Forward>) -> Result<Self, LogError> {
        Ok(Self { access: Access::Beside(Arc::new(Beside::open(dir, forward)?)) })
    }

    /// A log that is gone when it is dropped, for tests.
    pub fn in_memory() -> Self {
        Self::in_memory_at(Clock::default())
    }

    /// The same, where it is as late as `clock` says, for simulations.
    pub fn in_memory_at(clock: Clock) -> Self {
        let owner = Files::in_memory().and_then(|files| Owner::new(files, clock));
        let owner = owner.expect("RocksDB opens in memory, where nothing lies yet");
        Self { access: Access::Owner(Arc::new(owner)) }
    }

    /// Executes the request of a process beside this one, which owns the log; answers with the outcome.
    pub fn serve(&self, request: &[u8]) -> Vec<u8> {
        let refused = |reason: &str| Err(CommitError::Log(LogError::Refused(reason.to_owned())));
        let outcome = match (&self.access, Request::decode(request)) {
            (Access::Owner(owner), Some(request)) => producer::execute(owner, request),
            (Access::Owner(_), None) => {
                refused("the log's owner does not know this request: use the same engram for both")
            }
            (Access::Beside(_), _) => refused("this process does not own the log"),
        };
        encode_answer(&outcome)
    }

    fn view(&self) -> &dyn View {
        match &self.access {
            Access::Owner(owner) => &**owner,
            Access::Beside(beside) => &**beside,
        }
    }
}

impl Log for EmbeddedLog {
    fn id(&self) -> Result<String, LogError> {
        Ok("embedded".to_owned())
    }

    fn topics(&self) -> Result<Vec<TopicInfo>, LogError> {
        let topics = self.view().topics()?.into_iter().filter(|(name, _)| !name.starts_with("__"));
        Ok(topics.map(|(name, topic)| TopicInfo { name, partitions: topic.partitions.cast_signed() }).collect())
    }

    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        match &self.access {
            Access::Owner(owner) => owner.create_topics(topics),
            Access::Beside(beside) => beside.call(Request::CreateTopics(topics.to_vec())).map(drop),
        }
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError> {
        match &self.access {
            Access::Owner(owner) => owner.delete_topics(topics),
            Access::Beside(beside) => {
                let names = topics.iter().map(|&name| name.to_owned()).collect();
                beside.call(Request::DeleteTopics(names)).map(drop)
            }
        }
    }

    fn offsets(&self, partitions: &[TopicPartition]) -> Result<Vec<OffsetRange>, LogError> {
        partitions.iter().map(|partition| view::offsets(self.view(), partition)).collect()
    }

    fn offset_at(&self, partition: &TopicPartition, timestamp_ms: i64) -> Result<Option<i64>, LogError> {
        view::offset_at(self.view(), partition, timestamp_ms)
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        match &self.access {
            Access::Owner(owner) => owner.committed(group, partitions),
            Access::Beside(beside) => {
                partitions.iter().map(|partition| view::committed(&**beside, group, partition)).collect()
            }
        }
    }

    fn groups(&self) -> Result<Vec<GroupInfo>, LogError> {
        match &self.access {
            Access::Owner(owner) => owner.groups(),
            Access::Beside(beside) => {
                beside.files().catch_up()?;
                Ok(view::groups(&**beside)?.into_values().collect())
            }
        }
    }

    fn delete_group(&self, group: &str) -> Result<(), LogError> {
        match &self.access {
            Access::Owner(owner) => owner.delete_group(group),
            Access::Beside(beside) => beside.call(Request::DeleteGroup(group.to_owned())).map(drop),
        }
    }

    fn reader(&self) -> Result<Box<dyn Consumer>, LogError> {
        let view: Arc<dyn View> = match &self.access {
            Access::Owner(owner) => owner.clone(),
            Access::Beside(beside) => beside.clone(),
        };
        Ok(Box::new(Reader::new(view)))
    }

    fn member(&self, options: &MemberOptions) -> Result<Box<dyn GroupConsumer>, LogError> {
        match &self.access {
            Access::Owner(owner) => {
                copartition::check(&self.topics()?, &options.topics)?;
                Ok(Box::new(Member::join(Arc::clone(owner), options)?))
            }
            Access::Beside(_) => Err(LogError::Refused(format!(
                "group {} has members only in the process that owns the log: run its services there",
                options.group
            ))),
        }
    }

    fn producer(&self, options: &ProducerOptions) -> Result<Box<dyn Producer>, LogError> {
        let id = options.transactional_id.as_deref();
        let to = match &self.access {
            Access::Owner(owner) => To::Owner(Arc::clone(owner), id.map(|id| owner.fence(id)).transpose()?),
            Access::Beside(beside) => {
                let fence = |id: &str| -> Result<Epoch, LogError> {
                    let answer = beside.call(Request::Fence(id.to_owned()))?;
                    Ok((id.to_owned(), answer.epoch))
                };
                To::Beside(Arc::clone(beside), id.map(fence).transpose()?)
            }
        };
        Ok(Box::new(EmbeddedProducer::new(to)))
    }
}
