//! Joins of two streams.

use std::collections::BTreeMap;

use engram_pipeline::operators::{JoinKind, Joined, Late, StreamJoin, StreamJoinOptions};
use engram_pipeline::store::codec::to_bytes;
use proptest::prelude::*;

use crate::harness::{Event, LATE, events, late, late_of, no_timers, play, service, steps, stream_times, timed, told};

/// Values are the numbers of the events: each is told apart.
type Join = StreamJoin<u8, i64, i64>;
/// Key, time, left, right.
type Told = (u8, i64, Option<i64>, Option<i64>);

fn bytes(joined: Joined<u8, i64, i64>) -> Vec<u8> {
    to_bytes(&(joined.key, joined.time_ms, joined.left, joined.right))
}

proptest! {
    #[test]
    fn pairs_and_those_alone_are_those_of_a_recomputation(
        steps in steps(2, 2), before in -10..30_i64, reach in 0..40_i64, grace in 0..40_i64,
        kind in prop_oneof![Just(JoinKind::Inner), Just(JoinKind::Left), Just(JoinKind::Outer)],
    ) {
        let after = reach - before;
        let join = StreamJoinOptions {
            name: "test", kind, before_ms: before, after_ms: after, grace_ms: grace, late: Late::Topic(LATE),
        };
        let make = move || {
            let mut join = Join::new(0, 1, join);
            let on_event: crate::harness::OnEvent = Box::new(move |context, input, event| {
                let told = match event.source {
                    0 => join.left(context, input, &event.key, event.time, event.number)?,
                    _ => join.right(context, input, &event.key, event.time, event.number)?,
                };
                Ok(told.map(bytes).collect())
            });
            on_event
        };
        let stores = vec![Join::left_spec("left"), Join::right_spec("right")];
        let mut driver = play(service(2, stores, make, no_timers), &steps);

        let events = events(&steps);
        let now = stream_times(&events);
        // The latest time that an event can meet.
        let latest = |event: &Event| event.time + if event.source == 0 { after } else { before };
        let is_open = |event: usize, at: usize| latest(&events[event]) + grace >= now[at];
        let is_late = |at: usize| !is_open(at, at) && events[at].time + reach + grace < now[at];
        let is_pair = |first: usize, second: usize| {
            let (a, b) = (&events[first], &events[second]);
            let (left, right) = if a.source == 0 { (a, b) } else { (b, a) };
            a.source != b.source && a.key == b.key && is_open(first, second)
                && (left.time - before..=left.time + after).contains(&right.time)
        };
        let (mut expected, mut left) = (Vec::<(i64, Told)>::new(), [BTreeMap::new(), BTreeMap::new()]);
        let mut numbers: BTreeMap<(usize, u8, i64), u32> = BTreeMap::new();
        for (at, event) in events.iter().enumerate() {
            for first in (0..at).filter(|first| is_pair(*first, at)) {
                let (number, time) = (events[first].number, events[first].time.max(event.time));
                let (left, right) = if event.source == 0 { (event.number, number) } else { (number, event.number) };
                expected.push((event.number, (event.key, time, Some(left), Some(right))));
            }
            if is_late(at) {
                continue;
            }
            let has_met = (0..at).any(|first| is_pair(first, at)) || (at..events.len()).any(|second| is_pair(at, second));
            let goes_alone = kind == JoinKind::Outer || (kind == JoinKind::Left && event.source == 0);
            match (at..events.len()).find(|later| !is_open(at, *later)) {
                Some(closed) if goes_alone && !has_met => {
                    let (left, right) = if event.source == 0 { (Some(event.number), None) } else { (None, Some(event.number)) };
                    expected.push((events[closed].number, (event.key, event.time, left, right)));
                }
                Some(_) => {}
                None => {
                    let number = numbers.entry((event.source, event.key, event.time)).or_default();
                    let noted = has_met && (goes_alone || (0..at).any(|first| is_pair(first, at)));
                    let entry = (latest(event) + grace + 1, (noted, event.number));
                    left[event.source].insert((event.key, event.time, *number), entry);
                    *number += 1;
                }
            }
        }
        expected.sort();
        prop_assert_eq!(told::<Told>(&driver), expected);
        prop_assert_eq!(late(&driver), late_of(&events, is_late));
        for (name, left) in ["left", "right"].into_iter().zip(left) {
            prop_assert_eq!(timed::<(u8, i64, u32), (bool, i64)>(&mut driver, name), left);
        }
    }
}
