//! Where edits of late have put and deleted something, by which two that did not know of each other are found.
//!
//! An insertion names its neighbours as its author saw them. Two clients that name the same have both put something into
//! the same gap, or set the same key of a map, without having seen the other's: had one seen it, it would have named it.
//! Likewise nobody deletes what they know to be deleted.
//!
//! INVARIANT: what is here follows from the updates in the store since the checkpoint before the last, so that a task that
//! was opened anew finds the same conflicts.

use std::collections::{BTreeMap, HashMap};

use engram_schemas::yjs::Coverage;
use engram_schemas::yjs::update::{Id, Item, Outline, Parent, What};

/// Conflicts told of one edit, at most.
const CONFLICTS_MAX: usize = 16;

/// What two edits have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Insert,
    Value,
    Delete,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Value => "value",
            Self::Delete => "delete",
        }
    }
}

/// An edit is in conflict with an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub kind: Kind,
    pub other_seq: i64,
    /// Of two values: the later edit's stands.
    pub later_wins: bool,
    pub root: String,
    pub key: String,
}

/// A gap: its neighbours, or the parent where there are none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    neighbours: (Option<Id>, Option<Id>),
    parent: Option<(Result<String, Id>, Option<String>)>,
}

/// The places of a document.
#[derive(Default)]
pub struct Places {
    inserted: HashMap<Place, Vec<(u64, i64)>>,
    /// By client and first clock: the clock after the last, and the edit.
    deleted: BTreeMap<(u64, u32), (u32, i64)>,
    /// Values of maps, by which those that replace them are known: root, if any, and key.
    values: HashMap<Id, (String, String)>,
    actors: HashMap<i64, String>,
}

impl Places {
    /// Who has made an edit of late.
    pub fn actor(&self, seq: i64) -> &str {
        self.actors.get(&seq).map_or("", String::as_str)
    }

    /// Takes in an edit.
    pub fn add(&mut self, update: &Outline<'_>, seq: i64, actor: &str) {
        self.actors.insert(seq, actor.to_owned());
        for part in &update.structs {
            let What::Item(item) = &part.what else { continue };
            if let Some(name) = self.value_name(item) {
                self.values.insert(part.id, name);
            }
            self.inserted.entry(place(item)).or_default().push((part.id.client, seq));
        }
        for (client, range) in &update.deleted {
            self.deleted.insert((*client, range.start), (range.end, seq));
        }
    }

    /// The conflicts of an edit that comes next. `before` is what the document has; with `is_whole` the update tells all
    /// that was ever deleted, not what its author has deleted now.
    pub fn conflicts(&self, update: &Outline<'_>, before: &Coverage, is_whole: bool) -> Vec<Conflict> {
        let mut found: Vec<Conflict> = Vec::new();
        let mut tell = |conflict: Conflict| {
            if found.len() < CONFLICTS_MAX && !found.iter().any(|known| known.other_seq == conflict.other_seq) {
                found.push(conflict);
            }
        };
        for part in update.structs.iter().filter(|part| part.id.clock >= before.next(part.id.client)) {
            let What::Item(item) = &part.what else { continue };
            let Some(others) = self.inserted.get(&place(item)) else { continue };
            let name = self.value_name(item);
            let kind = if name.is_some() { Kind::Value } else { Kind::Insert };
            let (root, key) = name.unwrap_or_else(|| (root_of(item), String::new()));
            for (client, seq) in others.iter().filter(|(client, _)| *client != part.id.client) {
                // Of items beside the same neighbour, that of the greater client comes last, and the last value stands.
                let later_wins = part.id.client > *client;
                let (root, key) = (root.clone(), key.clone());
                tell(Conflict { kind, other_seq: *seq, later_wins, root, key });
            }
        }
        if is_whole {
            return found;
        }
        for (client, range) in &update.deleted {
            let Some(twice) = before.deleted_before(*client, range) else { continue };
            if let Some(seq) = self.deleter(*client, twice.start) {
                let (root, key) = (String::new(), String::new());
                tell(Conflict { kind: Kind::Delete, other_seq: seq, later_wins: false, root, key });
            }
        }
        found
    }

    fn deleter(&self, client: u64, clock: u32) -> Option<i64> {
        let (_, (end, seq)) = self.deleted.range((client, 0)..=(client, clock)).next_back()?;
        (clock < *end).then_some(*seq)
    }

    /// Root and key, if the item is a map's value and that can be told.
    fn value_name(&self, item: &Item<'_>) -> Option<(String, String)> {
        match (item.key, item.origin) {
            (Some(key), _) => Some((root_of(item), key.to_owned())),
            (None, Some(origin)) => self.values.get(&origin).cloned(),
            (None, None) => None,
        }
    }
}

fn place(item: &Item<'_>) -> Place {
    let parent = item.parent.map(|parent| match parent {
        Parent::Root(name) => Ok(name.to_owned()),
        Parent::Item(id) => Err(id),
    });
    Place {
        neighbours: (item.origin, item.right_origin),
        parent: parent.map(|parent| (parent, item.key.map(str::to_owned))),
    }
}

fn root_of(item: &Item<'_>) -> String {
    match item.parent {
        Some(Parent::Root(name)) => name.to_owned(),
        _ => String::new(),
    }
}
