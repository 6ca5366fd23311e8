//! Apache Kafka (3.9 and 4.x) behind the log port, through librdkafka. The only log that scales beyond one process.

mod admin;
mod consumer;
mod members;
mod native;
mod producer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, DefaultConsumerContext};

use super::{
    Consumer, GroupConsumer, GroupInfo, Log, LogError, MemberOptions, OffsetRange, Producer, ProducerOptions,
    TopicInfo, TopicPartition, TopicSpec, copartition,
};
use consumer::{GroupContext, KafkaConsumer, Member};
use members::Members;
use native::NativeProducer;
use producer::KafkaProducer;

/// How long a request to the brokers may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest record that producers hand over, and so the largest dead letter.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Where Kafka is, and how to speak to it.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// `bootstrap.servers`.
    pub brokers: String,
    /// Further properties of librdkafka (security, compression, ...), by its names; they win over Engram's own.
    pub properties: BTreeMap<String, String>,
    /// Records of one partition that librdkafka may fetch ahead, in KiB. With split queues the bound is per partition.
    pub prefetch_kib: usize,
    pub group_protocol: GroupProtocol,
}

/// How groups share partitions (`group.protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupProtocol {
    /// One member shares the partitions out, all at once.
    Classic,
    /// KIP-848: the brokers (Apache Kafka 4.0 and later) do, a few at a time.
    Consumer,
}

impl KafkaOptions {
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            properties: BTreeMap::new(),
            prefetch_kib: 4 << 10,
            group_protocol: GroupProtocol::Classic,
        }
    }
}

/// Apache Kafka as a log.
pub struct KafkaLog {
    options: KafkaOptions,
    admin: AdminClient<DefaultClientContext>,
    /// Reads high watermarks, past open transactions.
    uncommitted: BaseConsumer<DefaultConsumerContext>,
    /// Reads last stable offsets.
    committed: BaseConsumer<DefaultConsumerContext>,
    members: Arc<Members>,
}

impl KafkaLog {
    /// Connects, and fails with `Unreachable` if no broker answers within the request timeout.
    pub fn connect(options: KafkaOptions) -> Result<Self, LogError> {
        let base = base_config(&options);
        let client = |isolation: &str| -> Result<BaseConsumer<DefaultConsumerContext>, LogError> {
            let mut config = base.clone();
            config.set("isolation.level", isolation);
            config
                .create()
                .map_err(|error| LogError::Refused(format!("the Kafka client refused its settings: {error}")))
        };
        let uncommitted = client("read_uncommitted")?;
        let committed = client("read_committed")?;
        let admin: AdminClient<DefaultClientContext> =
            base.create().map_err(|error| LogError::failed("cannot create the admin client", error))?;
        let members = Arc::new(Members::new(options.group_protocol));
        let log = Self { options, admin, uncommitted, committed, members };
        log.topics()?;
        Ok(log)
    }

    fn consumer_config(&self, group: &str, client_id: &str) -> ClientConfig {
        let mut config = base_config(&self.options);
        let defaults = [
            ("group.id", group),
            ("client.id", client_id),
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            // A position that the log has not got is an error to be shown, never a silent jump.
            ("auto.offset.reset", "error"),
            // A worker does not poll while it restores its stores.
            ("max.poll.interval.ms", "900000"),
            ("fetch.wait.max.ms", "100"),
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.error.backoff.ms", "50"),
            ("queued.min.messages", "20000"),
        ];
        for (name, value) in defaults {
            self.set_unless_given(&mut config, name, value);
        }
        self.set_unless_given(&mut config, "queued.max.messages.kbytes", &self.options.prefetch_kib.to_string());
        config
    }

    fn set_unless_given(&self, config: &mut ClientConfig, name: &str, value: &str) {
        if !self.options.properties.contains_key(name) {
            config.set(name, value);
        }
    }

    fn consumer(&self, config: &ClientConfig) -> Result<Arc<BaseConsumer<GroupContext>>, LogError> {
        config.create_with_context(GroupContext::default()).map(Arc::new).map_err(|error| {
            LogError::Refused(format!("the Kafka client refused the settings of its consumers: {error}"))
        })
    }
}

fn base_config(options: &KafkaOptions) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &options.brokers);
    // Brokers come and go: look again soon.
    config.set("reconnect.backoff.ms", "20");
    config.set("reconnect.backoff.max.ms", "1000");
    config.set("topic.metadata.refresh.fast.interval.ms", "50");
    for (name, value) in &options.properties {
        config.set(name, value);
    }
    config
}

impl Log for KafkaLog {
    fn id(&self) -> Result<String, LogError> {
        admin::id(&self.uncommitted, &self.options.brokers)
    }

