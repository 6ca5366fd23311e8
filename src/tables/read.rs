//! Reading: the columns that are wanted, as f32, in batches.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use arrow::array::{Array as _, ArrayRef, AsArray as _, Float32Array, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::csv::reader::Format as CsvFormat;
use arrow::csv::{Reader as CsvReader, ReaderBuilder};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use regex::Regex;

use super::{BATCH_ROWS, Format};

/// What a CSV file writes for a missing value, besides nothing.
const MISSING: &str = "^(?i:na|n/a|nan|null|none)?$";
/// How an Arrow file begins; a stream does not.
const ARROW_MAGIC: &[u8] = b"ARROW1";

/// Batches of a file: the wanted columns, in the order in which they are wanted.
type Batches = Box<dyn Iterator<Item = anyhow::Result<Vec<Float32Array>>>>;

/// A file of rows that was opened.
pub struct Table {
    path: PathBuf,
    format: Format,
    schema: SchemaRef,
    /// The columns have names; a CSV file whose first line is numbers has none.
    is_named: bool,
    rows: Option<u64>,
}

impl Table {
    /// Errors: there is no such file, or it is no table.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let format = Format::of(path)?;
        let table = match format {
            Format::Csv => Self::open_csv(path),
            Format::Parquet => Self::open_parquet(path),
            Format::Arrow => Self::open_arrow(path),
        };
        table.with_context(|| format!("{} cannot be read", path.display()))
    }

    /// The columns' names; `None` if they have none.
    pub fn names(&self) -> Option<Vec<&str>> {
        self.is_named.then(|| self.schema.fields().iter().map(|field| field.name().as_str()).collect())
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.schema.fields().len()
    }

    /// Rows, where the file says how many it has.
    pub fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// Reads the columns of these numbers. Errors: one of them has no numbers.
    pub fn read(&self, columns: &[usize]) -> anyhow::Result<Batches> {
        for &column in columns {
            let field = self.schema.field(column);
            if !is_numbers(field.data_type()) {
                bail!("{}: column {} has {}; numbers are wanted", self.path.display(), field.name(), field.data_type());
            }
        }
        let mut sorted = columns.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        // Where each wanted column is among those that are read.
        let order: Vec<usize> = columns.iter().map(|column| sorted.partition_point(|other| other < column)).collect();
        let path = self.path.clone();
        let batches = self.batches(sorted).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(Box::new(batches.map(move |batch| {
            let batch = batch.map_err(as_lines).with_context(|| format!("{} cannot be read", path.display()))?;
            order.iter().map(|&column| as_f32(batch.column(column))).collect()
        })))
    }

    fn batches(
        &self,
        columns: Vec<usize>,
    ) -> anyhow::Result<Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>> {
        let file = File::open(&self.path)?;
        Ok(match self.format {
            Format::Csv => Box::new(self.csv(file, columns)?),
            Format::Parquet => {
                let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
                let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
                Box::new(builder.with_projection(mask).with_batch_size(BATCH_ROWS).build()?)
            }
            Format::Arrow if is_arrow_file(&self.path)? => Box::new(FileReader::try_new(file, Some(columns))?),
            Format::Arrow => Box::new(StreamReader::try_new(BufReader::new(file), Some(columns))?),
        })
    }

    fn csv(&self, file: File, columns: Vec<usize>) -> anyhow::Result<CsvReader<File>> {
        let format = csv_format(self.is_named);
        let builder = ReaderBuilder::new(Arc::clone(&self.schema)).with_format(format).with_batch_size(BATCH_ROWS);
        Ok(builder.with_projection(columns).build(file)?)
    }

    fn open_csv(path: &Path) -> anyhow::Result<Self> {
        // A first line of nothing but numbers is no line of names.
        let (first, lines) = csv_format(false).infer_schema(File::open(path)?, Some(1))?;
        if lines == 0 {
            bail!("it is empty");
        }
        let is_named = !first.fields().iter().all(|field| is_numbers(field.data_type()));
        let (named, _) = csv_format(is_named).infer_schema(File::open(path)?, Some(0))?;
        let field = |field: &Arc<Field>| Field::new(field.name().trim(), DataType::Float32, true);
        let schema = Schema::new(named.fields().iter().map(field).collect::<Vec<_>>());
        Ok(Self { path: path.to_owned(), format: Format::Csv, schema: Arc::new(schema), is_named, rows: None })
    }

    fn open_parquet(path: &Path) -> anyhow::Result<Self> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).ok();
        Ok(Self {
            path: path.to_owned(),
            format: Format::Parquet,
            schema: Arc::clone(builder.schema()),
            is_named: true,
            rows,
        })
    }

    fn open_arrow(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path)?;
        let schema = if is_arrow_file(path)? {
            FileReader::try_new(file, None)?.schema()
        } else {
            StreamReader::try_new(BufReader::new(file), None)?.schema()
        };
        Ok(Self { path: path.to_owned(), format: Format::Arrow, schema, is_named: true, rows: None })
    }
}

/// Lines of a CSV file are counted from 1, as editors do. arrow-csv counts them from 0 where a value is at fault.
fn as_lines(error: ArrowError) -> ArrowError {
    let ArrowError::ParseError(text) = &error else { return error };
    let counted = Regex::new(" at line ([0-9]+)").expect("it is a regular expression");
    let Some(line) = counted.captures(text).and_then(|found| found[1].parse::<u64>().ok()) else { return error };
    ArrowError::ParseError(counted.replace(text, format!(" at line {}", line + 1)).into_owned())
}

fn csv_format(has_names: bool) -> CsvFormat {
    let missing = Regex::new(MISSING).expect("it is a regular expression");
    CsvFormat::default().with_header(has_names).with_null_regex(missing)
}

fn is_arrow_file(path: &Path) -> std::io::Result<bool> {
    let mut begin = Vec::new();
    let mut file = File::open(path)?;
    file.rewind()?;
    file.take(ARROW_MAGIC.len() as u64).read_to_end(&mut begin)?;
    Ok(begin == ARROW_MAGIC)
}

fn is_numbers(kind: &DataType) -> bool {
    kind.is_numeric() || matches!(kind, DataType::Boolean | DataType::Null)
}

/// Rounded to the nearest f32; a number that is too large is an infinity.
fn as_f32(column: &ArrayRef) -> anyhow::Result<Float32Array> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(column, &DataType::Float32, &options)?;
    debug_assert_eq!(cast.len(), column.len());
    Ok(cast.as_primitive::<Float32Type>().clone())
}
