//! Models for the scoring service: their files, by the hash of what is in them, and the devices that run them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use engram_models::ModelFile;
use engram_models::clock::{Clock, Monotonic};
use engram_models::device::{CpuDevice, Device};
use engram_models::gpu::{self, cuda};
use engram_pipeline::snapshot::Objects;
use engram_processors::scoring::{ModelFiles, ScoringConfig};

use crate::config::Scoring;
use crate::data_dir::DataDir;

/// Largest file of a model.
pub const MODEL_BYTES_MAX: u64 = 4 << 30;
/// Models that are kept read, so that each task of a process need not read them again.
const KEPT_MAX: usize = 4;

/// The files of models.
pub struct ModelStore {
    /// Where they are, or copies of them.
    folder: PathBuf,
    /// Where they are for all processes, if that is elsewhere.
    objects: Option<Objects>,
    /// The last ones that were read.
    kept: Mutex<Vec<Arc<ModelFile>>>,
}

impl ModelStore {
    pub fn open(config: &Scoring, data: &DataDir) -> anyhow::Result<Self> {
        let folder = folder(data);
        let objects = match config.models.as_str() {
            "" => None,
            url => Some(Objects::open(url, &config.options).context("cannot use scoring.models")?),
        };
        Ok(Self { folder, objects, kept: Mutex::default() })
    }

    /// Puts a model's file where all processes find it.
    pub fn put(&self, hash: &str, path: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make the folder {}", self.folder.display()))?;
        let (to, part) = (self.folder.join(hash), self.part(hash));
        let copied = std::fs::copy(path, &part).and_then(|_| std::fs::rename(&part, &to));
        copied.with_context(|| format!("cannot copy {} to {}", path.display(), to.display()))?;
        if let Some(objects) = &self.objects {
            let size = std::fs::metadata(&to)?.len();
            objects.put_file(&key(hash), &to, size)?;
        }
        Ok(())
    }

    /// Gives another data folder what is in this one's own: a link where it can, since a file is never changed.
    pub fn copy(from: &DataDir, to: &DataDir) -> anyhow::Result<()> {
        let (from, to) = (folder(from), folder(to));
        let Ok(entries) = std::fs::read_dir(&from) else { return Ok(()) };
        std::fs::create_dir_all(&to).with_context(|| format!("cannot make the folder {}", to.display()))?;
        for entry in entries {
            let name = entry?.file_name();
            if !name.to_str().is_some_and(is_hash) {
                continue;
            }
            let (from, to) = (from.join(&name), to.join(&name));
            let copied = std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(drop));
            copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        }
        Ok(())
    }

    fn read(&self, hash: &str) -> anyhow::Result<ModelFile> {
        anyhow::ensure!(is_hash(hash), "its hash is none");
        let path = self.folder.join(hash);
        if let Some(objects) = &self.objects
            && !path.exists()
        {
            std::fs::create_dir_all(&self.folder)?;
            let part = self.part(hash);
            let fetched = objects.get_file(&key(hash), &part, |_| true).map_err(anyhow::Error::from);
            fetched
                .and_then(|_| Ok(std::fs::rename(&part, &path)?))
                .inspect_err(|_| drop(std::fs::remove_file(&part)))?;
        }
        let file = read(&path)?;
        anyhow::ensure!(file.hash() == hash, "{} is not the file that was put there", path.display());
        Ok(file)
    }

    /// A name for a file that is not whole yet.
    fn part(&self, hash: &str) -> PathBuf {
        self.folder.join(format!("{hash}.{:016x}.part", rand::random::<u64>()))
    }
}

impl ModelFiles for ModelStore {
    fn file(&self, hash: &str) -> Result<Arc<ModelFile>, String> {
        // One task reads, the others wait for what it reads.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = kept.iter().find(|file| file.hash() == hash) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.read(hash).map_err(|error| crate::output::one_line(&*error))?);
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push(Arc::clone(&file));
        Ok(file)
    }
}

/// Reads a file of a model or a detector.
pub fn read(path: &Path) -> anyhow::Result<ModelFile> {
    let context = || format!("the model {} cannot be read", path.display());
    let bytes = std::fs::metadata(path).with_context(context)?.len();
    anyhow::ensure!(
        bytes <= MODEL_BYTES_MAX,
        "the model {} has {bytes} bytes; {MODEL_BYTES_MAX} are taken",
        path.display()
    );
    ModelFile::read(&std::fs::read(path).with_context(context)?).with_context(context)
}

fn folder(data: &DataDir) -> PathBuf {
    data.path().join("models")
}

fn key(hash: &str) -> String {
    format!("models/{hash}")
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first GPU. Errors: why there is none.
pub fn gpu(clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Device>> {
    let device = cuda::open(0, gpu::Settings::default(), Arc::clone(clock), None);
    Ok(Arc::new(device.context("no GPU can be used")?))
}

/// What the scoring service is made of.
pub fn scoring(config: &Scoring, data: &DataDir) -> anyhow::Result<ScoringConfig> {
    let clock: Arc<dyn Clock> = Arc::new(Monotonic::default());
    let (opened, wanted, of_gpu) = (OnceLock::new(), config.device.clone(), Arc::clone(&clock));
    let gpu = move || -> Option<Arc<dyn Device>> {
        let open = || match (wanted.as_str(), gpu(&of_gpu)) {
            (_, Ok(device)) => Some(device),
            (wanted, Err(error)) => {
                // Scores are the same without; they only come later.
                if wanted == "gpu" {
                    tracing::warn!(error = crate::output::one_line(&*error), "the CPU scores instead of a GPU");
                }
                None
            }
        };
        if wanted == "cpu" { None } else { opened.get_or_init(open).clone() }
    };
    let duration = |ms: i64| Duration::from_millis(ms.cast_unsigned());
    Ok(ScoringConfig {
        topics: config.topics.clone(),
        batch_rows: config.batch_rows,
        batch_bytes: config.batch_bytes,
        batch_delay: duration(config.batch_delay),
        retry: duration(config.retry),
        files: Arc::new(ModelStore::open(config, data)?),
        cpu: Arc::new(CpuDevice::new(config.threads)),
        gpu: Arc::new(gpu),
        clock,
    })
}
