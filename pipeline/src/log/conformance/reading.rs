//! Consumers: positions, batches, the reported end; and offsets found by time.

use std::time::Duration;

use super::fixture::{Fixture, SOME_TIME_MS, commit, flush, record, texts, until, write};
use crate::log::{NewRecord, TopicPartition};

/// A topic whose partitions hold records `PARTITION-OFFSET`.
fn filled(fixture: &Fixture<'_>, partitions: i32, records: i64) -> Vec<TopicPartition> {
    let topic = fixture.topic("topic", partitions);
    let mut producer = fixture.producer();
    let partitions: Vec<_> = (0..partitions).map(|number| TopicPartition::new(topic.as_str(), number)).collect();
    for partition in &partitions {
        for offset in 0..records {
            let value = format!("{}-{offset}", partition.partition);
            producer.write(&record(partition, &value), false).expect("a record can be written");
        }
    }
    flush(&mut *producer);
    partitions
}

pub fn a_fetch_brings_no_more_than_asked_for(fixture: &Fixture<'_>) {
    let partitions = filled(fixture, 1, 20);
    let mut reader = fixture.reader(&[(partitions[0].clone(), 0)]);
    // `fetch` itself compares with the maximum.
    for records_max in [1, 3, 7, 100] {
        until("a batch comes", || {
            reader.wait();
            (reader.fetch(0, records_max) > 0).then_some(())
        });
    }
    reader.read_to(0, 20);
    let offsets: Vec<i64> = reader.records[0].iter().map(|record| record.offset).collect();
    assert_eq!(offsets, (0..20).collect::<Vec<i64>>());
}

pub fn the_end_is_reported_and_new_records_follow_it(fixture: &Fixture<'_>) {
    let partition = filled(fixture, 1, 3).remove(0);
    let mut reader = fixture.reader(&[(partition.clone(), 0)]);
    reader.read_to(0, 3);
    assert_eq!(reader.ends[0], Some(3));
    let mut producer = fixture.producer();
    for (value, end) in [("x", 4), ("y", 5)] {
        write(&mut *producer, &partition, &[value]);
        flush(&mut *producer);
        reader.read_to(0, end);
        assert_eq!(reader.ends[0], Some(end));
    }
    assert_eq!(texts(&reader.records[0]), ["0-0", "0-1", "0-2", "x", "y"]);
}

pub fn the_end_lies_past_what_is_never_delivered(fixture: &Fixture<'_>) {
    let partition = filled(fixture, 1, 1).remove(0);
    let mut reader = fixture.reader(&[(partition.clone(), 0)]);
    let mut producer = fixture.transactional("p");
    write(&mut *producer, &partition, &["committed"]);
    commit(&mut *producer);
    let committed_end = fixture.settled_end(&partition);
    reader.read_to(0, committed_end);
    assert_eq!(reader.ends[0], Some(committed_end), "past the commit's control record, if there is one");
    write(&mut *producer, &partition, &["aborted", "aborted"]);
    flush(&mut *producer);
    producer.abort().expect("a transaction can be aborted");
    let end = fixture.settled_end(&partition);
    assert!(end >= committed_end + 2, "aborted records keep their offsets: {end}");
    reader.read_to(0, end);
    assert_eq!(reader.ends[0], Some(end), "past the aborted records");
    assert_eq!(texts(&reader.records[0]), ["0-0", "committed"]);
    // A position inside of the hole is a position too.
    let mut inside = fixture.reader(&[(partition.clone(), end - 1)]);
    inside.read_to(0, end);
    write(&mut *producer, &partition, &["next"]);
    commit(&mut *producer);
    let end = fixture.settled_end(&partition);
    inside.read_to(0, end);
    reader.read_to(0, end);
    assert_eq!(texts(&inside.records[0]), ["next"]);
    assert_eq!(texts(&reader.records[0])[2..], ["next"]);
}

