//! Kafka's producer behind the port: transactions, delivery tracking, and what its errors mean for the caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use rdkafka::types::RDKafkaRespErr as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::members::Members;
use super::native::{self, Delivery, NativeError, NativeProducer, TopicHandle};
use crate::log::{CommitError, GroupPositions, LogError, NewRecord, Producer, TopicPartition};

/// How long a flush, an abort or the sending of positions may take.
const REQUEST_TIMEOUT_MS: i32 = 30_000;
/// How long to wait for the transaction coordinator at start; it may be loading, or a broker may just be restarting.
const INIT_TIMEOUT_MS: i32 = 30_000;
/// A topic that was created by another broker's word is known to all after so long.
const NEW_TOPIC_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Delivery reports are served after so many writes, so that they do not pile up.
const WRITES_PER_POLL: u32 = 1_000;
/// Retries of a call that librdkafka says may be repeated.
const RETRIES_MAX: u32 = 5;

pub struct KafkaProducer {
    topics: HashMap<String, Topic, FixedState>,
    native: NativeProducer,
    members: Arc<Members>,
    transactional: bool,
    open: bool,
    /// The open transaction has its positions.
    announced: bool,
    writes_since_poll: u32,
}

struct Topic {
    handle: TopicHandle,
    name: Arc<str>,
    /// Partitions, as the brokers said last.
    count: i32,
    /// By partition. Boxed: librdkafka holds pointers to them until the records are delivered.
    partitions: Vec<Option<Box<Partition>>>,
}

#[derive(Default)]
struct Partition {
    delivery: Delivery,
    tracked_since_flush: bool,
}

impl KafkaProducer {
    pub fn new(native: NativeProducer, members: Arc<Members>, transactional: bool) -> Result<Self, LogError> {
        if transactional {
            retry(|| native.init_transactions(INIT_TIMEOUT_MS))
                .map_err(|error| to_log_error("init transactions", error))?;
        }
        Ok(Self {
            topics: HashMap::default(),
            native,
            members,
            transactional,
            open: false,
            announced: false,
            writes_since_poll: 0,
        })
    }

    fn begin(&mut self) -> Result<(), LogError> {
        if self.transactional && !self.open {
            self.native.begin_transaction().map_err(|error| to_log_error("begin a transaction", error))?;
            self.open = true;
        }
        Ok(())
    }

    fn topic(&mut self, name: &str) -> Result<&mut Topic, LogError> {
        if !self.topics.contains_key(name) {
            let c_name = native::c_name(name)
                .ok_or_else(|| LogError::Refused(format!("{name:?} is not a topic name: it has a NUL character")))?;
            let topic =
                Topic { handle: self.native.topic(&c_name), name: name.into(), count: 0, partitions: Vec::new() };
            self.topics.insert(name.to_owned(), topic);
        }
        Ok(self.topics.get_mut(name).expect("inserted above"))
    }

    /// Refuses a topic or partition that does not exist. Without it, librdkafka would hold the record back until it times
    /// out, and not say why.
    fn check_exists(&mut self, name: &str, number: i32) -> Result<(), LogError> {
        let handle = self.topic(name)?.handle;
        let deadline = Instant::now() + NEW_TOPIC_MAX;
        loop {
            match self.native.partitions(handle, REQUEST_TIMEOUT_MS) {
                Ok(count) if (0..count).contains(&number) => {
                    self.topic(name)?.count = count;
                    return Ok(());
                }
                Ok(count) => {
                    return Err(LogError::Refused(format!(
                        "topic {name} has the partitions 0 to {}, not {number}: choose one of these",
                        count - 1
                    )));
                }
                Err(
                    Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                    | Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
                    | Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
                ) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
                Err(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC) => {
                    return Err(LogError::Refused(format!("there is no topic {name} in the log: create it first")));
                }
                Err(code) => return Err(LogError::failed(format!("cannot write to {name}"), format!("{code:?}"))),
            }
        }
    }

    fn ended(&mut self) {
        self.open = false;
        self.announced = false;
    }

    fn failures(&self) -> u64 {
        self.partitions().map(|(_, _, partition)| partition.delivery.failed.swap(0, Ordering::Relaxed)).sum()
    }

    fn partitions(&self) -> impl Iterator<Item = (&Arc<str>, usize, &Partition)> {
        self.topics.values().flat_map(|topic| {
            topic.partitions.iter().enumerate().filter_map(|(number, partition)| {
                partition.as_deref().map(|partition| (&topic.name, number, partition))
            })
        })
    }

    /// Puts a failed commit to rest: an abort where that is possible, so that the producer can be used again.
    fn abort_after(&mut self, error: NativeError) -> CommitError {
        if is_fencing(&error) {
            return CommitError::Fenced(error.reason);
        }
        if error.requires_abort {
            return match self.abort() {
                Ok(()) if is_lost_member(&error) && !self.members.may_lag() => CommitError::Fenced(error.reason),
                Ok(()) => CommitError::Aborted(error.reason),
                Err(abort) => CommitError::Unknown(format!("{}; then {abort}", error.reason)),
            };
        }
        CommitError::Unknown(error.reason)
    }
}

