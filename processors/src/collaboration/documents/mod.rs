//! Documents: `document.edits` -> `document.sequenced`, `.state`, `.conflicts`, `.rejects`.
//!
//! ```text
//! an edit -> its outline -> known already, builds on what is not there, too large, ...: document.rejects
//!                        -> applied to the replica -> numbered, stored, document.sequenced
//! ```
//!
//! An edit is told to others, and by that acknowledged, once the transaction that carries its `document.sequenced` record
//! has committed. One that comes again, after a connection was lost, is known by its clients' clocks.

mod config;
mod containers;
mod head;
pub mod history;
mod open;
mod places;
pub mod projection;
pub mod replica;
mod stored;

use std::collections::HashMap;

use engram_pipeline::processor::{Context, Input, ProcessError, TaskSetup};
use engram_pipeline::store::codec::to_bytes;
use engram_pipeline::timers::{Timer, TimerClock};
use engram_schemas::Event;
use engram_schemas::codec::{Decoder, EncodeError, Encoder};
use engram_schemas::document::{DocumentState, Edit, EditConflict, EditRejected, SequencedEdit};
use engram_schemas::registry::Registry;
use engram_schemas::yjs::{Outline, Relation};

use super::at;
pub use config::DocumentsConfig;
use containers::Misplaced;
pub use head::{Head, StoredEdit, document_key, stores, update_key};
use open::Open;
pub use stored::{StoredError, stored};

/// The timer that tells a document's state.
pub const STATE: u16 = 1;

/// The purpose of an edit that tells all that its author has, as an editor does when it connects.
pub const SYNC: &str = "sync";

/// The documents of a task.
pub struct Documents {
    config: DocumentsConfig,
    decoder: Decoder,
    sequenced: Encoder<SequencedEdit>,
    states: Encoder<DocumentState>,
    conflicts: Encoder<EditConflict>,
    rejects: Encoder<EditRejected>,
    open: HashMap<String, Open>,
    /// Edits so far, by which the document is known that was not used for longest.
    edits: u64,
    buffer: Vec<u8>,
}

/// What becomes of an edit.
enum Verdict {
    /// It is part of its document now.
    Sequenced {
        seq: i64,
        conflicts: Vec<EditConflict>,
    },
    /// It was so already, and nobody waits to hear that.
    Known,
    Refused {
        cause: &'static str,
        detail: String,
    },
}

impl Documents {
    pub fn new(config: &DocumentsConfig, setup: &TaskSetup) -> Result<Self, ProcessError> {
        Ok(Self {
            config: *config,
            decoder: Decoder::new(setup.registry.clone()),
            sequenced: encoder(&*setup.registry, super::DOCUMENT_SEQUENCED)?,
            states: encoder(&*setup.registry, super::DOCUMENT_STATE)?,
            conflicts: encoder(&*setup.registry, super::DOCUMENT_CONFLICTS)?,
            rejects: encoder(&*setup.registry, super::DOCUMENT_REJECTS)?,
            open: HashMap::new(),
            edits: 0,
            buffer: Vec::new(),
        })
    }

    /// Takes an edit. What is wrong with it is an event of its own, as its sender has to know; only what is no edit at all
    /// is an error.
    pub fn edit(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let value = input.record.value.ok_or_else(|| ProcessError::reject("null-value", "an edit has a value"))?;
        let edit: Edit = self.decoder.decode(value)?;
        if input.record.key != Some(edit.document.as_bytes()) {
            return Err(ProcessError::reject("wrong-key", "the key is not the edit's document"));
        }
        let offset = input.record.offset;
        match self.take(&edit, offset, context)? {
            Verdict::Sequenced { seq, conflicts } => self.tell(edit, seq, offset, &conflicts, context),
            Verdict::Known => Ok(()),
            Verdict::Refused { cause, detail } => self.reject(edit, offset, cause, detail, context),
        }
    }

