//! Timers: the runtime's, by stream time and by the wall clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engram_pipeline::clock::{self};
use engram_pipeline::driver::Driver;
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::{Log, NewRecord, ProducerOptions, TopicPartition};
use engram_pipeline::processor::{Context, ProcessError};
use engram_pipeline::service::{Running, prepare_topics};
use engram_pipeline::store::codec::{read_whole, to_bytes};
use engram_pipeline::timers::{self, Timer, TimerClock};
use engram_pipeline::worker::{CommitOptions, WorkerOptions};
use engram_schemas::registry::memory::MemoryRegistry;
use proptest::prelude::*;

use crate::harness::{Event, OnEvent, Step, events, no_timers, play, service, steps, take, told};

/// Kind, key, due.
type Told = (u16, u8, i64);

/// An event sets a timer of its key so much after its time, or, with its value, takes it back.
fn on_event(clock: TimerClock) -> OnEvent {
    Box::new(move |context, _, event| {
        context.advance_stream_time(event.time);
        let kind = event.source as u16;
        match event.value {
            -5 | -4 => drop(context.cancel(clock, kind, &[event.key])?),
            value => context.schedule(clock, kind, &[event.key], event.time + 5 * value)?,
        }
        Ok(Vec::new())
    })
}

/// A timer tells of itself; those of kind 1 set one of kind 7 for a time that has passed.
fn on_timer(context: &mut Context<'_>, timer: &Timer) -> Result<Vec<Vec<u8>>, ProcessError> {
    if timer.kind == 1 {
        context.schedule(timer.clock, 7, &timer.key, timer.due_ms)?;
    }
    Ok(vec![to_bytes(&(timer.kind, timer.key[0], timer.due_ms))])
}

proptest! {
    #[test]
    fn timers_by_stream_time_follow_from_the_events(steps in steps(2, 4)) {
        let stores = vec![timers::spec()];
        let mut driver = play(service(2, stores, || on_event(TimerClock::StreamTime), on_timer), &steps);

        let (mut expected, mut now) = (Vec::<(i64, Told)>::new(), i64::MIN);
        let mut waiting: BTreeMap<(u16, u8), i64> = BTreeMap::new();
        for Event { number, source, key, time, value } in events(&steps) {
            now = now.max(time);
            match value {
                -5 | -4 => drop(waiting.remove(&(source as u16, key))),
                value => drop(waiting.insert((source as u16, key), (time + 5 * value).max(now + 1))),
            }
            // One after the other: the first may set another anew.
            while let Some((&(kind, key), &due)) = waiting.iter().min_by_key(|(id, due)| (**due, **id)).filter(|(_, due)| **due <= now) {
                waiting.remove(&(kind, key));
                expected.push((number, (kind, key, due)));
                if kind == 1 {
                    waiting.insert((7, key), now + 1);
                }
            }
        }
        expected.sort();
        prop_assert_eq!(told::<Told>(&driver), expected.clone());
        let stored = driver.entries(0, timers::STORE).expect("entries");
        let entries = stored.iter().filter(|(key, _)| key[..2] == [b's', 0]).map(|(key, value)| {
            let (kind, key): (u16, Vec<u8>) = read_whole(&key[2..]).expect("a timer");
            ((kind, key[0]), read_whole::<(i64, ())>(value).expect("its time").0)
        });
        prop_assert_eq!(entries.collect::<BTreeMap<_, _>>(), waiting.clone());
        prop_assert_eq!(stored.len(), 2 * waiting.len());
        // The manifests count them.
        let firings = driver.manifests(0).into_iter().flat_map(|manifest| manifest.firings);
        prop_assert_eq!(firings.map(|firing| firing.count).sum::<i64>(), expected.len() as i64);
    }

    /// By the manifests alone it can be told which timers fired after which record: that is what a replay does.
    #[test]
    fn timers_by_the_wall_clock_are_in_the_manifests(
        steps in steps(1, 4), ticks in proptest::collection::vec((0..80_usize, 1..60_u64), 0..10),
    ) {
        let mut steps = steps;
        for (at, ms) in ticks {
            steps.insert(at.min(steps.len()), Step::Tick(ms));
        }
        let stores = vec![timers::spec()];
        let driver = play(service(1, stores, || on_event(TimerClock::WallClock), on_timer), &steps);

        let events = events(&steps);
        let (mut waiting, mut expected) = (BTreeMap::<u8, i64>::new(), Vec::<Told>::new());
        let mut taken = 0;
        for manifest in driver.manifests(0) {
            let records: i64 = manifest.interleaving.iter().map(|run| run.count).sum();
            let mut firings = manifest.firings.iter().peekable();
            for after in 0..=records {
                while let Some(firing) = firings.next_if(|firing| firing.after == after) {
                    prop_assert!(firing.wall_clock);
                    let mut due: Vec<(i64, u8)> = waiting.iter().filter(|(_, due)| **due <= firing.time).map(|(key, due)| (*due, *key)).collect();
                    due.sort_unstable();
                    prop_assert_eq!(due.len() as i64, firing.count);
                    for (due, key) in due {
                        waiting.remove(&key);
                        expected.push((0, key, due));
                    }
                }
                if after < records {
                    let event = &events[taken];
                    taken += 1;
                    match event.value {
                        -5 | -4 => drop(waiting.remove(&event.key)),
                        value => drop(waiting.insert(event.key, event.time + 5 * value)),
                    }
                }
            }
            prop_assert_eq!(firings.count(), 0);
        }
        prop_assert_eq!(taken, events.len());
        let fired = driver.records("out").into_iter().map(|record| read_whole(&record.value.expect("a value")).expect("a timer"));
        prop_assert_eq!(fired.collect::<Vec<Told>>(), expected);
    }
}

