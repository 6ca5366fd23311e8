//! The embedded log as a whole: what the conformance suite, which knows no RocksDB, cannot ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use rocksdb::WriteBatch;
use tempfile::TempDir;

use super::compaction::{Job, compact};
use super::consumer::Reader;
use super::files::{Files, Write};
use super::owner::Owner;
use super::view::{Ends, Place, Topic, View};
use super::{Access, EmbeddedLog, Forward, keys, view};
use crate::log::{
    Cleanup, CommitError, Consumer, GroupPositions, Log, LogError, MemberOptions, NewRecord, OffsetRange, Producer,
    ProducerOptions, Rebalance, TOMBSTONE_RETENTION_MS, TopicPartition, TopicSpec,
};

fn with_topic(log: EmbeddedLog, cleanup: Cleanup) -> EmbeddedLog {
    let spec = TopicSpec { name: "t".to_owned(), partitions: 1, cleanup, max_message_bytes: 1000 };
    log.create_topics(&[spec]).unwrap();
    log
}

fn in_memory() -> EmbeddedLog {
    with_topic(EmbeddedLog::in_memory(), Cleanup::Keep)
}

fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn producer(log: &EmbeddedLog, id: Option<&str>) -> Box<dyn Producer> {
    let options = ProducerOptions { client_id: "c".to_owned(), transactional_id: id.map(str::to_owned) };
    log.producer(&options).unwrap()
}

fn record<'a>(timestamp_ms: i64, key: &'a str, value: Option<&'a str>) -> NewRecord<'a> {
    let (key, value) = (Some(key.as_bytes()), value.map(str::as_bytes));
    NewRecord { topic: "t", partition: 0, timestamp_ms: Some(timestamp_ms), key, value, headers: &[] }
}

fn write(producer: &mut dyn Producer, values: &[&str]) {
    values.iter().for_each(|&value| producer.write(&record(1, value, Some(value)), true).unwrap());
}

/// The records as `offset=value`, and the end.
fn read(log: &EmbeddedLog) -> (String, i64) {
    let mut reader = log.reader().unwrap();
    reader.assign(&[(partition(), 0)]).unwrap();
    read_on(&mut *reader)
}

fn read_on(reader: &mut dyn Consumer) -> (String, i64) {
    let mut found = Vec::new();
    loop {
        let fetched = reader.fetch(0, 2).unwrap();
        let batch = fetched.records.iter().flat_map(|batch| (0..batch.len()).map(move |index| batch.record(index)));
        found.extend(batch.map(|record| {
            let value = record.value.map_or("-".into(), String::from_utf8_lossy);
            format!("{}={value}", record.offset)
        }));
        if let Some(end) = fetched.end {
            return (found.join(" "), end);
        }
    }
}

fn offsets(log: &EmbeddedLog) -> OffsetRange {
    log.offsets(&[partition()]).unwrap()[0]
}

#[test]
fn a_transaction_is_seen_when_it_is_committed_and_leaves_a_hole_when_not() {
    let log = in_memory();
    let (mut aborted, mut committed) = (producer(&log, Some("a")), producer(&log, Some("b")));
    write(&mut *aborted, &["x", "y"]);
    assert_eq!(aborted.flush().unwrap(), [(partition(), 2)]);
    write(&mut *committed, &["z"]);
    assert_eq!(committed.flush().unwrap(), [(partition(), 3)]);
    write(&mut *committed, &["unflushed"]);
    committed.commit(None).unwrap();
    assert_eq!(offsets(&log), OffsetRange { first: 0, stable: 0, end: 4 });
    let mut reader = log.reader().unwrap();
    reader.assign(&[(partition(), 0)]).unwrap();
    assert_eq!(read_on(&mut *reader), (String::new(), 0));
    aborted.abort().unwrap();
    assert_eq!(offsets(&log), OffsetRange { first: 0, stable: 4, end: 4 });
    assert_eq!(read_on(&mut *reader), ("2=z 3=unflushed".to_owned(), 4));
    write(&mut *aborted, &["gone"]);
    aborted.flush().unwrap();
    drop(aborted);
    assert_eq!(read_on(&mut *reader), (String::new(), 5));
}

