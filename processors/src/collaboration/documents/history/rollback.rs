//! Undoing edits by one edit more, as an editor's undo does it: what they inserted is deleted, and what they deleted is
//! inserted again beside where it was. Others' edits since then stay.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use engram_schemas::document::SequencedEdit;
use engram_schemas::yjs::{Coverage, Outline, Relation};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;
use yrs::undo::{Options as UndoOptions, UndoManager};
use yrs::{Doc, Options, Origin, Transact, merge_updates_v1};

use super::super::projection::{self, RootKind};
use super::super::replica;
use super::{History, HistoryError, ROLLBACK};

/// The origin of what is to be undone.
const UNDONE: &str = "undone";

/// Edits to be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Selection {
    /// All of somebody, or those that they made at some time (ms since the epoch, UTC) or later.
    Actor {
        actor: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<i64>,
    },
    /// Those with these numbers, both included.
    Range { from_seq: i64, to_seq: i64 },
}

impl Selection {
    /// Whether it selects an edit.
    pub fn has(&self, edit: &SequencedEdit) -> bool {
        match self {
            Self::Actor { actor, since } => edit.actor == *actor && since.is_none_or(|since| edit.time >= since),
            Self::Range { from_seq, to_seq } => (*from_seq..=*to_seq).contains(&edit.seq),
        }
    }
}

/// What a rollback writes into its edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    pub update: Vec<u8>,
    /// Which edits it undoes: the edit's `source`, by which a later rollback knows what is undone already.
    pub source: String,
}

/// A selection among the edits that there were.
#[derive(Debug, Serialize, Deserialize)]
struct Source {
    until_seq: i64,
    undone: Selection,
}

impl History {
    /// Undoes the selected edits that are not undone already; `None` if that changes nothing. `id` is the new edit's: no other
    /// rollback has it, and so none inserts as the same client.
    pub fn rollback(&self, selection: &Selection, id: &str) -> Result<Option<Rollback>, HistoryError> {
        let undone = self.undone();
        let selected = |edit: &SequencedEdit| selection.has(edit) && !undone.contains(&edit.seq);
        if !self.edits.iter().any(selected) {
            return Ok(None);
        }
        let coverage = self.coverage();
        let past = Past::new(self, fresh_client(self, &coverage, id));
        for edit in &self.edits {
            past.apply(edit, selected(edit))?;
        }
        let Some((update, doc)) = past.undo()? else { return Ok(None) };
        let outline = Outline::read(&update).map_err(|_| HistoryError::Unfit)?;
        match coverage.relation(&outline) {
            Relation::Known => return Ok(None),
            Relation::Missing(_) => return Err(HistoryError::Unfit),
            Relation::New => {}
        }
        self.check(&update, &doc)?;
        let source = Source { until_seq: self.edits.len() as i64, undone: selection.clone() };
        let source = serde_json::to_string(&source).expect("JSON can be written");
        Ok(Some(Rollback { update, source }))
    }

    /// The edits that are undone: by rollbacks that are not undone themselves.
    ///
    /// SUBTLE: whoever may write edits of any kind can say of one that it is a rollback, and so keep others from theirs. The
    /// history shows it, and to roll that one back ends it.
    fn undone(&self) -> HashSet<i64> {
        let mut undone = HashSet::new();
        for edit in self.edits.iter().rev().filter(|edit| edit.purpose == ROLLBACK) {
            if undone.contains(&edit.seq) {
                continue;
            }
            let Ok(source) = serde_json::from_str::<Source>(&edit.source) else { continue };
            let before = self.edits.iter().take_while(|before| before.seq <= source.until_seq.min(edit.seq - 1));
            undone.extend(before.filter(|before| source.undone.has(before)).map(|before| before.seq));
        }
        undone
    }

    /// The document, which has forgotten what was deleted, must become by the update what the one has become that has not.
    fn check(&self, update: &[u8], expected: &Doc) -> Result<(), HistoryError> {
        let (mut replica, kinds) = (self.replica()?, self.roots());
        replica.apply(update).map_err(|_| HistoryError::Unfit)?;
        let expected = projection::roots(&expected.transact(), &kinds);
        if replica.roots(&kinds) == expected { Ok(()) } else { Err(HistoryError::Unfit) }
    }
}

/// A client that has inserted nothing yet. Yjs counts them with 32 bits.
fn fresh_client(history: &History, coverage: &Coverage, id: &str) -> u64 {
    let document = history.edits.last().map_or("", |edit| edit.document.as_str());
    let mut tries = 0_u64..;
    let hash = |attempt: u64| xxh3_64(format!("{document}\n{id}\n{attempt}").as_bytes()) & u64::from(u32::MAX);
    let mut clients = tries.by_ref().map(hash).filter(|client| *client != 0 && coverage.next(*client) == 0);
    clients.next().expect("few of four billion clients are in use")
}

/// A document that forgets nothing, and what may be undone in it.
struct Past {
    undo: UndoManager<()>,
    doc: Doc,
}

impl Past {
    fn new(history: &History, client: u64) -> Self {
        let doc = Doc::with_options(Options { skip_gc: true, ..replica::options(client) });
        let mut undo = UndoManager::with_options(UndoOptions {
            // All of it is one step, whenever it was made.
            capture_timeout_millis: u64::MAX,
            timestamp: Arc::new(|| 1),
            tracked_origins: HashSet::from([Origin::from(UNDONE)]),
            capture_transaction: None,
            init_undo_stack: Vec::new(),
            init_redo_stack: Vec::new(),
        });
        for (name, kind) in history.roots() {
            match kind {
                RootKind::Text => undo.expand_scope(&doc, &doc.get_or_insert_text(name)),
                RootKind::Array => undo.expand_scope(&doc, &doc.get_or_insert_array(name)),
                RootKind::Map => undo.expand_scope(&doc, &doc.get_or_insert_map(name)),
                RootKind::Xml => undo.expand_scope(&doc, &doc.get_or_insert_xml_fragment(name)),
            }
        }
        Self { undo, doc }
    }

    fn apply(&self, edit: &SequencedEdit, is_undone: bool) -> Result<(), HistoryError> {
        let transaction = if is_undone { self.doc.transact_mut_with(UNDONE) } else { self.doc.transact_mut() };
        let damaged = |source| HistoryError::Damaged { seq: edit.seq, source };
        replica::apply(&edit.update, transaction).map_err(damaged)
    }

    /// Undoes it; the update that did it, and the document as it is then.
    fn undo(self) -> Result<Option<(Vec<u8>, Doc)>, HistoryError> {
        let Self { mut undo, doc } = self;
        let written = Arc::new(Mutex::new(Vec::new()));
        let updates = Arc::clone(&written);
        let observed = doc.observe_update_v1("rollback", move |_, event| {
            updates.lock().unwrap_or_else(PoisonError::into_inner).push(event.update.clone());
        });
        observed.map_err(|_| HistoryError::Unfit)?;
        let is_undone = catch_unwind(AssertUnwindSafe(|| while undo.can_undo() && undo.undo_blocking() {}));
        is_undone.map_err(|_| HistoryError::Unfit)?;
        let updates = std::mem::take(&mut *written.lock().unwrap_or_else(PoisonError::into_inner));
        if updates.is_empty() {
            return Ok(None);
        }
        let update = merge_updates_v1(updates).map_err(|_| HistoryError::Unfit)?;
        drop(undo);
        Ok(Some((update, doc)))
    }
}
