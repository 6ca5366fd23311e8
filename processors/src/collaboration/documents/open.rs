//! A document that a task has open: its replica, and what is derived from its updates.
//!
//! INVARIANT: an open document is what `Open::load` makes of the stores, whatever way it has come about. So that a replay,
//! or a task that was opened anew, does the same with the next edit, it is dropped whenever a checkpoint is written.

use engram_pipeline::processor::ProcessError;
use engram_pipeline::store::codec::{Codec, read_whole};
use engram_pipeline::store::{Order, Store, StoreError};
use engram_schemas::yjs::{Coverage, Outline, Relation};

use super::containers::Containers;
use super::head::{Head, StoredEdit, document_key, update_key};
use super::places::Places;
use super::projection;
use super::replica::{ApplyError, Replica};

/// A document in memory.
pub struct Open {
    pub head: Head,
    pub replica: Replica,
    pub coverage: Coverage,
    pub containers: Containers,
    pub places: Places,
    /// When it was last used, by the task's count of edits.
    pub used: u64,
}

impl Open {
    /// A document that has no edit yet.
    pub fn empty() -> Self {
        Self {
            head: Head::default(),
            replica: Replica::default(),
            coverage: Coverage::default(),
            containers: Containers::default(),
            places: Places::default(),
            used: 0,
        }
    }

    /// Makes a document of what is stored of it. The error tells why it cannot be made.
    pub fn load(head: Head, checkpoint: Option<&[u8]>, edits: &[(i64, StoredEdit)]) -> Result<Self, String> {
        let mut open = Self { head, ..Self::empty() };
        if let Some(checkpoint) = checkpoint {
            open.take(checkpoint).map_err(|error| format!("the checkpoint cannot be read: {error}"))?;
        }
        for (seq, edit) in edits {
            let wrong = |error: String| format!("edit {seq} cannot be applied: {error}");
            let outline = Outline::read(&edit.update).map_err(|error| wrong(error.to_string()))?;
            if *seq > open.head.checkpoint_seq {
                open.take(&edit.update).map_err(wrong)?;
            }
            open.places.add(&outline, *seq, &edit.actor);
        }
        Ok(open)
    }

    fn take(&mut self, update: &[u8]) -> Result<(), String> {
        let outline = Outline::read(update).map_err(|error| error.to_string())?;
        // What was accepted once is within the bounds of then.
        self.containers.add(&outline, u16::MAX).map_err(|error| error.to_string())?;
        self.replica.apply(update).map_err(|error| error.to_string())?;
        self.coverage.add(&outline);
        Ok(())
    }

    /// Applies an edit that was checked, and takes it in. On an error this document must be dropped.
    pub fn apply(&mut self, update: &[u8], outline: &Outline<'_>, actor: &str) -> Result<(), ApplyError> {
        debug_assert_eq!(self.coverage.relation(outline), Relation::New);
        self.replica.apply(update)?;
        self.coverage.add(outline);
        self.head.seq += 1;
        self.places.add(outline, self.head.seq, actor);
        for (name, kind) in projection::named_roots(outline) {
            if !self.head.roots.contains_key(name) {
                self.head.roots.insert(name.to_owned(), kind);
            }
        }
        Ok(())
    }

    /// Of the last checkpoint and the updates since.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.head.checkpoint_bytes + self.head.update_bytes).unwrap_or(usize::MAX)
    }
}

/// The head of a document; `None` if there is no such document.
pub fn read_head(documents: &mut Store, document: &str) -> Result<Option<Head>, ProcessError> {
    let stored = documents.get(&document_key(document))?;
    let read = |bytes: &[u8]| read_whole::<Head>(bytes).ok_or_else(|| damaged("documents", document));
    Ok(stored.map(read).transpose()?)
}

/// A document's edits after `seq`, in order.
pub fn read_edits(updates: &mut Store, document: &str, after: i64) -> Result<Vec<(i64, StoredEdit)>, ProcessError> {
    let mut edits = Vec::new();
    let mut seq = after;
    let mut is_damaged = false;
    updates.range(
        &update_key(document, after + 1),
        &update_key(document, i64::MAX),
        Order::Ascending,
        |_, mut value| {
            seq += 1;
            match StoredEdit::read(&mut value) {
                Some(edit) => edits.push((seq, edit)),
                None => is_damaged = true,
            }
            !is_damaged
        },
    )?;
    if is_damaged { Err(damaged("updates", document).into()) } else { Ok(edits) }
}

fn damaged(store: &str, document: &str) -> StoreError {
    StoreError::Damaged { path: format!("{store}/{document}"), reason: "an entry is not readable".to_owned() }
}