    fn topics(&self) -> Result<Vec<TopicInfo>, LogError> {
        admin::topics(&self.uncommitted, &self.options.brokers)
    }

    fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        admin::create_topics(&self.admin, topics)?;
        admin::wait_for_topics(&self.uncommitted, &self.options.brokers, topics)
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<(), LogError> {
        admin::delete_topics(&self.admin, topics)
    }

    fn offsets(&self, partitions: &[TopicPartition]) -> Result<Vec<OffsetRange>, LogError> {
        partitions.iter().map(|partition| admin::offsets(&self.uncommitted, &self.committed, partition)).collect()
    }

    fn offset_at(&self, partition: &TopicPartition, timestamp_ms: i64) -> Result<Option<i64>, LogError> {
        admin::offset_at(&self.committed, partition, timestamp_ms)
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        let mut config = base_config(&self.options);
        // `read_committed` makes librdkafka ask for stable positions only (KIP-447).
        config.set("group.id", group).set("isolation.level", "read_committed");
        let client: BaseConsumer =
            config.create().map_err(|error| LogError::failed("cannot create a client", error))?;
        admin::committed(&client, group, partitions)
    }

    fn groups(&self) -> Result<Vec<GroupInfo>, LogError> {
        admin::groups(&self.uncommitted)
    }

    fn delete_group(&self, group: &str) -> Result<(), LogError> {
        admin::delete_group(&self.admin, group)
    }

    fn reader(&self) -> Result<Box<dyn Consumer>, LogError> {
        // librdkafka wants a group id for manual assignment too; nothing joins or commits to this one.
        let mut config = self.consumer_config("engram-reader", "engram-reader");
        // A reader wants to know at once that it is at the end.
        self.set_unless_given(&mut config, "fetch.wait.max.ms", "10");
        Ok(Box::new(KafkaConsumer::new(self.consumer(&config)?, None)))
    }

    fn member(&self, options: &MemberOptions) -> Result<Box<dyn GroupConsumer>, LogError> {
        copartition::check(&self.topics()?, &options.topics)?;
        let protocol = self.options.group_protocol;
        let mut config = self.consumer_config(&options.group, &options.client_id);
        // The session timeout and the heartbeats of `consumer` are the brokers' business.
        let settings: &[(&str, &str)] = match protocol {
            GroupProtocol::Classic => &[
                ("partition.assignment.strategy", "range"),
                ("session.timeout.ms", "10000"),
                // Members learn of a rebalance by their next heartbeat.
                ("heartbeat.interval.ms", "500"),
            ],
            GroupProtocol::Consumer => &[("group.protocol", "consumer"), ("group.remote.assignor", "range")],
        };
        for (name, value) in settings {
            self.set_unless_given(&mut config, name, value);
        }
        if let Some(instance) = &options.instance_id {
            config.set("group.instance.id", instance);
        }
        let consumer = self.consumer(&config)?;
        let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
        use rdkafka::consumer::Consumer as _;
        consumer.subscribe(&topics).map_err(|error| LogError::failed("cannot join the group", error))?;
        let membership = self.members.add(&consumer);
        Ok(Box::new(KafkaConsumer::new(consumer, Some(Member { membership, protocol }))))
    }

    fn producer(&self, options: &ProducerOptions) -> Result<Box<dyn Producer>, LogError> {
        let mut config = base_config(&self.options);
        let defaults = [
            ("client.id", options.client_id.as_str()),
            ("enable.idempotence", "true"),
            ("message.max.bytes", &MESSAGE_BYTES_MAX.to_string()),
            // A commit waits until the queue is empty: a longer one adds to its latency and nothing to throughput.
            ("queue.buffering.max.messages", "20000"),
            ("queue.buffering.max.kbytes", "65536"),
            ("linger.ms", "5"),
            // A step of a transaction that meets the one before it still under way is asked for again this soon.
            ("retry.backoff.ms", "5"),
            // As in Kafka Streams: what a killed worker left open holds its successor up for so long.
            ("transaction.timeout.ms", "10000"),
        ];
        for (name, value) in defaults {
            self.set_unless_given(&mut config, name, value);
        }
        if let Some(id) = &options.transactional_id {
            config.set("transactional.id", id);
        }
        let native = config
            .create_native_config()
            .map_err(|error| LogError::Refused(format!("the Kafka client refused its settings: {error}")))?;
        let native =
            NativeProducer::new(native).map_err(|reason| LogError::failed("cannot create a producer", reason))?;
        let producer = KafkaProducer::new(native, Arc::clone(&self.members), options.transactional_id.is_some())?;
        Ok(Box::new(producer))
    }
}
