//! The collaboration service under a driver, with one partition: events go in, and what comes out is read.

use std::collections::BTreeMap;

use engram_pipeline::driver::{Driver, Record};
use engram_pipeline::store::OwnedEntry;
use engram_processors::collaboration::documents::DocumentsConfig;
use engram_processors::collaboration::{
    self, GRAPH_CONFLICTS, GRAPH_CURRENT, GRAPH_EVENTS, MEMORY_CURRENT, MEMORY_EVENTS,
};
use engram_schemas::codec::{Decoder, Encoder, json_to_avro};
use engram_schemas::dead_letter::DeadLetter;
use engram_schemas::graph::{
    GraphConflict, Relation, RelationCreated, RelationDeleted, RelationModified, relation_key,
};
use engram_schemas::memory::{
    Memory, MemoryCreated, MemoryDeleted, MemoryEmbeddingUpdated, MemoryFieldEdited, MemoryMetadataSet, MemoryRestored,
    MemoryTagAdded, MemoryTagRemoved, memory_key,
};
use engram_schemas::{CONTRACT, Event as Avro, subject, wire};
use serde_json::Value;

/// What an event is about: a memory, or a relation by its ends and, in the middle, its type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    Memory(String),
    Relation(String, String, String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Create { title: String, tags: Vec<String>, metadata: BTreeMap<String, String>, embedding: Vec<f32> },
    Edit(String, String),
    AddTag(String),
    RemoveTag(String),
    SetMetadata(String, Option<String>),
    Embed(Vec<f32>),
    Delete,
    Restore,
    Relate(f64, BTreeMap<String, String>),
    Modify(Option<f64>, BTreeMap<String, Option<String>>),
    Unrelate,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: String,
    pub time: i64,
    pub workspace: String,
    pub actor: String,
    pub about: About,
    pub observed: Option<i64>,
    pub op: Op,
}

/// Every memory is made with this type, content and model.
pub const KIND: &str = "semantic";
pub const CONTENT: &str = "";
pub const MODEL: &str = "mini";

pub const STORES: [&str; 4] = ["memories", "relations", "node-relations", "workspaces"];

pub struct Bed {
    pub driver: Driver,
    written: i64,
}

impl Bed {
    pub fn new() -> Self {
        let service = collaboration::service(DocumentsConfig::default());
        Self { driver: Driver::new(service, 1).expect("a driver"), written: 0 }
    }

    /// Writes an event, to be processed later than those before it.
    pub fn write(&mut self, event: &Event) {
        let (topic, value) = encoded(&self.driver, event);
        self.write_bytes(topic, Some(event.workspace.as_bytes()), Some(&value));
    }

    pub fn write_bytes(&mut self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.written += 1;
        self.driver.write(topic, 0, key, value, self.written);
    }

    /// Writes an event of any type of the contract as its schema allows, whatever its limits are.
    pub fn write_json(&mut self, topic: &str, name: &str, event: &Value) {
        let of = CONTRACT.iter().find(|subject| subject.name == name).expect("a type of the contract");
        let id = self.driver.registry().register(&subject(topic, name), of.schema).expect("registered");
        let body = json_to_avro(of.schema, event).unwrap_or_else(|error| panic!("{name}: {error}"));
        let key = event["workspace"].as_str().expect("a workspace").as_bytes();
        self.write_bytes(topic, Some(key), Some(&wire::join(id, &body)));
    }

    /// Writes, processes and commits.
    pub fn take(&mut self, events: &[Event]) {
        events.iter().for_each(|event| self.write(event));
        self.driver.run().expect("processed and committed");
    }

    pub fn shown(&mut self, store: &str) -> Vec<(Value, Value)> {
        self.driver.described(0, store).expect("readable")
    }

    /// All entries of the graph's stores.
    pub fn entries(&mut self) -> Vec<Vec<OwnedEntry>> {
        STORES.iter().map(|store| self.driver.entries(0, store).expect("readable")).collect()
    }

    pub fn events<E: Avro>(&self, topic: &str) -> Vec<E> {
        let mut decoder = Decoder::new(self.driver.registry());
        let values = self.driver.records(topic).into_iter().filter_map(|record| record.value);
        values.map(|value| decoder.decode(&value).expect("an event")).collect()
    }

