//! A service of one operator, a list of steps, and what came of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engram_pipeline::driver::Driver;
use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::log::{Cleanup, TopicPartition, TopicSpec};
use engram_pipeline::operators::{EmitStrategy, Late, WindowOptions};
use engram_pipeline::processor::{Context, Input, Output, ProcessError, Processor, Service};
use engram_pipeline::store::StoreSpec;
use engram_pipeline::store::codec::{Codec, read_whole, to_bytes};
use engram_pipeline::timers::Timer;
use proptest::prelude::*;

/// Index of the output for late records.
pub const LATE: usize = 1;

/// A record of a test: its key, event time and value. Its number is its record's timestamp, so that records are taken in
/// the order of their numbers, whatever their event times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub number: i64,
    /// Of the service's input.
    pub source: usize,
    pub key: u8,
    pub time: i64,
    pub value: i64,
}

#[derive(Debug, Clone, Copy)]
pub enum Step {
    Event(Event),
    /// A commit begins, and is under way until the next `Commit` or `Abort`.
    BeginCommit,
    Commit,
    Abort,
    Restart,
    RestartElsewhere,
    /// The wall clock goes on, ms.
    Tick(u64),
}

/// Steps with events of `sources` inputs, whose times go on, back and, seldom, far on.
pub fn steps(sources: usize, keys: u8) -> impl Strategy<Value = Vec<Step>> {
    let late_by = prop_oneof![4 => 0..10_i64, 3 => 0..60_i64, 1 => 0..300_i64];
    let on_by = prop_oneof![6 => 0..6_i64, 2 => 0..30_i64, 1 => 100..400_i64];
    let event = (0..sources, 0..keys, on_by, late_by, -5..6_i64);
    let step = prop_oneof![
        20 => event.prop_map(Err),
        2 => Just(Ok(Step::BeginCommit)),
        3 => Just(Ok(Step::Commit)),
        1 => Just(Ok(Step::Abort)),
        1 => Just(Ok(Step::Restart)),
        1 => Just(Ok(Step::RestartElsewhere)),
    ];
    proptest::collection::vec(step, 1..80).prop_map(|steps| {
        let (mut now, mut number) = (-50, 0);
        let event = |(source, key, on_by, late_by, value)| {
            now += on_by;
            number += 1;
            Step::Event(Event { number, source, key, time: now - late_by, value })
        };
        let mut event = event;
        steps.into_iter().map(|step| step.unwrap_or_else(&mut event)).collect()
    })
}

pub fn events(steps: &[Step]) -> Vec<Event> {
    let event = |step: &Step| match step {
        Step::Event(event) => Some(*event),
        _ => None,
    };
    steps.iter().filter_map(event).collect()
}

/// Stream time after each event.
pub fn stream_times(events: &[Event]) -> Vec<i64> {
    let times = events.iter().scan(i64::MIN, |now, event| {
        *now = event.time.max(*now);
        Some(*now)
    });
    times.collect()
}

