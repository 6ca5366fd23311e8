//! The contract against its past: `golden/NAME/VERSION.{avsc,json,hex}` are every version of every schema with an event
//! and its bytes. A changed `.avsc` needs a new version there; nothing that is there may ever change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engram_schemas::activity::{Interaction, Session, TaskClock, WindowCount, WindowDelta};
use engram_schemas::codec::{Decoder, Encoder, json_to_avro};
use engram_schemas::compatibility::{Level, check};
use engram_schemas::dead_letter::{DeadLetter, LetterReplayed};
use engram_schemas::document::{DocumentState, Edit, EditConflict, EditRejected, SequencedEdit};
use engram_schemas::graph::{GraphConflict, Relation, RelationCreated, RelationDeleted, RelationModified};
use engram_schemas::manifest::Manifest;
use engram_schemas::memory::{
    Memory, MemoryCreated, MemoryDeleted, MemoryEmbeddingUpdated, MemoryFieldEdited, MemoryMetadataSet, MemoryRestored,
    MemoryTagAdded, MemoryTagRemoved,
};
use engram_schemas::operations::ServiceInstance;
use engram_schemas::presence::{Presence, SessionLeft, SessionSeen};
use engram_schemas::registry::Registry;
use engram_schemas::registry::memory::MemoryRegistry;
use engram_schemas::scoring::{ModelLoaded, ModelUnloaded, Score};
use engram_schemas::telemetry::{Metric, Sample};
use engram_schemas::{CONTRACT, Event, SchemaId, wire};

