//! The collaboration service: what people edit together, in the order of the log.
//!
//! ```text
//! document.edits  (by document)  -> documents -> document.sequenced, .state, .conflicts, .rejects
//! presence.events (by document)  -> presence  -> presence.current
//! memory.events   (by workspace) -> graph     -> memory.current  \
//! graph.events    (by workspace) -> graph     -> graph.current    > graph.conflicts
//! ```
//!
//! One partition's order is the one truth: an edit is part of its document, and a deletion takes a relation from sight, when
//! its record is taken here, and nothing that others decide comes between. Memories are keyed by workspace, as relations are,
//! because what becomes of a relation depends on the memories that it joins.

pub mod documents;
pub mod graph;
mod presence;

use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::log::{Cleanup, TopicSpec};
use engram_pipeline::processor::{Context, Input, Output, ProcessError, Processor, Service, TaskSetup};
use engram_pipeline::service::TOPIC_MESSAGE_BYTES_MAX;
use engram_pipeline::store::StoreSpec;
use engram_pipeline::timers::{self, Timer};
use engram_schemas::Event;
use engram_schemas::document::{DocumentState, EditConflict, EditRejected, SequencedEdit};
use engram_schemas::graph::{GraphConflict, Relation};
use engram_schemas::memory::Memory;
use engram_schemas::presence::Presence;

use documents::{Documents, DocumentsConfig};
use graph::Graph;
use presence::Presences;

pub const NAME: &str = "collaboration";

pub const DOCUMENT_EDITS: &str = "document.edits";
pub const DOCUMENT_SEQUENCED: &str = "document.sequenced";
pub const DOCUMENT_STATE: &str = "document.state";
pub const DOCUMENT_CONFLICTS: &str = "document.conflicts";
pub const DOCUMENT_REJECTS: &str = "document.rejects";
pub const PRESENCE_EVENTS: &str = "presence.events";
pub const PRESENCE_CURRENT: &str = "presence.current";
pub const MEMORY_EVENTS: &str = "memory.events";
pub const MEMORY_CURRENT: &str = "memory.current";
pub const GRAPH_EVENTS: &str = "graph.events";
pub const GRAPH_CURRENT: &str = "graph.current";
pub const GRAPH_CONFLICTS: &str = "graph.conflicts";

/// Indexes into the service's inputs, outputs and stores.
pub(crate) mod at {
    pub const DOCUMENT_EDITS: usize = 0;
    pub const PRESENCE_EVENTS: usize = 1;
    pub const MEMORY_EVENTS: usize = 2;
    pub const GRAPH_EVENTS: usize = 3;

    pub const OUT_SEQUENCED: usize = 0;
    pub const OUT_STATE: usize = 1;
    pub const OUT_CONFLICTS: usize = 2;
    pub const OUT_REJECTS: usize = 3;
    pub const OUT_PRESENCE: usize = 4;
    pub const OUT_MEMORY: usize = 5;
    pub const OUT_GRAPH: usize = 6;
    pub const OUT_GRAPH_CONFLICTS: usize = 7;

    pub const DOCUMENTS_STORE: usize = 0;
    pub const UPDATES_STORE: usize = 1;
    pub const CHECKPOINTS_STORE: usize = 2;
    pub const PRESENCE_STORE: usize = 3;
    pub const MEMORY_STORE: usize = 4;
    pub const RELATION_STORE: usize = 5;
    /// Which relations a node has, by either end.
    pub const NODE_RELATIONS_STORE: usize = 6;
    /// How many events of each workspace its graph has taken.
    pub const WORKSPACES_STORE: usize = 7;
}

/// The stores, by name, as `engram state` lists them.
pub fn stores() -> Vec<StoreSpec> {
    let mut stores = documents::stores().to_vec();
    stores.push(presence::store());
    stores.extend(graph::stores());
    stores.push(timers::spec());
    stores
}

/// The service. The configuration must have been checked (`DocumentsConfig::check`).
pub fn service(config: DocumentsConfig) -> Service {
    let topic = |name: &str, cleanup| TopicSpec {
        name: name.to_owned(),
        partitions: 0,
        cleanup,
        max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
    };
    let output = |topic: &str, event| Output { topic: topic.to_owned(), event: Some(event) };
    let kept = [
        DOCUMENT_EDITS,
        DOCUMENT_SEQUENCED,
        DOCUMENT_CONFLICTS,
        DOCUMENT_REJECTS,
        PRESENCE_EVENTS,
        MEMORY_EVENTS,
        GRAPH_EVENTS,
        GRAPH_CONFLICTS,
    ];
    let compacted = [DOCUMENT_STATE, PRESENCE_CURRENT, MEMORY_CURRENT, GRAPH_CURRENT];
    let topics = kept.map(|name| topic(name, Cleanup::Keep)).into_iter();
    Service {
        name: NAME,
        inputs: [DOCUMENT_EDITS, PRESENCE_EVENTS, MEMORY_EVENTS, GRAPH_EVENTS].map(str::to_owned).to_vec(),
        outputs: vec![
            output(DOCUMENT_SEQUENCED, SequencedEdit::NAME),
            output(DOCUMENT_STATE, DocumentState::NAME),
            output(DOCUMENT_CONFLICTS, EditConflict::NAME),
            output(DOCUMENT_REJECTS, EditRejected::NAME),
            output(PRESENCE_CURRENT, Presence::NAME),
            output(MEMORY_CURRENT, Memory::NAME),
            output(GRAPH_CURRENT, Relation::NAME),
            output(GRAPH_CONFLICTS, GraphConflict::NAME),
        ],
        topics: topics.chain(compacted.map(|name| topic(name, Cleanup::Compact))).collect(),
        stores: stores(),
        processor: Box::new(move |setup| Ok(Box::new(CollaborationProcessor::new(&config, setup)?))),
        errors: ErrorPolicy::default(),
    }
}

/// One task: each part looks after its own inputs and stores.
struct CollaborationProcessor {
    documents: Documents,
    presences: Presences,
    graph: Graph,
}

impl CollaborationProcessor {
    fn new(config: &DocumentsConfig, setup: &TaskSetup) -> Result<Self, ProcessError> {
        Ok(Self {
            documents: Documents::new(config, setup)?,
            presences: Presences::new(setup)?,
            graph: Graph::new(setup)?,
        })
    }
}

impl Processor for CollaborationProcessor {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        match input.source {
            at::DOCUMENT_EDITS => self.documents.edit(input, context),
            at::PRESENCE_EVENTS => self.presences.event(input, context),
            at::MEMORY_EVENTS => self.graph.memory_event(input, context),
            at::GRAPH_EVENTS => self.graph.graph_event(input, context),
            other => unreachable!("the service has no input {other}"),
        }
    }

    fn on_timer(&mut self, timer: &Timer, context: &mut Context<'_>) -> Result<(), ProcessError> {
        match timer.kind {
            presence::EXPIRY => self.presences.expire(&timer.key, context),
            _ => self.documents.on_timer(timer, context),
        }
    }

    fn before_commit(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        self.presences.before_commit(context)?;
        self.graph.before_commit(context)
    }

    fn schema_ids(&self) -> Vec<u32> {
        let mut ids = [self.documents.schema_ids(), self.presences.schema_ids(), self.graph.schema_ids()].concat();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn reset(&mut self) {
        self.documents.reset();
    }
}
