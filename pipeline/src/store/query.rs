//! Reading a store from outside its task, at any time, without disturbing it: what RocksDB has on disk, and on top of it
//! what the changelog has since then. That is exactly the committed state, whether the service runs or not.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Files, StoreError};
use crate::changelog;
use crate::log::{Log, TopicPartition};

/// RocksDB may delete a file between naming it in its manifest and our opening it: then another look helps.
const OPEN_TRIES: usize = 5;

/// One task's committed state at one moment.
pub struct Query {
    /// `None`: the task has no files here, all comes from the changelog.
    files: Option<Files>,
    newer: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    position: i64,
}

impl Query {
    /// `path` is the task's folder; `scratch` an empty folder for RocksDB's own log files, removed by the caller.
    ///
    /// Memory: the changelog's records since the last flush of the files, one a key.
    pub fn open(log: &dyn Log, changelog: &TopicPartition, path: &Path, scratch: &Path) -> Result<Self, StoreError> {
        let files = open_files(path, scratch)?;
        let range = log.offsets(std::slice::from_ref(changelog))?[0];
        let start = files.as_ref().map_or(Ok(0), Files::position)?.max(range.first);
        let mut newer = BTreeMap::new();
        let position = changelog::read(log, changelog, start, range.stable, |_, key, value| {
            newer.insert(key.to_vec(), value.map(<[u8]>::to_vec));
            Ok(())
        })?;
        Ok(Self { files, newer, position })
    }

    /// What is on disk here, of a running task or a standby, as it is: without asking its changelog for more. Also returns
    /// how many offsets of the changelog it is behind; `None`: nothing of the task is here.
    pub fn open_stale(
        log: &dyn Log,
        changelog: &TopicPartition,
        path: &Path,
        scratch: &Path,
    ) -> Result<(Self, Option<i64>), StoreError> {
        let Some(files) = open_files(path, scratch)? else {
            return Ok((Self { files: None, newer: BTreeMap::new(), position: 0 }, None));
        };
        let position = files.position()?;
        let range = log.offsets(std::slice::from_ref(changelog))?[0];
        let behind = (range.stable - position.max(range.first)).max(0);
        Ok((Self { files: Some(files), newer: BTreeMap::new(), position }, Some(behind)))
    }

    /// The changelog position of this state.
    pub fn position(&self) -> i64 {
        self.position
    }

    pub fn get(&self, prefix: u8, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let full = [&[prefix], key].concat();
        match (self.newer.get(&full), &self.files) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(files)) => files.get(&full),
            (None, None) => Ok(None),
        }
    }

    /// Visits a store's entries in key order, until `visit` returns false.
    pub fn all(&self, prefix: u8, mut visit: impl FnMut(&[u8], &[u8]) -> bool) -> Result<(), StoreError> {
        let mut newer = self.newer.range(vec![prefix]..vec![prefix + 1]).peekable();
        let stored = self.files.iter().flat_map(|files| files.all(prefix));
        for entry in stored {
            let (key, value) = entry?;
            while let Some((fresh, fresh_value)) = newer.next_if(|(fresh, _)| fresh.as_slice() < &*key) {
                if fresh_value.as_ref().is_some_and(|fresh_value| !visit(&fresh[1..], fresh_value)) {
                    return Ok(());
                }
            }
            let go_on = match newer.next_if(|(fresh, _)| fresh.as_slice() == &*key) {
                Some((_, fresh_value)) => fresh_value.as_ref().is_none_or(|fresh_value| visit(&key[1..], fresh_value)),
                None => visit(&key[1..], &value),
            };
            if !go_on {
                return Ok(());
            }
        }
        for (fresh, fresh_value) in newer {
            if fresh_value.as_ref().is_some_and(|fresh_value| !visit(&fresh[1..], fresh_value)) {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn open_files(path: &Path, scratch: &Path) -> Result<Option<Files>, StoreError> {
    if !path.join("CURRENT").exists() {
        return Ok(None);
    }
    let mut tries = 1;
    loop {
        match Files::open_beside(path, scratch) {
            Err(StoreError::Damaged { .. }) if tries < OPEN_TRIES => tries += 1,
            outcome => return outcome.map(Some),
        }
    }
}
