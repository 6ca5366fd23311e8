//! Memories and the typed relations between them: `memory.events` and `graph.events` -> what there is, and who did not get
//! what they wanted.
//!
//! ```text
//! event -> is it new? -> number it -> apply -> stores ---before commit---> memory.current, graph.current
//!                                       |        '-- a memory deleted or back: its relations hide or show
//!                                       '-> graph.conflicts, at once
//! ```
//!
//! The order of the log decides. Of a property the last value stands; of a memory, a tag and a relation (observed-remove
//! sets), a removal takes away what its author had seen, and spares what somebody else has made again since. What an
//! author had seen an event says by `observed`: the version of the memory or relation that they had before them. Without
//! it, they had seen everything. Whoever loses by this is told of it (`conflict`).
//!
//! - A relation can be seen if neither end is a deleted memory. Ends that were never memories, as the git source's, are
//!   there. Deleting a memory hides all its relations in one step, however many there are, and restoring it shows them.
//! - A deleted memory is kept, and what is done to it meanwhile is there when it is restored; its author is told.
//! - Making what is there already gives it the new values, and is one more addition that a stale removal spares.
//! - An event that is delivered again is known by its id among the last of its memory or relation (`stamp::History`), and
//!   passed over. One that comes later still counts as new.
//!
//! INVARIANT: a relation's flags say which of its ends are deleted memories, after every event. `node-relations` has every
//! relation that is there, by both ends, and no other.
//!
//! Source: Shapiro et al., "A comprehensive study of Convergent and Commutative Replicated Data Types", INRIA RR-7506,
//! 2011: OR-Set and LWW-Register. With one log, a version stands for the set of additions that a replica has observed.

mod conflict;
mod event;
mod memory;
mod relation;
mod stamp;
mod stores;

use engram_pipeline::processor::{Context, Input, ProcessError, TaskSetup};
use engram_pipeline::store::codec::read_whole;
use engram_schemas::codec::{Decoder, EncodeError, Encoder};
use engram_schemas::graph::{GraphConflict, Relation, relation_key};
use engram_schemas::memory::{Memory, memory_key};
use engram_schemas::registry::RegistryError;

use super::{GRAPH_CONFLICTS, GRAPH_CURRENT, MEMORY_CURRENT, NAME, at};
use conflict::Conflicts;
use event::Head;
use memory::{MemoryKey, MemoryState};
use relation::{RelationChange, RelationKey, RelationState};
use stamp::{History, Stamp, Taken};
use stores::{Memories, NodeRelation, NodeRelations, Relations, Workspaces};

pub use stores::stores;

/// The graphs of a task's workspaces. All it knows is in its stores.
pub struct Graph {
    decoder: Decoder,
    memory_updates: Encoder<Memory>,
    relation_updates: Encoder<Relation>,
    conflicts: Encoder<GraphConflict>,
    memories: Memories,
    relations: Relations,
    node_relations: NodeRelations,
    workspaces: Workspaces,
    buffer: Vec<u8>,
}

impl Graph {
    pub fn new(setup: &TaskSetup) -> Result<Self, ProcessError> {
        let registry = &*setup.registry;
        let retry = |error: RegistryError| ProcessError::Retry(error.to_string());
        Ok(Self {
            decoder: Decoder::new(setup.registry.clone()),
            memory_updates: Encoder::register(registry, MEMORY_CURRENT).map_err(retry)?,
            relation_updates: Encoder::register(registry, GRAPH_CURRENT).map_err(retry)?,
            conflicts: Encoder::register(registry, GRAPH_CONFLICTS).map_err(retry)?,
            memories: Memories::new(at::MEMORY_STORE),
            relations: Relations::new(at::RELATION_STORE),
            node_relations: NodeRelations::new(at::NODE_RELATIONS_STORE),
            workspaces: Workspaces::new(at::WORKSPACES_STORE),
            buffer: Vec::new(),
        })
    }

    pub fn memory_event(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let (head, key, change) = event::memory_event(&mut self.decoder, input)?;
        let before = self.memories.get(context, &key)?;
        let Some(taken) =
            self.take(input, context, head, &key.workspace, before.as_ref().map(|before| &before.history))?
        else {
            return Ok(());
        };
        let was_deleted = before.as_ref().is_some_and(|before| before.deleted.is_some());
        let mut conflicts = Conflicts::new(&taken, &key.workspace, memory_key(&key.workspace, &key.memory));
        let state = MemoryState::apply(before, change, &mut conflicts)?;
        self.workspaces.put(context, &key.workspace, &taken.version)?;
        self.memories.put(context, &key, &state)?;
        let is_deleted = state.deleted.is_some();
        if is_deleted != was_deleted {
            self.turn_relations(context, &key, is_deleted)?;
        }
        self.report(context, conflicts)
    }

