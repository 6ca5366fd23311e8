//! Session windows.

use std::collections::BTreeMap;

use engram_pipeline::operators::{EmitStrategy, SessionAggregate, SessionFold};
use engram_pipeline::store::codec::to_bytes;
use proptest::prelude::*;

use crate::harness::{
    Event, emit, events, late, late_of, no_timers, options, play, service, steps, stream_times, timed, told,
};

/// How many, their sum.
type Total = (i64, i64);
type Aggregate = SessionAggregate<u8, i64, Total>;
/// Key, start, end, total.
type Told = (u8, i64, i64, Option<Total>);

const FOLD: SessionFold<i64, Total> = SessionFold {
    fold: |total, value| *total = (total.0 + 1, total.1 + value),
    merge: |total, later| *total = (total.0 + later.0, total.1 + later.1),
};

/// The sessions of a key's events: (first time, last time) and total, by sorting.
fn sessions(events: &[Event], gap: i64) -> BTreeMap<(i64, i64), Total> {
    let mut sorted = events.to_vec();
    sorted.sort_by_key(|event| event.time);
    let parts = sorted.chunk_by(|before, after| after.time - before.time <= gap);
    let session = |part: &[Event]| {
        let total = (part.len() as i64, part.iter().map(|event| event.value).sum());
        ((part[0].time, part[part.len() - 1].time), total)
    };
    parts.map(session).collect()
}

proptest! {
    #[test]
    fn sessions_are_those_of_a_recomputation(
        steps in steps(1, 3), gap in 0..40_i64, grace in 0..40_i64, emit in emit(),
    ) {
        let make = move || {
            let mut aggregate = Aggregate::new(0, gap, options(grace, emit), FOLD);
            let on_event: crate::harness::OnEvent = Box::new(move |context, input, event| {
                let told = aggregate.add(context, input, &event.key, event.time, &event.value)?;
                Ok(told.map(|told| to_bytes(&(told.key, told.window.start_ms, told.window.end_ms - 1, told.value))).collect())
            });
            on_event
        };
        let mut driver = play(service(1, vec![Aggregate::spec("sessions")], make, no_timers), &steps);

        let events = events(&steps);
        let now = stream_times(&events);
        // The events of open sessions, by key.
        let mut open: BTreeMap<u8, Vec<Event>> = BTreeMap::new();
        let (mut expected, mut is_late) = (Vec::<(i64, Told)>::new(), vec![false; events.len()]);
        for (at, event) in events.iter().enumerate() {
            for (&key, members) in &mut open {
                for ((start, end), total) in sessions(members, gap) {
                    if end + gap + grace < now[at] {
                        members.retain(|member| !(start..=end).contains(&member.time));
                        if emit == EmitStrategy::OnWindowClose {
                            expected.push((event.number, (key, start, end, Some(total))));
                        }
                    }
                }
            }
            let members = open.entry(event.key).or_default();
            let before = sessions(members, gap);
            members.push(*event);
            let after = sessions(members, gap);
            let (&own, &total) = after.iter().find(|((start, end), _)| (*start..=*end).contains(&event.time)).expect("its own");
            if own.1 + gap + grace < now[at] {
                is_late[at] = true;
                members.pop();
            } else if emit == EmitStrategy::OnWindowUpdate {
                let gone = before.keys().filter(|window| !after.contains_key(*window));
                expected.extend(gone.map(|(start, end)| (event.number, (event.key, *start, *end, None))));
                expected.push((event.number, (event.key, own.0, own.1, Some(total))));
            }
        }
        expected.sort();
        prop_assert_eq!(told::<Told>(&driver), expected);
        prop_assert_eq!(late(&driver), late_of(&events, |at| is_late[at]));
        let left = open.iter().flat_map(|(key, members)| {
            let entry = |((start, end), total)| ((*key, start), (end + gap + grace + 1, (end, total)));
            sessions(members, gap).into_iter().map(entry).collect::<Vec<_>>()
        });
        prop_assert_eq!(timed::<(u8, i64), (i64, Total)>(&mut driver, "sessions"), left.collect());
    }
}