#[test]
fn a_new_producer_fences_the_earlier_one() {
    let log = in_memory();
    let (mut former, mut late) = (producer(&log, Some("a")), producer(&log, Some("late")));
    write(&mut *former, &["x"]);
    former.flush().unwrap();
    let mut next = producer(&log, Some("a"));
    assert_eq!(offsets(&log).stable, 1, "what the former left open is aborted");
    assert!(matches!(former.write(&record(1, "k", None), false), Err(LogError::Fenced(_))));
    assert!(matches!(former.commit(None), Err(CommitError::Fenced(_))));
    write(&mut *next, &["y"]);
    next.commit(None).unwrap();
    write(&mut *late, &["z"]);
    late.commit(None).unwrap();
    assert_eq!(read(&log).0, "1=y 2=z");
}

#[test]
fn positions_are_committed_by_members_only() {
    let log = in_memory();
    let options = MemberOptions {
        group: "g".to_owned(),
        topics: vec!["t".to_owned()],
        client_id: "c".to_owned(),
        instance_id: None,
    };
    let mut member = log.member(&options).unwrap();
    assert_eq!(member.poll_group().unwrap(), Some(Rebalance::Assigned(vec![partition()])));
    let membership = member.membership().unwrap();
    let list = [(partition(), 1)];
    let positions = Some(GroupPositions { group: "g", membership: &membership, positions: &list });
    let mut writer = producer(&log, Some("a"));
    write(&mut *writer, &["x"]);
    writer.commit(positions).unwrap();
    assert_eq!(log.committed("g", &[partition()]).unwrap(), [Some(1)]);
    assert!(matches!(log.delete_group("g"), Err(LogError::Refused(_))));
    drop(member);
    write(&mut *writer, &["y"]);
    assert!(matches!(writer.commit(positions), Err(CommitError::Fenced(_))));
    assert_eq!(read(&log), ("0=x".to_owned(), 1), "what was refused is nowhere");
    assert_eq!(log.groups().unwrap()[0].state, "Empty");
    log.delete_group("g").unwrap();
    assert_eq!(log.committed("g", &[partition()]).unwrap(), [None]);
}

#[test]
fn what_is_left_open_holds_readers_back_until_its_producer_is_replaced() {
    let dir = TempDir::new().unwrap();
    let log = with_topic(EmbeddedLog::open(dir.path()).unwrap(), Cleanup::Keep);
    let (mut open, mut committed) = (producer(&log, Some("a")), producer(&log, None));
    write(&mut *open, &["open"]);
    open.flush().unwrap();
    write(&mut *committed, &["x", "y"]);
    committed.flush().unwrap();
    // Its task is gone without having aborted it.
    std::mem::forget(open);
    let epoch = |log: &EmbeddedLog| match &log.access {
        Access::Owner(owner) => owner.fence("a").unwrap().epoch,
        Access::Beside(_) => unreachable!("the log was opened as its owner"),
    };
    assert_eq!(offsets(&log).stable, 0);
    let beside = EmbeddedLog::open_beside(dir.path(), std::sync::Arc::new(Served(log.clone()))).unwrap();
    assert_eq!(offsets(&beside), OffsetRange { first: 0, stable: 0, end: 3 });
    assert_eq!(epoch(&log), 2);
    assert_eq!(read(&beside), ("1=x 2=y".to_owned(), 3));
}

