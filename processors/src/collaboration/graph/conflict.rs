//! What is told to those who did not get what they wanted.
//!
//! ```text
//! kind          winner                        loser
//! overwritten   wrote later                   wrote earlier, and the winner had not seen it
//! kept          made it (again)               removed it later, and had not seen that
//! removed       deleted the memory, or        changed it: before, and the winner had not seen it; or after;
//!               the relation                  or made a relation to the deleted memory
//! ```

use std::collections::BTreeMap;
use std::fmt::Display;

use engram_schemas::graph::{GraphConflict, conflicts};

use super::stamp::{Register, Stamp, Taken};

/// Of a value, as much as a conflict repeats; the whole is in the log, at its place.
pub const VALUE_CHARS_MAX: usize = 1_000;

/// The conflicts of one event.
pub struct Conflicts<'a> {
    pub taken: &'a Taken,
    workspace: &'a str,
    /// The record key of what the event is about.
    subject: String,
    pub found: Vec<GraphConflict>,
}

impl<'a> Conflicts<'a> {
    pub fn new(taken: &'a Taken, workspace: &'a str, subject: String) -> Self {
        Self { taken, workspace, subject, found: Vec::new() }
    }

    /// Writes a property: the last in log order stands.
    pub fn set<T: Display + PartialEq>(&mut self, property: &str, register: &mut Register<T>, value: T) {
        if self.taken.has_not_seen(&register.stamp) && register.value != value {
            self.overwritten(property, register, value.to_string());
        }
        *register = Register { value, stamp: self.taken.stamp() };
    }

    /// Writes or, for `None`, removes a property that need not be there. What was removed is forgotten, so a later value
    /// overwrites nothing. Returns whether this has changed anything.
    pub fn set_entry<K: Ord, T: Display + PartialEq>(
        &mut self,
        property: &str,
        entries: &mut BTreeMap<K, Register<T>>,
        key: K,
        value: Option<T>,
    ) -> bool {
        match (entries.get_mut(&key), value) {
            (Some(register), Some(value)) => self.set(property, register, value),
            (None, Some(value)) => {
                entries.insert(key, Register { value, stamp: self.taken.stamp() });
            }
            (Some(register), None) => {
                if self.taken.has_not_seen(&register.stamp) {
                    self.overwritten(property, register, String::new());
                }
                entries.remove(&key);
            }
            (None, None) => return false,
        }
        true
    }

    fn overwritten<T: Display>(&mut self, property: &str, register: &Register<T>, value: String) {
        let winner = self.taken.stamp();
        let values = (value, register.value.to_string());
        self.report(conflicts::OVERWRITTEN, property, &winner, &register.stamp, values);
    }

    /// The event removes what its author had seen, and the winner has made it again since.
    pub fn kept(&mut self, property: &str, winner: &Stamp) {
        self.report(conflicts::KEPT, property, winner, &self.taken.stamp(), Default::default());
    }

    /// The event changes or joins what the winner has deleted.
    pub fn came_too_late(&mut self, property: &str, winner: &Stamp, value: String) {
        self.report(conflicts::REMOVED, property, winner, &self.taken.stamp(), (String::new(), value));
    }

    /// The event deletes what the loser has changed; no conflict if its author knew that.
    pub fn takes_along(&mut self, property: &str, loser: &Stamp, value: impl FnOnce() -> String) {
        if self.taken.has_not_seen(loser) {
            self.report(conflicts::REMOVED, property, &self.taken.stamp(), loser, (String::new(), value()));
        }
    }

    fn report(
        &mut self,
        kind: &str,
        property: &str,
        winner: &Stamp,
        loser: &Stamp,
        (winner_value, loser_value): (String, String),
    ) {
        self.found.push(GraphConflict {
            workspace: self.workspace.to_owned(),
            kind: kind.to_owned(),
            subject: self.subject.clone(),
            property: property.to_owned(),
            winner: winner.actor.clone(),
            loser: loser.actor.clone(),
            winner_value: cut(winner_value),
            loser_value: cut(loser_value),
            winner_place: winner.place.clone(),
            loser_place: loser.place.clone(),
            version: self.taken.version,
            time: self.taken.head.time,
        });
    }
}

fn cut(mut value: String) -> String {
    if let Some((end, _)) = value.char_indices().nth(VALUE_CHARS_MAX) {
        value.truncate(end);
    }
    value
}
