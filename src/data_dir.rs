//! The data folder: the embedded log, the services' stores, and who is using them.
//!
//! ```text
//! DIR/lock            held by `engram up`, or by a command that writes while none runs
//! DIR/up.json         process id, HTTP address and token of the `engram up` that holds it
//! DIR/instance        a name made once, by which a restarted process is known to the log
//! DIR/log/            the embedded log
//! DIR/stores/LOG/SERVICE/PARTITION/   RocksDB of a task; LOG is `embedded`, or `kafka-` and the cluster's id
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

pub struct DataDir {
    path: PathBuf,
}

/// How long the holder of the folder is waited for: another command that only looks, or one that is just coming up.
const BRIEF: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);

/// What `up.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningProcess {
    pub pid: u32,
    pub http: SocketAddr,
    /// Shows that a request comes from one who may read the folder, and means this very process.
    pub token: String,
}

/// Who has the folder.
pub enum Holder {
    Nobody,
    /// An `engram up` that does not serve yet, or a command that writes.
    Busy,
    Running(RunningProcess),
}

/// The folder's lock; released when dropped or when the process ends, however it ends.
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

    /// The folder of a service's stores. Each log has its own, so that a folder may serve several.
    pub fn stores(&self, log_id: &str, service: &str) -> PathBuf {
        self.path.join("stores").join(log_id).join(service)
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
        let until = Instant::now() + BRIEF;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                // Whoever asks for the holder has the lock for a moment.
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOOK),
                Err(TryLockError::WouldBlock) => {
                    let holder = self.read_run_file().map_or_else(String::new, |run| format!(" (process {})", run.pid));
                    anyhow::bail!(
                        "the data folder {} is in use by another engram{holder}: stop it first, or give another with --data",
                        self.path.display()
                    )
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        let held = Held { _lock: lock, run_file: self.path.join("up.json") };
        // Of one that was killed: its address may be another's by now.
        let _ = std::fs::remove_file(&held.run_file);
        Ok(held)
    }

    /// Tells other commands where this process is, and gives them its token. Only the folder's owner may read it.
    pub fn write_run_file(&self, http: SocketAddr, token: &str) -> anyhow::Result<()> {
        let run = RunningProcess { pid: std::process::id(), http, token: token.to_owned() };
        let (new, path) = (self.path.join("up.json.new"), self.path.join("up.json"));
        let write = || {
            let mut options = OpenOptions::new();
            options.create(true).truncate(true).write(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.open(&new)?.write_all(&serde_json::to_vec(&run)?)?;
            std::fs::rename(&new, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Who has the folder at this moment.
    pub fn holder(&self) -> Holder {
        let Ok(lock) = File::open(self.path.join("lock")) else { return Holder::Nobody };
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => self.read_run_file().map_or(Holder::Busy, Holder::Running),
            _ => Holder::Nobody,
        }
    }

    /// The `engram up` that holds the folder, if one does.
    pub fn running(&self) -> Option<RunningProcess> {
        match self.holder() {
            Holder::Running(running) => Some(running),
            Holder::Nobody | Holder::Busy => None,
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
