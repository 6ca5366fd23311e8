//! The log as one worker of a simulation sees it: the embedded log, with what fate has in store at each call.
//!
//! It also watches the worker: a commit begun after the group has taken its partitions away is a violation, even where the log
//! refuses it.

use std::sync::Arc;
use std::time::Duration;

use engram_pipeline::log::{
    CommitError, Consumer, Fetched, GroupConsumer, GroupInfo, GroupPositions, Log, LogError, MemberOptions, Membership,
    NewRecord, OffsetRange, Producer, ProducerOptions, Rebalance, TopicInfo, TopicPartition, TopicSpec,
};

use crate::fate::{Fate, Fault, Point, dead};

pub struct FaultyLog {
    inner: Arc<dyn Log>,
    fate: Arc<Fate>,
}

impl FaultyLog {
    pub fn new(inner: Arc<dyn Log>, fate: Arc<Fate>) -> Self {
        Self { inner, fate }
    }

    fn alive(&self) -> Result<(), LogError> {
        if self.fate.has_crashed() { Err(dead()) } else { Ok(()) }
    }
}

impl Log for FaultyLog {
    fn id(&self) -> Result<String, LogError> {
        self.inner.id()
    }

    fn topics(&self) -> Result<Vec<TopicInfo>, LogError> {
        self.alive()?;
        self.inner.topics()
    }

    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.inner.create_topics(topics)
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError> {
        self.inner.delete_topics(topics)
    }

    fn offsets(&self, partitions: &[TopicPartition]) -> Result<Vec<OffsetRange>, LogError> {
        self.alive()?;
        self.inner.offsets(partitions)
    }

    fn offset_at(&self, partition: &TopicPartition, timestamp_ms: i64) -> Result<Option<i64>, LogError> {
        self.inner.offset_at(partition, timestamp_ms)
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        self.alive()?;
        self.inner.committed(group, partitions)
    }

    fn groups(&self) -> Result<Vec<GroupInfo>, LogError> {
        self.inner.groups()
    }

    fn delete_group(&self, group: &str) -> Result<(), LogError> {
        self.inner.delete_group(group)
    }

    fn reader(&self) -> Result<Box<dyn Consumer>, LogError> {
        self.alive()?;
        let inner = self.inner.reader()?;
        Ok(Box::new(FaultyReader { inner, log: Arc::clone(&self.inner), fate: Arc::clone(&self.fate) }))
    }

    fn member(&self, options: &MemberOptions) -> Result<Box<dyn GroupConsumer>, LogError> {
        self.alive()?;
        let inner = Some(self.inner.member(options)?);
        Ok(Box::new(FaultyMember { inner, fate: Arc::clone(&self.fate), lost: false }))
    }

    fn producer(&self, options: &ProducerOptions) -> Result<Box<dyn Producer>, LogError> {
        self.alive()?;
        let inner = Some(self.inner.producer(options)?);
        let id = options.transactional_id.clone();
        if let Some(id) = &id {
            self.fate.shared.closed(id);
        }
        Ok(Box::new(FaultyProducer { inner, id, fate: Arc::clone(&self.fate) }))
    }
}

/// Reads changelogs.
struct FaultyReader {
    inner: Box<dyn Consumer>,
    log: Arc<dyn Log>,
    fate: Arc<Fate>,
}

impl Consumer for FaultyReader {
    fn assign(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        self.inner.assign(positions)
    }

    fn fetch(&mut self, index: usize, records_max: usize) -> Result<Fetched, LogError> {
        self.fate.at(Point::Restore)?;
        self.inner.fetch(index, records_max)
    }

    /// Somebody's transaction is open: time goes on until the broker gives it up.
    fn wait(&mut self, timeout: Duration) -> Result<(), LogError> {
        let shared = &self.fate.shared;
        shared.hand.advance(timeout);
        shared.expire(&*self.log)
    }
}

struct FaultyMember {
    /// `None` once it has become a ghost.
    inner: Option<Box<dyn GroupConsumer>>,
    fate: Arc<Fate>,
    /// Told `Lost`, not yet released.
    lost: bool,
}

impl FaultyMember {
    fn inner(&mut self) -> Result<&mut Box<dyn GroupConsumer>, LogError> {
        if self.fate.has_crashed() {
            return Err(dead());
        }
        self.inner.as_mut().ok_or_else(dead)
    }
}

impl Consumer for FaultyMember {
    fn assign(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        if self.lost {
            self.fate.shared.violation(format!("{} reads on after its partitions were lost", self.fate.name));
        }
        self.inner()?.assign(positions)
    }

