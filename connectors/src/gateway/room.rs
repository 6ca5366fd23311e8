//! A document at the gateway, with those who have it open.
//!
//! ```text
//! loading --loaded--> open --an edit's number is not the next--> loading
//!    `-----failed---> (gone: whoever comes next tries again)
//! ```
//!
//! Edits that are sequenced while it loads wait, and those that the loaded document has already are passed over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use engram_schemas::document::{DocumentState, SequencedEdit};
use engram_schemas::yjs::{Malformed, Outline, protocol};
use tokio::sync::watch;

use super::auth::Identity;
use super::awareness::Awareness;
use super::copy::Copy;
use super::outbox::Outbox;

/// Edits that may wait for a document to be loaded.
const WAITING_MAX: usize = 10_000;

/// Bytes of an editor's edits that are remembered while they are on their way.
const ON_THEIR_WAY_MAX: usize = 1 << 20;

/// Whether a document can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Loading,
    Open,
    Failed(String),
}

/// A document that somebody has open.
pub struct Room {
    inner: Mutex<Inner>,
    readiness: watch::Sender<Readiness>,
}

struct Inner {
    /// `None` while it loads.
    copy: Option<Copy>,
    waiting: Vec<SequencedEdit>,
    editors: BTreeMap<u64, Editor>,
    awareness: Awareness,
}

/// Somebody who has the document open.
struct Editor {
    session: String,
    outbox: Outbox,
    /// Edits that are on their way to the log: id and update. Those that turn out to bring nothing are acknowledged from here.
    on_their_way: VecDeque<(String, Bytes)>,
    bytes: usize,
}