    fn take(&mut self, edit: &Edit, offset: i64, context: &mut Context<'_>) -> Result<Verdict, ProcessError> {
        let refused = |cause, detail: String| Ok(Verdict::Refused { cause, detail });
        if edit.update.len() > self.config.update_bytes_max {
            let detail =
                format!("the update has {} bytes, {} are allowed", edit.update.len(), self.config.update_bytes_max);
            return refused("too-large", detail);
        }
        let outline = match Outline::read(&edit.update) {
            Ok(outline) => outline,
            Err(error) => return refused("malformed-update", error.to_string()),
        };
        if let Err(reason) = self.open(&edit.document, context)? {
            return refused("quarantined", reason);
        }
        let open = self.open.get_mut(&edit.document).expect("opened above");
        match open.coverage.relation(&outline) {
            // Its sender waits for an acknowledgement; one that has told all that it has does not.
            Relation::Known if edit.purpose == SYNC => return Ok(Verdict::Known),
            Relation::Known => return refused("known", "all of it is part of the document".to_owned()),
            Relation::Missing(id) => {
                let known = open.coverage.next(id.client);
                let detail = format!("it builds on client {} at {}, which is known until {known}", id.client, id.clock);
                return refused("missing-causes", detail);
            }
            Relation::New => {}
        }
        if open.bytes() + edit.update.len() > self.config.document_bytes_max {
            let detail = format!("the document would have more than {} bytes", self.config.document_bytes_max);
            return refused("too-large", detail);
        }
        match open.containers.add(&outline, self.config.nesting_max) {
            Ok(()) => {}
            Err(Misplaced::TooDeep) => {
                let detail = format!("shared types are nested more than {} deep", self.config.nesting_max);
                return refused("too-deep", detail);
            }
            Err(misplaced) => return refused("malformed-update", misplaced.to_string()),
        }
        let conflicts = open.places.conflicts(&outline, &open.coverage, edit.purpose == SYNC);
        if let Err(error) = open.apply(&edit.update, &outline, &edit.actor) {
            self.open.remove(&edit.document);
            return self.after_failure(edit, &error.to_string(), context);
        }
        open.head.offset = offset;
        open.head.time = edit.time;
        open.head.update_bytes += edit.update.len() as i64;
        let seq = open.head.seq;
        let conflicts = conflicts
            .into_iter()
            .map(|conflict| EditConflict {
                document: edit.document.clone(),
                kind: conflict.kind.name().to_owned(),
                seq,
                actor: edit.actor.clone(),
                partition: context.partition(),
                offset,
                other_seq: conflict.other_seq,
                other_actor: open.places.actor(conflict.other_seq).to_owned(),
                winner: match (conflict.kind, conflict.later_wins) {
                    (places::Kind::Value, true) => seq,
                    (places::Kind::Value, false) => conflict.other_seq,
                    _ => 0,
                },
                root: conflict.root,
                key: conflict.key,
            })
            .collect();
        self.store(edit, offset, context)?;
        Ok(Verdict::Sequenced { seq, conflicts })
    }

    /// An update that could not be applied is refused; a document that cannot be opened any more takes no edits.
    fn after_failure(&mut self, edit: &Edit, detail: &str, context: &mut Context<'_>) -> Result<Verdict, ProcessError> {
        tracing::warn!(document = edit.document, edit = edit.id, detail, "an edit was refused");
        Ok(match self.open(&edit.document, context)? {
            Ok(()) => Verdict::Refused { cause: "failed", detail: detail.to_owned() },
            Err(reason) => Verdict::Refused { cause: "quarantined", detail: reason },
        })
    }

    /// Opens a document, unless it is open. Tells why it takes no edits, if it does not.
    fn open(&mut self, document: &str, context: &mut Context<'_>) -> Result<Result<(), String>, ProcessError> {
        self.edits += 1;
        if let Some(open) = self.open.get_mut(document) {
            open.used = self.edits;
            return Ok(Ok(()));
        }
        let Some(head) = open::read_head(context.store(at::DOCUMENTS_STORE), document)? else {
            self.keep_open(document, Open::empty());
            return Ok(Ok(()));
        };
        if !head.quarantine.is_empty() {
            return Ok(Err(head.quarantine));
        }
        let edits = open::read_edits(context.store(at::UPDATES_STORE), document, head.checkpoint_before)?;
        let checkpoint = context.store(at::CHECKPOINTS_STORE).get(&document_key(document))?;
        match Open::load(head.clone(), checkpoint, &edits) {
            Ok(open) => {
                self.keep_open(document, open);
                Ok(Ok(()))
            }
            Err(reason) => {
                tracing::error!(document, reason, "the document is quarantined");
                let head = Head { quarantine: reason.clone(), ..head };
                context.store(at::DOCUMENTS_STORE).put(&document_key(document), &to_bytes(&head))?;
                Ok(Err(reason))
            }
        }
    }

