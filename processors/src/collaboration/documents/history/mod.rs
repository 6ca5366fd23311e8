//! A document's history: who wrote what is there, the undoing of what somebody did, and the way back from a branch.
//!
//! It is made of the sequenced edits, from the first on: what a checkpoint has forgotten is still in them.
//!
//! ```text
//! edits -> blame       the text by author
//!       -> rollback    an update that undoes some of them
//!       -> state       the document
//! two states -> merge  an update with what one has and the other lacks
//! ```
//!
//! INVARIANT: nothing here changes a document. What comes of it is an update, to be written to the log as any other edit.

mod blame;
mod branch;
mod rollback;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use engram_schemas::document::{DocumentState, SequencedEdit};
use engram_schemas::yjs::{Coverage, Outline};
use thiserror::Error;

pub use blame::Blamed;
pub use branch::merge;
pub use rollback::{Rollback, Selection};

use super::projection::{self, RootKind};
use super::replica::{ApplyError, Replica};

/// The purposes of edits that are made here.
pub const ROLLBACK: &str = "rollback";
pub const BRANCH: &str = "branch";
pub const MERGE: &str = "merge";

/// Why nothing can be made of a history.
#[derive(Debug, Error)]
pub enum HistoryError {
    #[error("edit {seq} comes where edit {expected} should")]
    Gap { expected: i64, seq: i64 },
    #[error("edit {seq} cannot be applied")]
    Damaged { seq: i64, source: ApplyError },
    #[error("a state cannot be read")]
    State(#[source] ApplyError),
    #[error("what came of it does not fit the document")]
    Unfit,
}

/// The edits of a document until some moment, in order: from number 1, without a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    edits: Vec<SequencedEdit>,
}

impl History {
    pub fn new(edits: Vec<SequencedEdit>) -> Result<Self, HistoryError> {
        let numbers = edits.iter().map(|edit| edit.seq);
        match (1_i64..).zip(numbers).find(|(expected, seq)| expected != seq) {
            Some((expected, seq)) => Err(HistoryError::Gap { expected, seq }),
            None => Ok(Self { edits }),
        }
    }

    pub fn edits(&self) -> &[SequencedEdit] {
        &self.edits
    }

    /// The document after its last edit; `None` without any.
    pub fn state(&self) -> Result<Option<DocumentState>, HistoryError> {
        let Some(last) = self.edits.last() else { return Ok(None) };
        let replica = self.replica()?;
        let roots = replica.roots(&self.roots());
        Ok(Some(DocumentState {
            document: last.document.clone(),
            seq: last.seq,
            partition: last.partition,
            offset: last.offset,
            time: last.time,
            hash: projection::hash(&roots, &self.coverage()),
            roots: serde_json::to_string(&roots).expect("JSON can be written"),
            state: replica.state(),
        }))
    }

    fn replica(&self) -> Result<Replica, HistoryError> {
        let mut replica = Replica::default();
        for edit in &self.edits {
            let damaged = |source| HistoryError::Damaged { seq: edit.seq, source };
            replica.apply(&edit.update).map_err(damaged)?;
        }
        Ok(replica)
    }

    /// The outlines of the edits, each with its index. What is unreadable fails when it is applied.
    fn outlines(&self) -> impl Iterator<Item = (usize, Outline<'_>)> {
        let edits = self.edits.iter().enumerate();
        edits.filter_map(|(index, edit)| Some((index, Outline::read(&edit.update).ok()?)))
    }

    fn coverage(&self) -> Coverage {
        let mut coverage = Coverage::default();
        self.outlines().for_each(|(_, outline)| coverage.add(&outline));
        coverage
    }

    /// What each root is: as for the document itself, what was said of it first.
    fn roots(&self) -> BTreeMap<String, RootKind> {
        let mut roots = BTreeMap::new();
        for (_, outline) in self.outlines() {
            for (name, kind) in projection::named_roots(&outline) {
                roots.entry(name.to_owned()).or_insert(kind);
            }
        }
        roots
    }
}
