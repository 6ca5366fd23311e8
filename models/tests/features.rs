//! Features against an oracle that computes each from all earlier rows of its series, from scratch; what lists are refused; and
//! states that are damaged.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, Float32Array, Float64Array, StringArray};
use engram_models::features::{Aggregate, Feature, Features, HISTORY_ROWS_MAX, InputKind, States};
use engram_models::gpu::pinned::{Pool, Unpinned};
use proptest::prelude::*;
use serde_json::json;

/// Keeps states, and counts what is asked of it.
#[derive(Default, Clone)]
struct Store {
    states: BTreeMap<String, Vec<u8>>,
    gets: Vec<String>,
    puts: Vec<String>,
}

impl States for Store {
    type Error = Infallible;

    fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Infallible> {
        self.gets.push(key.to_owned());
        Ok(self.states.get(key).cloned())
    }

    fn put(&mut self, key: &str, state: &[u8]) -> Result<(), Infallible> {
        self.puts.push(key.to_owned());
        self.states.insert(key.to_owned(), state.to_vec());
        Ok(())
    }
}

/// An event with two numbers and two texts.
#[derive(Debug, Clone)]
struct Row {
    key: &'static str,
    time_ms: i64,
    numbers: [Option<f64>; 2],
    texts: [Option<&'static str>; 2],
}

const NUMBERS: [&str; 2] = ["value", "load.mean"];
const TEXTS: [&str; 2] = ["kind", "place"];

fn list(entries: serde_json::Value) -> Features {
    Features::new(serde_json::from_value(entries).unwrap()).unwrap()
}

fn compute(features: &Features, rows: &[Row], store: &mut Store) -> Vec<Vec<u32>> {
    let columns: Vec<ArrayRef> = features
        .inputs()
        .iter()
        .map(|input| match input.kind {
            InputKind::Number => {
                let of = NUMBERS.iter().position(|path| *path == input.path).unwrap();
                Arc::new(rows.iter().map(|row| row.numbers[of]).collect::<Float64Array>()) as ArrayRef
            }
            InputKind::Text => {
                let of = TEXTS.iter().position(|path| *path == input.path).unwrap();
                Arc::new(rows.iter().map(|row| row.texts[of]).collect::<StringArray>())
            }
        })
        .collect();
    let keys = StringArray::from_iter_values(rows.iter().map(|row| row.key));
    let times: Vec<i64> = rows.iter().map(|row| row.time_ms).collect();
    // What a block had before must not show.
    let pool = Pool::new(Box::new(Unpinned), 1 << 20);
    let stale = pool.take(rows.len() * 4);
    pool.take(rows.len() * 4).values_mut().fill(7.0);
    drop(stale);
    let Ok(made) = features.compute(&columns, &keys, &times, store, &pool);
    made.iter().map(bits).collect()
}

fn bits(column: &Float32Array) -> Vec<u32> {
    assert_eq!(column.null_count(), 0);
    column.values().iter().map(|value| value.to_bits()).collect()
}

/// One feature of one row, from all rows.
fn oracle(feature: &Feature, rows: &[Row], at: usize, window_ms: i128) -> f32 {
    let present = &rows[at];
    if let Some(of) = TEXTS.iter().position(|path| *path == feature.field) {
        let Some(text) = present.texts[of] else { return f32::NAN };
        return match (&feature.one_hot, &feature.categories) {
            (Some(wanted), _) => f32::from(u8::from(text == wanted)),
            (None, Some(all)) => all.iter().position(|one| one == text).map_or(f32::NAN, |code| code as f32),
            (None, None) => panic!("of a text"),
        };
    }
    let of = NUMBERS.iter().position(|path| *path == feature.field).unwrap();
    let series: Vec<(i128, f64)> = rows[..=at]
        .iter()
        .filter(|row| row.key == present.key)
        .map(|row| (i128::from(row.time_ms), row.numbers[of].filter(|x| x.is_finite()).unwrap_or(f64::NAN)))
        .collect();
    let last = series.len() - 1;
    let result = match (feature.lag, feature.aggregate, feature.rows) {
        (Some(lag), ..) => {
            if lag > last {
                f64::NAN
            } else {
                series[last - lag].1
            }
        }
        (_, None, _) => series[last].1,
        (_, Some(aggregate), Some(count)) => {
            let from = (last + 1).saturating_sub(count);
            aggregated(aggregate, series[from..].iter().map(|row| row.1).collect())
        }
        (_, Some(aggregate), None) => {
            let time = series[last].0;
            let from = (last + 1).saturating_sub(HISTORY_ROWS_MAX);
            let mut counted: Vec<f64> = (from..=last)
                .filter(|row| series[*row].0 <= time)
                .filter(|row| series[*row..].iter().all(|since| series[*row].0 > since.0 - window_ms))
                .map(|row| series[row].1)
                .collect();
            counted.reverse();
            aggregated(aggregate, counted)
        }
    } as f32;
    if result.is_finite() { result } else { f32::NAN }
}

fn aggregated(aggregate: Aggregate, mut values: Vec<f64>) -> f64 {
    values.retain(|value| !value.is_nan());
    let count = values.len() as f64;
    let sum = |values: &[f64]| {
        let mut sum = 0.0;
        for value in values {
            sum += value;
        }
        sum
    };
    if values.is_empty() {
        return if aggregate == Aggregate::Count { 0.0 } else { f64::NAN };
    }
    // The first of equal ones, zeros of both signs among them.
    let by = |a: &f64, b: &f64| a.partial_cmp(b).unwrap();
    match aggregate {
        Aggregate::Count => count,
        Aggregate::Sum => sum(&values),
        Aggregate::Mean => sum(&values) / count,
        Aggregate::Min => values.iter().copied().min_by(by).unwrap(),
        Aggregate::Max => values.iter().copied().rev().max_by(by).unwrap(),
        Aggregate::Std => {
            let mean = sum(&values) / count;
            let squares: Vec<f64> = values.iter().map(|value| (value - mean) * (value - mean)).collect();
            (sum(&squares) / count).sqrt()
        }
    }
}

/// A feature, and its window in ms.
fn any_feature() -> impl Strategy<Value = (Feature, i128)> {
    use Aggregate::{Count, Max, Mean, Min, Std, Sum};
    let number = prop::sample::select(NUMBERS.to_vec());
    let text = prop::sample::select(TEXTS.to_vec());
    let aggregate = prop::sample::select(vec![Count, Sum, Mean, Min, Max, Std]);
    let length = prop_oneof![8 => 1usize..12, 1 => 1usize..=HISTORY_ROWS_MAX];
    let unit = prop::sample::select(vec![("ms", 1i64), ("s", 1000), ("m", 60_000), ("d", 86_400_000)]);
    let of = |field: &str| Feature { field: field.to_owned(), ..Feature::default() };
    prop_oneof![
        1 => number.clone().prop_map(move |field| (of(field), 0)),
        2 => (number.clone(), length.clone()).prop_map(move |(field, lag)| (Feature { lag: Some(lag), ..of(field) }, 0)),
        4 => (number.clone(), aggregate.clone(), length).prop_map(move |(field, aggregate, rows)| {
            (Feature { aggregate: Some(aggregate), rows: Some(rows), ..of(field) }, 0)
        }),
        4 => (number, aggregate, 1i64..40, unit).prop_map(move |(field, aggregate, count, (unit, unit_ms))| {
            let window = Some(format!("{count}{unit}"));
            (Feature { aggregate: Some(aggregate), window, ..of(field) }, i128::from(count * unit_ms))
        }),
        1 => text.clone().prop_map(move |field| (Feature { one_hot: Some("open".to_owned()), ..of(field) }, 0)),
        1 => text.prop_map(move |field| {
            let categories = Some(vec!["shut".to_owned(), "open".to_owned()]);
            (Feature { categories, ..of(field) }, 0)
        }),
    ]
}

/// Times ascend, but for late ones and a few of clocks that are wrong.
fn any_rows(count: Range<usize>) -> impl Strategy<Value = Vec<Row>> {
    let number = prop_oneof![
        8 => (-1e3..1e3f64).prop_map(Some),
        4 => (-3i32..3).prop_map(|x| Some(f64::from(x))),
        1 => prop::sample::select(vec![None, Some(-0.0), Some(f64::NAN), Some(f64::INFINITY), Some(1e300), Some(-1e39)]),
    ];
    let text = prop::sample::select(vec![None, Some("open"), Some("shut"), Some("ajar"), Some("")]);
    let late = prop_oneof![10 => Just(0i64), 3 => 0i64..50, 1 => 0i64..60_000];
    let time = prop_oneof![
        60 => (0i64..6, late).prop_map(|(step, late)| Ok((step, late))),
        1 => prop::sample::select(vec![i64::MIN, -1, 1 << 50, i64::MAX]).prop_map(Err),
    ];
    let key = prop::sample::select(vec!["a", "a", "a", "b", "c", ""]);
    let row = (key, time, [number.clone(), number], [text.clone(), text]);
    prop::collection::vec(row, count).prop_map(|rows| {
        let mut now = 1_700_000_000_000;
        let timed = rows.into_iter().map(|(key, time, numbers, texts)| {
            let time_ms = match time {
                Ok((step, late)) => {
                    now += step;
                    now - late
                }
                Err(wrong) => wrong,
            };
            Row { key, time_ms, numbers, texts }
        });
        timed.collect()
    })
}

fn check(list: &[(Feature, i128)], rows: &[Row], mut cuts: Vec<usize>) {
    let features = Features::new(list.iter().map(|(feature, _)| feature.clone()).collect()).unwrap();
    let mut store = Store::default();
    let mut made = vec![vec![]; list.len()];
    cuts.iter_mut().for_each(|cut| *cut %= rows.len() + 1);
    cuts.extend([0, rows.len()]);
    cuts.sort_unstable();
    for cut in cuts.windows(2) {
        let batch = &rows[cut[0]..cut[1]];
        (store.gets, store.puts) = (vec![], vec![]);
        let columns = compute(&features, batch, &mut store);
        made.iter_mut().zip(columns).for_each(|(made, column)| made.extend(column));
        let mut first: Vec<String> = vec![];
        batch.iter().filter(|_| features.is_stateful()).for_each(|row| {
            if !first.iter().any(|key| key == row.key) {
                first.push(row.key.to_owned());
            }
        });
        assert_eq!((&store.gets, &store.puts), (&first, &first), "each state once, in order");
    }
    for ((feature, window_ms), made) in list.iter().zip(made) {
        let expected: Vec<u32> = (0..rows.len()).map(|at| oracle(feature, rows, at, *window_ms).to_bits()).collect();
        assert_eq!(made, expected, "{feature:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn features_are_those_of_all_rows_however_they_are_cut(
        // What one feature needs must not be kept by chance, because others need more.
        list in prop_oneof![prop::collection::vec(any_feature(), 0..12), prop::collection::vec(any_feature(), 1..3)],
        rows in any_rows(0..80),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        check(&list, &rows, cuts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() })]

    /// Series that are longer than what is kept.
    #[test]
    fn long_series_as_well(
        mut list in prop::collection::vec(any_feature(), 0..4),
        rows in any_rows(1100..1500),
        has_wrong_clocks in any::<bool>(),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let mut rows: Vec<Row> = rows.into_iter().map(|row| Row { key: "a", ..row }).collect();
        // A row from the far future ends the windows of those before it.
        rows.retain(|row| has_wrong_clocks || (1 << 40..1 << 50).contains(&row.time_ms));
        let longest = |lag, rows, window: Option<&str>| Feature {
            field: "value".to_owned(),
            lag,
            // Sums of so many rows would be infinite.
            aggregate: lag.is_none().then_some(Aggregate::Count),
            rows,
            window: window.map(str::to_owned),
            ..Feature::default()
        };
        let longest = [
            (longest(Some(HISTORY_ROWS_MAX), None, None), 0),
            (longest(None, Some(HISTORY_ROWS_MAX), None), 0),
            (longest(None, None, Some("7d")), 7 * 86_400_000),
        ];
        // Alone as well: what one keeps, another could use.
        longest.iter().for_each(|one| check(std::slice::from_ref(one), &rows, cuts.clone()));
        list.extend(longest);
        check(&list, &rows, cuts);
    }
}

#[test]
fn lists_are_refused_in_one_line() {
    let many: Vec<String> = (0..1025).map(|code| code.to_string()).collect();
    let table = [
        (json!({"field": ""}), "its field is empty"),
        (json!({"field": "v", "lag": 0}), "lag is 0, and must be from 1 to 1024"),
        (json!({"field": "v", "lag": 1025}), "lag is 1025, and must be from 1 to 1024"),
        (json!({"field": "v", "aggregate": "sum", "rows": 0}), "rows is 0, and must be from 1 to 1024"),
        (json!({"field": "v", "aggregate": "sum", "rows": 1025}), "rows is 1025, and must be from 1 to 1024"),
        (json!({"field": "v", "aggregate": "sum"}), "its aggregate needs rows or a window"),
        (json!({"field": "v", "aggregate": "sum", "rows": 1, "window": "1s"}), "it has both rows and window"),
        (json!({"field": "v", "rows": 1}), "it has rows or a window, and no aggregate over them"),
        (json!({"field": "v", "lag": 1, "window": "1s"}), "it has rows or a window, and no aggregate over them"),
        (json!({"field": "v", "lag": 1, "aggregate": "sum", "rows": 1}), "it has both lag and aggregate"),
        (json!({"field": "v", "one_hot": "a", "categories": ["a"]}), "it has both one_hot and categories"),
        (json!({"field": "v", "lag": 1, "one_hot": "a"}), "it has both lag and one_hot"),
        (json!({"field": "v", "categories": []}), "the number of categories is 0, and must be from 1 to 1024"),
        (json!({"field": "v", "categories": many}), "the number of categories is 1025, and must be from 1 to 1024"),
        (json!({"field": "v", "categories": ["a", "b", "a"]}), "its category \"a\" is there twice"),
        (json!({"field": "v", "name": "first"}), "its name \"first\" is another's"),
    ];
    for (entry, why) in table {
        let list = serde_json::from_value(json!([{"field": "v", "name": "first"}, entry])).unwrap();
        let error = Features::new(list).unwrap_err().to_string();
        assert_eq!(error, format!("feature 2 cannot be computed: {why}"), "{entry}");
    }
    for window in ["", "5", "m", "-1s", "1w", "99999999999999999999d", "9223372036854775807d"] {
        let list = serde_json::from_value(json!([{"field": "v", "aggregate": "max", "window": window}])).unwrap();
        let error = Features::new(list).unwrap_err().to_string();
        let why = format!("its window {window:?} is not a duration such as 500ms, 30s, 1m, 12h or 7d");
        assert_eq!(error, format!("feature 1 cannot be computed: {why}"));
    }
    let none = serde_json::from_value(json!([{"field": "v", "aggregate": "max", "window": "0s"}])).unwrap();
    let error = Features::new(none).unwrap_err().to_string();
    assert_eq!(error, "feature 1 cannot be computed: its window is of no time");
    let error = Features::new(vec![Feature { field: "v".to_owned(), ..Feature::default() }; 4097]).unwrap_err();
    assert_eq!(error.to_string(), "4097 features, and at most 4096 are computed");
}

#[test]
fn a_list_is_written_as_it_is_read() {
    let entries = json!([
        {"field": "value"},
        {"name": "before", "field": "value", "lag": 3},
        {"field": "value", "aggregate": "mean", "rows": 20},
        {"field": "load.mean", "aggregate": "std", "window": "5m"},
        {"field": "kind", "one_hot": "open"},
        {"field": "kind", "categories": ["a", "b"]},
    ]);
    let read: Vec<Feature> = serde_json::from_value(entries.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), entries);
    let features = Features::new(read).unwrap();
    assert_eq!(features.names().collect::<Vec<_>>(), [None, Some("before"), None, None, None, None]);
    let inputs: Vec<_> = features.inputs().iter().map(|input| (input.path.as_str(), input.kind)).collect();
    assert_eq!(inputs, [("value", InputKind::Number), ("load.mean", InputKind::Number), ("kind", InputKind::Text)]);
    assert!(features.is_stateful());
    assert!(!list(json!([{"field": "value"}, {"field": "kind", "one_hot": "open"}])).is_stateful());
    for wrong in [json!({"field": "v", "lags": 3}), json!({"lag": 3}), json!({"field": "v", "aggregate": "median"})] {
        assert!(serde_json::from_value::<Feature>(wrong.clone()).is_err(), "{wrong}");
    }
}

