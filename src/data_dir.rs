//! The data folder: the embedded log, the services' stores, and who is using them.
//!
//! ```text
//! DIR/lock            held by the process that runs `engram up`
//! DIR/up.json         its process id and HTTP address, while it runs
//! DIR/instance        a name made once, by which a restarted process is known to the log
//! DIR/log/            the embedded log
//! DIR/stores/SERVICE/PARTITION/   RocksDB of a task
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

pub struct DataDir {
    path: PathBuf,
}

/// What `up.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningProcess {
    pub pid: u32,
    pub http: SocketAddr,
}

/// The lock of a running `engram up`; released when dropped or when the process ends, however it ends.
pub struct Held {
    _lock: File,
    run_file: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.run_file);
    }
}

impl DataDir {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn stores(&self, service: &str) -> PathBuf {
        self.path.join("stores").join(service)
    }

    pub fn has_log(&self) -> bool {
        self.path.join("log").join("CURRENT").exists()
    }

    pub fn create(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.path)
            .with_context(|| format!("cannot create the data folder {}: give another with --data", self.path.display()))
    }

    /// Takes the folder for this process.
    pub fn hold(&self) -> anyhow::Result<Held> {
        self.create()?;
        let path = self.path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}: give another data folder with --data", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Held { _lock: lock, run_file: self.path.join("up.json") }),
            Err(TryLockError::WouldBlock) => {
                let holder = self.read_run_file().map_or_else(String::new, |run| format!(" (process {})", run.pid));
                anyhow::bail!(
                    "the data folder {} is in use by another 'engram up'{holder}: stop it, or give another with --data",
                    self.path.display()
                )
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    pub fn write_run_file(&self, http: SocketAddr) -> anyhow::Result<()> {
        let run = RunningProcess { pid: std::process::id(), http };
        let path = self.path.join("up.json");
        std::fs::write(&path, serde_json::to_vec(&run)?).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The `engram up` that holds the folder, if one does.
    pub fn running(&self) -> Option<RunningProcess> {
        let lock = File::open(self.path.join("lock")).ok()?;
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => self.read_run_file(),
            _ => None,
        }
    }

    /// The name by which this folder's workers are known to the log.
    pub fn instance(&self) -> anyhow::Result<String> {
        self.create()?;
        let path = self.path.join("instance");
        match std::fs::read_to_string(&path) {
            Ok(name) if !name.trim().is_empty() => Ok(name.trim().to_owned()),
            _ => {
                // Process id and time are unique enough among the processes that share a consumer group.
                let name = format!("{:x}-{:x}", engram_pipeline::clock::now_ms(), std::process::id());
                std::fs::write(&path, &name).with_context(|| format!("cannot write {}", path.display()))?;
                Ok(name)
            }
        }
    }

    fn read_run_file(&self) -> Option<RunningProcess> {
        serde_json::from_slice(&std::fs::read(self.path.join("up.json")).ok()?).ok()
    }
}