    pub fn conflicts(&self) -> Vec<GraphConflict> {
        self.events(GRAPH_CONFLICTS)
    }

    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.events("dead-letters")
    }

    /// As a reader of `memory.current` has them, by workspace and id.
    pub fn memories(&self) -> BTreeMap<(String, String), Memory> {
        let last = self.last::<Memory>(MEMORY_CURRENT, |event| memory_key(&event.workspace, &event.memory));
        last.into_values().map(|event| ((event.workspace.clone(), event.memory.clone()), event)).collect()
    }

    /// As a reader of `graph.current` has them.
    pub fn relations(&self) -> BTreeMap<(String, About), Relation> {
        let key = |event: &Relation| relation_key(&event.workspace, &event.from, &event.kind, &event.to);
        let about = |event: &Relation| About::Relation(event.from.clone(), event.kind.clone(), event.to.clone());
        let last = self.last::<Relation>(GRAPH_CURRENT, key).into_values();
        last.map(|event| ((event.workspace.clone(), about(&event)), event)).collect()
    }

    fn last<E: Avro>(&self, topic: &str, key_of: impl Fn(&E) -> String) -> BTreeMap<Vec<u8>, E> {
        let mut decoder = Decoder::new(self.driver.registry());
        let mut last = BTreeMap::new();
        for Record { key, value, .. } in self.driver.records(topic) {
            let key = key.expect("a key");
            match value {
                Some(value) => {
                    let event: E = decoder.decode(&value).expect("an event");
                    assert_eq!(key_of(&event).as_bytes(), key, "the record's key");
                    last.insert(key, event);
                }
                None => drop(last.remove(&key)),
            }
        }
        last
    }
}

/// The topic of an event.
pub fn topic(event: &Event) -> &'static str {
    match event.about {
        About::Memory(_) => MEMORY_EVENTS,
        About::Relation(..) => GRAPH_EVENTS,
    }
}

fn encoded(driver: &Driver, event: &Event) -> (&'static str, Vec<u8>) {
    fn value<E: Avro>(driver: &Driver, topic: &str, event: &E) -> Vec<u8> {
        let mut value = Vec::new();
        let encoder = Encoder::register(&*driver.registry(), topic).expect("registered");
        encoder.encode(event, &mut value).expect("an event that may be");
        value
    }
    let topic = topic(event);
    let Event { id, time, workspace, actor, about, observed, op } = event.clone();
    let bytes = match about {
        About::Memory(memory) => match op {
            Op::Create { title, tags, metadata, embedding } => {
                let (kind, content, model) = (KIND.to_owned(), CONTENT.to_owned(), MODEL.to_owned());
                let event = MemoryCreated {
                    id,
                    time,
                    workspace,
                    actor,
                    memory,
                    kind,
                    title,
                    content,
                    tags,
                    metadata,
                    embedding,
                    model,
                    observed,
                };
                value(driver, topic, &event)
            }
            Op::Edit(field, text) => {
                let event = MemoryFieldEdited { id, time, workspace, actor, memory, field, value: text, observed };
                value(driver, topic, &event)
            }
            Op::AddTag(tag) => {
                value(driver, topic, &MemoryTagAdded { id, time, workspace, actor, memory, tag, observed })
            }
            Op::RemoveTag(tag) => {
                value(driver, topic, &MemoryTagRemoved { id, time, workspace, actor, memory, tag, observed })
            }
            Op::SetMetadata(key, text) => {
                let event = MemoryMetadataSet { id, time, workspace, actor, memory, key, value: text, observed };
                value(driver, topic, &event)
            }
            Op::Embed(embedding) => {
                let model = MODEL.to_owned();
                let event = MemoryEmbeddingUpdated { id, time, workspace, actor, memory, embedding, model, observed };
                value(driver, topic, &event)
            }
            Op::Delete => value(driver, topic, &MemoryDeleted { id, time, workspace, actor, memory, observed }),
            Op::Restore => value(driver, topic, &MemoryRestored { id, time, workspace, actor, memory, observed }),
            other => panic!("{other:?} is not of a memory"),
        },
        About::Relation(from, kind, to) => match op {
            Op::Relate(strength, attributes) => {
                let event =
                    RelationCreated { id, time, workspace, from, to, kind, strength, actor, attributes, observed };
                value(driver, topic, &event)
            }
            Op::Modify(strength, attributes) => {
                let event =
                    RelationModified { id, time, workspace, actor, from, to, kind, strength, attributes, observed };
                value(driver, topic, &event)
            }
            Op::Unrelate => {
                value(driver, topic, &RelationDeleted { id, time, workspace, actor, from, to, kind, observed })
            }
            other => panic!("{other:?} is not of a relation"),
        },
    };
    (topic, bytes)
}
