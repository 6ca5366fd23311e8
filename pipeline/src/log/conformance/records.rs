//! Records: what is written comes back, byte for byte and in order; what cannot be written is refused.

use std::collections::BTreeMap;
use std::error::Error;

use super::fixture::{Fixture, SOME_TIME_MS, commit, flush, record, texts, until, write};
use crate::log::{Cleanup, CommitError, Header, NewRecord, Producer, TopicPartition};

pub fn flush_tells_the_ends_of_tracked_partitions(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 3);
    let partition = |number| TopicPartition::new(topic.as_str(), number);
    let mut producer = fixture.producer();
    write(&mut *producer, &partition(0), &["a", "b"]);
    write(&mut *producer, &partition(2), &["c"]);
    let untracked = partition(1);
    producer.write(&record(&untracked, "d"), false).expect("a record can be written");
    assert_eq!(flush(&mut *producer), [(partition(0), 2), (partition(2), 1)]);
    assert!(flush(&mut *producer).is_empty(), "each end is told once");
    write(&mut *producer, &untracked, &["e"]);
    assert_eq!(flush(&mut *producer), [(partition(1), 2)]);
    let read = [0, 1, 2].map(|number| fixture.values(&partition(number)).concat());
    assert_eq!(read, ["ab", "de", "c"]);
}

pub fn keys_and_values_may_be_null_or_empty(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 1);
    let partition = TopicPartition::new(topic.as_str(), 0);
    let bytes = [None, Some(&b""[..]), Some(&b"\0\xff"[..])];
    let all: Vec<_> = bytes.iter().flat_map(|&key| bytes.iter().map(move |&value| (key, value))).collect();
    let mut producer = fixture.producer();
    for &(key, value) in &all {
        producer.write(&NewRecord { key, value, ..record(&partition, "") }, false).expect("a record can be written");
    }
    flush(&mut *producer);
    let read = fixture.read_all(&partition, 0);
    let read: Vec<_> = read.iter().map(|record| (record.key.as_deref(), record.value.as_deref())).collect();
    assert_eq!(read, all);
}

pub fn headers_and_timestamps_are_kept(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 1);
    let partition = TopicPartition::new(topic.as_str(), 0);
    let headers: [(&str, Option<&[u8]>); 5] =
        [("b", Some(b"1")), ("a", Some(b"\0\xff")), ("b", Some(b"2")), ("empty", Some(b"")), ("null", None)];
    let times = [SOME_TIME_MS + 5, 1, SOME_TIME_MS - 5];
    let mut producer = fixture.producer();
    for (number, time) in times.iter().enumerate() {
        let headers = if number == 1 { &headers[..] } else { &[] };
        let new = NewRecord { timestamp_ms: Some(*time), headers, ..record(&partition, "v") };
        producer.write(&new, false).expect("a record can be written");
    }
    for timestamp_ms in [None, Some(0)] {
        let unset = NewRecord { timestamp_ms, ..record(&partition, "now") };
        producer.write(&unset, false).expect("a record can be written");
    }
    flush(&mut *producer);
    let read = fixture.read_all(&partition, 0);
    let read_times: Vec<i64> = read.iter().map(|record| record.timestamp_ms).collect();
    assert_eq!(read_times[..3], times);
    let unset = &read_times[3..];
    assert!(
        unset.iter().all(|time| *time > SOME_TIME_MS),
        "an unset timestamp is the moment of writing, not {unset:?}"
    );
    let expected = headers.map(|(key, value)| Header { key: key.to_owned(), value: value.map(<[u8]>::to_vec) });
    assert_eq!(read[1].headers, expected);
    assert!(read[0].headers.is_empty() && read[2].headers.is_empty());
}

pub fn a_partition_keeps_the_order_of_writing(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 3);
    let partitions = [0, 1, 2].map(|number| TopicPartition::new(topic.as_str(), number));
    let mut producer = fixture.producer();
    for number in 0..600_usize {
        let value = number.to_string();
        producer.write(&record(&partitions[number % 3], &value), false).expect("a record can be written");
        if number % 97 == 0 {
            flush(&mut *producer);
        }
    }
    flush(&mut *producer);
    for (remainder, partition) in partitions.iter().enumerate() {
        let read = fixture.read_all(partition, 0);
        let expected: Vec<String> = (remainder..600).step_by(3).map(|number| number.to_string()).collect();
        assert_eq!(texts(&read), expected, "{partition}");
        assert!(read.iter().enumerate().all(|(index, record)| record.offset == index as i64), "offsets have no gaps");
    }
}