    pub fn graph_event(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let (head, key, change) = event::relation_event(&mut self.decoder, input)?;
        let before = self.relations.get(context, &key)?;
        let Some(taken) =
            self.take(input, context, head, &key.workspace, before.as_ref().map(|before| &before.history))?
        else {
            return Ok(());
        };
        let was_there = before.as_ref().is_some_and(|before| before.removed.is_none());
        let is_creation = matches!(change, RelationChange::Create(..));
        let subject = relation_key(&key.workspace, &key.from, &key.kind, &key.to);
        let mut conflicts = Conflicts::new(&taken, &key.workspace, subject);
        let mut state = RelationState::apply(before, change, &mut conflicts)?;
        if is_creation {
            let [from, to] = [&key.from, &key.to].map(|node| self.deletion(context, &key.workspace, node));
            let (from, to) = (from?, to?);
            (state.from_is_deleted, state.to_is_deleted) = (from.is_some(), to.is_some());
            for deleted in from.iter().chain(to.iter().filter(|_| key.from != key.to)) {
                conflicts.came_too_late("", deleted, String::new());
            }
        }
        self.workspaces.put(context, &key.workspace, &taken.version)?;
        let is_there = state.removed.is_none();
        self.relations.put(context, &key, &state)?;
        if is_there != was_there {
            self.index(context, &key, is_there)?;
        }
        self.report(context, conflicts)
    }

    /// One update for each memory and relation that has changed.
    pub fn before_commit(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let (buffer, encoder) = (&mut self.buffer, &self.memory_updates);
        context.for_each_change(at::MEMORY_STORE, |key, value, out| {
            let key: MemoryKey = read_whole(key).expect("keys of memories are written as such");
            let state: MemoryState = value.and_then(read_whole).expect("memories are kept, and written as such");
            let event = state.to_event(key);
            encoder.encode(&event, buffer).map_err(unwritable)?;
            out.emit(at::OUT_MEMORY, memory_key(&event.workspace, &event.memory).as_bytes(), Some(buffer))
        })?;
        let encoder = &self.relation_updates;
        context.for_each_change(at::RELATION_STORE, |key, value, out| {
            let key: RelationKey = read_whole(key).expect("keys of relations are written as such");
            let state: RelationState = value.and_then(read_whole).expect("relations are kept, and written as such");
            let record_key = relation_key(&key.workspace, &key.from, &key.kind, &key.to);
            let value = match state.to_event(key) {
                Some(event) => {
                    encoder.encode(&event, buffer).map_err(unwritable)?;
                    Some(buffer.as_slice())
                }
                None => None,
            };
            out.emit(at::OUT_GRAPH, record_key.as_bytes(), value)
        })
    }

    pub fn schema_ids(&self) -> Vec<u32> {
        self.decoder.ids_seen()
    }

    /// Numbers an event; `None` if it has been taken before.
    fn take(
        &mut self,
        input: &Input<'_>,
        context: &mut Context<'_>,
        head: Head,
        workspace: &String,
        history: Option<&History>,
    ) -> Result<Option<Taken>, ProcessError> {
        if history.is_some_and(|history| history.has_taken(&head.id)) {
            metrics::counter!("engram_repeated_events_total", "service" => NAME).increment(1);
            return Ok(None);
        }
        let version = self.workspaces.get(context, workspace)?.unwrap_or(0) + 1;
        let place = format!("{}/{}", input.partition, input.record.offset);
        Ok(Some(Taken { head, version, place }))
    }

    /// Who has deleted a node, if that is a memory and deleted.
    fn deletion(
        &mut self,
        context: &mut Context<'_>,
        workspace: &str,
        node: &str,
    ) -> Result<Option<Stamp>, ProcessError> {
        let key = MemoryKey { workspace: workspace.to_owned(), memory: node.to_owned() };
        Ok(self.memories.get(context, &key)?.and_then(|memory| memory.deleted))
    }

    /// Tells a node's relations that it was deleted, or is back.
    fn turn_relations(
        &mut self,
        context: &mut Context<'_>,
        node: &MemoryKey,
        is_deleted: bool,
    ) -> Result<(), ProcessError> {
        let mut relations = Vec::new();
        self.node_relations.with_first(context, node, |key, ()| {
            relations.push(key.relation);
            true
        })?;
        for key in relations {
            self.relations.update(context, &key, |state| {
                let state = state.as_mut().expect("what is in the index is there");
                if key.from == node.memory {
                    state.from_is_deleted = is_deleted;
                }
                if key.to == node.memory {
                    state.to_is_deleted = is_deleted;
                }
            })?;
        }
        Ok(())
    }

    fn index(&mut self, context: &mut Context<'_>, relation: &RelationKey, is_there: bool) -> Result<(), ProcessError> {
        for end in [&relation.from, &relation.to] {
            let node = MemoryKey { workspace: relation.workspace.clone(), memory: end.clone() };
            let key = NodeRelation { node, relation: relation.clone() };
            if is_there {
                self.node_relations.put(context, &key, &())?;
            } else {
                self.node_relations.delete(context, &key)?;
            }
        }
        Ok(())
    }

    fn report(&mut self, context: &mut Context<'_>, conflicts: Conflicts<'_>) -> Result<(), ProcessError> {
        for conflict in conflicts.found {
            self.conflicts.encode(&conflict, &mut self.buffer).map_err(unwritable)?;
            context.emit(at::OUT_GRAPH_CONFLICTS, conflict.workspace.as_bytes(), Some(&self.buffer))?;
        }
        Ok(())
    }
}

fn unwritable(error: EncodeError) -> ProcessError {
    ProcessError::reject("unwritable", error.to_string())
}