fn row(time_ms: i64, value: f64) -> Row {
    Row { key: "a", time_ms, numbers: [Some(value), Some(-value)], texts: [None, None] }
}

/// What the next row gives with a state, and what it leaves.
fn after(features: &Features, state: Option<&[u8]>) -> (Vec<Vec<u32>>, Vec<u8>) {
    let mut store = Store::default();
    store.states.extend(state.map(|state| ("a".to_owned(), state.to_vec())));
    let made = compute(features, &[row(5, 8.0)], &mut store);
    (made, store.states.remove("a").unwrap())
}

#[test]
fn a_damaged_state_begins_anew() {
    let entries = json!([
        {"field": "value", "lag": 2},
        {"field": "load.mean", "aggregate": "sum", "window": "1s"},
    ]);
    let features = list(entries);
    let mut store = Store::default();
    compute(&features, &[row(1, 1.0), row(2, 2.0), row(3, 4.0)], &mut store);
    let state = store.states.remove("a").unwrap();
    let anew = after(&features, None);
    assert_eq!(after(&features, Some(&state)).0, [vec![2f32.to_bits()], vec![(-15f32).to_bits()]]);
    assert_eq!(anew.0, [vec![f32::NAN.to_bits()], vec![(-8f32).to_bits()]]);
    for at in 0..state.len() {
        for change in [1, 0x80, 0xff] {
            let mut damaged = state.clone();
            damaged[at] ^= change;
            assert_eq!(after(&features, Some(&damaged)), anew, "byte {at}");
        }
        assert_eq!(after(&features, Some(&state[..at])), anew, "{at} bytes");
    }
    assert_eq!(after(&features, Some(&[&state[..], &[0; 24]].concat())), anew);
}

