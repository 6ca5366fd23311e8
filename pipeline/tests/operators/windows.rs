//! Tumbling and hopping windows.

use std::collections::BTreeMap;

use engram_pipeline::operators::{EmitStrategy, TimeWindows, WindowedAggregate};
use engram_pipeline::store::codec::to_bytes;
use proptest::prelude::*;

use crate::harness::{
    Total, emit, events, fold, fold_all, late, late_of, no_timers, options, play, service, steps, stream_times, timed,
    told,
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
