//! Tumbling and hopping windows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engram_pipeline::operators::{CLOSED_MAX, EmitStrategy, TimeWindows, WindowedAggregate};
use engram_pipeline::store::codec::to_bytes;
use proptest::prelude::*;

use crate::harness::{
    Event, Step, Total, emit, events, fold, fold_all, late, late_of, no_timers, options, play, service, steps,
    stream_times, timed, told,
};

type Aggregate = WindowedAggregate<u8, i64, Total>;
/// Key, start, end, total.
type Told = (u8, i64, i64, Total);

proptest! {
    #[test]
    fn windows_are_those_of_a_recomputation(
        steps in steps(1, 3), advance in 1..25_i64, overlap in 1..4_i64, slack in 0..5_i64, grace in 0..40_i64, emit in emit(),
    ) {
        let size = (advance * overlap - slack).max(advance);
        let windows = TimeWindows::hopping(size, advance).expect("they fit");
        let make = move || {
            let mut aggregate = Aggregate::new(0, windows, options(grace, emit), fold);
            let on_event: crate::harness::OnEvent = Box::new(move |context, input, event| {
                let told = aggregate.add(context, input, &event.key, event.time, &event.value)?;
                Ok(told.map(|told| to_bytes(&(told.key, told.window.start_ms, told.window.end_ms, told.value))).collect())
            });
            on_event
        };
        let mut driver = play(service(1, vec![Aggregate::spec("windows")], make, no_timers), &steps);

        let events = events(&steps);
        let now = stream_times(&events);
        let starts = |time: i64| (time - size + 1..=time).filter(move |start| start.rem_euclid(advance) == 0);
        let is_open = |at: usize, start: i64| start + size + grace > now[at];
        let mut windows: BTreeMap<(u8, i64), Vec<usize>> = BTreeMap::new();
        for (at, event) in events.iter().enumerate() {
            for start in starts(event.time).filter(|start| is_open(at, *start)) {
                windows.entry((event.key, start)).or_default().push(at);
            }
        }
        let (mut expected, mut open) = (Vec::<(i64, Told)>::new(), BTreeMap::new());
        for ((key, start), members) in windows {
            let total = |count: usize| fold_all(members[..count].iter().map(|at| &events[*at].value));
            let told = |at: usize, total| (events[at].number, (key, start, start + size, total));
            if emit == EmitStrategy::OnWindowUpdate {
                expected.extend(members.iter().enumerate().map(|(count, at)| told(*at, total(count + 1))));
            }
            match (members[0]..events.len()).find(|at| !is_open(*at, start)) {
                Some(at) if emit == EmitStrategy::OnWindowClose => expected.push(told(at, total(members.len()))),
                Some(_) => {}
                None => drop(open.insert((key, start), (start + size + grace, total(members.len())))),
            }
        }
        expected.sort();
        prop_assert_eq!(told::<Told>(&driver), expected);
        prop_assert_eq!(timed::<(u8, i64), Total>(&mut driver, "windows"), open);
        prop_assert_eq!(late(&driver), late_of(&events, |at| !starts(events[at].time).any(|start| is_open(at, start))));
    }
}

#[test]
fn windows_that_cannot_be_are_refused() {
    assert_eq!(TimeWindows::tumbling(0), None);
    assert_eq!(TimeWindows::hopping(10, 11), None);
    assert_eq!(TimeWindows::hopping(10, 0), None);
    assert_eq!(TimeWindows::hopping(1_001, 1), None);
    assert!(TimeWindows::hopping(1_000, 1).is_some());
}

fn tumbling(size: i64, grace: i64, emit: EmitStrategy) -> engram_pipeline::processor::Service {
    let make = move || {
        let windows = TimeWindows::tumbling(size).expect("longer than 0 ms");
        let mut aggregate = Aggregate::new(0, windows, options(grace, emit), fold);
        let on_event: crate::harness::OnEvent = Box::new(move |context, input, event| {
            let told = aggregate.add(context, input, &event.key, event.time, &event.value)?;
            Ok(told.map(|told| to_bytes(&(told.key, told.window.start_ms, told.window.end_ms, told.value))).collect())
        });
        on_event
    };
    service(1, vec![Aggregate::spec("windows")], make, no_timers)
}

fn event(number: i64, key: u8, time: i64) -> Step {
    Step::Event(Event { number, source: 0, key, time, value: 1 })
}

/// When event time makes a leap, the windows are closed in parts, whatever is committed between, and none takes a record
/// any more from the leap on.
#[test]
fn many_windows_are_closed_in_parts() {
    let most = CLOSED_MAX as i64;
    let mut steps: Vec<Step> = (0..2 * most + 10).map(|time| event(time, 1, time)).collect();
    let leap = steps.len() as i64;
    steps.extend([event(leap, 2, 1_000_000), Step::Commit, event(leap + 1, 1, leap - 1), Step::Abort]);
    steps.extend([event(leap + 2, 2, 1_000_001), event(leap + 3, 2, 1_000_002)]);
    let mut driver = play(tumbling(1, 100_000, EmitStrategy::OnWindowClose), &steps);
    let told = told::<Told>(&driver);
    let by = |number: i64| told.iter().filter(|(by, _)| *by == number).count();
    assert_eq!([by(leap), by(leap + 1), by(leap + 2), by(leap + 3)], [CLOSED_MAX, CLOSED_MAX, 10, 0]);
    assert!(told.iter().map(|(_, (_, start, _, total))| (*start, total.0)).eq((0..leap).map(|start| (start, 1))));
    assert_eq!(late(&driver).len(), 1);
    assert_eq!(timed::<(u8, i64), Total>(&mut driver, "windows").len(), 3);
}

#[derive(Default)]
struct Counters(Arc<AtomicU64>);

impl metrics::Recorder for Counters {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}

    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        let labels: Vec<(&str, &str)> = key.labels().map(|label| (label.key(), label.value())).collect();
        match (key.name(), labels.as_slice()) {
            ("engram_late_records_total", [("service", "test"), ("operator", "test")]) => {
                metrics::Counter::from_arc(Arc::clone(&self.0))
            }
            _ => metrics::Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::noop()
    }

    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

#[test]
fn late_records_are_counted() {
    let counters = Counters::default();
    let steps = [event(1, 1, 50), event(2, 1, 9), event(3, 1, 39), event(4, 1, 40)];
    metrics::with_local_recorder(&counters, || play(tumbling(10, 0, EmitStrategy::OnWindowClose), &steps));
    assert_eq!(counters.0.load(Ordering::Relaxed), 3);
}