#[test]
fn a_log_is_the_same_after_it_was_closed() {
    let dir = TempDir::new().unwrap();
    let log = with_topic(EmbeddedLog::open(dir.path()).unwrap(), Cleanup::Keep);
    let mut writer = producer(&log, None);
    write(&mut *writer, &["x", "y"]);
    writer.flush().unwrap();
    drop((writer, log));
    let log = with_topic(EmbeddedLog::open(dir.path()).unwrap(), Cleanup::Compact);
    assert_eq!(read(&log), ("0=x 1=y".to_owned(), 2));
    assert_eq!(log.topics().unwrap().len(), 1);
    let mut writer = producer(&log, None);
    write(&mut *writer, &["z"]);
    assert_eq!(writer.flush().unwrap(), [(partition(), 3)]);
    log.delete_topics(&["t", "unknown"]).unwrap();
    assert_eq!(read(&with_topic(log, Cleanup::Keep)), (String::new(), 0), "a topic of the same name is another one");
}

#[test]
fn a_time_finds_the_first_record_at_or_after_it() {
    let log = in_memory();
    let mut aborted = producer(&log, Some("a"));
    aborted.write(&record(1000, "k", None), false).unwrap();
    aborted.flush().unwrap();
    let mut writer = producer(&log, None);
    [5, 3, 9, 7, 9, 12].iter().for_each(|time| writer.write(&record(*time, "k", None), false).unwrap());
    writer.flush().unwrap();
    aborted.abort().unwrap();
    let expected = [(i64::MIN, Some(1)), (5, Some(1)), (6, Some(3)), (9, Some(3)), (10, Some(6)), (13, None)];
    for (time, offset) in expected {
        assert_eq!(log.offset_at(&partition(), time).unwrap(), offset, "{time}");
    }
}

#[test]
fn compaction_keeps_the_last_of_each_key() {
    let log = with_topic(EmbeddedLog::in_memory(), Cleanup::Compact);
    let mut writer = producer(&log, None);
    let records = [("a", Some("1")), ("b", Some("1")), ("a", Some("2")), ("b", None), ("c", None), ("c", None)];
    records.iter().for_each(|(key, value)| writer.write(&record(5, key, *value), false).unwrap());
    writer.flush().unwrap();
    let place = view::place(log.view(), &partition()).unwrap();
    let run = |stable, now_ms, keys_max| {
        compact(owner_files(&log), Job { place, stable }, now_ms, &AtomicBool::new(false), keys_max).unwrap();
        read(&log).0
    };
    assert_eq!(run(3, 6, 10), "1=1 2=2 3=- 4=- 5=-", "not beyond the stable offset");
    assert_eq!(run(6, 6, 1), "2=2 3=- 5=-", "one key at a time");
    write(&mut *writer, &["d"]);
    writer.flush().unwrap();
    assert_eq!(run(7, i64::MAX, 10), "2=2 3=- 5=- 6=d", "nothing is old by the partition's own time");
    writer.write(&record(6 + TOMBSTONE_RETENTION_MS, "e", Some("e")), false).unwrap();
    writer.flush().unwrap();
    assert_eq!(run(8, i64::MAX, 10), "2=2 6=d 7=e", "old tombstones go");
    assert_eq!(offsets(&log), OffsetRange { first: 0, stable: 8, end: 8 });
}

#[test]
fn a_damaged_record_is_named() {
    let log = in_memory();
    let mut writer = producer(&log, None);
    write(&mut *writer, &["x"]);
    writer.flush().unwrap();
    let mut batch = WriteBatch::default();
    batch.put(keys::record(1, 0, 0), b"no record at all, but long enough to be one");
    owner_files(&log).write(batch, Write::Lazy).unwrap();
    let mut reader = log.reader().unwrap();
    reader.assign(&[(partition(), 0)]).unwrap();
    assert!(matches!(reader.fetch(0, 1), Err(LogError::Corrupt { what, .. }) if what.contains("t/0/0")));
}

