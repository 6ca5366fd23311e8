//! Kafka's consumer behind the port: split partition queues read in batches, and group membership whose rebalances are
//! handed to the worker instead of being answered inside a callback.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::GroupProtocol;
use super::native::{self, Message, PartitionQueue, Wake};
use crate::log::{Batch, Consumer, Fetched, GroupConsumer, LogError, Membership, Rebalance, RecordRef, TopicPartition};

/// How long a partition may take until it can be set to another position.
const SEEK_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Keeps rebalances until the worker has answered them.
///
/// SUBTLE: librdkafka lets the application answer a rebalance later: the group waits until one of the calls that assign or
/// unassign is made. So the worker commits and closes its tasks in its own loop, not inside a callback.
#[derive(Default)]
pub struct GroupContext {
    rebalances: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
}

impl GroupContext {
    fn rebalances(&self) -> MutexGuard<'_, VecDeque<Rebalance>> {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rebalance that was told last is about to be answered.
    fn answer(&self) {
        self.rebalances().pop_front();
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(target: "librdkafka", "{facility} {line}");
            }
            _ => tracing::debug!(target: "librdkafka", "{facility} {line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: Code, partitions: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Acquire) {
            let _ = consumer.unassign();
            return;
        }
        let place = |element: &TopicPartitionListElem<'_>| TopicPartition::new(element.topic(), element.partition());
        let which = partitions.elements().iter().map(place).collect();
        let event = match code {
            Code::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assigned(which),
            _ if consumer.assignment_lost() => Rebalance::Lost(which),
            _ => Rebalance::Revoked(which),
        };
        self.rebalances().push_back(event);
    }
}

/// A consumer with the queues of its partitions.
pub struct KafkaConsumer {
    /// Before `consumer`: queues go before their client.
    queues: Vec<Held>,
    wake: Arc<Wake>,
    consumer: Arc<BaseConsumer<GroupContext>>,
    member: Option<Member>,
}

/// A partition that is being read.
struct Held {
    partition: TopicPartition,
    queue: PartitionQueue,
    /// What comes next, if anything was delivered since it was assigned or set to a position.
    next: Option<i64>,
}

/// A consumer's place in its group.
pub struct Member {
    pub membership: Membership,
    pub protocol: GroupProtocol,
}

impl KafkaConsumer {
    pub fn new(consumer: Arc<BaseConsumer<GroupContext>>, member: Option<Member>) -> Self {
        Self { queues: Vec::new(), wake: Arc::default(), consumer, member }
    }

