//! Projections against apache-avro's own reader: the same numbers and texts at the same paths, whatever the value; and bytes that
//! are none leave no trace.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::Float64Type;
use engram_schemas::projection::{Field, Kind, Projection};
use engram_schemas::registry::Registry;
use engram_schemas::registry::memory::MemoryRegistry;
use engram_schemas::{SchemaId, wire};
use proptest::prelude::*;

/// Every type, in every container.
const SCHEMA: &str = r#"{"type": "record", "name": "Whole", "fields": [
    {"name": "skipped", "type": "string"},
    {"name": "i", "type": "int"}, {"name": "l", "type": "long"}, {"name": "f", "type": "float"}, {"name": "d", "type": "double"},
    {"name": "b", "type": "boolean"}, {"name": "s", "type": "string"}, {"name": "y", "type": "bytes"},
    {"name": "x", "type": {"type": "fixed", "name": "X", "size": 3}},
    {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}},
    {"name": "u", "type": ["null", "double", "string", "X"]},
    {"name": "a", "type": {"type": "array", "items": ["null", "double"]}},
    {"name": "m", "type": {"type": "map", "values": "double"}},
    {"name": "r", "type": {"type": "record", "name": "Part", "fields": [
        {"name": "n", "type": ["null", "long"]}, {"name": "t", "type": {"type": "map", "values": "string"}}]}},
    {"name": "p", "type": {"type": "array", "items": "Part"}},
    {"name": "q", "type": {"type": "map", "values": "Part"}},
    {"name": "last", "type": "long"}
]}"#;

const PATHS: &[&str] = &[
    "i",
    "l",
    "f",
    "d",
    "b",
    "s",
    "y",
    "x",
    "e",
    "u",
    "a.0",
    "a.2",
    "a.01",
    "a",
    "m.k",
    "m.k.z",
    "m.none",
    "r.n",
    "r.t.k",
    "r",
    "p.1.n",
    "p.0.t.k.z",
    "q.k.n",
    "q.k.t.k",
    "last",
    "none",
    "i.j",
    "",
];

fn fields() -> Vec<Field> {
    let both = |path: &&str| [Kind::Number, Kind::Text].map(|kind| Field { path: (*path).to_owned(), kind });
    PATHS.iter().flat_map(both).collect()
}

/// What is at a path, by the value that apache-avro has read.
fn at<'a>(value: &'a Value, path: Option<&str>) -> Option<&'a Value> {
    let value = if let Value::Union(_, value) = value { value } else { value };
    let Some(path) = path else { return Some(value) };
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    match value {
        Value::Record(fields) => at(&fields.iter().find(|(name, _)| name == first)?.1, rest),
        Value::Array(items) => {
            let index = first.parse::<usize>().ok().filter(|index| index.to_string() == first)?;
            at(items.get(index)?, rest)
        }
        Value::Map(entries) => match entries.values().next() {
            Some(Value::Record(_)) => at(entries.get(first)?, rest),
            _ => at(entries.get(path)?, None),
        },
        _ => None,
    }
}

fn number(value: Option<&Value>) -> f64 {
    match value {
        Some(Value::Int(value)) => f64::from(*value),
        Some(Value::Long(value)) => *value as f64,
        Some(Value::Float(value)) => f64::from(*value),
        Some(Value::Double(value)) => *value,
        Some(Value::Boolean(value)) => f64::from(u8::from(*value)),
        Some(Value::String(text) | Value::Enum(_, text)) => text.trim().parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Int(value) => Some(value.to_string()),
        Value::Long(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Double(value) => Some(value.to_string()),
        Value::Boolean(value) => Some(u8::from(*value).to_string()),
        Value::String(text) | Value::Enum(_, text) => Some(text.clone()),
        _ => None,
    }
}

/// As strings, so that NaN is equal to itself.
fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let cell = |column: usize, row: usize| match batch.column(column).as_primitive_opt::<Float64Type>() {
        Some(numbers) => format!("{:?}", numbers.value(row)),
        None => {
            let texts = batch.column(column).as_string::<i32>();
            format!("{:?}", texts.is_valid(row).then(|| texts.value(row)))
        }
    };
    (0..batch.num_rows()).map(|row| (0..batch.num_columns()).map(|column| cell(column, row)).collect()).collect()
}

fn expected(value: &Value) -> Vec<String> {
    let cell = |field: &Field| {
        let found = at(value, Some(&field.path));
        match field.kind {
            Kind::Number => format!("{:?}", number(found)),
            Kind::Text => format!("{:?}", text(found)),
        }
    };
    fields().iter().map(cell).collect()
}