    fn fetch(&mut self, index: usize, records_max: usize) -> Result<Fetched, LogError> {
        self.fate.at(Point::Fetch)?;
        match self.fate.fetch_records(records_max) {
            0 => Ok(Fetched::default()),
            records => self.inner()?.fetch(index, records.min(records_max)),
        }
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.fate.shared.hand.advance(timeout);
        Ok(())
    }
}

impl GroupConsumer for FaultyMember {
    fn poll_group(&mut self) -> Result<Option<Rebalance>, LogError> {
        let change = self.inner()?.poll_group()?;
        if let Some(change) = &change {
            self.fate.shared.trace.tell(format!("{}: {change:?}", self.fate.name));
        }
        self.lost |= matches!(change, Some(Rebalance::Lost(_)));
        Ok(change)
    }

    fn take(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        if self.lost {
            self.fate.shared.violation(format!("{} reads on after its partitions were lost", self.fate.name));
        }
        self.inner()?.take(positions)
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.lost = false;
        self.inner()?.release(partitions)
    }

    fn membership(&self) -> Result<Membership, LogError> {
        if self.lost {
            self.fate.shared.violation(format!("{} begins a commit after its partitions were lost", self.fate.name));
        }
        self.inner.as_ref().ok_or_else(dead)?.membership()
    }
}

impl Drop for FaultyMember {
    fn drop(&mut self) {
        // Who dies does not say good-bye.
        if self.fate.has_crashed()
            && let Some(inner) = self.inner.take()
        {
            self.fate.shared.member_died(Box::new(inner));
        }
    }
}

struct FaultyProducer {
    /// `None` once it has become a ghost.
    inner: Option<Box<dyn Producer>>,
    id: Option<String>,
    fate: Arc<Fate>,
}

impl FaultyProducer {
    fn inner(&mut self) -> Result<&mut Box<dyn Producer>, LogError> {
        self.inner.as_mut().ok_or_else(dead)
    }

    fn closed(&self) {
        if let Some(id) = &self.id {
            self.fate.shared.closed(id);
        }
    }

    fn aborted(&mut self, reason: &str) -> CommitError {
        self.closed();
        match self.inner().and_then(|inner| inner.abort()) {
            Ok(()) => CommitError::Aborted(reason.to_owned()),
            Err(error) => CommitError::Log(error),
        }
    }

    fn crashed_after(&self) -> LogError {
        self.fate.crash();
        dead()
    }
}

impl Producer for FaultyProducer {
    fn write(&mut self, record: &NewRecord<'_>, tracked: bool) -> Result<(), LogError> {
        let fault = self.fate.at(Point::Write)?;
        if let Some(id) = &self.id {
            self.fate.shared.opened(id);
        }
        self.inner()?.write(record, tracked)?;
        match fault {
            Some(Fault::CrashAfter) => Err(self.crashed_after()),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        let fault = self.fate.at(Point::Flush)?;
        let ends = self.inner()?.flush()?;
        match fault {
            Some(Fault::CrashAfter) => Err(self.crashed_after()),
            _ => Ok(ends),
        }
    }

    fn announce(&mut self, positions: GroupPositions<'_>) -> Result<(), CommitError> {
        let fault = self.fate.at(Point::Announce)?;
        self.inner()?.announce(positions)?;
        match fault {
            Some(Fault::CrashAfter) => Err(self.crashed_after().into()),
            Some(Fault::Aborted) => Err(self.aborted("by fate, at its positions")),
            _ => Ok(()),
        }
    }

    fn commit(&mut self, positions: Option<GroupPositions<'_>>) -> Result<(), CommitError> {
        match self.fate.at(Point::Commit)? {
            Some(Fault::Aborted) => return Err(self.aborted("by fate")),
            Some(Fault::UnknownAborted) => {
                self.aborted("unknown");
                return Err(CommitError::Unknown("by fate; it was not committed".to_owned()));
            }
            Some(Fault::UnknownCommitted) => {
                self.inner()?.commit(positions)?;
                self.closed();
                return Err(CommitError::Unknown("by fate; it was committed".to_owned()));
            }
            Some(Fault::CrashAfter) => {
                self.inner()?.commit(positions)?;
                self.closed();
                return Err(self.crashed_after().into());
            }
            _ => {}
        }
        let outcome = self.inner()?.commit(positions);
        self.closed();
        outcome
    }

    fn abort(&mut self) -> Result<(), LogError> {
        if self.fate.has_crashed() {
            return Err(dead());
        }
        self.closed();
        self.inner()?.abort()
    }
}

impl Drop for FaultyProducer {
    fn drop(&mut self) {
        if self.fate.has_crashed()
            && let Some(inner) = self.inner.take()
        {
            self.fate.shared.producer_died(Box::new(inner));
        } else {
            self.closed();
        }
    }
}
