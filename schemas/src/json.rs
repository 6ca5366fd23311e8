//! Between JSON, for people, and Avro. Where a person has written the JSON, the reason why it does not fit names the
//! field. Bytes are written as hexadecimal digits.

use apache_avro::Schema;
use apache_avro::schema::{RecordSchema, UnionSchema};
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::{Map, Value};

use crate::intern;

/// The Avro body of a JSON value, by the text of a schema. Fields with a default may be left out; fields that the schema
/// does not have are refused, as they would be lost.
///
/// The error is one clause that names the place.
pub fn json_to_avro(schema: &str, value: &Value) -> Result<Vec<u8>, String> {
    let schema = intern::parse(schema)?;
    let avro = to_avro(schema, value, "")?;
    let writer = GenericDatumWriter::builder(schema).build().map_err(|error| error.to_string())?;
    writer.write_value_to_vec(avro).map_err(|error| error.to_string())
}

fn to_avro(schema: &Schema, value: &Value, at: &str) -> Result<Avro, String> {
    let wrong = |expected: &str| format!("{}: expected {expected}, found {}", place(at), shown(value));
    Ok(match schema {
        Schema::Null => value.as_null().map(|()| Avro::Null).ok_or_else(|| wrong("null"))?,
        Schema::Boolean => Avro::Boolean(value.as_bool().ok_or_else(|| wrong("true or false"))?),
        Schema::Int => {
            let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
            Avro::Int(number.ok_or_else(|| wrong("a whole number of 32 bits"))?)
        }
        Schema::Long => Avro::Long(value.as_i64().ok_or_else(|| wrong("a whole number of 64 bits"))?),
        Schema::Float => Avro::Float(value.as_f64().ok_or_else(|| wrong("a number"))? as f32),
        Schema::Double => Avro::Double(value.as_f64().ok_or_else(|| wrong("a number"))?),
        Schema::String => Avro::String(value.as_str().ok_or_else(|| wrong("a string"))?.to_owned()),
        Schema::Bytes => Avro::Bytes(bytes(value).ok_or_else(|| wrong("bytes as hexadecimal digits"))?),
        Schema::Fixed(fixed) => {
            let bytes = bytes(value).filter(|bytes| bytes.len() == fixed.size);
            let bytes = bytes.ok_or_else(|| wrong(&format!("{} bytes as hexadecimal digits", fixed.size)))?;
            Avro::Fixed(fixed.size, bytes)
        }
        Schema::Enum(symbols) => {
            let index = value.as_str().and_then(|name| symbols.symbols.iter().position(|symbol| symbol == name));
            let index = index.ok_or_else(|| wrong(&format!("one of {}", symbols.symbols.join(", "))))?;
            Avro::Enum(index as u32, symbols.symbols[index].clone())
        }
        Schema::Array(array) => {
            let items = value.as_array().ok_or_else(|| wrong("a list"))?;
            let items = items.iter().enumerate();
            let read = items.map(|(index, item)| to_avro(&array.items, item, &format!("{at}[{index}]")));
            Avro::Array(read.collect::<Result<_, _>>()?)
        }
        Schema::Map(map) => {
            let entries = value.as_object().ok_or_else(|| wrong("an object"))?.iter();
            let read = entries.map(|(key, entry)| Ok((key.clone(), to_avro(&map.types, entry, &join(at, key))?)));
            Avro::Map(read.collect::<Result<_, String>>()?)
        }
        Schema::Union(union) => union_to_avro(union, value, at)?,
        Schema::Record(record) => record_to_avro(record, value.as_object().ok_or_else(|| wrong("an object"))?, at)?,
        other => return Err(format!("{}: JSON is not taken for {other:?}", place(at))),
    })
}

