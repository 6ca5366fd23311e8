//! How far a repository's documents are: one record per source in a compacted topic, written in the transaction of the edits
//! that it speaks of.

use std::collections::BTreeMap;

use engram_pipeline::log::Log;
use serde::{Deserialize, Serialize};

use super::super::IngestError;
use super::super::position::{damaged, read_values};

/// One partition; key: the source's name, value: a `Position` as JSON.
pub const TOPIC: &str = "engram-git-documents";

/// Where the documents are on their way along a line of commits. Ids are in hexadecimal digits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Of their ids.
    pub prefix: String,
    /// The documents are the files of this commit; `None` before the first.
    pub commit: Option<String>,
    /// The commit that is being written, where it is so large that it takes several transactions.
    #[serde(default)]
    pub begun: Option<String>,
    /// How many of its changes are in.
    #[serde(default)]
    pub changes: usize,
}

impl Position {
    /// Those of all sources that have documents.
    pub fn read_all(log: &dyn Log) -> Result<BTreeMap<String, Self>, IngestError> {
        let positions = read_values(log, TOPIC)?.into_iter().map(|(source, value)| {
            let position = serde_json::from_slice(&value);
            let position = position.map_err(|error| damaged(TOPIC, &source, error.to_string()))?;
            Ok((source, position))
        });
        positions.collect()
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and a number are valid JSON")
    }
}