/// A driver with an event at 100 whose timer by the wall clock is due at 150, committed.
fn with_timer() -> Driver {
    let service = service(1, vec![timers::spec()], || on_event(TimerClock::WallClock), on_timer);
    let mut driver = Driver::new(service, 1).expect("a driver");
    take(&mut driver, &Step::Event(Event { number: 1, source: 0, key: 7, time: 100, value: 10 }));
    driver.commit().expect("committed");
    driver
}

#[test]
fn a_commit_of_timers_alone_is_a_commit() {
    let mut driver = with_timer();
    driver.advance_wall_clock(Duration::from_millis(149)).expect("nothing is due");
    driver.commit().expect("committed");
    assert_eq!(driver.manifests(0).len(), 1, "nothing was done");
    driver.restart().expect("restarted");
    driver.advance_wall_clock(Duration::from_millis(1)).expect("fired");
    driver.commit().expect("committed");
    let manifests = driver.manifests(0);
    assert_eq!(manifests.len(), 2);
    assert_eq!((manifests[1].inputs[0].from, manifests[1].inputs[0].to), (1, 1));
    assert_eq!((manifests[1].firings[0].after, manifests[1].firings[0].time), (0, 150));
    assert_eq!(manifests[1].previous_digest, manifests[0].digest);
    assert_eq!(driver.records("out").len(), 1);
    assert!(driver.entries(0, timers::STORE).expect("entries").is_empty());
    driver.restart_elsewhere().expect("restarted");
    driver.advance_wall_clock(Duration::from_secs(1)).expect("nothing is due");
    driver.commit().expect("committed");
    assert_eq!(driver.records("out").len(), 1, "it has fired");
}

#[test]
fn a_firing_that_was_aborted_comes_again() {
    let mut driver = with_timer();
    driver.advance_wall_clock(Duration::from_millis(200)).expect("fired");
    driver.abort().expect("aborted");
    driver.commit().expect("committed");
    assert_eq!((driver.manifests(0).len(), driver.records("out").len()), (1, 0));
    driver.advance_wall_clock(Duration::ZERO).expect("fired");
    driver.commit().expect("committed");
    assert_eq!((driver.manifests(0).len(), driver.records("out").len()), (2, 1));
}