fn null_or(value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    let value = value.prop_map(|value| Value::Union(1, Box::new(value)));
    prop_oneof![Just(Value::Union(0, Box::new(Value::Null))), value].boxed()
}

fn keys() -> impl Strategy<Value = String> {
    prop_oneof![Just("k".to_owned()), Just("k.z".to_owned()), "[a-z]{0,3}"]
}

fn record(fields: Vec<(&str, Value)>) -> Value {
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn part() -> impl Strategy<Value = Value> {
    let texts = prop::collection::hash_map(keys(), "\\PC{0,5}".prop_map(Value::String), 0..4);
    let parts = (null_or(any::<i64>().prop_map(Value::Long)), texts);
    parts.prop_map(|(n, t)| record(vec![("n", n), ("t", Value::Map(t))]))
}

fn whole() -> impl Strategy<Value = Value> {
    let texts = prop_oneof!["\\PC{0,8}", any::<f64>().prop_map(|number| number.to_string()), Just(" 7 ".to_owned())];
    let double = || any::<f64>().prop_map(Value::Double);
    let union = prop_oneof![
        null_or(double()),
        texts.clone().prop_map(|text| Value::Union(2, Box::new(Value::String(text)))),
        any::<[u8; 3]>().prop_map(|bytes| Value::Union(3, Box::new(Value::Fixed(3, bytes.to_vec())))),
    ];
    let numbers = (any::<i32>(), any::<i64>(), any::<f32>(), any::<f64>(), any::<bool>());
    let others = (texts, any::<Vec<u8>>(), any::<[u8; 3]>(), 0_u32..3, any::<i64>());
    let nested = (
        union,
        prop::collection::vec(null_or(double()), 0..4),
        prop::collection::hash_map(keys(), double(), 0..4),
        part(),
        prop::collection::vec(part(), 0..3),
        prop::collection::hash_map(keys(), part(), 0..3),
    );
    (numbers, others, nested).prop_map(|((i, l, f, d, b), (s, y, x, e, last), (u, a, m, r, p, q))| {
        record(vec![
            ("skipped", Value::String("passed over".to_owned())),
            ("i", Value::Int(i)),
            ("l", Value::Long(l)),
            ("f", Value::Float(f)),
            ("d", Value::Double(d)),
            ("b", Value::Boolean(b)),
            ("s", Value::String(s)),
            ("y", Value::Bytes(y)),
            ("x", Value::Fixed(3, x.to_vec())),
            ("e", Value::Enum(e, ["A", "B", "C"][e as usize].to_owned())),
            ("u", u),
            ("a", Value::Array(a)),
            ("m", Value::Map(m)),
            ("r", r),
            ("p", Value::Array(p)),
            ("q", Value::Map(q)),
            ("last", Value::Long(last)),
        ])
    })
}

fn encoded(values: &[Value]) -> Vec<Vec<u8>> {
    let schema = Schema::parse_str(SCHEMA).expect("it parses");
    let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
    values.iter().map(|value| writer.write_value_to_vec(value.clone()).expect("it fits")).collect()
}

fn projection() -> (Projection, SchemaId) {
    let registry = Arc::new(MemoryRegistry::default());
    let id = registry.register("whole", SCHEMA).expect("it registers");
    (Projection::new(registry, "Whole", fields()), id)
}

proptest! {
    #[test]
    fn every_path_has_what_the_value_has_there(values in prop::collection::vec(whole(), 1..6)) {
        let (mut projection, id) = projection();
        let schema = Schema::parse_str(SCHEMA).expect("it parses");
        let reader = GenericDatumReader::builder(&schema).build().expect("a reader");
        let mut wanted = Vec::new();
        for body in encoded(&values) {
            prop_assert!(projection.push(&wire::join(id, &body)).expect("it is read"));
            wanted.push(expected(&reader.read_value(&mut &body[..]).expect("apache-avro reads it")));
        }
        prop_assert_eq!(rows(&projection.finish()), wanted);
        prop_assert_eq!(projection.finish().num_rows(), 0);
    }

    #[test]
    fn what_is_cut_or_changed_leaves_no_trace(
        values in prop::collection::vec(whole(), 2),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 20),
    ) {
        let (mut projection, id) = projection();
        let bodies = encoded(&values);
        let (first, second) = (wire::join(id, &bodies[0]), wire::join(id, &bodies[1]));
        projection.push(&first).expect("it is read");
        for end in 0..second.len() {
            prop_assert!(projection.push(&second[..end]).is_err(), "cut at {}", end);
            prop_assert_eq!(projection.rows(), 1);
        }
        let mut longer = second.clone();
        longer.push(0);
        prop_assert!(projection.push(&longer).is_err());
        for (at, byte) in changes {
            let mut changed = second.clone();
            let at = wire::FRAME_BYTES + at.index(changed.len() - wire::FRAME_BYTES);
            changed[at] = byte;
            if projection.push(&changed).is_ok() {
                projection.pop();
            }
        }
        projection.push(&second).expect("it is read");
        let (mut other, _) = self::projection();
        other.push(&first).expect("it is read");
        other.push(&second).expect("it is read");
        prop_assert_eq!(rows(&projection.finish()), rows(&other.finish()));
    }
}

