//! Outputs of a task as Parquet: one file for each type of event, as rows of a file have the same columns.
//!
//! ```text
//! TASK.TYPE.parquet    task i32 | commit i64 | partition i32 | key utf8, null | value: a struct of the event's fields
//! TASK.bytes.parquet   the same with the bytes of what has no such type; tombstones are null
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, StructArray};
use engram_pipeline::replay::WrittenRef;
use engram_schemas::CONTRACT;
use engram_schemas::codec::Decoder;
use engram_schemas::columnar::BatchDecoder;
use engram_schemas::registry::Registry;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

/// Rows that are gathered before they are written.
const ROWS_MAX: usize = 8_192;

/// The files of one topic and task.
pub struct ParquetFiles {
    folder: PathBuf,
    topic: String,
    task: i32,
    registry: Arc<dyn Registry>,
    decoder: Decoder,
    /// By the name of the type; `None`: bytes.
    files: BTreeMap<Option<&'static str>, ParquetFile>,
}

impl ParquetFiles {
    pub fn new(folder: PathBuf, topic: &str, task: i32, registry: Arc<dyn Registry>) -> Self {
        let decoder = Decoder::new(Arc::clone(&registry));
        Self { folder, topic: topic.to_owned(), task, registry, decoder, files: BTreeMap::new() }
    }

    pub fn add(&mut self, commit: i64, written: &WrittenRef<'_>) -> anyhow::Result<()> {
        let name = written.value.and_then(|value| self.decoder.type_name(value).ok()?);
        let subject = CONTRACT.iter().find(|subject| subject.topic == self.topic && Some(subject.name) == name);
        let by = subject.map(|subject| subject.name);
        if !self.files.contains_key(&by) {
            let decoder = subject.map(|of| BatchDecoder::of(Arc::clone(&self.registry), of.name, of.schema, ROWS_MAX));
            let short = by.map_or("bytes", |name| name.rsplit('.').next().unwrap_or(name));
            let path = self.folder.join(format!("{}.{short}.parquet", self.task));
            self.files.insert(by, ParquetFile { path, task: self.task, decoder, rows: Rows::default(), writer: None });
        }
        self.files.get_mut(&by).expect("inserted above").add(commit, written)
    }

    pub fn finish(self) -> anyhow::Result<()> {
        self.files.into_values().try_for_each(ParquetFile::finish)
    }
}

/// Columns of rows that are not written yet.
#[derive(Default)]
struct Rows {
    commits: Vec<i64>,
    partitions: Vec<i32>,
    keys: Vec<Option<String>>,
    bytes: Vec<Option<Vec<u8>>>,
}

struct ParquetFile {
    path: PathBuf,
    task: i32,
    /// `None`: the values stay bytes.
    decoder: Option<BatchDecoder>,
    rows: Rows,
    writer: Option<ArrowWriter<File>>,
}

impl ParquetFile {
    fn add(&mut self, commit: i64, written: &WrittenRef<'_>) -> anyhow::Result<()> {
        match &mut self.decoder {
            Some(decoder) => decoder.push(written.value.unwrap_or_default())?,
            None => self.rows.bytes.push(written.value.map(<[u8]>::to_vec)),
        }
        self.rows.commits.push(commit);
        self.rows.partitions.push(written.partition);
        self.rows.keys.push(written.key.map(|key| String::from_utf8_lossy(key).into_owned()));
        if self.rows.commits.len() == ROWS_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let Rows { commits, partitions, keys, bytes } = std::mem::take(&mut self.rows);
        if commits.is_empty() {
            return Ok(());
        }
        let value: ArrayRef = match &mut self.decoder {
            Some(decoder) => Arc::new(StructArray::from(decoder.finish()?.expect("there are rows"))),
            None => Arc::new(BinaryArray::from_iter(bytes)),
        };
        let tasks = Int32Array::from(vec![self.task; commits.len()]);
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("task", Arc::new(tasks) as ArrayRef, false),
            ("commit", Arc::new(Int64Array::from(commits)) as ArrayRef, false),
            ("partition", Arc::new(Int32Array::from(partitions)) as ArrayRef, false),
            ("key", Arc::new(StringArray::from(keys)) as ArrayRef, true),
            ("value", value, self.decoder.is_none()),
        ])?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                none.insert(ArrowWriter::try_new(File::create(&self.path)?, batch.schema(), Some(properties))?)
            }
        };
        Ok(writer.write(&batch)?)
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.flush()?;
        if let Some(writer) = self.writer {
            writer.close()?;
        }
        Ok(())
    }
}
