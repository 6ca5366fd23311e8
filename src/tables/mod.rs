//! Files of rows, for `engram score`: CSV, Parquet and Arrow IPC, by their extension.

mod read;
mod write;

use std::path::Path;

use anyhow::bail;

pub use read::Table;
pub use write::TableWriter;

/// Rows of a batch.
pub const BATCH_ROWS: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Parquet,
    Arrow,
}

impl Format {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        Ok(match extension.to_str() {
            Some("csv") => Self::Csv,
            Some("parquet") => Self::Parquet,
            Some("arrow" | "feather" | "arrows") => Self::Arrow,
            _ => bail!("{}: give a file whose name ends with .csv, .parquet or .arrow", path.display()),
        })
    }
}
