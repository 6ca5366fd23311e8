//! Topics, offsets and groups of a Kafka cluster: everything that is asked seldom, through the safe client.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use super::{REQUEST_TIMEOUT, native};
use crate::log::{
    Cleanup, GroupInfo, LogError, OffsetRange, TOMBSTONE_RETENTION_MS, TopicInfo, TopicPartition, TopicSpec,
};

/// Records that say they were written later than this from now are refused: what is too far in the future is judged by
/// when it was written.
const TIMESTAMP_AHEAD_MS: &str = "3600000";

/// Longer than a request: a pending transaction of a dead producer has to run out first.
const POSITIONS_TIMEOUT: Duration = REQUEST_TIMEOUT.saturating_mul(7);

/// What brokers call a group of which they know nothing, asked by the classic protocol's request.
const DEAD: &str = "Dead";

/// Between two looks at something that the brokers will know soon.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub fn id(client: &BaseConsumer, brokers: &str) -> Result<String, LogError> {
    let cluster = client.client().fetch_cluster_id(REQUEST_TIMEOUT).ok_or_else(|| LogError::Unreachable {
        address: brokers.to_owned(),
        reason: "the brokers did not tell the id of their cluster".to_owned(),
    })?;
    // A cluster's id is URL-safe base64, though nothing keeps an operator from another.
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    Ok(format!("kafka-{}", cluster.chars().map(allowed).collect::<String>()))
}

pub fn topics(client: &BaseConsumer, brokers: &str) -> Result<Vec<TopicInfo>, LogError> {
    let metadata = client.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| LogError::Unreachable {
        address: brokers.to_owned(),
        reason: match error {
            KafkaError::MetadataFetch(Code::BrokerTransportFailure | Code::OperationTimedOut) => {
                format!("no broker answered within {} s; is Kafka running there?", REQUEST_TIMEOUT.as_secs())
            }
            other => other.to_string(),
        },
    })?;
    let mut topics: Vec<TopicInfo> = metadata
        .topics()
        .iter()
        .filter(|topic| !topic.name().starts_with("__"))
        .map(|topic| TopicInfo { name: topic.name().to_owned(), partitions: topic.partitions().len() as i32 })
        .collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

pub fn create_topics(admin: &AdminClient<DefaultClientContext>, topics: &[TopicSpec]) -> Result<(), LogError> {
    // librdkafka refuses an empty request.
    if topics.is_empty() {
        return Ok(());
    }
    let tombstones_ms = TOMBSTONE_RETENTION_MS.to_string();
    let sizes: Vec<String> = topics.iter().map(|topic| topic.max_message_bytes.to_string()).collect();
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .zip(&sizes)
        .map(|(topic, size)| {
            // -1: the cluster's own default replication factor.
            let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(-1))
                .set("max.message.bytes", size);
            match topic.cleanup {
                Cleanup::Keep => new
                    .set("cleanup.policy", "delete")
                    .set("retention.ms", "-1")
                    .set("retention.bytes", "-1")
                    .set("message.timestamp.after.max.ms", TIMESTAMP_AHEAD_MS),
                Cleanup::Compact => new.set("cleanup.policy", "compact").set("delete.retention.ms", &tombstones_ms),
            }
        })
        .collect();
    let results = pollster::block_on(admin.create_topics(&new, &admin_options()))
        .map_err(|error| LogError::failed("cannot create topics", error))?;
    for result in results {
        match result {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(LogError::failed(format!("cannot create topic {topic}"), code)),
        }
    }
    Ok(())
}

