//! Writing: under another name until it is whole.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use arrow::array::RecordBatch;
use arrow::csv::Writer as CsvWriter;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::FileWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tempfile::NamedTempFile;

use super::Format;

/// A file that is written. Dropped before `finish`, it leaves nothing.
pub struct TableWriter {
    path: PathBuf,
    whole: NamedTempFile,
    writer: Writer,
}

enum Writer {
    Csv(Box<CsvWriter<File>>),
    Parquet(Box<ArrowWriter<File>>),
    Arrow(Box<FileWriter<File>>),
}

impl TableWriter {
    /// Errors: the format is not known, or the folder cannot be written.
    pub fn create(path: &Path, schema: &SchemaRef) -> anyhow::Result<Self> {
        let format = Format::of(path)?;
        let context = || format!("{} cannot be written", path.display());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // As any file that a program makes: what others may do with it is the umask's affair.
        let permissions = Permissions::from_mode(0o666);
        let whole = tempfile::Builder::new().permissions(permissions).tempfile_in(folder).with_context(context)?;
        let file = whole.reopen().with_context(context)?;
        let writer = match format {
            Format::Csv => Writer::Csv(Box::new(CsvWriter::new(file))),
            Format::Parquet => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                Writer::Parquet(Box::new(ArrowWriter::try_new(file, schema.clone(), Some(properties))?))
            }
            Format::Arrow => Writer::Arrow(Box::new(FileWriter::try_new(file, schema)?)),
        };
        Ok(Self { path: path.to_owned(), whole, writer })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        match &mut self.writer {
            Writer::Csv(writer) => writer.write(batch)?,
            Writer::Parquet(writer) => writer.write(batch)?,
            Writer::Arrow(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    /// Gives the file its name.
    pub fn finish(self) -> anyhow::Result<()> {
        match self.writer {
            Writer::Csv(writer) => drop(writer.into_inner()),
            Writer::Parquet(writer) => drop(writer.close()?),
            Writer::Arrow(mut writer) => writer.finish()?,
        }
        self.whole.persist(&self.path).with_context(|| format!("{} cannot be written", self.path.display()))?;
        Ok(())
    }
}