struct Version {
    schema: String,
    event: serde_json::Value,
    bytes: Vec<u8>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn versions(name: &str) -> Vec<Version> {
    let read = |file: String| {
        std::fs::read_to_string(folder(name).join(&file)).unwrap_or_else(|error| panic!("{name}/{file}: {error}"))
    };
    let versions: Vec<Version> = (1..)
        .take_while(|version| folder(name).join(format!("{version}.avsc")).exists())
        .map(|version| Version {
            schema: read(format!("{version}.avsc")),
            event: serde_json::from_str(&read(format!("{version}.json"))).expect("golden JSON"),
            bytes: unhex(read(format!("{version}.hex")).trim()),
        })
        .collect();
    assert!(!versions.is_empty(), "{name} has no version in golden/");
    versions
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every version's bytes are what its event gives, and today's struct reads and writes them.
fn golden<E: Event>() {
    let versions = versions(E::NAME);
    let registry = Arc::new(MemoryRegistry::default());
    for (index, version) in versions.iter().enumerate() {
        let name = format!("{} version {}", E::NAME, index + 1);
        let body = json_to_avro(&version.schema, &version.event).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(hex(&body), hex(&version.bytes), "{name}: bytes");
        let id = registry.register(E::NAME, &version.schema).unwrap_or_else(|error| panic!("{name}: {error}"));
        let event: E = Decoder::new(registry.clone())
            .decode(&wire::join(id, &version.bytes))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        if index + 1 == versions.len() {
            let mut value = Vec::new();
            Encoder::<E>::register(&*registry, "t").expect("register").encode(&event, &mut value).expect(&name);
            assert_eq!(hex(&value[wire::FRAME_BYTES..]), hex(&version.bytes), "{name}: written by the struct");
            let json = Decoder::new(registry.clone()).decode_json(&value).expect(&name);
            assert_eq!(json, version.event, "{name}: as JSON");
        }
    }
}

#[test]
fn interactions_keep_their_bytes() {
    golden::<Interaction>();
}

#[test]
fn window_counts_keep_their_bytes() {
    golden::<WindowCount>();
}

#[test]
fn sessions_keep_their_bytes() {
    golden::<Session>();
}

#[test]
fn window_deltas_keep_their_bytes() {
    golden::<WindowDelta>();
}

#[test]
fn task_clocks_keep_their_bytes() {
    golden::<TaskClock>();
}

/// The codecs do not follow aliases: a field under a new name would read old values as its default.
#[test]
fn no_schema_has_aliases() {
    for subject in CONTRACT {
        assert!(!subject.schema.contains("\"aliases\""), "{}", subject.name);
    }
}

/// Whatever FULL_TRANSITIVE lets others add to an event, it is read, and what is known of it is right.
#[test]
fn telemetry_keeps_its_bytes() {
    golden::<Metric>();
    golden::<Sample>();
}

#[test]
fn scoring_keeps_its_bytes() {
    golden::<Score>();
    golden::<ModelLoaded>();
    golden::<ModelUnloaded>();
}

#[test]
fn evolved_events_are_read() {
    let event = serde_json::json!({
        "id": "1", "time": 1_700_000_000_000_i64, "user": "ada", "type": "edit", "target": "a.md", "source": "", "value": 1.5,
        "attributes": {"a": "b"}
    });
    let with_field = |field: &str| {
        let mut schema: serde_json::Value = serde_json::from_str(Interaction::SCHEMA).expect("JSON");
        schema["fields"].as_array_mut().expect("fields").insert(2, serde_json::from_str(field).expect("JSON"));
        schema.to_string()
    };
    let value_as = |kind: &str| Interaction::SCHEMA.replace(r#"["null", "double"]"#, kind);
    let evolved = [
        with_field(
            r#"{"name": "sev", "type": {"type": "enum", "name": "Sev", "symbols": ["LOW", "HIGH"], "default": "LOW"}, "default": "LOW"}"#,
        ),
        with_field(
            r#"{"name": "at", "type": ["null", {"type": "record", "name": "At", "fields": [{"name": "x", "type": "int"}]}], "default": null}"#,
        ),
        with_field(
            r#"{"name": "ats", "type": {"type": "array", "items": {"type": "record", "name": "At", "fields": [{"name": "x", "type": "int"}]}}, "default": []}"#,
        ),
        value_as(r#"["null", "double", "long"]"#),
        value_as(r#"["double", "null"]"#)
            .replace(r#""default": null, "doc": "A measure"#, r#""default": 0.0, "doc": "A measure"#),
    ];
    let extras = [
        serde_json::json!({"sev": "HIGH"}),
        serde_json::json!({"at": {"x": 7}}),
        serde_json::json!({"ats": [{"x": 7}, {"x": 8}]}),
        serde_json::json!({}),
        serde_json::json!({}),
    ];
    let expected: Interaction = serde_json::from_value(event.clone()).expect("an event");
    for (schema, extra) in evolved.iter().zip(extras) {
        let registry = Arc::new(MemoryRegistry::default());
        registry.register("t", Interaction::SCHEMA).expect("registered");
        let id = registry.register("t", schema).unwrap_or_else(|error| panic!("{error}\n{schema}"));
        let mut whole = event.clone();
        whole.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        let body = json_to_avro(schema, &whole).unwrap_or_else(|error| panic!("{error}\n{schema}"));
        let value = wire::join(id, &body);
        let mut decoder = Decoder::new(registry.clone());
        let read: Interaction = decoder.decode(&value).unwrap_or_else(|error| panic!("{error}\n{schema}"));
        assert_eq!(read, expected, "{schema}");
        for cut in 0..body.len() {
            let cut = wire::join(id, &body[..cut]);
            assert!(decoder.decode::<Interaction>(&cut).is_err(), "{schema}");
            assert!(decoder.decode_json(&cut).is_err(), "{schema}");
        }
    }
}

#[test]
fn relations_keep_their_bytes() {
    golden::<RelationCreated>();
    golden::<RelationModified>();
    golden::<RelationDeleted>();
    golden::<Relation>();
    golden::<GraphConflict>();
}

#[test]
fn memories_keep_their_bytes() {
    golden::<MemoryCreated>();
    golden::<MemoryFieldEdited>();
    golden::<MemoryTagAdded>();
    golden::<MemoryTagRemoved>();
    golden::<MemoryMetadataSet>();
    golden::<MemoryDeleted>();
    golden::<MemoryRestored>();
    golden::<MemoryEmbeddingUpdated>();
    golden::<Memory>();
}

#[test]
fn documents_keep_their_bytes() {
    golden::<Edit>();
    golden::<SequencedEdit>();
    golden::<DocumentState>();
    golden::<EditConflict>();
    golden::<EditRejected>();
}

#[test]
fn presence_keeps_its_bytes() {
    golden::<SessionSeen>();
    golden::<SessionLeft>();
    golden::<Presence>();
}

#[test]
fn dead_letters_keep_their_bytes() {
    golden::<DeadLetter>();
}

#[test]
fn replayed_letters_keep_their_bytes() {
    golden::<LetterReplayed>();
}

#[test]
fn manifests_keep_their_bytes() {
    golden::<Manifest>();
}

#[test]
fn service_instances_keep_their_bytes() {
    golden::<ServiceInstance>();
}

#[test]
fn every_schema_is_compatible_with_all_its_versions() {
    for subject in CONTRACT {
        let versions = versions(subject.name);
        let texts: Vec<&str> = versions.iter().map(|version| version.schema.as_str()).collect();
        let reasons = check(Level::FullTransitive, subject.schema, &texts).expect("schemas that parse");
        assert_eq!(reasons, Vec::<String>::new(), "{}", subject.name);
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        let latest = texts.last().expect("at least one");
        assert_eq!(
            parse(subject.schema),
            parse(latest),
            "{}: the .avsc has changed: add a version to golden/",
            subject.name
        );
    }
}

#[test]
fn an_id_that_nobody_registered_is_an_unknown_schema() {
    let mut decoder = Decoder::new(Arc::new(MemoryRegistry::default()));
    let error = decoder.decode::<Interaction>(&wire::join(SchemaId(7), b"")).expect_err("nothing is registered");
    assert_eq!((error.code(), error.to_string().as_str()), ("unknown-schema-id", "the registry knows no schema 7"));
}