    /// Partitions come and go a few at a time, and librdkafka wants to hear of these only.
    fn is_incremental(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.protocol == GroupProtocol::Consumer)
    }

    /// Splits a partition's queue off. To be called before the partition is assigned.
    fn split(&self, partition: &TopicPartition) -> Result<Held, LogError> {
        let refused = || LogError::Refused(format!("{partition} is not a partition"));
        let name = native::c_name(&partition.topic).ok_or_else(refused)?;
        // SAFETY: `consumer` is live and outlives its queues (field order).
        let queue = unsafe {
            PartitionQueue::split(self.consumer.client().native_ptr(), &name, partition.partition, &self.wake)
        };
        Ok(Held { partition: partition.clone(), queue: queue.ok_or_else(refused)?, next: None })
    }

    /// Sets librdkafka right about where the partitions that stay are read on. To be called before a rebalance is answered.
    ///
    /// SUBTLE: while partitions come and go, librdkafka pauses the others, and resumes them after what was consumed last.
    /// Read in batches, it takes the report of a partition's end for a record, and would pass over the one that comes there
    /// next. A position that is set during the pause stays.
    fn hold_positions(&mut self) -> Result<(), LogError> {
        let delivered = self.queues.iter().filter_map(|held| Some((held.partition.clone(), held.next?)));
        let positions: Vec<_> = delivered.collect();
        self.seek_each(&positions)?;
        self.queues.iter_mut().for_each(|held| held.next = None);
        Ok(())
    }

    /// Sets all partitions to other positions, and reads them in this order.
    fn seek(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        let mut queues = std::mem::take(&mut self.queues);
        for (partition, _) in positions {
            let held = queues.iter().position(|held| held.partition == *partition);
            let held = held.ok_or_else(|| LogError::Refused(format!("{partition} is not this member's")))?;
            self.queues.push(Held { next: None, ..queues.swap_remove(held) });
        }
        self.seek_each(positions)
    }

    fn seek_each(&self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        if positions.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + SEEK_MAX;
        loop {
            let sought = self.consumer.seek_partitions(list(positions)?, SEEK_MAX);
            let failed = match &sought {
                Ok(list) => list.elements().iter().find_map(|element| element.error().err()),
                Err(error) => Some(error.clone()),
            };
            match failed {
                None => return Ok(()),
                // One that has only just been assigned is not being read yet.
                Some(_) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
                Some(error) => return Err(LogError::failed("cannot set partitions back", error)),
            }
        }
    }

    /// Serves the main queue: rebalances and errors. Records never come this way.
    fn serve(&self) -> Result<(), LogError> {
        // At most a few events a call; whatever is left comes with the next.
        for _ in 0..16 {
            match self.consumer.poll(Duration::ZERO) {
                None => return Ok(()),
                Some(Ok(message)) => {
                    use rdkafka::Message as _;
                    let place = TopicPartition::new(message.topic(), message.partition());
                    return Err(LogError::failed(format!("a record of {place} came by the main queue"), "not split"));
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return Err(fatal(code));
                }
                Some(Err(KafkaError::MessageConsumption(
                    code @ (RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::GroupAuthorizationFailed),
                ))) => return Err(LogError::failed("cannot read the topics", code)),
                // Brokers that are down come back; librdkafka reconnects by itself.
                Some(Err(error)) => tracing::debug!(%error, "the consumer reported an error"),
            }
        }
        Ok(())
    }
}

impl Consumer for KafkaConsumer {
    fn assign(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        // SUBTLE: a reader goes back and forth fast. Assigned anew, librdkafka may still hand out a record of the assignment
        // before, by the main queue, as the partition's own is gone by then.
        let holds = |partition: &TopicPartition| self.queues.iter().any(|held| held.partition == *partition);
        let same = positions.len() == self.queues.len() && positions.iter().all(|(partition, _)| holds(partition));
        if self.is_incremental() || (self.member.is_none() && same) {
            return self.seek(positions);
        }
        self.queues.clear();
        for (partition, _) in positions {
            let held = self.split(partition)?;
            self.queues.push(held);
        }
        self.consumer.assign(&list(positions)?).map_err(|error| LogError::failed("cannot assign partitions", error))
    }

    fn fetch(&mut self, index: usize, records_max: usize) -> Result<Fetched, LogError> {
        let Held { partition, queue, next } = &mut self.queues[index];
        let mut messages = queue.take(records_max);
        let mut end = None;
        let mut failure = None;
        messages.retain(|message| match message.error() {
            Ok(()) => {
                end = None;
                *next = Some(message.offset() + 1);
                true
            }
            Err(Code::RD_KAFKA_RESP_ERR__PARTITION_EOF) => {
                end = Some(message.offset());
                *next = end;
                false
            }
            Err(code) => {
                failure = Some((code, message.offset()));
                false
            }
        });
        if let Some((code, offset)) = failure {
            return Err(cannot_read(partition, code, offset));
        }
        let records = (!messages.is_empty())
            .then(|| Box::new(KafkaBatch { messages, _consumer: Arc::clone(&self.consumer) }) as Box<dyn Batch>);
        Ok(Fetched { records, end })
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.wake.wait(timeout);
        if self.member.is_none() {
            self.serve()?;
        }
        Ok(())
    }
}

impl GroupConsumer for KafkaConsumer {
    fn poll_group(&mut self) -> Result<Option<Rebalance>, LogError> {
        self.serve()?;
        Ok(self.consumer.context().rebalances().front().cloned())
    }

