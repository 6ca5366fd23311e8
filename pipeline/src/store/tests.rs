//! The store against a map: whatever is written, read, ranged over, committed and aborted, in whatever order, and with a
//! cache that holds next to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

use super::{Budget, Changes, Files, Order, Store, prefix};
use crate::clock::Clock;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Vec<u8>),
    Delete(u8),
    Append(u8, u8),
    Get(u8),
    Range(u8, u8, bool, usize),
    Freeze,
    Commit,
    Abort,
    Reopen,
    Outgrow,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..20_u8;
    prop_oneof![
        4 => (key.clone(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key.clone().prop_map(Step::Delete),
        2 => (key.clone(), any::<u8>()).prop_map(|(key, byte)| Step::Append(key, byte)),
        3 => key.clone().prop_map(Step::Get),
        3 => (key.clone(), key, any::<bool>(), 1..10_usize).prop_map(|(from, to, up, most)| Step::Range(from, to, up, most)),
        2 => Just(Step::Freeze),
        2 => Just(Step::Commit),
        1 => Just(Step::Abort),
        1 => Just(Step::Reopen),
        1 => Just(Step::Outgrow),
    ]
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn bytes(key: u8) -> Vec<u8> {
    // Keys of several lengths, some of them the beginning of others.
    vec![key / 4; usize::from(key % 4) + 1]
}

fn changes(before: &Model, after: &Model) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), None));
    let new = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    new.map(|(key, value)| (key.clone(), Some(value.clone()))).chain(gone).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_store_is_a_map(
        steps in proptest::collection::vec(step(), 1..120),
        cache_bytes_max in prop_oneof![Just(0), Just(2_000), Just(6_000)],
        in_memory in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let budget = Budget::new(8 << 20);
        let open = || Arc::new(Files::open(folder.path(), &budget, &Clock::default()).expect("opened"));
        let mut files = open();
        let mut store = Store::new(prefix(0), Arc::clone(&files), cache_bytes_max, true);
        if in_memory {
            store.keep_in_memory();
        }
        let (mut model, mut committed) = (Model::new(), Model::new());
        // A commit under way: its batch, and what is committed with it.
        let mut frozen: Option<(Changes, Model)> = None;
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    store.put(&bytes(key), &value).expect("put");
                    model.insert(bytes(key), value);
                }
                Step::Delete(key) => {
                    store.delete(&bytes(key)).expect("deleted");
                    model.remove(&bytes(key));
                }
                Step::Append(key, byte) => {
                    store.update(&bytes(key), |value| { value.push(byte); true }).expect("updated");
                    model.entry(bytes(key)).or_default().push(byte);
                }
                Step::Get(key) => {
                    prop_assert_eq!(store.get(&bytes(key)).expect("got"), model.get(&bytes(key)).map(Vec::as_slice));
                }
                Step::Range(from, to, up, most) => {
                    let (from, to) = (bytes(from), bytes(to));
                    let order = if up { Order::Ascending } else { Order::Descending };
                    let mut found = Vec::new();
                    store.range(&from, &to, order, |key, value| {
                        found.push((key.to_vec(), value.to_vec()));
                        found.len() < most
                    }).expect("ranged");
                    let inside = model.iter().filter(|(key, _)| **key >= from && **key < to);
                    let mut expected: Vec<_> = inside.map(|(key, value)| (key.clone(), value.clone())).collect();
                    if !up {
                        expected.reverse();
                    }
                    expected.truncate(most);
                    prop_assert_eq!(found, expected);
                }
                // A replay freezes right before it commits, and has nothing to open again.
                Step::Freeze | Step::Reopen if store.is_in_memory() => {}
                Step::Outgrow if store.changes().next().is_none() && frozen.is_none() => {
                    if let Some(entries) = store.outgrow(0) {
                        files.write(entries).expect("written");
                    }
                }
                Step::Outgrow => {}
                Step::Commit if store.is_in_memory() => {
                    let told: Vec<_> = store.changes().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect();
                    for (key, value) in told {
                        prop_assert_eq!(model.get(&key), value.as_ref());
                    }
                    store.freeze();
                    store.committed();
                    committed = model.clone();
                }
                Step::Freeze if frozen.is_none() => {
                    let told: BTreeMap<_, _> = store.changes().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect();
                    for (key, value) in changes(&committed, &model) {
                        prop_assert_eq!(told.get(&key), Some(&value), "a change was not told");
                    }
                    let mut batch = Changes::default();
                    for (key, value) in &told {
                        prop_assert_eq!(model.get(key), value.as_ref());
                        batch.set(&[&[prefix(0)], key.as_slice()].concat(), value.as_deref());
                    }
                    store.freeze();
                    frozen = Some((batch, model.clone()));
                }
                Step::Commit => {
                    if let Some((batch, with_it)) = frozen.take() {
                        files.apply(batch, 1).expect("applied");
                        store.committed();
                        committed = with_it;
                    }
                }
                Step::Freeze => {}
                Step::Abort => {
                    store.aborted();
                    frozen = None;
                    model = committed.clone();
                }
                Step::Reopen => {
                    drop(store);
                    frozen = None;
                    files.flush().expect("flushed");
                    drop(files);
                    files = open();
                    store = Store::new(prefix(0), Arc::clone(&files), cache_bytes_max, false);
                    model = committed.clone();
                }
            }
        }
        for key in 0..20 {
            prop_assert_eq!(store.get(&bytes(key)).expect("got"), model.get(&bytes(key)).map(Vec::as_slice));
        }
    }
}

/// Values that were deleted are not counted, however often their keys come back.
#[test]
fn a_small_store_stays_in_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = Files::open(folder.path(), &Budget::new(8 << 20), &Clock::default()).expect("opened");
    let mut store = Store::new(prefix(0), Arc::new(files), 0, true);
    store.keep_in_memory();
    for _ in 0..100 {
        store.put(b"key", &[1; 1_000]).expect("put");
        store.delete(b"key").expect("deleted");
        store.freeze();
        store.committed();
    }
    assert!(store.outgrow(5_000).is_none() && store.outgrow(0).is_some());
}

/// What a look-up reads does not grow with the files, however little of them the cache holds.
#[test]
fn a_look_up_reads_little_of_a_large_file() {
    const KEYS: u64 = 1_000_000;
    const LOOK_UPS: u64 = 500;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = Files::open(folder.path(), &Budget::new(8 << 20), &Clock::default()).expect("opened");
    let key = |number: u64| [&[prefix(0)][..], &number.to_be_bytes()].concat();
    for first in (0..KEYS).step_by(10_000) {
        let mut changes = Changes::default();
        (first..first + 10_000).for_each(|number| changes.set(&key(number), Some(&number.to_be_bytes())));
        files.apply(changes, 0).expect("applied");
    }
    files.settle().expect("settled");
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut counted = PerfContext::default();
    counted.reset();
    for step in 0..LOOK_UPS {
        let number = step * 7_919_077 % KEYS;
        assert_eq!(files.get(&key(number)).expect("read"), Some(number.to_be_bytes().to_vec()));
    }
    let bytes = counted.metric(PerfMetric::BlockReadByte) / LOOK_UPS;
    set_perf_stats(PerfStatsLevel::Disable);
    assert!((1_000..100_000).contains(&bytes), "{bytes} bytes a look-up");
}
