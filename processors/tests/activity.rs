//! The activity service on an in-memory log, against a recomputation by hand: with events in any order, over any number of
//! partitions, and with commits wherever they fall.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{Log, NewRecord, ProducerOptions, TopicPartition};
use engram_pipeline::service::{self, Running};
use engram_pipeline::worker::{CommitOptions, WorkerOptions};
use engram_processors::activity::{self, ActivityConfig, Dimension, LateEvents, SourceConfig};
use engram_schemas::activity::{Interaction, Session, WindowCount};
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::registry::Registry;
use engram_schemas::registry::memory::MemoryRegistry;
use proptest::prelude::*;

const SIZE_MS: i64 = 100;
const GAP_MS: i64 = 70;

struct Run {
    events: Vec<Interaction>,
    /// How far the partition of an event is from its user's, for clients with another partitioner.
    shift: fn(&Interaction) -> i32,
    partitions: i32,
    workers: usize,
    grace_ms: Option<i64>,
    records_max: i64,
    /// In the middle a second process joins, and then the first one stops.
    moves: bool,
}

/// What came out, in order: windows and sessions (`None` for a tombstone), with the record's key.
struct Out {
    windows: Vec<WindowCount>,
    sessions: Vec<(String, Option<Session>)>,
    late: Vec<Interaction>,
}