#[test]
fn what_cannot_be_written_is_refused_with_a_reason() {
    let log = in_memory();
    let mut writer = producer(&log, None);
    let large = "x".repeat(1000);
    let refused = |outcome: Result<(), LogError>, words: &str| {
        let told = matches!(outcome, Err(LogError::Refused(text) | LogError::TooLarge(text)) if text.contains(words));
        assert!(told, "{words}");
    };
    refused(writer.write(&record(1, "k", Some(&large)), false), "1000");
    refused(writer.write(&NewRecord { topic: "none", ..record(1, "k", None) }, false), "none");
    refused(writer.write(&NewRecord { partition: 1, ..record(1, "k", None) }, false), "not 1");
    refused(writer.write(&NewRecord { partition: -1, ..record(1, "k", None) }, false), "not -1");
}

#[test]
fn what_is_written_beside_the_owner_is_in_its_log() {
    let dir = TempDir::new().unwrap();
    let owner = EmbeddedLog::open(dir.path()).unwrap();
    let beside = EmbeddedLog::open_beside(dir.path(), std::sync::Arc::new(Served(owner.clone()))).unwrap();
    let beside = with_topic(beside, Cleanup::Keep);
    let mut writer = producer(&beside, None);
    write(&mut *writer, &["x", "y"]);
    assert_eq!(writer.flush().unwrap(), [(partition(), 2)]);
    let mut former = producer(&beside, Some("a"));
    former.write(&record(1, "k", Some("z")), false).unwrap();
    assert_eq!(read(&owner).1, 2);
    former.commit(None).unwrap();
    assert_eq!(read(&owner), ("0=x 1=y 2=z".to_owned(), 3));
    assert_eq!(read(&beside), read(&owner));
    let _next = producer(&owner, Some("a"));
    former.write(&record(1, "k", None), false).unwrap();
    assert!(matches!(former.commit(None), Err(CommitError::Fenced(_))));
    let options =
        MemberOptions { group: "g".to_owned(), topics: Vec::new(), client_id: String::new(), instance_id: None };
    assert!(matches!(beside.member(&options), Err(LogError::Refused(_))));
    beside.delete_topics(&["t"]).unwrap();
    assert!(beside.topics().unwrap().is_empty());
}

/// An owner in the same process.
struct Served(EmbeddedLog);

impl Forward for Served {
    fn forward(&self, request: &[u8]) -> Result<Vec<u8>, LogError> {
        Ok(self.0.serve(request))
    }
}

fn owner_files(log: &EmbeddedLog) -> &super::files::Files {
    log.view().files()
}

/// Where a partition ends, it tells so many times, and then fails.
struct Failing {
    owner: Arc<Owner>,
    looks: AtomicU32,
}

impl View for Failing {
    fn files(&self) -> &Files {
        self.owner.files()
    }

    fn topics(&self) -> Result<Vec<(String, Topic)>, LogError> {
        self.owner.topics()
    }

    fn topic(&self, name: &str) -> Result<Option<Topic>, LogError> {
        View::topic(&*self.owner, name)
    }

    fn ends(&self, place: Place) -> Result<Ends, LogError> {
        match self.looks.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(LogError::Refused("no more looks".to_owned())),
            _ => View::ends(&*self.owner, place),
        }
    }

    fn version(&self) -> u64 {
        View::version(&*self.owner)
    }

    fn wait(&self, version: u64, deadline: Instant) {
        View::wait(&*self.owner, version, deadline);
    }
}

/// Records are not lost where the look for what follows them fails.
#[test]
fn a_fetch_that_fails_is_made_again() {
    let log = in_memory();
    let mut writer = producer(&log, None);
    write(&mut *writer, &["a", "b", "c"]);
    writer.flush().unwrap();
    let Access::Owner(owner) = &log.access else { panic!("it owns itself") };
    let view = Arc::new(Failing { owner: Arc::clone(owner), looks: AtomicU32::new(1) });
    let mut reader = Reader::new(Arc::clone(&view) as Arc<dyn View>);
    reader.assign(&[(partition(), 0)]).unwrap();
    assert!(reader.fetch(0, 10).is_err());
    view.looks.store(9, Ordering::Relaxed);
    assert_eq!(read_on(&mut reader), ("0=a 1=b 2=c".to_owned(), 3));
}
