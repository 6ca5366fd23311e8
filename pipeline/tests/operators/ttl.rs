//! Stores with a TTL, and plain keyed state.

use std::collections::BTreeMap;

use engram_pipeline::operators::{TtlStore, ValueStore};
use engram_pipeline::store::Order;
use engram_pipeline::store::codec::{read_whole, to_bytes};
use proptest::prelude::*;

use crate::harness::{Total, events, fold, fold_all, no_timers, play, service, steps, stream_times, timed, told};

type Sessions = TtlStore<u8, i64>;

proptest! {
    /// Events of the first input write, of the second read; of the third they sweep as well.
    #[test]
    fn what_has_expired_is_gone(steps in steps(3, 4), ttl in 0..80_i64) {
        let make = move || {
            let mut store = Sessions::new(0, ttl);
            let on_event: crate::harness::OnEvent = Box::new(move |context, _, event| {
                match event.source {
                    0 if event.value < -3 => store.delete(context, &event.key)?,
                    0 => store.put(context, &event.key, event.time, &event.value)?,
                    1 => context.advance_stream_time(event.time),
                    _ => {
                        context.advance_stream_time(event.time);
                        let expired = store.expire(context)?;
                        return Ok(expired.map(|expired| to_bytes(&(expired.key, Some(expired.value)))).collect());
                    }
                }
                Ok(vec![to_bytes(&(event.key, store.get(context, &event.key)?))])
            });
            on_event
        };
        let mut driver = play(service(3, vec![Sessions::spec("ttl")], make, no_timers), &steps);

        let (mut expected, mut now) = (Vec::<(i64, (u8, Option<i64>))>::new(), i64::MIN);
        let mut entries: BTreeMap<u8, (i64, i64)> = BTreeMap::new();
        for event in events(&steps) {
            // A deletion tells no time.
            if event.source > 0 || event.value >= -3 {
                now = now.max(event.time);
            }
            match event.source {
                0 if event.value < -3 || event.time + ttl <= now => drop(entries.remove(&event.key)),
                0 => drop(entries.insert(event.key, (event.time + ttl, event.value))),
                1 => {}
                _ => {
                    let expired = entries.iter().filter(|(_, (due, _))| *due <= now);
                    expected.extend(expired.map(|(key, (_, value))| (event.number, (*key, Some(*value)))));
                    entries.retain(|_, (due, _)| *due > now);
                    continue;
                }
            }
            let live = entries.get(&event.key).filter(|(due, _)| *due > now);
            expected.push((event.number, (event.key, live.map(|(_, value)| *value))));
        }
        expected.sort();
        prop_assert_eq!(told::<(u8, Option<i64>)>(&driver), expected);
        prop_assert_eq!(timed::<u8, i64>(&mut driver, "ttl"), entries);
    }

    /// Aggregate, reduce and count, each in a store of its own; and a range over one.
    #[test]
    fn keyed_state_is_a_fold(steps in steps(1, 4)) {
        let make = || {
            let mut totals = ValueStore::<u8, Total>::new(0);
            let mut sums = ValueStore::<u8, i64>::new(1);
            let mut counts = ValueStore::<u8, i64>::new(2);
            let on_event: crate::harness::OnEvent = Box::new(move |context, _, event| {
                context.advance_stream_time(event.time);
                let total = totals.aggregate(context, &event.key, |total| fold(total, &event.value))?;
                let largest = sums.reduce(context, &event.key, event.value, i64::max)?;
                if event.value == -5 {
                    counts.delete(context, &event.key)?;
                } else {
                    counts.count(context, &event.key)?;
                }
                let mut above = 0;
                counts.range(context, &event.key, &u8::MAX, Order::Descending, |_, count| {
                    above += count;
                    true
                })?;
                Ok(vec![to_bytes(&(total, largest, above))])
            });
            on_event
        };
        let stores = vec![
            ValueStore::<u8, Total>::spec("totals"), ValueStore::<u8, i64>::spec("sums"), ValueStore::<u8, i64>::spec("counts"),
        ];
        let mut driver = play(service(1, stores, make, no_timers), &steps);

        let events = events(&steps);
        let (mut expected, mut counts) = (Vec::<(i64, (Total, i64, i64))>::new(), BTreeMap::<u8, i64>::new());
        for (at, event) in events.iter().enumerate() {
            let of_key = || events[..=at].iter().filter(|other| other.key == event.key).map(|other| &other.value);
            match event.value {
                -5 => drop(counts.remove(&event.key)),
                _ => *counts.entry(event.key).or_default() += 1,
            }
            let above = counts.range(event.key..).map(|(_, count)| count).sum();
            expected.push((event.number, (fold_all(of_key()), *of_key().max().expect("its own"), above)));
        }
        prop_assert_eq!(told::<(Total, i64, i64)>(&driver), expected);
        let stored = driver.entries(0, "counts").expect("entries");
        let stored = stored.iter().map(|(key, value)| (read_whole(key).expect("a key"), read_whole(value).expect("a count")));
        prop_assert_eq!(stored.collect::<BTreeMap<u8, i64>>(), counts);
        let last = stream_times(&events).last().copied();
        prop_assert_eq!(driver.manifests(0).iter().filter_map(|manifest| manifest.stream_time).max(), last);
    }
}
