//! What is refused: each with a cause for machines and one line for people, and without a trace in the stores.

use engram_processors::collaboration::{GRAPH_EVENTS, MEMORY_EVENTS};
use engram_schemas::Event as _;
use engram_schemas::graph::{RelationCreated, RelationDeleted, RelationModified};
use engram_schemas::memory::{
    MemoryCreated, MemoryDeleted, MemoryEmbeddingUpdated, MemoryFieldEdited, MemoryMetadataSet, MemoryTagAdded,
};
use serde_json::{Map, Value, json};

use crate::bed::Bed;

/// An event about the memory `m`, or with its own fields.
fn event(fields: Value) -> Value {
    let mut event = json!({"id": "x", "time": 1, "workspace": "w", "actor": "ada"});
    event.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    event
}

fn of_memory(fields: Value) -> Value {
    let mut event = event(json!({"memory": "m"}));
    event.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    event
}

fn of_relation(fields: Value) -> Value {
    let mut event = event(json!({"from": "m", "to": "n", "type": "supports"}));
    event.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    event
}

fn entries(count: usize) -> Value {
    (0..count).map(|number| (number.to_string(), json!("v"))).collect::<Map<_, _>>().into()
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// A memory and a relation that have all that they can have.
fn full() -> Bed {
    let mut bed = Bed::new();
    let memory = json!({
        "id": "1", "type": "semantic", "title": "ä".repeat(200), "content": "x".repeat(1 << 20), "tags": texts(20),
        "metadata": entries(64), "embedding": vec![0.5; 4_096],
    });
    bed.write_json(MEMORY_EVENTS, MemoryCreated::NAME, &of_memory(memory));
    let tag = json!({"id": "2", "tag": "0"});
    bed.write_json(MEMORY_EVENTS, MemoryTagAdded::NAME, &of_memory(tag));
    let metadata = json!({"id": "3", "key": "0", "value": "ä".repeat(2_000)});
    bed.write_json(MEMORY_EVENTS, MemoryMetadataSet::NAME, &of_memory(metadata));
    let relation = json!({"id": "1", "attributes": entries(64)});
    bed.write_json(GRAPH_EVENTS, RelationCreated::NAME, &of_relation(relation));
    let node = json!({"id": "2", "from": "x".repeat(4_096), "attributes": {"ä".repeat(100): "ä".repeat(2_000)}});
    bed.write_json(GRAPH_EVENTS, RelationCreated::NAME, &of_relation(node));
    bed.driver.run().expect("processed and committed");
    assert_eq!(bed.dead_letters(), []);
    assert_eq!((bed.memories().len(), bed.relations().len()), (1, 2));
    bed
}

#[test]
fn what_cannot_be_is_a_dead_letter_and_leaves_no_trace() {
    let created = |fields: Value| {
        let mut event = of_memory(json!({"type": "semantic", "title": "t"}));
        event.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        (MEMORY_EVENTS, MemoryCreated::NAME, event)
    };
    let edited = |field: &str, value: &str| {
        (MEMORY_EVENTS, MemoryFieldEdited::NAME, of_memory(json!({"field": field, "value": value})))
    };
    let tagged = |tag: &str| (MEMORY_EVENTS, MemoryTagAdded::NAME, of_memory(json!({"tag": tag})));
    let set = |key: &str, value: &str| {
        (MEMORY_EVENTS, MemoryMetadataSet::NAME, of_memory(json!({"key": key, "value": value})))
    };
    let embedded =
        |numbers: Vec<f64>| (MEMORY_EVENTS, MemoryEmbeddingUpdated::NAME, of_memory(json!({"embedding": numbers})));
    let related = |fields: Value| (GRAPH_EVENTS, RelationCreated::NAME, of_relation(fields));
    let modified = |fields: Value| (GRAPH_EVENTS, RelationModified::NAME, of_relation(fields));
    let relations = "related_to, depends_on, part_of, similar_to, contradicts, supports, follows, precedes, AUTHORED, \
                     CHANGED_WITH";
    let kinds = "not one of procedural, semantic, episodic, declarative";
    let cases = [
        (created(json!({"type": "other"})), "unknown-value", format!("field \"type\" is \"other\", {kinds}")),
        (
            created(json!({"title": "ä".repeat(201)})),
            "too-long",
            "field \"title\" is longer than 200 characters".into(),
        ),
        (
            created(json!({"content": "x".repeat((1 << 20) + 1)})),
            "too-long",
            "field \"content\" is longer than 1048576 bytes".into(),
        ),
        (created(json!({"tags": texts(21)})), "too-many", "field \"tags\" has more than 20 entries".into()),
        (created(json!({"tags": [""]})), "empty-field", "field \"tags\" is empty".into()),
        (created(json!({"tags": ["new"]})), "too-many", "the memory would have 21 tags, more than 20".into()),
        (
            created(json!({"metadata": {"new": ""}})),
            "too-many",
            "the memory would have 65 entries of metadata, more than 64".into(),
        ),
        (created(json!({"metadata": {"": ""}})), "empty-field", "field \"metadata\" is empty".into()),
        (created(json!({"memory": ""})), "empty-field", "field \"memory\" is empty".into()),
        (created(json!({"id": ""})), "empty-field", "field \"id\" is empty".into()),
        (
            created(json!({"memory": "m".repeat(201)})),
            "too-long",
            "field \"memory\" is longer than 200 characters".into(),
        ),
        (
            created(json!({"actor": "m".repeat(201)})),
            "too-long",
            "field \"actor\" is longer than 200 characters".into(),
        ),
        (
            created(json!({"time": i64::MAX})),
            "time-out-of-range",
            format!("field \"time\" is not a time between the years 1 and 9999: {} ms", i64::MAX),
        ),
        (
            edited("colour", "red"),
            "unknown-value",
            "field \"field\" is \"colour\", not one of title, content, type".into(),
        ),
        (edited("type", "red\nhot"), "unknown-value", format!("field \"value\" is \"red\\nhot\", {kinds}")),
        (edited("title", &"x".repeat(201)), "too-long", "field \"value\" is longer than 200 characters".into()),
        (tagged("new"), "too-many", "the memory would have 21 tags, more than 20".into()),
        (tagged(""), "empty-field", "field \"tag\" is empty".into()),
        (tagged(&"x".repeat(51)), "too-long", "field \"tag\" is longer than 50 characters".into()),
        (set("new", "v"), "too-many", "the memory would have 65 entries of metadata, more than 64".into()),
        (set("0", &"x".repeat(2_001)), "too-long", "field \"value\" is longer than 2000 characters".into()),
        (set(&"x".repeat(101), "v"), "too-long", "field \"key\" is longer than 100 characters".into()),
        (embedded(vec![]), "empty-field", "field \"embedding\" is empty".into()),
        (embedded(vec![1e300]), "not-finite", "field \"embedding\" is not a finite number".into()),
        (embedded(vec![0.0; 4_097]), "too-many", "field \"embedding\" has more than 4096 entries".into()),
        (
            (MEMORY_EVENTS, MemoryDeleted::NAME, event(json!({"memory": "none"}))),
            "unknown-memory",
            "the workspace has no such memory: it must be created first".into(),
        ),
        (
            (MEMORY_EVENTS, RelationCreated::NAME, of_relation(json!({}))),
            "wrong-schema",
            "memory.events takes no engram.graph.RelationCreated".into(),
        ),
        (
            related(json!({"type": "likes"})),
            "unknown-value",
            format!("field \"type\" is \"likes\", not one of {relations}"),
        ),
        (related(json!({"to": ""})), "empty-field", "field \"to\" is empty".into()),
        (related(json!({"to": "x".repeat(4_097)})), "too-long", "field \"to\" is longer than 4096 bytes".into()),
        (
            related(json!({"attributes": entries(65)})),
            "too-many",
            "field \"attributes\" has more than 64 entries".into(),
        ),
        (
            related(json!({"attributes": {"x".repeat(101): ""}})),
            "too-long",
            "field \"attributes\" is longer than 100 characters".into(),
        ),
        (
            modified(json!({"attributes": {"new": "v"}})),
            "too-many",
            "the relation would have 65 attributes, more than 64".into(),
        ),
        (
            modified(json!({"type": "follows"})),
            "unknown-relation",
            "the workspace has no such relation: it must be created first".into(),
        ),
        (
            (GRAPH_EVENTS, RelationDeleted::NAME, of_relation(json!({"to": "none"}))),
            "unknown-relation",
            "the workspace has no such relation: it must be created first".into(),
        ),
        (
            (GRAPH_EVENTS, MemoryDeleted::NAME, of_memory(json!({}))),
            "wrong-schema",
            "graph.events takes no engram.memory.MemoryDeleted".into(),
        ),
    ];
    let mut bed = full();
    let (before, updates) = (bed.entries(), bed.memories());
    for (number, ((topic, name, event), cause, detail)) in cases.into_iter().enumerate() {
        bed.write_json(topic, name, &event);
        bed.driver.run().expect("processed and committed");
        let letters = bed.dead_letters();
        assert_eq!(letters.len(), number + 1, "{detail}");
        assert_eq!((letters[number].cause.as_str(), letters[number].detail.as_str()), (cause, detail.as_str()));
    }
    assert!(bed.entries() == before && bed.memories() == updates, "nothing is left of them");
    assert_eq!(bed.conflicts(), []);
}

#[test]
fn a_key_that_is_not_the_workspace_is_refused() {
    let mut bed = full();
    let before = bed.entries();
    let value = bed.driver.records(MEMORY_EVENTS)[1].value.clone();
    for (key, cause) in [(Some(&b"v"[..]), "wrong-key"), (None, "null-key")] {
        bed.write_bytes(MEMORY_EVENTS, key, value.as_deref());
        bed.write_bytes(GRAPH_EVENTS, Some(b"w"), None);
        bed.driver.run().expect("processed and committed");
        let letters = bed.dead_letters();
        let causes: Vec<&str> = letters[letters.len() - 2..].iter().map(|letter| letter.cause.as_str()).collect();
        assert_eq!(causes, [cause, "null-value"]);
    }
    assert_eq!(bed.entries(), before);
}

/// A conflict repeats the beginning of a long value; all of it is in the log.
#[test]
fn a_conflict_is_never_longer_than_what_it_is_about() {
    let mut bed = full();
    for (id, actor) in [("4", "ada"), ("5", "bob")] {
        let value = format!("{actor}{}", "ä".repeat(2_000));
        let edit = json!({"id": id, "actor": actor, "field": "content", "value": value, "observed": 1});
        bed.write_json(MEMORY_EVENTS, MemoryFieldEdited::NAME, &of_memory(edit));
    }
    bed.driver.run().expect("processed and committed");
    let conflicts = bed.conflicts();
    assert_eq!(conflicts.len(), 1);
    assert_eq!((conflicts[0].winner_value.chars().count(), conflicts[0].loser_value.chars().count()), (1_000, 1_000));
    assert!(conflicts[0].winner_value.starts_with("bob") && conflicts[0].loser_value.starts_with("ada"));
}
