//! Transactions: nothing of them is seen before the commit, all of it after; nothing ever after an abort.

use super::fixture::{Fixture, commit, flush, record, texts, write};
use crate::log::{CommitError, LogError, TopicPartition};

fn partition(fixture: &Fixture<'_>) -> TopicPartition {
    TopicPartition::new(fixture.topic("topic", 1), 0)
}

pub fn records_are_seen_once_they_are_committed(fixture: &Fixture<'_>) {
    let partition = partition(fixture);
    // One that waits at the end all the while, and one that begins later.
    let mut waiting = fixture.reader(&[(partition.clone(), 0)]);
    waiting.read_to(0, 0);
    let mut producer = fixture.transactional("p");
    write(&mut *producer, &partition, &["a", "b"]);
    assert_eq!(flush(&mut *producer), [(partition.clone(), 2)]);
    let open = fixture.offsets(&partition);
    assert_eq!((open.stable, open.end), (0, 2), "the flushed records are in the log, behind the stable offset");
    assert!(fixture.visible(&partition).is_empty());
    waiting.wait();
    assert_eq!(waiting.fetch(0, 10), 0, "nothing is delivered of an open transaction");
    commit(&mut *producer);
    waiting.read_to(0, fixture.settled_end(&partition));
    assert_eq!(texts(&waiting.records[0]), ["a", "b"]);
    assert_eq!(fixture.values(&partition), ["a", "b"]);
}

pub fn aborted_records_are_never_seen(fixture: &Fixture<'_>) {
    let partition = partition(fixture);
    let mut producer = fixture.transactional("p");
    producer.abort().expect("without a transaction there is nothing to abort");
    let mut waiting = fixture.reader(&[(partition.clone(), 0)]);
    for (value, flushed) in [("flushed", true), ("unflushed", false)] {
        write(&mut *producer, &partition, &[value]);
        if flushed {
            flush(&mut *producer);
        }
        producer.abort().expect("a transaction can be aborted");
    }
    write(&mut *producer, &partition, &["committed"]);
    commit(&mut *producer);
    write(&mut *producer, &partition, &["last"]);
    flush(&mut *producer);
    producer.abort().expect("a transaction can be aborted");
    waiting.read_to(0, fixture.settled_end(&partition));
    assert_eq!(texts(&waiting.records[0]), ["committed"]);
    assert_eq!(fixture.values(&partition), ["committed"]);
}

pub fn a_transaction_of_a_dropped_producer_is_never_seen(fixture: &Fixture<'_>) {
    let partition = partition(fixture);
    let mut producer = fixture.transactional("p");
    write(&mut *producer, &partition, &["lost"]);
    flush(&mut *producer);
    drop(producer);
    // Making the next producer of this id resolves the transaction that is still open.
    let mut next = fixture.transactional("p");
    write(&mut *next, &partition, &["kept"]);
    commit(&mut *next);
    assert_eq!(fixture.values(&partition), ["kept"]);
}

pub fn an_open_transaction_holds_back_what_lies_behind_it(fixture: &Fixture<'_>) {
    let partition = partition(fixture);
    let mut slow = fixture.transactional("slow");
    write(&mut *slow, &partition, &["slow"]);
    assert_eq!(flush(&mut *slow), [(partition.clone(), 1)]);
    let mut quick = fixture.transactional("quick");
    write(&mut *quick, &partition, &["quick"]);
    commit(&mut *quick);
    let mut plain = fixture.producer();
    write(&mut *plain, &partition, &["plain"]);
    flush(&mut *plain);
    let open = fixture.offsets(&partition);
    assert_eq!(open.stable, 0);
    assert!(open.end >= 3, "all of it is in the log: {open:?}");
    assert!(fixture.visible(&partition).is_empty(), "offsets are delivered in order, so what follows has to wait");
    commit(&mut *slow);
    assert_eq!(fixture.values(&partition), ["slow", "quick", "plain"]);
}

