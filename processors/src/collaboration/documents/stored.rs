//! A document from the stores of its task, as they are or were: for those who ask.

use engram_pipeline::replay::State;
use engram_pipeline::store::StoreError;
use engram_pipeline::store::codec::{Codec, read_whole};
use engram_schemas::document::DocumentState;
use thiserror::Error;

use super::super::at;
use super::head::{Head, StoredEdit, document_key, update_key};
use super::open::Open;
use super::projection;

/// Why a document cannot be shown.
#[derive(Debug, Error)]
pub enum StoredError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the document {document} is damaged: {reason}")]
    Damaged { document: String, reason: String },
}

/// A document as of the last edit that the stores have of it; `None` if they have none. `partition` is its task's.
pub fn stored(state: &mut dyn State, partition: i32, document: &str) -> Result<Option<DocumentState>, StoredError> {
    let damaged = |reason: &str| StoredError::Damaged { document: document.to_owned(), reason: reason.to_owned() };
    let key = document_key(document);
    let Some(head) = state.get(at::DOCUMENTS_STORE, &key)? else { return Ok(None) };
    let head: Head = read_whole(&head).ok_or_else(|| damaged("its head is not readable"))?;
    let checkpoint = state.get(at::CHECKPOINTS_STORE, &key)?;
    let mut edits = Vec::new();
    for seq in head.checkpoint_seq + 1..=head.seq {
        let stored = state.get(at::UPDATES_STORE, &update_key(document, seq))?;
        let edit = stored.as_deref().and_then(|mut bytes| StoredEdit::read(&mut bytes));
        edits.push((seq, edit.ok_or_else(|| damaged("an edit is not there"))?));
    }
    let open = Open::load(head, checkpoint.as_deref(), &edits).map_err(|reason| damaged(&reason))?;
    let roots = open.replica.roots(&open.head.roots);
    Ok(Some(DocumentState {
        document: document.to_owned(),
        seq: open.head.seq,
        partition,
        offset: open.head.offset,
        time: open.head.time,
        hash: projection::hash(&roots, &open.coverage),
        roots: serde_json::to_string(&roots).expect("JSON can be written"),
        state: open.replica.state(),
    }))
}