    fn keep_open(&mut self, document: &str, mut open: Open) {
        if self.open.len() >= self.config.open_documents_max {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.used).map(|(document, _)| document.clone());
            oldest.and_then(|document| self.open.remove(&document));
        }
        open.used = self.edits;
        self.open.insert(document.to_owned(), open);
    }

    fn store(&mut self, edit: &Edit, offset: i64, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let open = self.open.get_mut(&edit.document).expect("it was just edited");
        let head = &mut open.head;
        let (key, document) = (update_key(&edit.document, head.seq), document_key(&edit.document));
        let stored = StoredEdit { actor: edit.actor.clone(), offset, time: edit.time, update: edit.update.clone() };
        context.store(at::UPDATES_STORE).put(&key, &to_bytes(&stored))?;
        if !head.state_is_due {
            head.state_is_due = true;
            let due = context.wall_clock_ms() + i64::from(self.config.state_delay_ms);
            context.schedule(TimerClock::WallClock, STATE, edit.document.as_bytes(), due)?;
        }
        let enough = (self.config.checkpoint_bytes as i64).max(head.checkpoint_bytes);
        let is_checkpoint = head.update_bytes >= enough;
        if is_checkpoint {
            let state = open.replica.state();
            for seq in head.checkpoint_before + 1..=head.checkpoint_seq {
                context.store(at::UPDATES_STORE).delete(&update_key(&edit.document, seq))?;
            }
            head.checkpoint_before = head.checkpoint_seq;
            head.checkpoint_seq = head.seq;
            head.checkpoint_bytes = state.len() as i64;
            head.update_bytes = 0;
            context.store(at::CHECKPOINTS_STORE).put(&document, &state)?;
        }
        context.store(at::DOCUMENTS_STORE).put(&document, &to_bytes(&*head))?;
        if is_checkpoint {
            self.open.remove(&edit.document);
        }
        Ok(())
    }

    fn tell(
        &mut self,
        edit: Edit,
        seq: i64,
        offset: i64,
        conflicts: &[EditConflict],
        context: &mut Context<'_>,
    ) -> Result<(), ProcessError> {
        let Edit { id, time, document, actor, session, update, source, purpose } = edit;
        let partition = context.partition();
        let sequenced =
            SequencedEdit { document, seq, id, time, actor, session, update, partition, offset, source, purpose };
        let key = sequenced.document.as_bytes();
        self.sequenced.encode(&sequenced, &mut self.buffer).map_err(unwritable)?;
        context.emit(at::OUT_SEQUENCED, key, Some(&self.buffer))?;
        for conflict in conflicts {
            self.conflicts.encode(conflict, &mut self.buffer).map_err(unwritable)?;
            context.emit(at::OUT_CONFLICTS, key, Some(&self.buffer))?;
        }
        Ok(())
    }

    fn reject(
        &mut self,
        edit: Edit,
        offset: i64,
        cause: &'static str,
        detail: String,
        context: &mut Context<'_>,
    ) -> Result<(), ProcessError> {
        metrics::counter!("engram_document_edits_rejected_total", "cause" => cause).increment(1);
        let rejected = EditRejected {
            id: edit.id,
            time: edit.time,
            actor: edit.actor,
            session: edit.session,
            cause: cause.to_owned(),
            detail,
            partition: context.partition(),
            offset,
            document: edit.document,
        };
        self.rejects.encode(&rejected, &mut self.buffer).map_err(unwritable)?;
        context.emit(at::OUT_REJECTS, rejected.document.as_bytes(), Some(&self.buffer))
    }

    /// Tells a document's state.
    pub fn on_timer(&mut self, timer: &Timer, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let document = String::from_utf8_lossy(&timer.key).into_owned();
        if self.open(&document, context)?.is_err() {
            return Ok(());
        }
        let open = self.open.get_mut(&document).expect("opened above");
        open.head.state_is_due = false;
        let (key, head) = (document_key(&document), to_bytes(&open.head));
        let roots = open.replica.roots(&open.head.roots);
        let state = DocumentState {
            seq: open.head.seq,
            partition: context.partition(),
            offset: open.head.offset,
            time: open.head.time,
            hash: projection::hash(&roots, &open.coverage),
            roots: serde_json::to_string(&roots).expect("JSON can be written"),
            state: open.replica.state(),
            document,
        };
        context.store(at::DOCUMENTS_STORE).put(&key, &head)?;
        self.states.encode(&state, &mut self.buffer).map_err(unwritable)?;
        context.emit(at::OUT_STATE, &timer.key, Some(&self.buffer))
    }

    pub fn schema_ids(&self) -> Vec<u32> {
        self.decoder.ids_seen()
    }

    /// Forgets what is open: the stores were set back.
    pub fn reset(&mut self) {
        self.open.clear();
    }
}

fn encoder<E: Event>(registry: &dyn Registry, topic: &str) -> Result<Encoder<E>, ProcessError> {
    Encoder::register(registry, topic).map_err(|error| ProcessError::Retry(error.to_string()))
}

pub(super) fn unwritable(error: EncodeError) -> ProcessError {
    ProcessError::reject("unwritable", error.to_string())
}
