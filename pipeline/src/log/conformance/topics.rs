//! Topics: made, listed, left alone, deleted; and the offsets of their partitions.

use super::fixture::{Fixture, commit, flush, until, write};
use crate::log::{Cleanup, OffsetRange, TopicInfo, TopicPartition, TopicSpec};

fn listed(fixture: &Fixture<'_>) -> Vec<TopicInfo> {
    let topics = fixture.log.topics().expect("topics can be listed");
    assert!(topics.is_sorted_by(|a, b| a.name < b.name), "topics are ordered by name");
    assert!(!topics.iter().any(|topic| topic.name.starts_with("__")), "internal topics are left out");
    topics.into_iter().filter(|topic| topic.name.starts_with(&fixture.name(""))).collect()
}

pub fn a_log_has_one_name(fixture: &Fixture<'_>) {
    let id = fixture.log.id().expect("a log has a name");
    assert!(!id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "{id}");
    assert_eq!(fixture.log.id().expect("a log has a name"), id, "it stays");
}

pub fn created_topics_are_listed_by_name(fixture: &Fixture<'_>) {
    let specs = ["b", "a"].map(|name| TopicSpec {
        name: fixture.name(name),
        partitions: if name == "a" { 3 } else { 1 },
        cleanup: Cleanup::Keep,
        max_message_bytes: 1 << 20,
    });
    fixture.log.create_topics(&specs).expect("topics can be created");
    fixture.log.create_topics(&[]).expect("no topics can be created too");
    let expected = [("a", 3), ("b", 1)].map(|(name, partitions)| TopicInfo { name: fixture.name(name), partitions });
    assert_eq!(listed(fixture), expected);
}

pub fn an_existing_topic_is_left_as_it_is(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 2);
    let partition = TopicPartition::new(topic.as_str(), 1);
    let mut producer = fixture.producer();
    write(&mut *producer, &partition, &["kept"]);
    flush(&mut *producer);
    let other = fixture.name("other");
    let spec = |name: &str| TopicSpec {
        name: name.to_owned(),
        partitions: 5,
        cleanup: Cleanup::Compact,
        max_message_bytes: 1 << 10,
    };
    fixture.log.create_topics(&[spec(&topic), spec(&other)]).expect("an existing topic is no error");
    let expected = [(other, 5), (topic, 2)].map(|(name, partitions)| TopicInfo { name, partitions });
    assert_eq!(listed(fixture), expected);
    assert_eq!(fixture.values(&partition), ["kept"]);
}

pub fn a_deleted_topic_is_gone_with_its_records(fixture: &Fixture<'_>) {
    let (topic, kept) = (fixture.topic("topic", 1), fixture.topic("kept", 1));
    let partition = TopicPartition::new(topic.as_str(), 0);
    let mut producer = fixture.producer();
    write(&mut *producer, &partition, &["x", "y"]);
    flush(&mut *producer);
    drop(producer);
    fixture.log.delete_topics(&[&topic]).expect("a topic can be deleted");
    until("the deleted topic is listed no more", || {
        (listed(fixture) == [TopicInfo { name: kept.clone(), partitions: 1 }]).then_some(())
    });
    // Under the same name a topic may be made again, and it is another one.
    until("the topic can be made again", || {
        fixture.topic("topic", 1);
        let offsets = fixture.log.offsets(std::slice::from_ref(&partition)).ok()?;
        (offsets == [OffsetRange { first: 0, stable: 0, end: 0 }]).then_some(())
    });
}

pub fn deleting_an_unknown_topic_is_no_error(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 1);
    fixture.log.delete_topics(&[&fixture.name("never"), &topic]).expect("unknown topics are ignored");
    fixture.log.delete_topics(&[]).expect("no topics can be deleted too");
    until("the known one is deleted", || listed(fixture).is_empty().then_some(()));
}

pub fn an_empty_topic_begins_and_ends_at_zero(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 2);
    let partitions = [0, 1].map(|number| TopicPartition::new(topic.as_str(), number));
    let empty = OffsetRange { first: 0, stable: 0, end: 0 };
    assert_eq!(fixture.log.offsets(&partitions).expect("offsets are known"), [empty; 2]);
    assert!(fixture.read_all(&partitions[0], 0).is_empty());
}

pub fn offsets_come_in_the_order_asked_for(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 3);
    let partition = |number| TopicPartition::new(topic.as_str(), number);
    let mut producer = fixture.transactional("p");
    write(&mut *producer, &partition(0), &["a"]);
    write(&mut *producer, &partition(1), &["a", "b", "c"]);
    let ends = flush(&mut *producer);
    assert_eq!(ends, [(partition(0), 1), (partition(1), 3)]);
    commit(&mut *producer);
    let settled = [0, 1, 2].map(|number| fixture.settled_end(&partition(number)));
    assert!(settled[0] >= 1 && settled[1] >= 3 && settled[2] == 0, "{settled:?}");
    let asked = [2, 1, 0, 1].map(partition);
    let offsets = fixture.log.offsets(&asked).expect("offsets are known");
    let ends: Vec<i64> = offsets.iter().map(|range| range.end).collect();
    assert_eq!(ends, [settled[2], settled[1], settled[0], settled[1]]);
    assert!(fixture.log.offsets(&[]).expect("no offsets can be asked for").is_empty());
}