impl Room {
    pub fn new() -> Self {
        let inner =
            Inner { copy: None, waiting: Vec::new(), editors: BTreeMap::new(), awareness: Awareness::default() };
        Self { inner: Mutex::new(inner), readiness: watch::Sender::new(Readiness::Loading) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is open or cannot be.
    pub async fn ready(&self) -> Result<(), String> {
        let mut readiness = self.readiness.subscribe();
        let settled = readiness.wait_for(|readiness| *readiness != Readiness::Loading).await;
        match settled.map(|readiness| readiness.clone()) {
            Ok(Readiness::Failed(reason)) => Err(reason),
            _ => Ok(()),
        }
    }

    /// It cannot be had: those who have it open are cut off, and come back to a new one.
    pub fn fail(&self, reason: String) {
        self.inner().editors.clear();
        self.readiness.send_replace(Readiness::Failed(reason));
    }

    /// Takes the document as it was loaded, `None` for one that has no edit yet, and what has come since. False if there is a
    /// gap between them: then it has to be loaded again.
    pub fn loaded(&self, state: Option<DocumentState>) -> bool {
        let mut copy = Copy::empty();
        if let Some(state) = state
            && !copy.apply(&state.state, state.seq)
        {
            self.fail("the document cannot be read".to_owned());
            return true;
        }
        let mut inner = self.inner();
        for edit in &inner.waiting {
            let is_next = edit.seq == copy.seq + 1;
            if edit.seq > copy.seq && !(is_next && copy.apply(&edit.update, edit.seq)) {
                return false;
            }
        }
        inner.waiting.clear();
        // Those who were here before it had to be loaded again may lack what is new in it.
        if !inner.editors.is_empty() {
            let whole = Bytes::from(protocol::update(&copy.whole()));
            inner.tell_all(&whole);
        }
        inner.copy = Some(copy);
        drop(inner);
        self.readiness.send_replace(Readiness::Open);
        true
    }

    /// Takes an edit that was sequenced and tells it to all, its author included, for whom it is the acknowledgement. False if
    /// the document has to be loaded again.
    pub fn sequenced(&self, edit: SequencedEdit) -> bool {
        let mut inner = self.inner();
        let Some(copy) = &mut inner.copy else {
            if inner.waiting.len() < WAITING_MAX {
                inner.waiting.push(edit);
            }
            return true;
        };
        let is_next = edit.seq == copy.seq + 1;
        if edit.seq > copy.seq && !(is_next && copy.apply(&edit.update, edit.seq)) {
            inner.copy = None;
            inner.waiting = vec![edit];
            drop(inner);
            self.readiness.send_replace(Readiness::Loading);
            return false;
        }
        let frame = Bytes::from(protocol::update(&edit.update));
        inner.tell_all(&frame);
        inner.arrived(&edit.session, &edit.id);
        true
    }

    /// An edit of an editor goes to the log.
    pub fn sent(&self, connection: u64, id: &str, update: &[u8]) {
        let mut inner = self.inner();
        let Some(editor) = inner.editors.get_mut(&connection) else { return };
        editor.bytes += update.len();
        editor.on_their_way.push_back((id.to_owned(), Bytes::copy_from_slice(update)));
        while editor.bytes > ON_THEIR_WAY_MAX
            && let Some((_, oldest)) = editor.on_their_way.pop_front()
        {
            editor.bytes -= oldest.len();
        }
    }

    /// An edit has brought nothing: all of it was part of the document, so it is acknowledged.
    pub fn acknowledge(&self, session: &str, id: &str) {
        let mut inner = self.inner();
        if let Some(update) = inner.arrived(session, id) {
            inner.tell(session, &protocol::update(&update).into());
        }
    }

    /// Lets an editor in: what it has to be told first.
    pub fn join(&self, connection: u64, session: &str, outbox: Outbox) {
        let mut inner = self.inner();
        let state_vector = inner.copy.as_ref().map_or_else(|| vec![0], Copy::state_vector);
        outbox.put(protocol::step1(&state_vector).into());
        if let Some(awareness) = inner.awareness.all() {
            outbox.put(protocol::awareness(&awareness).into());
        }
        let editor = Editor { session: session.to_owned(), outbox, on_their_way: VecDeque::new(), bytes: 0 };
        inner.editors.insert(connection, editor);
    }

    /// Lets an editor out; true if nobody is left.
    pub fn leave(&self, connection: u64) -> bool {
        let mut inner = self.inner();
        inner.editors.remove(&connection);
        if let Some(gone) = inner.awareness.leave(connection) {
            inner.tell_all(&protocol::awareness(&gone).into());
        }
        inner.editors.is_empty()
    }

    /// What an editor with this state vector lacks, as an update.
    pub fn lacking(&self, state_vector: &[u8]) -> Option<Vec<u8>> {
        self.inner().copy.as_ref()?.lacking(state_vector)
    }

    /// Whether all of an update is in the document: then it need not be written.
    pub fn has(&self, outline: &Outline<'_>) -> bool {
        self.inner().copy.as_ref().is_some_and(|copy| copy.has(outline))
    }

    /// Asks a session for all that it has and the document lacks.
    pub fn ask_again(&self, session: &str) {
        let inner = self.inner();
        let Some(copy) = &inner.copy else { return };
        let frame = Bytes::from(protocol::step1(&copy.state_vector()));
        inner.tell(session, &frame);
    }

    /// The same of everybody.
    pub fn ask_all_again(&self) {
        let inner = self.inner();
        let Some(copy) = &inner.copy else { return };
        inner.tell_all(&protocol::step1(&copy.state_vector()).into());
    }

    /// Tells a session why something was refused.
    pub fn tell(&self, session: &str, reason: &str) {
        let frame = Bytes::from(protocol::permission_denied(reason));
        let inner = self.inner();
        inner.tell(session, &frame);
    }

    /// Tells all editors something, as a reason is told.
    pub fn tell_all_editors(&self, text: &str) {
        self.inner().tell_all(&protocol::permission_denied(text).into());
    }

    /// Takes what a connection shows of itself, and tells it to all, itself included: an editor takes silence for a lost
    /// connection.
    pub fn awareness(&self, connection: u64, user: Option<&Identity>, update: &[u8]) -> Result<(), Malformed> {
        let mut inner = self.inner();
        if let Some(news) = inner.awareness.take(connection, user, update)? {
            inner.tell_all(&protocol::awareness(&news).into());
        }
        Ok(())
    }

    /// What everybody shows.
    pub fn all_awareness(&self) -> Option<Vec<u8>> {
        self.inner().awareness.all()
    }

    /// What a connection shows, as JSON.
    pub fn shown_by(&self, connection: u64) -> String {
        self.inner().awareness.of(connection).to_owned()
    }
}

impl Inner {
    /// Takes an edit from those that are on their way. They arrive in order, but for those that are spooled.
    fn arrived(&mut self, session: &str, id: &str) -> Option<Bytes> {
        let editor = self.editors.values_mut().find(|editor| editor.session == session)?;
        let at = editor.on_their_way.iter().position(|(known, _)| known == id)?;
        let (_, update) = editor.on_their_way.remove(at)?;
        editor.bytes -= update.len();
        Some(update)
    }

    fn tell_all(&self, frame: &Bytes) {
        for editor in self.editors.values() {
            editor.outbox.put(frame.clone());
        }
    }

    fn tell(&self, session: &str, frame: &Bytes) {
        for editor in self.editors.values().filter(|editor| editor.session == session) {
            editor.outbox.put(frame.clone());
        }
    }
}
