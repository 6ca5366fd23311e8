//! A relation: what each event makes of it, whether it can be seen, and how it is told.

use std::collections::BTreeMap;

use engram_pipeline::processor::ProcessError;
use engram_schemas::graph::{ATTRIBUTES_MAX, Relation};

use super::conflict::Conflicts;
use super::stamp::{Additions, History, Register, Stamp, Taken};

/// Its key in the store, by parts. There may be one relation of each type between two nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelationKey {
    pub workspace: String,
    pub from: String,
    pub kind: String,
    pub to: String,
}

/// What an event asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum RelationChange {
    /// Strength and attributes.
    Create(f64, BTreeMap<String, String>),
    /// What changes; `None` removes an attribute.
    Modify(Option<f64>, BTreeMap<String, Option<String>>),
    Delete,
}

/// A relation as it is kept. Of one that was removed, only by whom: so that whoever changes it later is told, and the same
/// event, delivered again, does not make it anew.
#[derive(Debug, Clone, PartialEq)]
pub struct RelationState {
    pub strength: Register<f64>,
    pub attributes: BTreeMap<String, Register<String>>,
    /// The events that made it; none once it was removed.
    pub added: Additions,
    pub removed: Option<Stamp>,
    /// The node that it comes from is a deleted memory.
    pub from_is_deleted: bool,
    pub to_is_deleted: bool,
    pub history: History,
}

impl RelationState {
    /// What an event makes of a relation; `before` is `None` if there has never been one. Rejects what cannot be, and then
    /// nothing has happened.
    pub fn apply(
        before: Option<Self>,
        change: RelationChange,
        conflicts: &mut Conflicts<'_>,
    ) -> Result<Self, ProcessError> {
        let mut state = match (before, &change) {
            (Some(state), _) => state,
            (None, RelationChange::Create(..)) => Self::new(conflicts.taken),
            (None, _) => {
                let detail = "the workspace has no such relation: it must be created first";
                return Err(ProcessError::reject("unknown-relation", detail));
            }
        };
        let has_effect = match change {
            RelationChange::Create(strength, attributes) => state.create(strength, attributes, conflicts),
            RelationChange::Modify(strength, attributes) => state.modify(strength, attributes, conflicts),
            RelationChange::Delete => state.delete(conflicts),
        };
        if state.attributes.len() > ATTRIBUTES_MAX {
            let detail =
                format!("the relation would have {} attributes, more than {ATTRIBUTES_MAX}", state.attributes.len());
            return Err(ProcessError::reject("too-many", detail));
        }
        state.history.note(conflicts.taken, has_effect);
        Ok(state)
    }

    /// Made by this event, which is still to be applied.
    fn new(taken: &Taken) -> Self {
        Self {
            strength: Register { value: 0.0, stamp: taken.stamp() },
            attributes: BTreeMap::new(),
            added: Additions::default(),
            removed: Some(taken.stamp()),
            from_is_deleted: false,
            to_is_deleted: false,
            history: History::new(taken),
        }
    }

    fn create(&mut self, strength: f64, attributes: BTreeMap<String, String>, conflicts: &mut Conflicts<'_>) -> bool {
        self.added.add(conflicts.taken);
        if self.removed.take().is_some() {
            self.strength = Register { value: strength, stamp: conflicts.taken.stamp() };
            self.history.begin_again(conflicts.taken);
        }
        let attributes = attributes.into_iter().map(|(key, value)| (key, Some(value)));
        self.write(Some(strength), attributes, conflicts);
        true
    }

    fn modify(
        &mut self,
        strength: Option<f64>,
        attributes: BTreeMap<String, Option<String>>,
        conflicts: &mut Conflicts<'_>,
    ) -> bool {
        let Some(removed) = &self.removed else {
            self.write(strength, attributes, conflicts);
            return true;
        };
        if let Some(strength) = strength {
            conflicts.came_too_late("strength", removed, strength.to_string());
        }
        for (key, value) in attributes {
            conflicts.came_too_late(&attribute_property(&key), removed, value.unwrap_or_default());
        }
        false
    }

    fn delete(&mut self, conflicts: &mut Conflicts<'_>) -> bool {
        if self.removed.is_some() {
            return false;
        }
        if let Some(kept_by) = self.added.remove(conflicts.taken) {
            conflicts.kept("", &kept_by);
            return false;
        }
        conflicts.takes_along("strength", &self.strength.stamp, || self.strength.value.to_string());
        for (key, register) in std::mem::take(&mut self.attributes) {
            conflicts.takes_along(&attribute_property(&key), &register.stamp, || register.value);
        }
        self.removed = Some(conflicts.taken.stamp());
        true
    }

    fn write(
        &mut self,
        strength: Option<f64>,
        attributes: impl IntoIterator<Item = (String, Option<String>)>,
        conflicts: &mut Conflicts<'_>,
    ) {
        if let Some(strength) = strength {
            conflicts.set("strength", &mut self.strength, strength);
        }
        for (key, value) in attributes {
            conflicts.set_entry(&attribute_property(&key), &mut self.attributes, key, value);
        }
    }

    /// As `graph.current` tells it; `None` if it was removed.
    pub fn to_event(&self, key: RelationKey) -> Option<Relation> {
        if self.removed.is_some() {
            return None;
        }
        let ends = [(self.from_is_deleted, &key.from), (self.to_is_deleted, &key.to)];
        let mut hidden_by: Vec<String> =
            ends.into_iter().filter(|(is_deleted, _)| *is_deleted).map(|(_, node)| node.clone()).collect();
        // A relation of a node to itself names it once.
        hidden_by.dedup();
        let ((created, created_by), (updated, updated_by)) =
            (self.history.created.clone(), self.history.updated.clone());
        Some(Relation {
            workspace: key.workspace,
            from: key.from,
            to: key.to,
            kind: key.kind,
            strength: self.strength.value,
            attributes: self.attributes.iter().map(|(key, register)| (key.clone(), register.value.clone())).collect(),
            visible: hidden_by.is_empty(),
            hidden_by,
            version: self.history.version,
            created,
            created_by,
            updated,
            updated_by,
        })
    }
}

fn attribute_property(key: &str) -> String {
    format!("attribute:{key}")
}