/// A topic's creation is known to the other brokers and clients a little later than to the controller.
pub fn wait_for_topics(client: &BaseConsumer, brokers: &str, wanted: &[TopicSpec]) -> Result<(), LogError> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    loop {
        let known = topics(client, brokers)?;
        let ready = |spec: &TopicSpec| known.iter().any(|topic| topic.name == spec.name && topic.partitions > 0);
        if wanted.iter().all(ready) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(LogError::failed("created topics did not appear", "the brokers do not list them"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

pub fn delete_topics(admin: &AdminClient<DefaultClientContext>, topics: &[&str]) -> Result<(), LogError> {
    if topics.is_empty() {
        return Ok(());
    }
    let results = pollster::block_on(admin.delete_topics(topics, &admin_options()))
        .map_err(|error| LogError::failed("cannot delete topics", error))?;
    for result in results {
        match result {
            Ok(_) | Err((_, Code::UnknownTopicOrPartition | Code::UnknownTopic)) => {}
            Err((topic, code)) => return Err(LogError::failed(format!("cannot delete topic {topic}"), code)),
        }
    }
    Ok(())
}

pub fn offsets(
    uncommitted: &BaseConsumer,
    committed: &BaseConsumer,
    partition: &TopicPartition,
) -> Result<OffsetRange, LogError> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let ask = |client: &BaseConsumer| loop {
        match client.fetch_watermarks(&partition.topic, partition.partition, REQUEST_TIMEOUT) {
            Ok(found) => return Ok(found),
            // A new topic, or one whose leader has changed: soon the brokers know.
            Err(KafkaError::MetadataFetch(Code::NotLeaderForPartition | Code::LeaderNotAvailable))
                if Instant::now() < deadline =>
            {
                std::thread::sleep(LOOK_AGAIN);
            }
            Err(error) => return Err(LogError::failed(format!("cannot read the offsets of {partition}"), error)),
        }
    };
    // The stable offset first: it only grows, so it cannot be beyond an end that is read later.
    let (first, stable) = ask(committed)?;
    let (_, end) = ask(uncommitted)?;
    Ok(OffsetRange { first, stable, end })
}

pub fn offset_at(
    client: &BaseConsumer,
    partition: &TopicPartition,
    timestamp_ms: i64,
) -> Result<Option<i64>, LogError> {
    let doing = |error: KafkaError| LogError::failed(format!("cannot find a time in {partition}"), error);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(timestamp_ms)).map_err(doing)?;
    let found = client.offsets_for_times(list, REQUEST_TIMEOUT).map_err(doing)?;
    let element = found.find_partition(&partition.topic, partition.partition);
    Ok(element.and_then(|element| match element.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }))
}

pub fn committed(
    client: &BaseConsumer,
    group: &str,
    partitions: &[TopicPartition],
) -> Result<Vec<Option<i64>>, LogError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(&partition.topic, partition.partition);
    }
    let found = client.committed_offsets(list, POSITIONS_TIMEOUT).map_err(|error| {
        let doing = format!("cannot read the positions of group {group}");
        match error {
            KafkaError::MetadataFetch(Code::OperationTimedOut) => LogError::failed(
                doing,
                format!(
                    "not told within {} s: the brokers are out of reach, or a transaction that holds them does not end \
                     (see docs/exactly-once.md)",
                    POSITIONS_TIMEOUT.as_secs()
                ),
            ),
            error => LogError::failed(doing, error),
        }
    })?;
    partitions
        .iter()
        .map(|partition| {
            let element = found.find_partition(&partition.topic, partition.partition);
            match element.map(|element| (element.error(), element.offset())) {
                Some((Ok(()), Offset::Offset(position))) => Ok(Some(position)),
                Some((Err(error), _)) => {
                    Err(LogError::failed(format!("cannot read the position of group {group} in {partition}"), error))
                }
                _ => Ok(None),
            }
        })
        .collect()
}

pub fn groups(client: &BaseConsumer) -> Result<Vec<GroupInfo>, LogError> {
    let list = client
        .fetch_group_list(None, REQUEST_TIMEOUT)
        .map_err(|error| LogError::failed("cannot list the consumer groups", error))?;
    let mut groups: Vec<GroupInfo> = list
        .groups()
        .iter()
        .map(|group| GroupInfo {
            name: group.name().to_owned(),
            state: group.state().to_owned(),
            members: group.members().len(),
        })
        .collect();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    // Of groups that speak `consumer` the list knows the names only.
    let unknown: Vec<&str> =
        list.groups().iter().filter(|group| group.state() == DEAD).map(|group| group.name()).collect();
    if unknown.is_empty() {
        return Ok(groups);
    }
    // SAFETY: the client lives longer than the call.
    let described = unsafe { native::describe_groups(client.client().native_ptr(), &unknown, REQUEST_TIMEOUT) }
        .map_err(|reason| LogError::failed("cannot describe the consumer groups", reason))?;
    for (name, state, members) in described {
        if let Some(group) = groups.iter_mut().find(|group| group.name == name) {
            (group.state, group.members) = (state, members);
        }
    }
    Ok(groups)
}

pub fn delete_group(admin: &AdminClient<DefaultClientContext>, group: &str) -> Result<(), LogError> {
    let results = pollster::block_on(admin.delete_groups(&[group], &admin_options()))
        .map_err(|error| LogError::failed(format!("cannot delete group {group}"), error))?;
    for result in results {
        match result {
            Ok(_) | Err((_, Code::GroupIdNotFound)) => {}
            Err((_, Code::NonEmptyGroup)) => {
                return Err(LogError::Refused(format!("group {group} still has members: stop them first")));
            }
            Err((_, code)) => return Err(LogError::failed(format!("cannot delete group {group}"), code)),
        }
    }
    Ok(())
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
}