pub fn a_transaction_is_one_over_partitions_and_topics(fixture: &Fixture<'_>) {
    let topics = [fixture.topic("one", 2), fixture.topic("two", 2)];
    let partitions: Vec<_> =
        topics.iter().flat_map(|topic| [0, 1].map(|number| TopicPartition::new(topic.as_str(), number))).collect();
    let mut producer = fixture.transactional("p");
    for (round, committed) in ["aborted", "committed"].into_iter().zip([false, true]) {
        partitions.iter().for_each(|partition| write(&mut *producer, partition, &[round]));
        let ends = flush(&mut *producer);
        assert_eq!(ends.len(), partitions.len());
        assert!(partitions.iter().all(|partition| fixture.visible(partition).is_empty()), "before the end of {round}");
        if committed {
            commit(&mut *producer);
        } else {
            producer.abort().expect("a transaction can be aborted");
        }
    }
    for partition in &partitions {
        assert_eq!(fixture.values(partition), ["committed"], "{partition}");
    }
}

pub fn ends_told_inside_a_transaction_are_exact(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 2);
    let [one, two] = [0, 1].map(|number| TopicPartition::new(topic.as_str(), number));
    let mut producer = fixture.transactional("p");
    // Holes before the records make the offsets differ from their count.
    write(&mut *producer, &one, &["hole", "hole"]);
    flush(&mut *producer);
    producer.abort().expect("a transaction can be aborted");
    let mut told = Vec::new();
    for values in [&["a", "b"][..], &["c"], &["d", "e", "f"]] {
        write(&mut *producer, &one, values);
        write(&mut *producer, &two, &values[..1]);
        let ends = flush(&mut *producer);
        assert_eq!(ends.iter().map(|(partition, _)| partition).collect::<Vec<_>>(), [&one, &two]);
        told.push((values[values.len() - 1], ends[0].1, values[0], ends[1].1));
    }
    commit(&mut *producer);
    let read = [&one, &two].map(|partition| fixture.read_all(partition, 0));
    assert_eq!(read.each_ref().map(|records| texts(records).concat()), ["abcdef", "acd"]);
    let after = |partition: usize, value: &str| {
        read[partition].iter().find(|record| record.text() == value).expect("it was read").offset + 1
    };
    for (last_of_one, end_of_one, last_of_two, end_of_two) in told {
        assert_eq!((after(0, last_of_one), after(1, last_of_two)), (end_of_one, end_of_two));
    }
}

pub fn a_commit_without_a_transaction_does_nothing(fixture: &Fixture<'_>) {
    let partition = partition(fixture);
    let mut producer = fixture.transactional("p");
    commit(&mut *producer);
    assert_eq!(fixture.offsets(&partition).end, 0);
    write(&mut *producer, &partition, &["x"]);
    commit(&mut *producer);
    commit(&mut *producer);
    assert_eq!(fixture.values(&partition), ["x"]);
}

pub fn a_newer_producer_fences_the_older(fixture: &Fixture<'_>) {
    let partition = partition(fixture);
    let mut older = fixture.transactional("p");
    write(&mut *older, &partition, &["committed"]);
    commit(&mut *older);
    write(&mut *older, &partition, &["aborted by the newer"]);
    flush(&mut *older);
    let mut newer = fixture.transactional("p");
    // It has ended the older one's transaction.
    fixture.settled_end(&partition);
    let error = older.commit(None).expect_err("a fenced producer commits nothing");
    assert!(is_fenced(&error), "fenced, not {error:?}");
    // A fenced producer stays fenced.
    let written = older.write(&record(&partition, "too late"), false).map_err(CommitError::from);
    let error = written.and_then(|()| older.commit(None)).expect_err("a fenced producer commits nothing");
    assert!(is_fenced(&error), "fenced still, not {error:?}");
    write(&mut *newer, &partition, &["newer"]);
    commit(&mut *newer);
    assert_eq!(fixture.values(&partition), ["committed", "newer"]);
}

pub fn a_fenced_producer_finds_out_when_it_writes(fixture: &Fixture<'_>) {
    let partition = partition(fixture);
    let mut older = fixture.transactional("p");
    let _newer = fixture.transactional("p");
    let written = older.write(&record(&partition, "too late"), false).map_err(CommitError::from);
    let error = written.and_then(|()| older.commit(None)).expect_err("a fenced producer commits nothing");
    assert!(is_fenced(&error), "fenced, not {error:?}");
    assert!(fixture.values(&partition).is_empty());
}

fn is_fenced(error: &CommitError) -> bool {
    matches!(error, CommitError::Fenced(_) | CommitError::Log(LogError::Fenced(_)))
}