    fn take(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        if !self.is_incremental() {
            self.consumer.context().answer();
            return self.assign(positions);
        }
        self.hold_positions()?;
        for (partition, _) in positions {
            let held = self.split(partition)?;
            self.queues.push(held);
        }
        self.consumer.context().answer();
        let taken = self.consumer.incremental_assign(&list(positions)?);
        taken.map_err(|error| LogError::failed("cannot take partitions", error))
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let released = if self.is_incremental() {
            self.queues.retain(|held| !partitions.contains(&held.partition));
            self.hold_positions()?;
            self.consumer.context().answer();
            self.consumer.incremental_unassign(&names(partitions))
        } else {
            self.queues.clear();
            self.consumer.context().answer();
            self.consumer.unassign()
        };
        released.map_err(|error| LogError::failed("cannot give partitions back", error))
    }

    fn membership(&self) -> Result<Membership, LogError> {
        let membership = self.member.as_ref().map(|member| member.membership.clone());
        membership.ok_or_else(|| LogError::Refused("this consumer is in no group".to_owned()))
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        // The consumer goes with the last batch; from here on nobody asks for its rebalances, and librdkafka takes any
        // answer.
        let context = self.consumer.context();
        context.closing.store(true, Ordering::Release);
        if !self.is_incremental() {
            let _ = self.consumer.unassign();
            return;
        }
        // Closing waits for the answer to each, also to the one over which the worker has failed.
        for change in std::mem::take(&mut *context.rebalances()) {
            let _ = match change {
                Rebalance::Assigned(which) => self.consumer.incremental_assign(&names(&which)),
                Rebalance::Revoked(which) | Rebalance::Lost(which) => {
                    self.consumer.incremental_unassign(&names(&which))
                }
            };
        }
    }
}

fn list(positions: &[(TopicPartition, i64)]) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (partition, position) in positions {
        list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(*position))
            .map_err(|error| LogError::failed(format!("read {partition} from {position}"), error))?;
    }
    Ok(list)
}

fn names(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(&partition.topic, partition.partition);
    }
    list
}

/// Why a partition cannot be read on, and whether trying again may help.
///
/// SUBTLE: where no offset is named, the broker could not tell where the epoch of the last leader ended (KIP-320), as happens
/// when it was killed; from the committed position, which comes without an epoch, it reads on.
fn cannot_read(partition: &TopicPartition, code: Code, offset: i64) -> LogError {
    match code {
        Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET | Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE if offset >= 0 => {
            LogError::Refused(format!("{partition} has no offset {offset}: it was deleted or never written"))
        }
        code => LogError::failed(format!("cannot read {partition}"), format!("{code:?}")),
    }
}

/// What has ended the consumer, and whether a new one may fare better.
fn fatal(code: RDKafkaErrorCode) -> LogError {
    match code {
        RDKafkaErrorCode::FencedInstanceId => LogError::Fenced("another member has this group.instance.id".to_owned()),
        RDKafkaErrorCode::UnsupportedVersion
        | RDKafkaErrorCode::UnsupportedFeature
        | RDKafkaErrorCode::UnsupportedAssignor => LogError::Refused(format!(
            "the brokers do not serve group.protocol=consumer with the assignor range ({code}): use Apache Kafka 4.0 or \
             later, or the classic protocol"
        )),
        RDKafkaErrorCode::UnreleasedInstanceId => LogError::failed(
            "cannot join the group",
            "a member with this group.instance.id has not left it: it is given up after its session timeout",
        ),
        code => LogError::failed("the consumer has failed", code),
    }
}

struct KafkaBatch {
    /// Before `_consumer`: messages go before their client.
    messages: Vec<Message>,
    _consumer: Arc<BaseConsumer<GroupContext>>,
}

impl Batch for KafkaBatch {
    fn len(&self) -> usize {
        self.messages.len()
    }

    fn bytes(&self) -> usize {
        self.messages.iter().map(Message::bytes).sum()
    }

    fn record(&self, index: usize) -> RecordRef<'_> {
        self.messages[index].record()
    }

    fn visit_headers(&self, index: usize, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        self.messages[index].visit_headers(visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_offset_that_is_named_is_missing_for_good() {
        let partition = TopicPartition::new("t", 6);
        let reset = Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET;
        assert!(matches!(cannot_read(&partition, reset, 7), LogError::Refused(text) if text.contains("no offset 7")));
        // By a broker that was killed: -1001, librdkafka's invalid offset.
        assert!(matches!(cannot_read(&partition, reset, -1001), LogError::Failed { .. }));
    }
}
