//! The outputs of a replay as files: FOLDER/TOPIC/TASK.ndjson, or Parquet (`parquet_out`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use engram_pipeline::replay::{Commit, Remade};
use engram_schemas::codec::Decoder;
use engram_schemas::registry::Registry;
use serde_json::json;

use crate::cli::OutFormat;
use crate::commands::lock;
use crate::output;
use crate::parquet_out::ParquetFiles;
use crate::past::PastService;
use crate::wire::Connection;

/// Where the outputs go; several tasks write at a time, each to files of its own.
pub struct Out<'a> {
    folder: PathBuf,
    service: &'a PastService<'a>,
    tasks: Vec<Mutex<BTreeMap<Arc<str>, Files>>>,
    format: OutFormat,
    registry: Arc<dyn Registry>,
}

/// What one task writes of one topic.
enum Files {
    Lines(BufWriter<File>, Decoder),
    Parquet(ParquetFiles),
}

impl<'a> Out<'a> {
    pub fn create(
        folder: &Path,
        format: OutFormat,
        connection: &Connection,
        service: &'a PastService<'a>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let is_used = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        anyhow::ensure!(!is_used, "{} is not empty: give a new folder with --out", folder.display());
        let tasks = (0..service.partitions).map(|_| Mutex::default()).collect();
        let registry = Arc::clone(&connection.registry);
        Ok(Self { folder: folder.to_owned(), service, tasks, format, registry })
    }

    pub fn write(&self, commit: &Commit, remade: &Remade) -> anyhow::Result<()> {
        let (task, sequence) = (commit.manifest.partition, commit.manifest.sequence);
        let mut topics = lock(&self.tasks[usize::try_from(task)?]);
        for written in remade.written.iter().filter(|written| self.service.writes(written.topic)) {
            if !topics.contains_key(written.topic) {
                topics.insert(Arc::clone(written.topic), self.open(written.topic, task)?);
            }
            match topics.get_mut(written.topic).expect("opened above") {
                Files::Lines(file, decoder) => {
                    let line = json!({
                        "task": task, "commit": sequence, "partition": written.partition,
                        "key": written.key.map(String::from_utf8_lossy),
                        "value": output::value(decoder, written.value)?
                    });
                    writeln!(file, "{line}").with_context(|| self.failed())?;
                }
                Files::Parquet(files) => files.add(sequence, &written).with_context(|| self.failed())?,
            }
        }
        Ok(())
    }

    fn open(&self, topic: &str, task: i32) -> anyhow::Result<Files> {
        let folder = self.folder.join(topic);
        std::fs::create_dir_all(&folder).with_context(|| self.failed())?;
        let registry = Arc::clone(&self.registry);
        match self.format {
            OutFormat::Parquet => Ok(Files::Parquet(ParquetFiles::new(folder, topic, task, registry))),
            OutFormat::Ndjson => {
                let file = File::create(folder.join(format!("{task}.ndjson"))).with_context(|| self.failed())?;
                Ok(Files::Lines(BufWriter::new(file), Decoder::new(registry)))
            }
        }
    }

    fn failed(&self) -> String {
        format!("cannot write to {}", self.folder.display())
    }

    pub fn finish(self) -> anyhow::Result<()> {
        let failed = self.failed();
        for topics in self.tasks {
            for files in topics.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values() {
                let finished = match files {
                    Files::Lines(mut file, _) => file.flush().map_err(anyhow::Error::from),
                    Files::Parquet(files) => files.finish(),
                };
                finished.with_context(|| failed.clone())?;
            }
        }
        Ok(())
    }
}
