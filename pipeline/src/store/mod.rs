//! A task's stores: keyed state, read and written by its processor, backed by a changelog topic.
//!
//! ```text
//! get/put -> cache (dirty and clean entries) -> RocksDB
//!                  | prepare: dirty entries become changelog records of the transaction
//!                  | committed: dirty entries + changelog position, one write batch, no WAL
//!                  | aborted: dirty entries are dropped
//! ```
//!
//! A replay's stores may be that cache alone, which then also knows what entries were before.
//!
//! INVARIANT: RocksDB never holds uncommitted data. It may lag behind the changelog, by what had not been flushed when
//! the process died, and catches up from its stored position. It is never wiped.

mod cache;
pub mod codec;
mod files;
mod query;
mod run;
#[cfg(test)]
mod tests;
mod timed;

use thiserror::Error;

use crate::log::LogError;

pub use cache::{Order, Store, Trace};
pub use files::{Budget, Changes, Files, Pinned};
pub use query::Query;
pub use run::Run;
pub(crate) use timed::unreadable;
pub use timed::{Due, TimedStore};

/// An error of the stores.
#[derive(Debug, Error)]
pub enum StoreError {
    /// What is on disk cannot be read or does not fit its log: stop and tell the user. Nothing is deleted.
    #[error("the store in {path} cannot be used: {reason}")]
    Damaged { path: String, reason: String },
    /// No room on the device: stop, start again when there is.
    #[error("no space left on the device that holds {path}: free some space, then start again; nothing was lost")]
    Full { path: String },
    /// Another process has it open.
    #[error("the store in {path} is in use by another process: stop it, or give another data folder")]
    InUse { path: String },
    /// The changelog failed while the store was being restored.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Key and value, of their own.
pub type OwnedEntry = (Vec<u8>, Vec<u8>);

/// What a store holds.
#[derive(Clone)]
pub struct StoreSpec {
    pub name: &'static str,
    /// Renders an entry for people: (key, value) as JSON. Called with what the processor has written only.
    pub describe: fn(&[u8], &[u8]) -> (serde_json::Value, serde_json::Value),
    /// Where the entry with this key is, the key being as `describe` shows it. `None` if this is no whole key or the service
    /// cannot tell: then all entries of all tasks are looked at.
    pub locate: fn(&serde_json::Value) -> Option<Place>,
}

impl StoreSpec {
    pub fn new(name: &'static str, describe: fn(&[u8], &[u8]) -> (serde_json::Value, serde_json::Value)) -> Self {
        Self { name, describe, locate: |_| None }
    }
}

/// Where an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The entry's key in its store.
    pub key: Vec<u8>,
    /// The record key by which its task is found, as a partition is (`partitioner::partition_for`).
    pub routed_by: Vec<u8>,
}

/// First byte of a key in RocksDB and in the changelog.
///
/// ```text
/// 0x00 "position"        next offset of the changelog to restore from (i64, big endian); RocksDB only
/// 0x00 "written"         when that was (ms since the epoch, i64, big endian); RocksDB only
/// 0x00 "inputs"          where commit (sequence, by topic) left the inputs, JSON; RocksDB only
/// 0x00 "commit"          sequence and digest of the last commit, see `manifest`
/// 0x01.. key             entry of the first, second, ... store
/// ```
pub const META: u8 = 0;

/// The prefix of the `index`-th store's keys.
pub fn prefix(index: usize) -> u8 {
    u8::try_from(index + 1).expect("a service has fewer than 255 stores")
}
