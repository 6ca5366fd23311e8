//! Joins of two tables by a foreign key, over several tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engram_pipeline::driver::Driver;
use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::operators::{ForeignJoined, ForeignKeyJoin, ForeignKeyOptions, TableJoinKind, foreign_key_topic};
use engram_pipeline::processor::{Context, Input, Output, ProcessError, Processor, Service};
use engram_pipeline::store::codec::{read_whole, to_bytes};
use proptest::prelude::*;

/// A left row: the key of the right one, and a value.
type Left = (Option<u8>, i64);
type Join = ForeignKeyJoin<u8, u8, Left, i64>;
type Row = (Left, Option<i64>);

fn service(kind: TableJoinKind) -> Service {
    let internal = foreign_key_topic("test", "rows");
    let output = |topic: &str| Output { topic: topic.to_owned(), event: None };
    Service {
        name: "test",
        inputs: vec!["left".to_owned(), "right".to_owned(), internal.name.clone()],
        outputs: vec![output("out"), output(&internal.name)],
        topics: vec![internal],
        stores: Join::specs(["lefts", "rights", "subscriptions"]).to_vec(),
        errors: ErrorPolicy::default(),
        processor: Box::new(move |setup| {
            Ok(Box::new(Rows(Join::new(ForeignKeyOptions {
                kind,
                foreign_key: |left| left.0,
                record_key: |foreign| vec![*foreign],
                output: 1,
                partitions: setup.partitions,
                stores: [0, 1, 2],
            }))))
        }),
    }
}

struct Rows(Join);

impl Processor for Rows {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let key = input.record.key.expect("a key")[0];
        let value = input.record.value;
        let results: Vec<ForeignJoined<u8, Left, i64>> = match input.source {
            0 => self.0.left(context, &key, value.map(|value| read_whole(value).expect("a row")))?.collect(),
            1 => self
                .0
                .right(context, &key, value.map(|value| read_whole(value).expect("a row")))
                .map(|()| Vec::new())?,
            _ => self.0.internal(context, input)?.collect(),
        };
        for ForeignJoined { key, row } in results {
            context.emit(0, &[key], row.map(|row| to_bytes(&row)).as_deref())?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Left(u8, Option<Left>),
    Right(u8, Option<i64>),
    Commit,
    Abort,
    Restart,
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let left = proptest::option::weighted(0.8, (proptest::option::weighted(0.9, 0..4_u8), 0..3_i64));
    prop_oneof![
        8 => (0..6_u8, left).prop_map(|(key, row)| Step::Left(key, row)),
        6 => (0..4_u8, proptest::option::weighted(0.7, 0..3_i64)).prop_map(|(key, row)| Step::Right(key, row)),
        4 => Just(Step::Commit),
        1 => Just(Step::Abort),
        1 => Just(Step::Restart),
        2 => Just(Step::Tick),
    ]
}

proptest! {
    #[test]
    fn the_joined_table_is_the_join_of_the_tables(
        steps in proptest::collection::vec(step(), 1..80), partitions in 1..4_i32,
        kind in prop_oneof![Just(TableJoinKind::Inner), Just(TableJoinKind::Left)],
    ) {
        let mut driver = Driver::new(service(kind), partitions).expect("a driver");
        let (mut lefts, mut rights) = (BTreeMap::<u8, Left>::new(), BTreeMap::<u8, i64>::new());
        // Every pair of rows that there has been at some time, in any order of the two tables' changes.
        let (mut had_left, mut had_right) = (BTreeSet::<(u8, Left)>::new(), BTreeSet::<(u8, i64)>::new());
        for (at, step) in steps.iter().enumerate() {
            match *step {
                Step::Left(key, row) => {
                    let value = row.map(|row| to_bytes(&row));
                    driver.write("left", partition_for(&[key], partitions), Some(&[key]), value.as_deref(), at as i64);
                    driver.process().expect("processed");
                    match row {
                        Some(row) => { lefts.insert(key, row); had_left.insert((key, row)); }
                        None => drop(lefts.remove(&key)),
                    }
                }
                Step::Right(key, row) => {
                    let value = row.map(|row| to_bytes(&row));
                    driver.write("right", partition_for(&[key], partitions), Some(&[key]), value.as_deref(), at as i64);
                    driver.process().expect("processed");
                    match row {
                        Some(row) => { rights.insert(key, row); had_right.insert((key, row)); }
                        None => drop(rights.remove(&key)),
                    }
                }
                Step::Commit => driver.commit().expect("committed"),
                Step::Abort => driver.abort().expect("aborted"),
                Step::Restart => driver.restart().expect("restarted"),
                Step::Tick => driver.advance_wall_clock(Duration::from_millis(30)).expect("nothing is due"),
            }
        }
        driver.run().expect("run");
        driver.commit().expect("committed");
        driver.run().expect("run");

        let mut joined = BTreeMap::<u8, Row>::new();
        for record in driver.records("out") {
            let key = record.key.expect("a key")[0];
            match record.value {
                Some(value) => {
                    let (left, right): Row = read_whole(&value).expect("a row");
                    prop_assert!(had_left.contains(&(key, left)));
                    prop_assert!(right.is_none_or(|right| had_right.contains(&(left.0.expect("a foreign key"), right))));
                    prop_assert!(right.is_some() || kind == TableJoinKind::Left);
                    joined.insert(key, (left, right));
                }
                None => prop_assert!(joined.remove(&key).is_some(), "a deletion of what was not there"),
            }
        }
        let expected = lefts.iter().filter_map(|(key, left)| {
            let right = left.0.and_then(|foreign| rights.get(&foreign)).copied();
            (right.is_some() || kind == TableJoinKind::Left).then_some((*key, (*left, right)))
        });
        prop_assert_eq!(joined, expected.collect::<BTreeMap<u8, Row>>());
        let mut subscriptions = BTreeSet::new();
        for partition in 0..partitions {
            for (key, _) in driver.entries(partition, "subscriptions").expect("entries") {
                subscriptions.insert(read_whole::<(u8, u8)>(&key).expect("a subscription"));
            }
        }
        let wanted = lefts.iter().filter_map(|(key, left)| left.0.map(|foreign| (foreign, *key)));
        prop_assert_eq!(subscriptions, wanted.collect::<BTreeSet<_>>());
    }
}