fn union_to_avro(union: &UnionSchema, value: &Value, at: &str) -> Result<Avro, String> {
    let mut last = format!("{}: the union is empty", place(at));
    for (index, variant) in union.variants().iter().enumerate() {
        match to_avro(variant, value, at) {
            Ok(avro) => return Ok(Avro::Union(index as u32, Box::new(avro))),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

fn record_to_avro(record: &RecordSchema, fields: &Map<String, Value>, at: &str) -> Result<Avro, String> {
    if let Some(unknown) = fields.keys().find(|key| !record.fields.iter().any(|field| field.name == **key)) {
        let known: Vec<&str> = record.fields.iter().map(|field| field.name.as_str()).collect();
        return Err(format!("field {:?} is not one of {}", join(at, unknown), known.join(", ")));
    }
    let read = record.fields.iter().map(|field| {
        let at = join(at, &field.name);
        let value = fields.get(&field.name).or(field.default.as_ref());
        let value = value.ok_or_else(|| format!("field {at:?} is missing"))?;
        Ok((field.name.clone(), to_avro(&field.schema, value, &at)?))
    });
    Ok(Avro::Record(read.collect::<Result<_, String>>()?))
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

fn place(at: &str) -> String {
    if at.is_empty() { "the event".to_owned() } else { format!("field {at:?}") }
}

/// Long values are cut: the message is one line.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(60).chain("...".chars()).collect() }
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str().filter(|text| text.len().is_multiple_of(2) && text.is_ascii())?;
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// An Avro value as JSON; what JSON cannot say (NaN, infinities) is a string.
pub(crate) fn from_avro(value: Avro) -> Value {
    match value {
        Avro::Null => Value::Null,
        Avro::Boolean(value) => value.into(),
        Avro::Int(value) | Avro::Date(value) | Avro::TimeMillis(value) => value.into(),
        Avro::Long(value)
        | Avro::TimeMicros(value)
        | Avro::TimestampMillis(value)
        | Avro::TimestampMicros(value)
        | Avro::TimestampNanos(value)
        | Avro::LocalTimestampMillis(value)
        | Avro::LocalTimestampMicros(value)
        | Avro::LocalTimestampNanos(value) => value.into(),
        Avro::Float(value) => number(f64::from(value)),
        Avro::Double(value) => number(value),
        Avro::Bytes(bytes) | Avro::Fixed(_, bytes) => hexadecimal(&bytes).into(),
        Avro::String(text) | Avro::Enum(_, text) => text.into(),
        Avro::Union(_, value) => from_avro(*value),
        Avro::Array(items) => items.into_iter().map(from_avro).collect(),
        Avro::Map(entries) => {
            let mut entries: Vec<_> = entries.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            object(entries)
        }
        Avro::Record(fields) => object(fields),
        other => Value::try_from(other).unwrap_or_else(|error| error.to_string().into()),
    }
}

fn object(fields: Vec<(String, Avro)>) -> Value {
    Value::Object(fields.into_iter().map(|(name, value)| (name, from_avro(value))).collect())
}

fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::activity::Interaction;
    use crate::event::Event;

    #[test]
    fn reasons_name_the_field() {
        for (event, reason) in [
            (json!({"id": "1"}), "field \"time\" is missing"),
            (json!([]), "the event: expected an object, found []"),
            (json!({"id": 7}), "field \"id\": expected a string, found 7"),
            (json!({"id": "1", "time": "x"}), "field \"time\": expected a whole number of 64 bits, found \"x\""),
            (
                json!({"id": "1", "time": 1, "user": "u", "type": "t", "attributes": {"a": 1}}),
                "field \"attributes.a\": expected a string, found 1",
            ),
        ] {
            assert_eq!(json_to_avro(Interaction::SCHEMA, &event), Err(reason.to_owned()));
        }
        let unknown = json_to_avro(Interaction::SCHEMA, &json!({"usr": "1"})).expect_err("it has no such field");
        assert!(unknown.starts_with("field \"usr\" is not one of id, time, user"), "{unknown}");
    }

    #[test]
    fn bytes_are_hexadecimal_both_ways() {
        let schema = r#"{"type":"record","name":"B","fields":[{"name":"b","type":"bytes"}]}"#;
        assert_eq!(json_to_avro(schema, &json!({"b": "00ff"})), Ok(vec![4, 0, 0xff]));
        assert!(json_to_avro(schema, &json!({"b": "0"})).is_err());
        assert!(json_to_avro(schema, &json!({"b": "é0"})).is_err());
        assert_eq!(from_avro(Avro::Bytes(vec![0, 0xff])), json!("00ff"));
    }
}
