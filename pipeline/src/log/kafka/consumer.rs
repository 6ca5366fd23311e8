//! Kafka's consumer behind the port: split partition queues read in batches, and group membership whose rebalances are
//! handed to the worker instead of being answered inside a callback.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::native::{self, Message, PartitionQueue, Wake};
use crate::log::{
    Batch, Consumer, Fetched, GroupConsumer, Header, LogError, Membership, Rebalance, RecordRef, TopicPartition,
};

/// Keeps rebalances until the worker asks for them.
///
/// SUBTLE: librdkafka lets the application answer a rebalance later: the group waits until `assign` or `unassign` is
/// called. So the worker commits and closes its tasks in its own loop, not inside a callback.
#[derive(Default)]
pub struct GroupContext {
    rebalances: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
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
        let event = match code {
            Code::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assigned(
                partitions
                    .elements()
                    .iter()
                    .map(|element| TopicPartition::new(element.topic(), element.partition()))
                    .collect(),
            ),
            _ if consumer.assignment_lost() => Rebalance::Lost,
            _ => Rebalance::Revoked,
        };
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
    }
}

/// A consumer with the queues of its partitions.
pub struct KafkaConsumer {
    /// Before `consumer`: queues go before their client.
    queues: Vec<(TopicPartition, PartitionQueue)>,
    wake: Arc<Wake>,
    consumer: Arc<BaseConsumer<GroupContext>>,
    membership: Option<Membership>,
}

impl KafkaConsumer {
    pub fn new(consumer: Arc<BaseConsumer<GroupContext>>, membership: Option<Membership>) -> Self {
        Self { queues: Vec::new(), wake: Arc::default(), consumer, membership }
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
                    return Err(match code {
                        RDKafkaErrorCode::FencedInstanceId => {
                            LogError::Fenced("another member has this group.instance.id".to_owned())
                        }
                        code => LogError::failed("the consumer has failed", code),
                    });
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
        self.queues.clear();
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (partition, position) in positions {
            let refused = || LogError::Refused(format!("{partition} is not a partition"));
            let name = native::c_name(&partition.topic).ok_or_else(refused)?;
            // SAFETY: `consumer` is live and outlives its queues (field order).
            let queue = unsafe {
                PartitionQueue::split(self.consumer.client().native_ptr(), &name, partition.partition, &self.wake)
            };
            self.queues.push((partition.clone(), queue.ok_or_else(refused)?));
            list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(*position))
                .map_err(|error| LogError::failed(format!("read {partition} from {position}"), error))?;
        }
        self.consumer.assign(&list).map_err(|error| LogError::failed("cannot assign partitions", error))
    }

    fn fetch(&mut self, index: usize, records_max: usize) -> Result<Fetched, LogError> {
        let (partition, queue) = &self.queues[index];
        let mut messages = queue.take(records_max);
        let mut end = None;
        let mut failure = None;
        messages.retain(|message| match message.error() {
            Ok(()) => {
                end = None;
                true
            }
            Err(Code::RD_KAFKA_RESP_ERR__PARTITION_EOF) => {
                end = Some(message.offset());
                false
            }
            Err(code) => {
                failure = Some((code, message.offset()));
                false
            }
        });
        if let Some((code, offset)) = failure {
            return Err(match code {
                Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET | Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE => {
                    LogError::Refused(format!("{partition} has no offset {offset}: it was deleted or never written"))
                }
                code => LogError::failed(format!("cannot read {partition}"), format!("{code:?}")),
            });
        }
        let records = (!messages.is_empty())
            .then(|| Box::new(KafkaBatch { messages, _consumer: Arc::clone(&self.consumer) }) as Box<dyn Batch>);
        Ok(Fetched { records, end })
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.wake.wait(timeout);
        if self.membership.is_none() {
            self.serve()?;
        }
        Ok(())
    }
}

impl GroupConsumer for KafkaConsumer {
    fn poll_group(&mut self) -> Result<Option<Rebalance>, LogError> {
        self.serve()?;
        let context = self.consumer.context();
        Ok(context.rebalances.lock().unwrap_or_else(PoisonError::into_inner).pop_front())
    }

    fn release(&mut self) -> Result<(), LogError> {
        self.queues.clear();
        self.consumer.unassign().map_err(|error| LogError::failed("cannot give partitions back", error))
    }

    fn membership(&self) -> Result<Membership, LogError> {
        self.membership.clone().ok_or_else(|| LogError::Refused("this consumer is in no group".to_owned()))
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        // The consumer goes with the last batch; from here on nobody asks for its rebalances.
        self.consumer.context().closing.store(true, Ordering::Release);
        let _ = self.consumer.unassign();
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

    fn headers(&self, index: usize) -> Vec<Header> {
        self.messages[index].headers()
    }
}
