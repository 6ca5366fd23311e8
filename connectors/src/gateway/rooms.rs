//! The documents that are open at this gateway.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engram_schemas::document::{DocumentState, EditRejected, SequencedEdit};
use tokio::runtime::Handle;

use super::outbox::Outbox;
use super::room::Room;

/// Loads a document by its key; `None` if it has no edit yet. The error says why it cannot be had at present.
pub type Load = Arc<dyn Fn(&str) -> Result<Option<DocumentState>, String> + Send + Sync>;

/// Times that a document is loaded because edits had passed it, and how long is waited between them.
const LOADS_MAX: usize = 200;
const LOAD_AGAIN: Duration = Duration::from_millis(20);
/// Documents whose last edit is remembered.
const RECENT_MAX: usize = 10_000;

/// The rooms by document key.
pub struct Rooms {
    rooms: Mutex<HashMap<String, Arc<Room>>>,
    recent: Mutex<Recent>,
    load: Load,
    runtime: Handle,
}

/// The last edits of documents, those of late.
///
/// SUBTLE: an edit is in the log a moment before it is in its task's stores. A document that is loaded in between would lack
/// it, and nobody would notice before the next.
#[derive(Default)]
struct Recent {
    young: HashMap<String, i64>,
    old: HashMap<String, i64>,
}

impl Recent {
    fn put(&mut self, document: &str, seq: i64) {
        if self.young.len() >= RECENT_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        match self.young.get_mut(document) {
            Some(last) => *last = seq,
            None => {
                self.young.insert(document.to_owned(), seq);
            }
        }
    }

    fn get(&self, document: &str) -> i64 {
        self.young.get(document).or_else(|| self.old.get(document)).copied().unwrap_or(0)
    }
}

impl Rooms {
    pub fn new(load: Load, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { rooms: Mutex::default(), recent: Mutex::default(), load, runtime })
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<String, Arc<Room>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A document's room, once it is open.
    pub async fn open(self: &Arc<Self>, key: &str) -> Result<Arc<Room>, String> {
        let (room, is_new) = {
            let mut rooms = self.rooms();
            match rooms.get(key) {
                Some(room) => (Arc::clone(room), false),
                None => {
                    let room = Arc::new(Room::new());
                    rooms.insert(key.to_owned(), Arc::clone(&room));
                    (room, true)
                }
            }
        };
        if is_new {
            self.load(key, &room);
        }
        let ready = room.ready().await;
        if ready.is_err() {
            self.remove(key, &room);
        }
        ready.map(|()| room)
    }

    /// Lets an editor into a room; false if the room is no longer the document's.
    pub fn join(&self, key: &str, room: &Arc<Room>, connection: u64, session: &str, outbox: Outbox) -> bool {
        let rooms = self.rooms();
        let is_current = rooms.get(key).is_some_and(|current| Arc::ptr_eq(current, room));
        if is_current {
            room.join(connection, session, outbox);
        }
        is_current
    }

    pub fn leave(&self, key: &str, room: &Arc<Room>, connection: u64) {
        let mut rooms = self.rooms();
        if room.leave(connection) && rooms.get(key).is_some_and(|current| Arc::ptr_eq(current, room)) {
            rooms.remove(key);
        }
    }

    fn remove(&self, key: &str, room: &Arc<Room>) {
        let mut rooms = self.rooms();
        if rooms.get(key).is_some_and(|current| Arc::ptr_eq(current, room)) {
            rooms.remove(key);
        }
    }

    fn get(&self, key: &str) -> Option<Arc<Room>> {
        self.rooms().get(key).cloned()
    }

    /// An edit has been committed.
    pub fn sequenced(self: &Arc<Self>, edit: SequencedEdit) {
        self.recent().put(&edit.document, edit.seq);
        let Some(room) = self.get(&edit.document) else { return };
        let key = edit.document.clone();
        if !room.sequenced(edit) {
            tracing::debug!(key, "an edit is not the next: the document is loaded again");
            self.load(&key, &room);
        }
    }

    /// An edit was not taken. Whoever lacks what it builds on has that from its sender, which is asked for it.
    pub fn rejected(&self, rejected: &EditRejected) {
        let Some(room) = self.get(&rejected.document) else { return };
        if rejected.cause == "missing-causes" {
            room.ask_again(&rejected.session);
        } else if rejected.cause == "known" {
            room.acknowledge(&rejected.session, &rejected.id);
        } else {
            room.tell(&rejected.session, &format!("an edit was refused ({}): {}", rejected.cause, rejected.detail));
        }
    }

    /// Asks all editors for what the documents lack: after edits could not be taken for a while.
    pub fn ask_all_again(&self) {
        let rooms: Vec<Arc<Room>> = self.rooms().values().cloned().collect();
        rooms.iter().for_each(|room| room.ask_all_again());
    }

    /// Tells all editors something.
    pub fn tell_everybody(&self, text: &str) {
        let rooms: Vec<Arc<Room>> = self.rooms().values().cloned().collect();
        rooms.iter().for_each(|room| room.tell_all_editors(text));
    }

    fn load(self: &Arc<Self>, key: &str, room: &Arc<Room>) {
        let (load, key, room) = (Arc::clone(&self.load), key.to_owned(), Arc::clone(room));
        let rooms = Arc::clone(self);
        // Its end is told by the room's readiness.
        drop(self.runtime.spawn_blocking(move || {
            for _ in 0..LOADS_MAX {
                let is_whole = |state: Option<DocumentState>| {
                    let has_all = state.as_ref().map_or(0, |state| state.seq) >= rooms.recent().get(&key);
                    has_all && room.loaded(state)
                };
                match load(&key).map(is_whole) {
                    Ok(true) => return,
                    Ok(false) => std::thread::sleep(LOAD_AGAIN),
                    Err(reason) => {
                        rooms.remove(&key, &room);
                        return room.fail(reason);
                    }
                }
            }
            rooms.remove(&key, &room);
            room.fail("edits come faster than the document can be loaded".to_owned());
        }));
    }
}
