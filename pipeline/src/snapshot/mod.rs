//! Snapshots: copies of tasks' stores in an object store, from which a task is restored where it has no files of its own.
//!
//! ```text
//! running task: Files --checkpoint (hard links)--> files that are new --> then its descriptor      (take)
//! empty folder: newest usable descriptor --> its files, checked --> the task's folder, by one rename (restore)
//!               then the tail of the changelog, as ever
//! ```
//!
//! Keys, under the configured URL:
//!
//! ```text
//! LOG/SERVICE/PARTITION/files/CHECKSUM-SIZE               a file of RocksDB, named by what is in it (xxh3-128)
//! LOG/SERVICE/PARTITION/snapshots/SEQUENCE-DIGEST.json    a descriptor, named by its commit's manifest; put last
//! ```
//!
//! LOG is the log's id, so that stores of different logs never mix. Files are shared by the snapshots that name them and are
//! uploaded once. A zombie and its successor may upload at the same time: equal keys have equal contents, or, of
//! descriptors, are the same commit.
//!
//! INVARIANT: a descriptor is there only after all files that it names, and no file is deleted while one names it. What is
//! read is used only after its checksum has been checked.

mod descriptor;
mod objects;
mod prune;
mod restore;
mod take;
mod task;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use thiserror::Error;

use crate::clock::Clock;
use crate::store::{Files, StoreError};

pub use descriptor::{Descriptor, SnapshotFile};
pub use objects::Objects;
pub use prune::{Policy, Pruned};
pub use take::Taken;
pub use task::TaskSnapshots;
pub use turns::Turns;

/// An error of the snapshots. None of them stops a service: its changelog has everything.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// Try again later.
    #[error("cannot {doing}")]
    ObjectStore { doing: String, source: object_store::Error },
    /// What is stored is not what was stored: use another snapshot.
    #[error("{what} is damaged: {reason}")]
    Corrupt { what: String, reason: String },
    /// It cannot be used here, though others may.
    #[error("{what} cannot be used: {reason}")]
    Unusable { what: String, reason: String },
    /// The caller asked for something that cannot be; it says what to change.
    #[error("{0}")]
    Refused(String),
    /// On this machine's disk.
    #[error("cannot {doing}")]
    Disk { doing: String, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SnapshotError {
    pub(crate) fn disk(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        |source| Self::Disk { doing, source }
    }
}

/// The snapshots of a service's tasks.
pub struct Snapshots {
    objects: Arc<Objects>,
    log_id: String,
    service: String,
    /// Names of its stores.
    stores: Vec<String>,
    /// Folder of the service's stores on this machine.
    folder: PathBuf,
    policy: Policy,
    clock: Clock,
    /// Those that run in this process.
    running: Mutex<BTreeMap<i32, Weak<Files>>>,
    /// What was uploaded of each task, and held while one is: one upload at a time.
    taking: Mutex<BTreeMap<i32, take::Known>>,
}

impl Snapshots {
    /// `folder` is the one of the service's stores.
    pub fn new(
        objects: Arc<Objects>,
        log_id: &str,
        service: &str,
        stores: Vec<String>,
        folder: PathBuf,
        policy: Policy,
        clock: Clock,
    ) -> Self {
        Self {
            objects,
            log_id: log_id.to_owned(),
            service: service.to_owned(),
            stores,
            folder,
            policy,
            clock,
            running: Mutex::default(),
            taking: Mutex::default(),
        }
    }

    pub fn service(&self) -> &str {
        &self.service
    }

    /// Those of one task.
    pub fn of(&self, partition: i32) -> TaskSnapshots<'_> {
        TaskSnapshots::new(&self.objects, &self.log_id, &self.service, partition)
    }

    /// The partitions that have any.
    pub fn partitions(&self) -> Result<Vec<i32>, SnapshotError> {
        let folders = self.objects.folders(&format!("{}/{}", self.log_id, self.service))?;
        let mut partitions: Vec<i32> = folders.iter().filter_map(|name| name.parse().ok()).collect();
        partitions.sort_unstable();
        Ok(partitions)
    }

    /// From now on this task takes part, until its files are closed.
    pub fn watch(&self, partition: i32, files: &Arc<Files>) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, Arc::downgrade(files));
    }

    /// The tasks that run here.
    pub fn running(&self) -> Vec<i32> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, files| files.strong_count() > 0);
        running.keys().copied().collect()
    }

    /// Deletes all snapshots of the service: its history begins anew.
    pub fn delete_all(&self) -> Result<(), SnapshotError> {
        // Descriptors first: none may name what is gone.
        let prefix = format!("{}/{}", self.log_id, self.service);
        let (descriptors, files): (Vec<_>, Vec<_>) =
            self.objects.list(&prefix)?.into_iter().partition(|object| object.key.ends_with(".json"));
        for object in descriptors.iter().chain(&files) {
            self.objects.delete(&object.key)?;
        }
        Ok(())
    }
}
