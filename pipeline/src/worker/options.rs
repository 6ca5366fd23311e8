//! What a worker is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use engram_schemas::registry::Registry;

use crate::clock::Clock;
use crate::committer::{CommitTimes, Overlap};
use crate::log::Log;
use crate::processor::Service;
use crate::snapshot::Snapshots;
use crate::standby::Standby;
use crate::status::WorkerStatus;
use crate::store::Budget;

/// RocksDB's memory, and that of the cache before each store, unless something else is wanted.
const STORES_BYTES: usize = 64 << 20;
const CACHE_BYTES_MAX: usize = 16 << 20;

/// What a commit promises (Kafka Streams' `processing.guarantee`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Outputs, state and positions are committed in one transaction (`exactly_once_v2`).
    ExactlyOnce,
    /// Positions follow the outputs: after a failure records may be processed again.
    AtLeastOnce,
}

/// When to commit, and how.
#[derive(Debug, Clone, Copy)]
pub struct CommitOptions {
    pub guarantee: Guarantee,
    pub interval: Duration,
    /// Commit earlier when so many records were processed,
    pub records_max: i64,
    /// or so many bytes were emitted. While a commit is under way, this bounds what waits for it, too.
    pub bytes_max: usize,
    pub overlap: Overlap,
}

impl Default for CommitOptions {
    fn default() -> Self {
        Self {
            guarantee: Guarantee::ExactlyOnce,
            interval: Duration::from_millis(100),
            records_max: 100_000,
            bytes_max: 16 << 20,
            overlap: Overlap::Thread,
        }
    }
}

/// Called after each commit with its records and the time that it took.
pub type OnCommit = Arc<dyn Fn(u64, CommitTimes) + Send + Sync>;

/// Everything a worker needs.
#[derive(Clone)]
pub struct WorkerOptions {
    pub service: Arc<Service>,
    pub log: Arc<dyn Log>,
    pub registry: Arc<dyn Registry>,
    pub clock: Clock,
    pub budget: Arc<Budget>,
    /// Folder of the service's stores.
    pub stores: PathBuf,
    /// Where the stores are copied to, and restored from.
    pub snapshots: Option<Arc<Snapshots>>,
    /// Warm copies of the tasks that others run.
    pub standby: Option<Arc<Standby>>,
    pub cache_bytes_max: usize,
    /// The consumer group; the service's name by default.
    pub group: String,
    /// Unique among all workers of the group, and the same after a restart: by it the log knows a worker again.
    pub instance: String,
    /// Static membership (KIP-345): a worker that comes back within the session timeout keeps its partitions.
    pub static_membership: bool,
    pub commit: CommitOptions,
    pub on_commit: Option<OnCommit>,
    pub stop: Arc<AtomicBool>,
    pub status: Arc<WorkerStatus>,
}

impl WorkerOptions {
    /// A service's workers as they are by default: in a group of its name, with dynamic membership and without copies of their
    /// stores.
    pub fn new(service: Arc<Service>, log: Arc<dyn Log>, registry: Arc<dyn Registry>, stores: PathBuf) -> Self {
        Self {
            group: service.name.to_owned(),
            instance: service.name.to_owned(),
            service,
            log,
            registry,
            clock: Clock::default(),
            budget: Arc::new(Budget::new(STORES_BYTES)),
            stores,
            snapshots: None,
            standby: None,
            cache_bytes_max: CACHE_BYTES_MAX,
            static_membership: false,
            commit: CommitOptions::default(),
            on_commit: None,
            stop: Arc::default(),
            status: Arc::default(),
        }
    }
}
