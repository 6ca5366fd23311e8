//! `engram similar`: the memories whose embeddings are nearest, of a workspace as it is now, against a sort by the cosine in f64.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use support::activity::seed;
use support::engram::Engram;

const MEMORIES: usize = 60;
const DIMENSIONS: usize = 24;

fn created(workspace: &str, memory: &str, model: &str, embedding: &[f64]) -> Value {
    json!({
        "id": format!("{workspace}/{memory}/{model}"), "workspace": workspace, "memory": memory, "type": "semantic",
        "title": format!("About {memory}"), "actor": "ada", "embedding": embedding, "model": model
    })
}

fn produce(engram: &Engram, kind: &str, events: &[Value]) {
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    engram.run_with(&["produce", "memory.events", "--type", &format!("engram.memory.{kind}")], &lines);
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn the_nearest_memories_of_a_workspace_are_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    let other = json!({"id": "1", "time": 1, "user": "ada", "type": "edit", "source": ""}).to_string();
    engram.run_with(&["produce", "activity.events"], &other);
    assert!(engram.fails(1, &["similar", "w", "--to", "m0"]).contains("there are no memories yet"));
    let mut random = StdRng::seed_from_u64(seed());
    let mut draw = || (0..DIMENSIONS).map(|_| random.random_range(-1.0..1.0)).collect::<Vec<f64>>();
    let vectors: Vec<Vec<f64>> = (0..MEMORIES).map(|_| draw()).collect();
    let mut events: Vec<Value> =
        vectors.iter().enumerate().map(|(number, vector)| created("w", &format!("m{number}"), "one", vector)).collect();
    // None of these can be an answer: another workspace, another model, another length, no embedding.
    events.push(created("elsewhere", "m1", "one", &vectors[0]));
    events.push(created("w", "other-model", "two", &vectors[0]));
    events.push(created("w", "short", "one", &[1.0, 2.0]));
    events.push(
        json!({"id": "none", "workspace": "w", "memory": "none", "type": "semantic", "title": "-", "actor": "ada"}),
    );
    produce(&engram, "MemoryCreated", &events);
    engram.catch_up();
    // Deleted, and moved to where the first one is.
    produce(&engram, "MemoryDeleted", &[json!({"id": "d", "workspace": "w", "memory": "m7", "actor": "ada"})]);
    produce(
        &engram,
        "MemoryEmbeddingUpdated",
        &[
            json!({"id": "u", "workspace": "w", "memory": "m9", "actor": "ada", "embedding": vectors[0], "model": "one"}),
        ],
    );
    engram.catch_up();

    let vector_of = |number: usize| if number == 9 { &vectors[0] } else { &vectors[number] };
    let expected = |query: &[f64], but: usize| {
        let others = (0..MEMORIES).filter(|number| *number != 7 && *number != but);
        let mut expected: Vec<(String, f64)> =
            others.map(|number| (format!("m{number}"), cosine(query, vector_of(number)))).collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        expected.truncate(12);
        expected
    };
    let is_as = |found: &[Value], expected: &[(String, f64)]| {
        assert_eq!(found.len(), expected.len());
        for (found, (_, similarity)) in found.iter().zip(expected) {
            // Names may change places where similarities are as good as equal.
            assert!(
                (found["similarity"].as_f64().expect("a number") - similarity).abs() < 1e-5,
                "{found} {similarity}"
            );
            let own: usize = found["memory"].as_str().expect("a name")[1..].parse().expect("a number");
            assert!(expected.iter().any(|(name, _)| *name == format!("m{own}")), "{found}");
        }
    };
    for number in [0, 9, 30] {
        let found = engram.json(&["similar", "w", "--to", &format!("m{number}"), "--count", "12"]);
        is_as(&found, &expected(vector_of(number), number));
    }
    let first = &engram.json(&["similar", "w", "--to", "m0", "--count", "1"])[0];
    assert_eq!(
        (&first["memory"], &first["title"], &first["type"]),
        (&json!("m9"), &json!("About m9"), &json!("semantic"))
    );
    let shown = engram.run(&["similar", "w", "--to", "m0", "--count", "1"]);
    assert!(shown.contains("1.0000") && shown.contains("About m9"), "{shown}");

    // A vector of nobody's is compared with those of every model.
    let query: Vec<f64> = (0..DIMENSIONS).map(|number| number as f64 - 7.5).collect();
    let file = folder.path().join("query.json");
    std::fs::write(&file, json!(query).to_string()).expect("written");
    let path = file.display().to_string();
    let found = engram.json(&["similar", "w", "--vector", &path, "--count", "61"]);
    assert_eq!(found.len(), MEMORIES, "all but the deleted one, and that of another model");
    let own: Vec<Value> = found.iter().filter(|one| one["model"] == "one").take(12).cloned().collect();
    is_as(&own, &expected(&query, MEMORIES));

    for (arguments, wanted) in [
        (&["similar", "nowhere", "--to", "m0"][..], "no memory in a workspace \"nowhere\""),
        (&["similar", "w", "--to", "m7"], "no memory \"m7\""),
        (&["similar", "w", "--to", "none"], "has no embedding"),
        (&["similar", "w", "--vector", "/nowhere"], "cannot read /nowhere"),
    ] {
        let error = engram.fails(1, arguments);
        assert!(error.contains(wanted), "{error}");
    }
    for text in ["[]", "{}", "[1, \"two\"]", "[1e39]", "not JSON"] {
        std::fs::write(&file, text).expect("written");
        let error = engram.fails(1, &["similar", "w", "--vector", &path]);
        assert!(error.contains("is no list of numbers"), "{text}: {error}");
    }
    assert!(engram.fails(2, &["similar", "w"]).contains("--to"));
}
