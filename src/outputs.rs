//! The outputs of a replay as files: FOLDER/TOPIC/TASK.ndjson.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use engram_pipeline::replay::{Commit, Remade};
use engram_schemas::codec::Decoder;
use serde_json::json;

use crate::commands::lock;
use crate::output;
use crate::past::PastService;
use crate::wire::Connection;

/// Where the outputs go; several tasks write at a time, each to files of its own.
pub struct Out<'a> {
    folder: PathBuf,
    service: &'a PastService<'a>,
    tasks: Vec<Mutex<Task>>,
}

/// What one task has made, by topic.
struct Task {
    decoder: Decoder,
    files: BTreeMap<Arc<str>, BufWriter<File>>,
}

impl<'a> Out<'a> {
    pub fn create(folder: &Path, connection: &Connection, service: &'a PastService<'a>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let task = |_| {
            let decoder = Decoder::new(Arc::clone(&connection.registry));
            Mutex::new(Task { decoder, files: BTreeMap::new() })
        };
        Ok(Self { folder: folder.to_owned(), service, tasks: (0..service.partitions).map(task).collect() })
    }

    pub fn write(&self, commit: &Commit, remade: &Remade) -> anyhow::Result<()> {
        let number = commit.manifest.partition;
        let mut task = lock(&self.tasks[usize::try_from(number)?]);
        let Task { decoder, files } = &mut *task;
        for written in remade.written.iter().filter(|written| self.service.writes(&written.topic)) {
            if !files.contains_key(&written.topic) {
                let file = self.open(&written.topic, number)?;
                files.insert(Arc::clone(&written.topic), file);
            }
            let line = json!({
                "task": number, "commit": commit.manifest.sequence, "partition": written.partition,
                "key": written.key.as_deref().map(String::from_utf8_lossy),
                "value": output::value(decoder, written.value.as_deref())?
            });
            let file = files.get_mut(&written.topic).expect("opened above");
            writeln!(file, "{line}").with_context(|| self.failed())?;
        }
        Ok(())
    }

    fn open(&self, topic: &str, task: i32) -> anyhow::Result<BufWriter<File>> {
        let folder = self.folder.join(topic);
        let create = || {
            std::fs::create_dir_all(&folder)?;
            File::create(folder.join(format!("{task}.ndjson")))
        };
        Ok(BufWriter::new(create().with_context(|| self.failed())?))
    }

    fn failed(&self) -> String {
        format!("cannot write to {}", self.folder.display())
    }

    pub fn finish(self) -> anyhow::Result<()> {
        let tasks = self.tasks.iter().map(lock);
        tasks.into_iter().try_for_each(|mut task| {
            task.files.values_mut().try_for_each(|file| file.flush()).with_context(|| self.failed())
        })
    }
}
