//! What commands print: tables for people, JSON for programs, one line for errors.

use std::io::Write;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use thiserror::Error;

/// A command line that parses but makes no sense: exit code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// An error and its causes in one line; a cause that its effect has already named is left out.
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    engram_pipeline::worker::chain(error).replace(['\n', '\r'], " ")
}

/// Prints a table, its columns as wide as the terminal allows.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    writeln!(std::io::stdout().lock(), "{table}")
}

/// Prints a value as one line of JSON.
pub fn json(value: &impl serde::Serialize) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)
}
