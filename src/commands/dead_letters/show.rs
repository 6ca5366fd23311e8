//! `engram dead-letters show`: a letter in full, its record decoded where the schema allows.

use anyhow::Context as _;
use engram_schemas::codec::Decoder;
use serde_json::{Map, Value, json};

use super::letters::Letters;
use super::marks;
use crate::cli::Global;
use crate::output;
use crate::values::{Place, rfc3339};
use crate::wire::{Access, Connection};

pub fn run(global: &Global, place: Place) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let mut letters = Letters::open(&connection)?.context("there are no dead letters")?;
    let letter = letters.get(place)?;
    let replayed = marks::read(&connection)?.remove(&place);
    let mut decoder = Decoder::new(connection.registry.clone());
    let (value, value_as) = output::value_as(&mut decoder, letter.value.as_deref())?;
    let headers: Vec<Value> = letter
        .headers
        .iter()
        .map(|header| json!({"key": header.key, "value": header.value.as_deref().map(readable)}))
        .collect();
    let shown = json!({
        "place": place.to_string(),
        "time": rfc3339(letter.time),
        "service": letter.service,
        "cause": letter.cause,
        "detail": letter.detail,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp": rfc3339(letter.timestamp),
        "whole": letter.whole,
        "replayed": replayed.map(|mark| json!({
            "time": rfc3339(mark.time), "topic": mark.topic, "partition": mark.partition, "mended": mark.mended
        })),
        "headers": headers,
        "key": letter.key.as_deref().map(readable),
        "value_as": value_as,
        "value": value,
    });
    if global.json {
        return Ok(output::json(&shown)?);
    }
    print(shown.as_object().expect("it was made as one"))
}

/// Text, or hexadecimal digits.
fn readable(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| output::hexadecimal(bytes), str::to_owned)
}

fn print(fields: &Map<String, Value>) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    for (name, value) in fields {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        writeln!(out, "{name:<10} {text}")?;
    }
    Ok(())
}
