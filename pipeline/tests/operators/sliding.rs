//! Sliding windows.

use std::collections::{BTreeMap, BTreeSet};

use engram_pipeline::operators::{CLOSED_MAX, EmitStrategy, SlidingAggregate};
use engram_pipeline::store::codec::{read_whole, to_bytes};
use proptest::prelude::*;

use crate::harness::{
    Event, Step, Total, emit, events, fold, fold_all, late, late_of, no_timers, options, play, service, steps,
    stream_times, told,
};

type Aggregate = SlidingAggregate<u8, i64, Total>;
type Told = (u8, i64, i64, Total);

proptest! {
    #[test]
    fn sliding_windows_are_those_of_a_recomputation(
        steps in steps(1, 3), difference in 0..40_i64, grace in 0..40_i64, emit in emit(),
    ) {
        let make = move || {
            let mut aggregate = Aggregate::new(0, difference, options(grace, emit), fold);
            let on_event: crate::harness::OnEvent = Box::new(move |context, input, event| {
                let told = aggregate.add(context, input, &event.key, event.time, &event.value)?;
                Ok(told.map(|told| to_bytes(&(told.key, told.window.start_ms, told.window.end_ms, told.value))).collect())
            });
            on_event
        };
        let mut driver = play(service(1, vec![Aggregate::spec("sliding")], make, no_timers), &steps);

        let events = events(&steps);
        let now = stream_times(&events);
        let closes = |start: i64| start + difference + 1 + grace;
        let is_late = |at: usize| closes(events[at].time) <= now[at];
        // A window is there from the first record on that bounds it, while it is open.
        let mut since: BTreeMap<(u8, i64), usize> = BTreeMap::new();
        for (at, event) in events.iter().enumerate().filter(|(at, _)| !is_late(*at)) {
            for start in [event.time - difference, event.time + 1] {
                if closes(start) > now[at] {
                    since.entry((event.key, start)).or_insert(at);
                }
            }
        }
        let (mut expected, mut open) = (Vec::<(i64, Told)>::new(), BTreeSet::new());
        for ((key, start), since) in since {
            let total = |until: usize| {
                let mut members: Vec<usize> = (0..=until).filter(|&at| {
                    let event = events[at];
                    event.key == key && (start..=start + difference).contains(&event.time) && closes(start) > now[at]
                }).collect();
                members.sort_by_key(|at| (events[*at].time, *at));
                let total = fold_all(members.iter().map(|at| &events[*at].value));
                (total.0 > 0).then_some(total)
            };
            let told = |at: usize, total| (events[at].number, (key, start, start + difference + 1, total));
            let closed_by = (since..events.len()).find(|at| closes(start) <= now[*at]);
            if emit == EmitStrategy::OnWindowUpdate {
                let open = events.iter().enumerate().take(closed_by.unwrap_or(events.len())).skip(since);
                for (at, event) in open {
                    let is_in = event.key == key && (start..=start + difference).contains(&event.time);
                    expected.extend(total(at).filter(|_| is_in).map(|total| told(at, total)));
                }
            }
            match closed_by {
                Some(at) if emit == EmitStrategy::OnWindowClose => expected.extend(total(at).map(|total| told(at, total))),
                Some(_) => {}
                None => drop(open.insert((key, start))),
            }
        }
        expected.sort();
        prop_assert_eq!(told::<Told>(&driver), expected);
        prop_assert_eq!(late(&driver), late_of(&events, is_late));
        let (mut windows, mut records) = (BTreeSet::new(), 0);
        for (key, _) in driver.entries(0, "sliding").expect("entries") {
            match key.as_slice() {
                [b'w', 0, key @ ..] => drop(windows.insert(read_whole(key).expect("a window"))),
                [b'r', 0, ..] => records += 1,
                _ => {}
            }
        }
        prop_assert_eq!(windows, open);
        let last = now.last().copied().unwrap_or(i64::MIN);
        prop_assert_eq!(records, (0..events.len()).filter(|at| !is_late(*at) && closes(events[*at].time) > last).count());
    }
}

/// Windows are closed in parts when event time makes a leap, and none of their records goes before its window.
#[test]
fn many_windows_are_closed_in_parts_and_whole() {
    let most = CLOSED_MAX as i64;
    let make = || {
        let mut aggregate = Aggregate::new(0, 1, options(100_000, EmitStrategy::OnWindowClose), fold);
        let on_event: crate::harness::OnEvent = Box::new(move |context, input, event| {
            let told = aggregate.add(context, input, &event.key, event.time, &event.value)?;
            Ok(told.map(|told| to_bytes(&(told.key, told.window.start_ms, told.window.end_ms, told.value))).collect())
        });
        on_event
    };
    let event = |number, key, time| Step::Event(Event { number, source: 0, key, time, value: 1 });
    let mut steps: Vec<Step> = (0..2 * most).map(|time| event(time, 1, time)).collect();
    steps.extend((0..4).map(|more| event(2 * most + more, 2, 1_000_000 + more)));
    let mut driver = play(service(1, vec![Aggregate::spec("sliding")], make, no_timers), &steps);
    let totals = told::<Told>(&driver).into_iter().map(|(_, (_, start, _, total))| (start, total.0));
    let edge = |start| start == -1 || start == 2 * most - 1;
    assert!(totals.eq((-1..2 * most).map(|start| (start, if edge(start) { 1 } else { 2 }))));
    let left = driver.entries(0, "sliding").expect("entries").into_iter().filter(|(key, _)| key[..2] == [b'r', 0]);
    assert_eq!(left.count(), 4);
}