pub fn reading_begins_at_the_position(fixture: &Fixture<'_>) {
    let partition = filled(fixture, 1, 10).remove(0);
    for position in [0, 4, 9, 10] {
        let read = fixture.read_all(&partition, position);
        let offsets: Vec<i64> = read.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, (position..10).collect::<Vec<i64>>());
    }
}

pub fn an_assignment_replaces_the_one_before(fixture: &Fixture<'_>) {
    let partitions = filled(fixture, 2, 100);
    let (first, second) = (&partitions[0], &partitions[1]);
    let mut reader = fixture.reader(&[(first.clone(), 0)]);
    until("some records come", || {
        reader.wait();
        (reader.fetch(0, 3) > 0).then_some(())
    });
    // What was fetched ahead of the three must not come any more, forward or back.
    reader.assign(&[(second.clone(), 10), (first.clone(), 50)]);
    (0..2).for_each(|index| reader.read_to(index, 100));
    assert_eq!(texts(&reader.records[0]), (10..100).map(|offset| format!("1-{offset}")).collect::<Vec<_>>());
    assert_eq!(texts(&reader.records[1]), (50..100).map(|offset| format!("0-{offset}")).collect::<Vec<_>>());
    reader.assign(&[(first.clone(), 5)]);
    reader.read_to(0, 100);
    assert_eq!(texts(&reader.records[0]), (5..100).map(|offset| format!("0-{offset}")).collect::<Vec<_>>());
    reader.assign(&[]);
    reader.wait();
    reader.assign(&[(second.clone(), 99)]);
    reader.read_to(0, 100);
    assert_eq!(texts(&reader.records[0]), ["1-99"]);
}

/// As a binary search reads.
pub fn a_reader_goes_back_and_forth(fixture: &Fixture<'_>) {
    let partition = filled(fixture, 1, 1_000).remove(0);
    let mut reader = fixture.log.reader().expect("a reader can be made");
    for step in 0..40 {
        let position = step * 379 % 1_000;
        reader.assign(&[(partition.clone(), position)]).expect("a reader can be set to a position");
        let first = until("the record comes", || {
            reader.wait(Duration::from_millis(5)).expect("a reader can wait");
            let batch = reader.fetch(0, 10).expect("a reader can fetch").records?;
            Some(batch.record(0).offset)
        });
        assert_eq!(first, position);
    }
}

pub fn an_offset_is_found_by_its_time(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 2);
    let [ordered, unordered] = [0, 1].map(|number| TopicPartition::new(topic.as_str(), number));
    let mut producer = fixture.producer();
    for (partition, times) in [(&ordered, [100, 200, 200, 300]), (&unordered, [100, 300, 200, 400])] {
        for time in times {
            let new = NewRecord { timestamp_ms: Some(SOME_TIME_MS + time), ..record(partition, "v") };
            producer.write(&new, false).expect("a record can be written");
            flush(&mut *producer);
        }
    }
    let at = |partition: &TopicPartition, time: i64| {
        fixture.log.offset_at(partition, SOME_TIME_MS + time).expect("a time can be looked up")
    };
    for (time, offset) in
        [(50, Some(0)), (100, Some(0)), (101, Some(1)), (200, Some(1)), (201, Some(3)), (300, Some(3))]
    {
        assert_eq!(at(&ordered, time), offset, "the first record at or after {time}");
    }
    assert_eq!(at(&ordered, 301), None, "all records are before");
    // With disorder it is the first record that is late enough, whatever follows it.
    for (time, offset) in [(100, Some(0)), (150, Some(1)), (250, Some(1)), (300, Some(1)), (350, Some(3)), (401, None)]
    {
        assert_eq!(at(&unordered, time), offset, "the first record at or after {time}, out of order");
    }
    let empty = TopicPartition::new(fixture.topic("empty", 1), 0);
    assert_eq!(at(&empty, 0), None, "there are no records");
}