#[test]
fn a_service_without_their_store_is_told_so() {
    let mut driver =
        Driver::new(service(1, Vec::new(), || on_event(TimerClock::WallClock), no_timers), 1).expect("a driver");
    let value = to_bytes(&(7_u8, 100_i64, 10_i64));
    let refused = driver.pipe("in-0", 0, &[7], &value, 1);
    assert!(matches!(refused, Err(ProcessError::Refused(reason)) if reason.contains("timers::spec()")));
}

/// The same commit draws the same numbers after an abort; the seed in the manifest says which.
#[test]
fn randomness_is_that_of_the_seed() {
    let make =
        || -> OnEvent { Box::new(|context, _, _| Ok(vec![to_bytes(&context.random()), to_bytes(&context.random())])) };
    let event = |number| Step::Event(Event { number, source: 0, key: 0, time: 0, value: 0 });
    let run = |steps: &[Step]| {
        let driver = play(service(1, Vec::new(), make, no_timers), steps);
        let drawn: Vec<u64> = driver
            .records("out")
            .iter()
            .map(|record| read_whole(record.value.as_ref().expect("a value")).expect("a number"))
            .collect();
        (drawn, driver.manifests(0).iter().map(|manifest| manifest.seed).collect::<Vec<_>>())
    };
    let (drawn, seeds) = run(&[event(1), Step::Commit, event(2), event(3)]);
    let (again, _) = run(&[event(1), Step::Abort, event(2), Step::Abort]);
    assert_eq!((drawn.len(), seeds.len()), (6, 2));
    assert_eq!(drawn[..2], again[..2]);
    assert!(seeds[0] != seeds[1] && !seeds.contains(&0));
    assert_eq!(drawn[..2], [1_u64, 2].map(|n| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_be_bytes(), seeds[0] as u64)));
    let distinct: std::collections::BTreeSet<&u64> = drawn.iter().collect();
    assert_eq!(distinct.len(), 6);
}

/// In a real worker, by the machine's clock: what the timer tells is committed though no record comes after it.
#[test]
fn a_worker_fires_timers_while_nothing_comes() {
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory());
    let service = Arc::new(service(1, vec![timers::spec()], || on_event(TimerClock::WallClock), on_timer));
    let mut topics = service.topics.clone();
    topics.push(engram_pipeline::log::TopicSpec { name: "out".to_owned(), ..topics[0].clone() });
    topics.iter_mut().for_each(|topic| topic.partitions = 1);
    log.create_topics(&topics).expect("created");
    prepare_topics(&*log, &service, 1).expect("topics");
    let due = clock::now_ms() + 300;
    let value = to_bytes(&(7_u8, due - 50, 10_i64));
    let options = ProducerOptions { client_id: "test".to_owned(), transactional_id: None };
    let mut producer = log.producer(&options).expect("a producer");
    let record =
        NewRecord { topic: "in-0", partition: 0, timestamp_ms: Some(1), key: None, value: Some(&value), headers: &[] };
    producer.write(&record, false).expect("written");
    producer.flush().expect("flushed");

    let folder = tempfile::tempdir().expect("a temporary folder");
    let running = Running::start(
        &WorkerOptions {
            cache_bytes_max: 10_000,
            commit: CommitOptions { interval: Duration::from_millis(5), ..CommitOptions::default() },
            ..WorkerOptions::new(
                service,
                Arc::clone(&log),
                Arc::new(MemoryRegistry::default()),
                folder.path().to_owned(),
            )
        },
        1,
    )
    .expect("started");
    let (started, out) = (Instant::now(), TopicPartition::new("out", 0));
    while log.offsets(std::slice::from_ref(&out)).expect("offsets")[0].stable == 0 {
        assert!(started.elapsed() < Duration::from_secs(30) && !running.has_failed(), "{:?}", running.workers());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(clock::now_ms() >= due);
    let manifests = TopicPartition::new("engram-test-manifests", 0);
    assert_eq!(log.offsets(&[manifests]).expect("offsets")[0].stable, 2, "one of the record, one of the timer");
    running.stop().expect("stopped");
}
