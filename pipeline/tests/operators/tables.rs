//! Versioned stores, and joins of a stream with a table.

use std::collections::BTreeMap;

use engram_pipeline::operators::{Table, TableJoin, TableJoinKind, ValueStore, VersionedStore};
use engram_pipeline::store::codec::to_bytes;
use proptest::prelude::*;

use crate::harness::{events, no_timers, play, service, steps, stream_times, timed, told};

type Versions = VersionedStore<u8, i64>;

/// Whether the stream's event goes on, and what it has met.
type Told = (bool, Option<i64>);

/// Negative values delete.
fn row(value: i64) -> Option<i64> {
    (value >= 0).then_some(value)
}

proptest! {
    #[test]
    fn a_stream_meets_the_table_as_it_was_at_its_time(
        steps in steps(2, 3), retention in 0..100_i64, kind in prop_oneof![Just(TableJoinKind::Inner), Just(TableJoinKind::Left)],
        versioned in prop_oneof![3 => Just(true), 1 => Just(false)],
    ) {
        let make = move || {
            let table = match versioned {
                true => Table::Versioned(Versions::new(0, retention)),
                false => Table::Latest(ValueStore::new(0)),
            };
            let mut join = TableJoin::new(kind, table);
            let on_event: crate::harness::OnEvent = Box::new(move |context, _, event| {
                let told: Told = match event.source {
                    0 => (join.table(context, &event.key, event.time, row(event.value))?, None),
                    _ => {
                        let met = join.stream(context, &event.key, event.time)?;
                        (met.is_some(), met.flatten())
                    }
                };
                Ok(vec![to_bytes(&told)])
            });
            on_event
        };
        let spec = if versioned { Versions::spec("table") } else { ValueStore::<u8, i64>::spec("table") };
        let mut driver = play(service(2, vec![spec], make, no_timers), &steps);

        let events = events(&steps);
        // A table without versions knows no time of its own.
        let now = stream_times(&events);
        let mut expected = Vec::<(i64, Told)>::new();
        let mut versions: BTreeMap<(u8, i64), Option<i64>> = BTreeMap::new();
        let mut kept = versions.clone();
        let mut latest: BTreeMap<u8, i64> = BTreeMap::new();
        for (at, event) in events.iter().enumerate() {
            let oldest = now[at] - retention;
            if event.source == 0 {
                // A write finds what can be forgotten: what ended too long ago, and that there has been nothing since then.
                let keys: Vec<(u8, i64)> = kept.keys().copied().collect();
                let next = |key: &(u8, i64)| keys.iter().find(|next| next.0 == key.0 && next.1 > key.1).map(|next| next.1);
                kept.retain(|key, value: &mut Option<i64>| match (next(key), value) {
                    (Some(ended), _) => ended >= oldest,
                    (None, Some(_)) => true,
                    (None, None) => key.1 >= oldest,
                });
                let is_taken = !versioned || event.time >= oldest;
                if is_taken {
                    versions.insert((event.key, event.time), row(event.value));
                    kept.insert((event.key, event.time), row(event.value));
                    match row(event.value) {
                        Some(value) => drop(latest.insert(event.key, value)),
                        None => drop(latest.remove(&event.key)),
                    }
                }
                expected.push((event.number, (is_taken, None)));
                continue;
            }
            let met = if versioned {
                let newest = versions.range((event.key, i64::MIN)..=(event.key, event.time)).next_back();
                let is_last = || versions.range((event.key, event.time + 1)..=(event.key, i64::MAX)).next().is_none();
                newest.filter(|_| event.time >= oldest || is_last()).and_then(|(_, value)| *value)
            } else {
                latest.get(&event.key).copied()
            };
            expected.push((event.number, (met.is_some() || kind == TableJoinKind::Left, met)));
        }
        expected.sort();
        prop_assert_eq!(told::<Told>(&driver), expected);
        if versioned {
            let stored = timed::<(u8, i64), Option<i64>>(&mut driver, "table");
            prop_assert_eq!(stored.into_iter().map(|(key, (_, value))| (key, value)).collect::<BTreeMap<_, _>>(), kept);
        }
    }
}
