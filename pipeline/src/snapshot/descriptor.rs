//! A snapshot's descriptor: what it is a snapshot of, and the files that it consists of. It is what makes a snapshot, and is
//! written last.
//!
//! INVARIANT: it carries a checksum of itself; one that does not fit, or is of another snapshot than its key says, is
//! refused before anything in it is used.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::SnapshotError;
use crate::manifest::LastCommit;

/// Raised when a reader of the version before would misunderstand it.
const VERSION: u32 = 1;

/// Fields in the order in which they are written; checksums and digest as 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    pub version: u32,
    pub log: String,
    pub service: String,
    pub partition: i32,
    /// Of the commit, as in its manifest.
    pub sequence: i64,
    pub digest: String,
    /// Next offset of the changelog to restore from.
    pub changelog_position: i64,
    /// Where the commit left the inputs, by topic; empty for a store that was rebuilt and has committed nothing since.
    pub inputs: BTreeMap<String, i64>,
    /// Names of the stores, by prefix.
    pub stores: Vec<String>,
    pub files: Vec<SnapshotFile>,
    /// Version of the Engram that took it.
    pub build: String,
    /// When the store was written last, and when this was taken: ms since the epoch.
    pub written_ms: i64,
    pub taken_ms: i64,
    /// Of this descriptor's JSON with an empty checksum.
    pub checksum: String,
}

/// One file of RocksDB.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFile {
    pub name: String,
    pub size: u64,
    /// xxh3-128.
    pub checksum: String,
}

impl SnapshotFile {
    /// The last part of its key.
    pub fn key(&self) -> String {
        format!("{}-{}", self.checksum, self.size)
    }
}

impl Descriptor {
    pub(super) fn version() -> u32 {
        VERSION
    }

    /// The last part of its key: sequences sort as numbers.
    pub fn key(&self) -> String {
        format!("{:020}-{}.json", self.sequence, self.digest)
    }

    /// Of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Whether it is a snapshot of that commit.
    pub(super) fn is_of(&self, commit: &LastCommit) -> bool {
        self.sequence == commit.sequence && self.digest == hex(u128::from_be_bytes(commit.digest))
    }

    /// Its JSON, with the checksum filled in.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let empty = Self { checksum: String::new(), ..self.clone() };
        let checksum = hex(xxh3_128(&empty.json()));
        Self { checksum, ..empty }.json()
    }

    /// `what` names it in errors; `key` is the last part of its key.
    pub(super) fn from_json(bytes: &[u8], what: &str, key: &str) -> Result<Self, SnapshotError> {
        let corrupt = |reason: String| SnapshotError::Corrupt { what: what.to_owned(), reason };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        if version > VERSION {
            let reason = format!("its version is {version}, this engram reads up to {VERSION}");
            return Err(SnapshotError::Unusable { what: what.to_owned(), reason });
        }
        let mut found: Self = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        let told = std::mem::take(&mut found.checksum);
        if told != hex(xxh3_128(&found.json())) {
            return Err(corrupt("its checksum does not fit".to_owned()));
        }
        found.checksum = told;
        if found.key() != key {
            return Err(corrupt(format!("it is the descriptor of {}", found.key())));
        }
        // The names become paths on this machine.
        if let Some(file) = found.files.iter().find(|file| !is_file_name(&file.name)) {
            return Err(corrupt(format!("{:?} is no file of RocksDB", file.name)));
        }
        Ok(found)
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers have a JSON form")
    }
}

/// What of a RocksDB folder belongs to a snapshot: the rest is its own log files and lock.
pub(super) fn is_file_name(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name == "CURRENT"
        || name.strip_suffix(".sst").is_some_and(is_number)
        || name.strip_prefix("MANIFEST-").is_some_and(is_number)
        || name.strip_prefix("OPTIONS-").is_some_and(is_number)
}

/// A checksum as it is written.
pub(super) fn hex(checksum: u128) -> String {
    format!("{checksum:032x}")
}
