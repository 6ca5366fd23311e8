//! How large documents and their edits may be, and how often they are written down whole.

use serde::Deserialize;

/// `[collaboration]` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DocumentsConfig {
    /// Largest update that an edit may carry, bytes.
    pub update_bytes_max: usize,
    /// Largest document: its last checkpoint and the updates since, bytes.
    pub document_bytes_max: usize,
    /// How deeply shared types may be nested in each other.
    pub nesting_max: u16,
    /// Documents that a task keeps open.
    pub open_documents_max: usize,
    /// A document is written down whole once so many bytes of updates have come, and at least as many as it has.
    pub checkpoint_bytes: usize,
    /// `document.state` follows a document that changes all the time by so much, ms.
    pub state_delay_ms: u32,
    /// How often what was taken is committed, ms: how long an editor waits for its acknowledgement, and others for its edit.
    pub commit_interval_ms: u32,
}

impl Default for DocumentsConfig {
    fn default() -> Self {
        Self {
            update_bytes_max: 4 << 20,
            document_bytes_max: 8 << 20,
            nesting_max: 64,
            open_documents_max: 256,
            checkpoint_bytes: 64 << 10,
            state_delay_ms: 500,
            commit_interval_ms: 5,
        }
    }
}

impl DocumentsConfig {
    /// Refuses what cannot work; the error names the setting.
    pub fn check(&self) -> Result<(), String> {
        let largest = 16 << 20;
        for (name, value, range) in [
            ("update_bytes_max", self.update_bytes_max, 1 << 10..=largest),
            ("document_bytes_max", self.document_bytes_max, self.update_bytes_max..=largest),
            ("nesting_max", usize::from(self.nesting_max), 1..=1_000),
            ("open_documents_max", self.open_documents_max, 1..=100_000),
            ("checkpoint_bytes", self.checkpoint_bytes, 1..=largest),
            ("state_delay_ms", self.state_delay_ms as usize, 1..=3_600_000),
            ("commit_interval_ms", self.commit_interval_ms as usize, 1..=5_000),
        ] {
            if !range.contains(&value) {
                return Err(format!("collaboration.{name} is {value}: give {} to {}", range.start(), range.end()));
            }
        }
        Ok(())
    }
}