pub fn a_large_record_goes_through(fixture: &Fixture<'_>) {
    let topic = fixture.topic_with("topic", 1, Cleanup::Keep, 10 << 20);
    let partition = TopicPartition::new(topic.as_str(), 0);
    let value: Vec<u8> = (0..9_u32 << 20).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut producer = fixture.transactional("p");
    let large = NewRecord { value: Some(&value), ..record(&partition, "") };
    producer.write(&large, true).expect("a large record can be written");
    write(&mut *producer, &partition, &["after"]);
    commit(&mut *producer);
    let read = fixture.read_all(&partition, 0);
    assert_eq!(read.len(), 2);
    assert!(read[0].value.as_ref() == Some(&value), "the large record has changed on its way");
    assert_eq!(read[1].text(), "after");
}

pub fn a_record_beyond_the_topics_limit_is_refused(fixture: &Fixture<'_>) {
    let topic = fixture.topic_with("topic", 2, Cleanup::Keep, 10_000);
    let [small, large] = [0, 1].map(|number| TopicPartition::new(topic.as_str(), number));
    let mut producer = fixture.transactional("p");
    write(&mut *producer, &small, &["aborted with it"]);
    let error = refusal(&mut *producer, &record(&large, &"x".repeat(20_000)));
    assert!(!error.is_empty());
    producer.abort().expect("a refused transaction can be aborted");
    assert_eq!(fixture.values(&small), Vec::<String>::new());
    assert_eq!(fixture.values(&large), Vec::<String>::new());
    // A client may need to abort once more, to settle its sequence numbers with the brokers.
    until("the producer goes on", || {
        write(&mut *producer, &large, &["next"]);
        match producer.commit(None) {
            Ok(()) => Some(()),
            Err(CommitError::Aborted(_)) => None,
            Err(error) => panic!("a transaction can be committed: {error:?}"),
        }
    });
    assert_eq!(fixture.values(&large), ["next"], "the producer goes on after the abort");
}

pub fn writing_to_what_does_not_exist_names_it(fixture: &Fixture<'_>) {
    let unknown = TopicPartition::new(fixture.name("never"), 0);
    let topic = fixture.topic("topic", 2);
    for partition in [unknown, TopicPartition::new(topic.as_str(), 2)] {
        let error = refusal(&mut *fixture.producer(), &record(&partition, "x"));
        assert!(error.contains(&*partition.topic), "the error names {}: {error}", partition.topic);
    }
}

pub fn a_compacted_topic_keeps_the_last_value_of_each_key(fixture: &Fixture<'_>) {
    let topic = fixture.topic_with("topic", 1, Cleanup::Compact, 1 << 20);
    let partition = TopicPartition::new(topic.as_str(), 0);
    let mut producer = fixture.producer();
    let mut expected = BTreeMap::new();
    for round in 0..4 {
        for key in 0..10 {
            let (name, text) = (format!("k{key}").into_bytes(), format!("{key} in round {round}"));
            // Some keys end with a tombstone, some have one in between.
            let value = ((round + key) % 7 != 0).then_some(text.as_bytes());
            let new = NewRecord { key: Some(&name), value, ..record(&partition, "") };
            producer.write(&new, false).expect("a record can be written");
            expected.insert(name, value.map(<[u8]>::to_vec));
        }
        flush(&mut *producer);
    }
    let mut latest = BTreeMap::new();
    for record in fixture.read_all(&partition, 0) {
        latest.insert(record.key.expect("every record has a key"), record.value);
    }
    // A tombstone may be read or may have been compacted away with its key.
    expected.retain(|_, value| value.is_some());
    latest.retain(|_, value| value.is_some());
    assert_eq!(latest, expected);
}

/// The text, causes included, of the error that a record meets on its way: at the write, the flush or the commit.
fn refusal(producer: &mut dyn Producer, record: &NewRecord<'_>) -> String {
    let met = producer.write(record, true).and_then(|()| producer.flush()).map_err(CommitError::from);
    let error = met.and_then(|_| producer.commit(None)).expect_err("the record cannot be in the log");
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