fn run(run: &Run) -> Out {
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory());
    let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::default());
    let config = ActivityConfig {
        sources: vec![SourceConfig { source: String::new(), size_ms: SIZE_MS, grace_ms: run.grace_ms }],
        dimensions: Dimension::ALL.to_vec(),
        session_gap_ms: GAP_MS,
        sessions: true,
        idle_ms: 60_000,
        late: LateEvents::Topic,
        future_ms_max: i64::MAX,
    };
    let service = Arc::new(activity::service(config));
    service::prepare_topics(&*log, &service, run.partitions).expect("topics");
    let encoder = Encoder::<Interaction>::register(&*registry, activity::EVENTS).expect("registered");
    let options = ProducerOptions { client_id: "test".to_owned(), transactional_id: None };
    let mut producer = log.producer(&options).expect("a producer");
    let mut value = Vec::new();
    let mut write = |events: &[Interaction]| {
        for event in events {
            encoder.encode(event, &mut value).expect("encoded");
            let own = partition_for(event.user.as_bytes(), run.partitions);
            let partition = (own + (run.shift)(event)).rem_euclid(run.partitions);
            let (key, value) = (Some(event.user.as_bytes()), Some(value.as_slice()));
            let topic = activity::EVENTS;
            producer
                .write(&NewRecord { topic, partition, timestamp_ms: None, key, value, headers: &[] }, false)
                .expect("written");
        }
        producer.flush().expect("flushed");
    };

    let folders = tempfile::tempdir().expect("a temporary folder");
    let start = |process: &str| {
        Running::start(
            &WorkerOptions {
                cache_bytes_max: 10_000,
                instance: process.to_owned(),
                commit: CommitOptions {
                    interval: Duration::from_millis(2),
                    records_max: run.records_max,
                    ..CommitOptions::default()
                },
                ..WorkerOptions::new(
                    Arc::clone(&service),
                    Arc::clone(&log),
                    Arc::clone(&registry),
                    folders.path().join(process),
                )
            },
            run.workers,
        )
        .expect("started")
    };
    let until = |what: &str, running: &Running, holds: &dyn Fn(&Running) -> bool| {
        let started = Instant::now();
        while !holds(running) {
            let late = started.elapsed() > Duration::from_secs(60);
            assert!(!late && !running.has_failed(), "in vain until {what}: {:?}", running.workers());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut running;
    if run.moves {
        let mut quarters = run.events.chunks(run.events.len().div_ceil(4).max(1));
        let mut next = || quarters.next().unwrap_or_default();
        write(next());
        running = start("first");
        until("the first has begun", &running, &|running| {
            running.workers().iter().map(|worker| worker.records).sum::<u64>() > 0
        });
        let second = start("second");
        write(next());
        until("the second has a share", &second, &|second| {
            second.workers().iter().any(|worker| !worker.tasks.is_empty())
        });
        write(next());
        running.stop().expect("stopped");
        running = second;
        until("the second has everything", &running, &|running| {
            running.workers().iter().map(|worker| worker.tasks.len()).sum::<usize>() == run.partitions as usize
        });
        write(next());
    } else {
        write(&run.events);
        running = start("first");
    }
    // What a task passes on is committed together with how far it has read: once all positions are at the ends, nothing
    // is under way. Positions first, so that what comes in between shows.
    let partitions = 0..run.partitions;
    let inputs = service.inputs.iter();
    let inputs: Vec<TopicPartition> = inputs
        .flat_map(|topic| partitions.clone().map(|partition| TopicPartition::new(topic.as_str(), partition)))
        .collect();
    until("all is done", &running, &|_| {
        let committed = log.committed("activity", &inputs).expect("positions");
        let ends = log.offsets(&inputs).expect("offsets");
        committed.iter().zip(ends).all(|(committed, range)| committed.unwrap_or(range.first) >= range.end)
    });
    running.stop().expect("stopped");

    let mut decoder = Decoder::new(registry);
    let records =
        |topic: &str| (0..run.partitions).flat_map(|partition| read(&*log, topic, partition)).collect::<Vec<_>>();
    let windows = records(activity::WINDOWS);
    let windows =
        windows.iter().map(|(_, value)| decoder.decode(value.as_ref().expect("no tombstones")).expect("a window"));
    let windows = windows.collect();
    let sessions = records(activity::SESSIONS);
    let sessions =
        sessions.into_iter().map(|(key, value)| (key, value.map(|value| decoder.decode(&value).expect("a session"))));
    let sessions = sessions.collect();
    let late = records(activity::LATE);
    let late = late.iter().map(|(_, value)| decoder.decode(value.as_ref().expect("as it came")).expect("an event"));
    let late = late.collect();
    assert!(records("dead-letters").is_empty());
    Out { windows, sessions, late }
}

fn read(log: &dyn Log, topic: &str, partition: i32) -> Vec<(String, Option<Vec<u8>>)> {
    let place = TopicPartition::new(topic, partition);
    let end = log.offsets(std::slice::from_ref(&place)).expect("offsets")[0].end;
    let mut reader = log.reader().expect("a reader");
    reader.assign(&[(place, 0)]).expect("assigned");
    let (mut records, mut position) = (Vec::new(), 0);
    while position < end {
        let fetched = reader.fetch(0, 1_000).expect("fetched");
        if let Some(batch) = fetched.records {
            for at in 0..batch.len() {
                let record = batch.record(at);
                let key = String::from_utf8(record.key.expect("a key").to_vec()).expect("text");
                records.push((key, record.value.map(<[u8]>::to_vec)));
                position = record.offset + 1;
            }
        }
        position = position.max(fetched.end.unwrap_or(0));
    }
    records
}

type Windows = BTreeMap<(String, String, i64), (i64, i64, i64)>;

fn add(windows: &mut Windows, dimension: &str, key: &str, time: i64) {
    let window = windows.entry((dimension.to_owned(), key.to_owned(), time - time.rem_euclid(SIZE_MS)));
    let (count, first, last) = window.or_insert((0, i64::MAX, i64::MIN));
    (*count, *first, *last) = (*count + 1, (*first).min(time), (*last).max(time));
}

fn all_windows(events: &[Interaction]) -> Windows {
    let mut windows = Windows::new();
    for event in events {
        add(&mut windows, "user", &event.user, event.time);
        add(&mut windows, "type", &event.kind, event.time);
        if let Some(target) = &event.target {
            add(&mut windows, "target", target, event.time);
        }
    }
    windows
}

fn last_windows(windows: &[WindowCount]) -> Windows {
    let entry = |window: &WindowCount| {
        let key = (window.dimension.clone(), window.key.clone(), window.window_start);
        (key, (window.count, window.first_ts, window.last_ts))
    };
    windows.iter().map(entry).collect()
}

/// (user, start) -> (end, count), by sorting.
fn all_sessions(events: &[Interaction]) -> BTreeMap<(String, i64), (i64, i64)> {
    let mut times: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for event in events {
        times.entry(&event.user).or_default().push(event.time);
    }
    let mut sessions = BTreeMap::new();
    for (user, mut times) in times {
        times.sort_unstable();
        let mut start = times[0];
        let mut before = times[0];
        for time in times {
            if time - before > GAP_MS {
                start = time;
            }
            let (end, count) = sessions.entry((user.to_owned(), start)).or_insert((time, 0));
            (*end, *count) = (time, *count + 1);
            before = time;
        }
    }
    sessions
}

fn last_sessions(sessions: &[(String, Option<Session>)]) -> BTreeMap<(String, i64), (i64, i64)> {
    let mut last: BTreeMap<&String, &Session> = BTreeMap::new();
    for (key, session) in sessions {
        match session {
            Some(session) => drop(last.insert(key, session)),
            None => drop(last.remove(key)),
        }
    }
    let entry =
        |session: &&Session| ((session.user.clone(), session.session_start), (session.session_end, session.count));
    last.values().map(entry).collect()
}

static NUMBER: AtomicUsize = AtomicUsize::new(0);

prop_compose! {
    fn interaction()(time in -600..1_200_i64, user in 0..4_u8, kind in 0..2_u8, target in proptest::option::of(0..3_u8)) -> Interaction {
        Interaction {
            id: NUMBER.fetch_add(1, Ordering::Relaxed).to_string(),
            time,
            user: format!("user-{user}"),
            kind: format!("type-{kind}"),
            target: target.map(|target| format!("target-{target}")),
            source: "test".to_owned(),
            value: None,
            attributes: BTreeMap::new(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Without an end of grace every event counts, so order, partitions, workers and commits make no difference.
    #[test]
    fn counts_are_those_of_a_recomputation(
        events in proptest::collection::vec(interaction(), 1..150),
        partitions in 1..4_i32, workers in 1..3_usize, records_max in 1..40_i64,
    ) {
        let out = run(&Run { events: events.clone(), shift: |_| 0, partitions, workers, grace_ms: None, records_max, moves: false });
        prop_assert_eq!(last_windows(&out.windows), all_windows(&events));
        prop_assert_eq!(last_sessions(&out.sessions), all_sessions(&events));
        prop_assert!(out.windows.iter().all(|window| !window.is_final));
        prop_assert_eq!(out.late, []);
    }

    /// Each partition is in order, and some are far ahead of others: by any other clock than that of all tasks, the events
    /// of the slower ones would be late. Events of a partitioner of their own take the detour.
    #[test]
    fn nothing_is_late_that_is_in_order_in_its_partition(
        mut events in proptest::collection::vec(interaction(), 50..300), partitions in 2..4_i32, workers in 1..3_usize,
        records_max in 1..40_i64, foreign in any::<bool>(),
    ) {
        events.sort_by_key(|event| event.time);
        let shift =
            if foreign { |event: &Interaction| event.id.len() as i32 + event.time as i32 % 2 } else { |_: &Interaction| 0 };
        // One half of the partitions has lived through all of it before the others have begun.
        let read_by = |event: &Interaction| partition_for(event.user.as_bytes(), partitions) + shift(event);
        events.sort_by_key(|event| read_by(event).rem_euclid(partitions) % 2);
        let out = run(&Run { events: events.clone(), shift, partitions, workers, grace_ms: Some(0), records_max, moves: false });
        prop_assert_eq!(last_windows(&out.windows), all_windows(&events));
        prop_assert_eq!(last_sessions(&out.sessions), all_sessions(&events));
        prop_assert_eq!(out.late, []);
        let mut closed = BTreeSet::new();
        for window in &out.windows {
            let id = (window.dimension.clone(), window.key.clone(), window.window_start);
            prop_assert!(!closed.contains(&id), "a record after the final one: {:?}", window);
            if window.is_final {
                closed.insert(id);
            }
        }
    }

    /// With one partition the order is known, and so is which events are late and which windows are closed.
    #[test]
    fn late_events_are_left_out_and_closed_windows_are_final(
        events in proptest::collection::vec(interaction(), 1..150), grace_ms in 0..300_i64, records_max in 1..40_i64,
    ) {
        let out = run(&Run { events: events.clone(), shift: |_| 0, partitions: 1, workers: 1, grace_ms: Some(grace_ms), records_max, moves: false });
        let (mut expected, mut late, mut stream_time) = (Windows::new(), Vec::new(), i64::MIN);
        for event in &events {
            stream_time = stream_time.max(event.time);
            let start = event.time - event.time.rem_euclid(SIZE_MS);
            if start + SIZE_MS + grace_ms > stream_time {
                add(&mut expected, "user", &event.user, event.time);
            } else {
                late.push(event.clone());
            }
        }
        prop_assert_eq!(out.late, late);
        let users: Vec<_> = out.windows.iter().filter(|window| window.dimension == "user").cloned().collect();
        prop_assert_eq!(last_windows(&users), expected.clone());
        let mut closed = BTreeSet::new();
        for window in &users {
            let id = (window.key.clone(), window.window_start);
            prop_assert!(!closed.contains(&id), "a record after the final one: {:?}", window);
            if window.is_final {
                closed.insert(id);
            }
        }
        let due = expected.keys().filter(|(_, _, start)| start + SIZE_MS + grace_ms <= stream_time);
        let due: BTreeSet<_> = due.map(|(_, key, start)| (key.clone(), *start)).collect();
        prop_assert_eq!(closed, due);
        // Whatever the second step has closed is final too, once.
        let mut others = BTreeSet::new();
        for window in out.windows.iter().filter(|window| window.dimension != "user") {
            let id = (window.dimension.clone(), window.key.clone(), window.window_start);
            prop_assert!(!others.contains(&id), "a record after the final one: {:?}", window);
            if window.is_final {
                others.insert(id);
            }
        }
    }

    /// However many workers share the partitions, and wherever these go in the middle, what comes out is the same.
    #[test]
    fn results_are_identical_with_any_number_of_workers_and_when_partitions_move(
        events in proptest::collection::vec(interaction(), 100..400), records_max in 1..40_i64,
    ) {
        let out = |workers, moves| {
            let run = Run { events: events.clone(), shift: |_| 0, partitions: 4, workers, grace_ms: None, records_max, moves };
            let out = self::run(&run);
            (last_windows(&out.windows), last_sessions(&out.sessions))
        };
        let alone = out(1, false);
        prop_assert_eq!(&alone, &(all_windows(&events), all_sessions(&events)));
        for (workers, moves) in [(2, false), (4, false), (1, true), (2, true)] {
            prop_assert_eq!(&alone, &out(workers, moves), "{} workers, partitions move: {}", workers, moves);
        }
    }
}
