//! Topics, offsets and groups of a Kafka cluster: everything that is asked seldom, through the safe client.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use super::REQUEST_TIMEOUT;
use crate::log::{Cleanup, GroupInfo, LogError, OffsetRange, TopicInfo, TopicPartition, TopicSpec};

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
    let sizes: Vec<String> = topics.iter().map(|topic| topic.max_message_bytes.to_string()).collect();
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .zip(&sizes)
        .map(|(topic, size)| {
            // -1: the cluster's own default replication factor.
            let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(-1))
                .set("max.message.bytes", size);
            match topic.cleanup {
                Cleanup::Keep => {
                    new.set("cleanup.policy", "delete").set("retention.ms", "-1").set("retention.bytes", "-1")
                }
                Cleanup::Compact => new.set("cleanup.policy", "compact"),
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
        std::thread::sleep(Duration::from_millis(20));
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
    let ask = |client: &BaseConsumer| {
        client
            .fetch_watermarks(&partition.topic, partition.partition, REQUEST_TIMEOUT)
            .map_err(|error| LogError::failed(format!("cannot read the offsets of {partition}"), error))
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
    // Longer than a request: a pending transaction of a dead producer has to run out first.
    let found = client
        .committed_offsets(list, REQUEST_TIMEOUT * 7)
        .map_err(|error| LogError::failed(format!("cannot read the positions of group {group}"), error))?;
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

/// Partition p of every input belongs to task p, so all inputs of a group must have as many partitions.
pub fn check_copartitioned(known: &[TopicInfo], topics: &[String]) -> Result<(), LogError> {
    let mut counts = Vec::with_capacity(topics.len());
    for name in topics {
        let topic = known.iter().find(|topic| topic.name == *name);
        let topic = topic.ok_or_else(|| LogError::Refused(format!("topic {name} does not exist")))?;
        counts.push((name, topic.partitions));
    }
    if counts.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        return Ok(());
    }
    let listed: Vec<String> = counts.iter().map(|(name, count)| format!("{name} has {count}")).collect();
    Err(LogError::Refused(format!(
        "the inputs of a service need equal partition counts, but {}: recreate them with the same number",
        listed.join(", ")
    )))
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
}
