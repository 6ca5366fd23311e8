//! What commands print: tables for people, JSON for programs, one line for errors.

use std::io::Write;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use engram_schemas::codec::{DecodeError, Decoder};
use engram_schemas::registry::RegistryError;
use serde_json::Value;
use thiserror::Error;

/// Longest cell of a table.
const CELL_CHARS_MAX: usize = 200;

/// A command line that parses but makes no sense: exit code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// An error and its causes in one line; a cause that its effect has already named is left out.
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    engram_pipeline::worker::chain(error).replace(['\n', '\r'], " ")
}

/// Says something to people, on standard error; that nobody listens any more is no reason to stop.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a table, its columns as wide as the terminal allows.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row.into_iter().map(cut));
    }
    writeln!(std::io::stdout().lock(), "{table}")
}

/// A cell as it is shown: JSON has the whole.
fn cut(cell: String) -> String {
    match cell.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &cell[..end]),
        None => cell,
    }
}

/// Prints a line for people.
pub fn line(text: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")
}

/// Prints a value as one line of JSON.
pub fn json(value: &impl serde::Serialize) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)
}

/// A record's value, decoded; what cannot be decoded is shown as text, or as hexadecimal bytes.
///
/// Errors: the registry cannot be asked.
pub fn value(decoder: &mut Decoder, value: Option<&[u8]>) -> Result<Value, RegistryError> {
    Ok(value_as(decoder, value)?.0)
}

/// As `value`, and how it is shown: `decoded`, `text` or `hex`.
pub fn value_as(decoder: &mut Decoder, value: Option<&[u8]>) -> Result<(Value, &'static str), RegistryError> {
    let Some(bytes) = value else { return Ok((Value::Null, "null")) };
    match decoder.decode_json(bytes) {
        Ok(value) => Ok((value, "decoded")),
        Err(DecodeError::Registry(error)) => Err(error),
        Err(_) => Ok(match std::str::from_utf8(bytes) {
            Ok(text) => (serde_json::from_str(text).unwrap_or_else(|_| text.into()), "text"),
            Err(_) => (hexadecimal(bytes).into(), "hex"),
        }),
    }
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