#[test]
fn other_types_are_passed_over_and_versions_share_a_batch() {
    let registry = Arc::new(MemoryRegistry::default());
    let schema = |name: &str, fields: &str| format!(r#"{{"type": "record", "name": "{name}", "fields": [{fields}]}}"#);
    let old = registry.register("old", &schema("E", r#"{"name": "v", "type": "int"}"#)).expect("registers");
    let new = r#"{"name": "w", "type": "string"}, {"name": "v", "type": "double"}"#;
    let new = registry.register("new", &schema("E", new)).expect("registers");
    let other = registry.register("other", &schema("F", r#"{"name": "v", "type": "int"}"#)).expect("registers");
    let fields = ["v", "w"].map(|path| Field { path: path.to_owned(), kind: Kind::Text }).to_vec();
    let mut projection = Projection::new(registry, "E", fields);
    let body = [&[2, b'x'][..], &1.5_f64.to_le_bytes()].concat();
    assert!(projection.push(&wire::join(old, &[6])).expect("read"));
    assert!(!projection.push(&wire::join(other, &[6])).expect("passed over"));
    assert!(projection.push(&wire::join(new, &body)).expect("read"));
    assert!(projection.push(&wire::join(SchemaId(99), &[6])).is_err());
    assert_eq!(projection.ids_seen(), [old.0, new.0]);
    let rows = rows(&projection.finish());
    assert_eq!(rows, [[r#"Some("3")"#, "None"], [r#"Some("1.5")"#, r#"Some("x")"#]]);
}

#[test]
fn blocks_that_tell_their_size_are_read_and_claims_are_not_believed() {
    let registry = Arc::new(MemoryRegistry::default());
    let schema = r#"{"type": "record", "name": "E", "fields": [
        {"name": "a", "type": {"type": "array", "items": "long"}}, {"name": "z", "type": "long"}]}"#;
    let id = registry.register("e", schema).expect("registers");
    let read = |path: &str, body: &[u8]| {
        let field = Field { path: path.to_owned(), kind: Kind::Number };
        let mut projection = Projection::new(registry.clone(), "E", vec![field]);
        projection.push(&wire::join(id, body))?;
        Ok::<_, engram_schemas::codec::DecodeError>(
            projection.finish().column(0).as_primitive::<Float64Type>().value(0),
        )
    };
    // Two blocks: -2 items in 2 bytes (1, 2), then 1 item (3); the end; then z = 4.
    for (path, wanted) in [("a.0", 1.0), ("a.1", 2.0), ("a.2", 3.0), ("z", 4.0)] {
        assert_eq!(read(path, &[3, 4, 2, 4, 2, 6, 0, 8]).expect("read"), wanted, "{path}");
    }
    // 2^55 items; a number of more than 64 bits.
    for body in [
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7e, 2][..],
        &[0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
    ] {
        assert!(read("z", body).is_err(), "{body:?}");
    }
}

#[test]
fn types_that_would_be_any_number_of_places_are_refused() {
    let pair = |depth: usize| {
        let below = if depth == 0 { "\"int\"".to_owned() } else { format!("[\"L{}\", \"R{}\"]", depth - 1, depth - 1) };
        let side = |side: &str| {
            format!(r#"{{"type": "record", "name": "{side}{depth}", "fields": [{{"name": "v", "type": {below}}}]}}"#)
        };
        format!(r#"{{"name": "l{depth}", "type": {}}}, {{"name": "r{depth}", "type": {}}}"#, side("L"), side("R"))
    };
    let fields: Vec<String> = (0..40).map(pair).collect();
    let schema = format!(r#"{{"type": "record", "name": "E", "fields": [{}]}}"#, fields.join(", "));
    let registry = Arc::new(MemoryRegistry::default());
    let id = registry.register("e", &schema).expect("registers");
    let mut projection = Projection::new(registry, "E", Vec::new());
    let error = projection.push(&wire::join(id, &[0])).expect_err("refused").to_string();
    assert!(error.contains("places"), "{error}");
}