#[test]
fn a_state_of_another_list_begins_anew() {
    let lists = [
        json!([{"field": "value", "lag": 2}]),
        json!([{"field": "value", "lag": 3}]),
        json!([{"field": "load.mean", "lag": 2}]),
        json!([{"field": "value", "aggregate": "sum", "window": "1s"}]),
        json!([{"field": "value", "aggregate": "sum", "window": "2s"}]),
        json!([{"field": "value", "lag": 2}, {"field": "load.mean", "lag": 2}]),
    ]
    .map(list);
    for (one, features) in lists.iter().enumerate() {
        for (other, written) in lists.iter().enumerate().filter(|(other, _)| *other != one) {
            let mut store = Store::default();
            compute(written, &[row(1, 1.0), row(2, 2.0), row(3, 4.0), row(4, 5.0)], &mut store);
            assert_eq!(after(features, store.states.get("a").map(|s| &s[..])), after(features, None), "{one} {other}");
        }
    }
}

/// Golden: what stores hold must stay readable. A lag of one keeps one row, whatever the times are.
#[test]
fn the_bytes_of_a_state_stay() {
    let features = list(json!([{"field": "value", "lag": 1}]));
    let mut store = Store::default();
    compute(&features, &[row(i64::MAX, 1.0), row(258, 2.0)], &mut store);
    let state = &store.states["a"];
    let hex: String = state.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "01ce7b61ff020100000000000000000000000000405a0e9dfd");
}