impl Producer for KafkaProducer {
    fn write(&mut self, record: &NewRecord<'_>, tracked: bool) -> Result<(), LogError> {
        let known = self.topics.get(record.topic).is_some_and(|topic| (0..topic.count).contains(&record.partition));
        if !known {
            self.check_exists(record.topic, record.partition)?;
        }
        self.begin()?;
        let number = record.partition as usize;
        let topic = self.topics.get_mut(record.topic).expect("it exists");
        if topic.partitions.len() <= number {
            topic.partitions.resize_with(number + 1, || None);
        }
        let partition = topic.partitions[number].get_or_insert_default();
        partition.tracked_since_flush |= tracked;
        let (handle, delivery) = (topic.handle, &raw const partition.delivery);
        loop {
            // SAFETY: deliveries are boxed and live in `topics`, which outlives the client's last poll (see `drop`).
            match unsafe { self.native.write(handle, record, delivery, tracked) } {
                Ok(()) => break,
                // The queue is bounded: wait for the broker to take some.
                Err(error) if error.code == Code::RD_KAFKA_RESP_ERR__QUEUE_FULL => self.native.poll(10),
                Err(error) => return Err(to_log_error(&format!("write to {}", record.topic), error)),
            }
        }
        self.writes_since_poll += 1;
        if self.writes_since_poll == WRITES_PER_POLL {
            self.writes_since_poll = 0;
            self.native.poll(0);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        self.native
            .flush(REQUEST_TIMEOUT_MS)
            .map_err(|code| LogError::failed("the broker did not take the records in time", format!("{code:?}")))?;
        let failed = self.failures();
        if failed > 0 {
            return Err(LogError::failed("write records", format!("{failed} records were not delivered")));
        }
        let mut ends = Vec::new();
        for topic in self.topics.values_mut() {
            for (number, partition) in topic.partitions.iter_mut().enumerate() {
                let Some(partition) = partition.as_mut().filter(|partition| partition.tracked_since_flush) else {
                    continue;
                };
                partition.tracked_since_flush = false;
                let end = partition.delivery.end.load(Ordering::Relaxed);
                ends.push((TopicPartition::new(Arc::clone(&topic.name), number as i32), end));
            }
        }
        Ok(ends)
    }

    /// The positions are sent while librdkafka's threads still deliver records.
    fn announce(&mut self, positions: GroupPositions<'_>) -> Result<(), CommitError> {
        if !self.transactional {
            return Ok(());
        }
        let consumer = self.members.get(positions.membership)?;
        let list = position_list(positions.positions)?;
        self.begin()?;
        // SAFETY: `consumer` and `list` are live for the call.
        let sent = retry(|| unsafe { self.native.send_offsets(list.ptr(), consumer.native(), REQUEST_TIMEOUT_MS) });
        if let Err(error) = sent {
            // Nothing of this transaction can have been committed yet.
            return Err(match self.abort_after(error) {
                CommitError::Unknown(reason) => {
                    self.abort()?;
                    CommitError::Aborted(reason)
                }
                other => other,
            });
        }
        self.announced = true;
        Ok(())
    }

    fn commit(&mut self, positions: Option<GroupPositions<'_>>) -> Result<(), CommitError> {
        if !self.transactional {
            self.flush()?;
            if let Some(positions) = positions {
                self.members.get(positions.membership)?.commit(&position_list(positions.positions)?)?;
            }
            return Ok(());
        }
        if let Some(positions) = positions.filter(|_| !self.announced) {
            self.announce(positions)?;
        }
        if !self.open {
            return Ok(());
        }
        if let Err(error) = retry(|| self.native.commit_transaction()) {
            return Err(self.abort_after(error));
        }
        self.ended();
        Ok(())
    }

    fn abort(&mut self) -> Result<(), LogError> {
        if !self.open {
            return Ok(());
        }
        retry(|| self.native.abort_transaction()).map_err(|error| to_log_error("abort the transaction", error))?;
        self.ended();
        self.failures();
        Ok(())
    }
}

impl Drop for KafkaProducer {
    fn drop(&mut self) {
        // What was not flushed or committed is given up. The reports are served once more, while the deliveries that
        // they point to are still there.
        self.native.purge();
        let _ = self.native.flush(1_000);
        for topic in self.topics.values() {
            self.native.forget_topic(topic.handle);
        }
    }
}

fn position_list(positions: &[(TopicPartition, i64)]) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (partition, position) in positions {
        list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(*position))
            .map_err(|error| LogError::failed(format!("commit the position of {partition}"), error))?;
    }
    Ok(list)
}

fn retry(mut call: impl FnMut() -> Result<(), NativeError>) -> Result<(), NativeError> {
    for _ in 1..RETRIES_MAX {
        match call() {
            Err(error) if error.retriable && !error.requires_abort && !error.fatal => {}
            outcome => return outcome,
        }
    }
    call()
}

fn is_fencing(error: &NativeError) -> bool {
    matches!(error.code, Code::RD_KAFKA_RESP_ERR__FENCED | Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED)
}

/// The consumer's place in the group is gone: the transaction can be aborted, but its tasks belong to others now.
fn is_lost_member(error: &NativeError) -> bool {
    matches!(
        error.code,
        Code::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION
            | Code::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID
            | Code::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID
            | Code::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS
            | Code::RD_KAFKA_RESP_ERR_STALE_MEMBER_EPOCH
            | Code::RD_KAFKA_RESP_ERR_FENCED_MEMBER_EPOCH
    )
}

fn to_log_error(doing: &str, error: NativeError) -> LogError {
    if is_fencing(&error) {
        return LogError::Fenced(error.reason);
    }
    match error.code {
        Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE => {
            LogError::TooLarge(format!("cannot {doing}: the record is larger than the log takes ({})", error.reason))
        }
        Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC | Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION => {
            LogError::Refused(format!("cannot {doing}: no such topic or partition"))
        }
        _ => LogError::failed(format!("cannot {doing}"), error.reason),
    }
}