/// What the service does with an event: the bytes of what it tells.
pub type OnEvent = Box<dyn FnMut(&mut Context<'_>, &Input<'_>, &Event) -> Result<Vec<Vec<u8>>, ProcessError> + Send>;
/// What it does with a timer.
pub type OnTimer = fn(&mut Context<'_>, &Timer) -> Result<Vec<Vec<u8>>, ProcessError>;

/// A service with inputs `in-0`, `in-1`.. that writes to `out`, and what is late to `late`.
pub fn service(
    sources: usize,
    mut stores: Vec<StoreSpec>,
    make: impl Fn() -> OnEvent + Send + Sync + 'static,
    on_timer: OnTimer,
) -> Service {
    let numbers = stores.len();
    stores.push(StoreSpec::new("numbers", |_, _| Default::default()));
    let output = |topic: &str| Output { topic: topic.to_owned(), event: None };
    Service {
        name: "test",
        inputs: (0..sources).map(input).collect(),
        outputs: vec![output("out"), output("late")],
        topics: (0..sources).map(|source| topic(input(source))).collect(),
        stores,
        processor: Box::new(move |_| Ok(Box::new(Scripted { on_event: make(), on_timer, numbers }))),
        errors: ErrorPolicy::default(),
    }
}

pub fn no_timers(_: &mut Context<'_>, _: &Timer) -> Result<Vec<Vec<u8>>, ProcessError> {
    Ok(Vec::new())
}

pub fn input(source: usize) -> String {
    format!("in-{source}")
}

fn topic(name: String) -> TopicSpec {
    TopicSpec { name, partitions: 0, cleanup: Cleanup::Keep, max_message_bytes: 1 << 20 }
}

struct Scripted {
    on_event: OnEvent,
    on_timer: OnTimer,
    /// Index of the store that has the last event's.
    numbers: usize,
}

impl Processor for Scripted {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let (key, time, value) = read_whole(input.record.value.expect("a value")).expect("an event");
        let number = input.record.timestamp_ms;
        context.store(self.numbers).put(&[], &to_bytes(&number))?;
        let event = Event { number, source: input.source, key, time, value };
        for told in (self.on_event)(context, input, &event)? {
            context.emit(0, &to_bytes(&number), Some(&told))?;
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: &Timer, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let number = context.store(self.numbers).get(&[])?.unwrap_or_default().to_vec();
        for told in (self.on_timer)(context, timer)? {
            context.emit(0, &number, Some(&told))?;
        }
        Ok(())
    }
}

/// Takes the steps, and commits at the end. What was committed must come out again in a replay.
pub fn play(service: Service, steps: &[Step]) -> Driver {
    let mut driver = Driver::new(service, 1).expect("a driver");
    for step in steps {
        take(&mut driver, step);
    }
    driver.run().expect("run");
    let replayed = driver.replay(None).expect("replayed");
    assert!(replayed.difference.is_none(), "{replayed:?}");
    check_past(&driver, steps);
    driver
}

/// The state right after some record is what a task has that took just the records until it, and never committed.
fn check_past(driver: &Driver, steps: &[Step]) {
    let events = events(steps);
    // What the wall clock fires depends on when commits fell.
    if events.is_empty() || steps.iter().any(|step| matches!(step, Step::Tick(_))) {
        return;
    }
    let at = steps.len() * 7_919 % events.len();
    let event = &events[at];
    let offset = events[..at].iter().filter(|other| other.source == event.source).count();
    let place = TopicPartition::new(input(event.source), 0);
    let past = driver.entries_at(&place, offset as i64).expect("the past");
    let service = driver.service();
    let mut anew = Driver::of(Arc::clone(&service), 1).expect("a driver");
    for event in &events[..=at] {
        let value = to_bytes(&(event.key, event.time, event.value));
        anew.write(&input(event.source), 0, Some(&[event.key]), Some(&value), event.number);
    }
    anew.process_records(0, at as i64 + 1).expect("processed");
    for (store, entries) in service.stores.iter().zip(past) {
        assert_eq!(entries, anew.entries(0, store.name).expect("entries"), "{} after event {at}", store.name);
    }
}

pub fn take(driver: &mut Driver, step: &Step) {
    let taken = match step {
        Step::Event(event) => {
            let value = to_bytes(&(event.key, event.time, event.value));
            driver.pipe(&input(event.source), 0, &[event.key], &value, event.number)
        }
        Step::BeginCommit => driver.begin_commit(),
        Step::Commit => driver.commit(),
        Step::Abort => driver.abort(),
        Step::Restart => driver.restart(),
        Step::RestartElsewhere => driver.restart_elsewhere(),
        Step::Tick(ms) => driver.advance_wall_clock(Duration::from_millis(*ms)),
    };
    taken.expect("taken");
}

/// What was told, with the number of the event that made it so: in no order but by that number.
pub fn told<T: Codec + Ord>(driver: &Driver) -> Vec<(i64, T)> {
    let read = |bytes: &Option<Vec<u8>>| bytes.clone().expect("bytes");
    let record = |record: &engram_pipeline::driver::Record| {
        let number = read_whole(&read(&record.key)).expect("a number");
        (number, read_whole(&read(&record.value)).expect("what was told"))
    };
    let mut told: Vec<(i64, T)> = driver.records("out").iter().map(record).collect();
    let numbers: Vec<i64> = told.iter().map(|(number, _)| *number).collect();
    assert!(numbers.is_sorted(), "told out of order: {numbers:?}");
    told.sort();
    told
}

/// The events that went to the topic of late records, as they came.
pub fn late(driver: &Driver) -> Vec<(i64, Vec<u8>)> {
    let records = driver.records("late");
    records.into_iter().map(|record| (record.timestamp_ms, record.value.expect("a value"))).collect()
}

pub fn late_of(events: &[Event], is_late: impl Fn(usize) -> bool) -> Vec<(i64, Vec<u8>)> {
    let late = (0..events.len()).filter(|at| is_late(*at)).map(|at| events[at]);
    late.map(|event| (event.number, to_bytes(&(event.key, event.time, event.value)))).collect()
}

/// The entries of a timed store, without their index, which must go with them.
pub fn timed<K: Codec + Ord, V: Codec>(driver: &mut Driver, store: &str) -> BTreeMap<K, (i64, V)> {
    let (mut entries, mut by_due) = (BTreeMap::new(), Vec::new());
    for (key, value) in driver.entries(0, store).expect("entries") {
        match key.as_slice() {
            [_, 0, key @ ..] => {
                drop(entries.insert(read_whole(key).expect("a key"), read_whole(&value).expect("a value")))
            }
            [_, 1, key @ ..] => by_due.push(read_whole::<(i64, K)>(key).expect("a due key")),
            other => panic!("no such key: {other:?}"),
        }
    }
    let mut expected: Vec<(i64, &K)> = entries.iter().map(|(key, (due, _)): (&K, &(i64, V))| (*due, key)).collect();
    expected.sort();
    assert!(by_due.iter().map(|(due, key)| (*due, key)).eq(expected), "the index does not go with the entries");
    entries
}

pub fn options(grace_ms: i64, emit: EmitStrategy) -> WindowOptions {
    WindowOptions { name: "test", grace_ms, emit, late: Late::Topic(LATE) }
}

pub fn emit() -> impl Strategy<Value = EmitStrategy> {
    prop_oneof![Just(EmitStrategy::OnWindowUpdate), Just(EmitStrategy::OnWindowClose)]
}

/// How many, and a number that tells their order.
pub type Total = (i64, i64);

pub fn fold(total: &mut Total, value: &i64) {
    *total = (total.0 + 1, total.1.wrapping_mul(31).wrapping_add(*value));
}

pub fn fold_all<'a>(values: impl IntoIterator<Item = &'a i64>) -> Total {
    values.into_iter().fold(Total::default(), |mut total, value| {
        fold(&mut total, value);
        total
    })
}
