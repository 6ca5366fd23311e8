//! `engram similar`: which memories of a workspace mean most nearly the same, by the cosine of their embeddings.
//!
//! Reads `memory.current` as any client could. On the CPU: one question reads each vector once, which is less than bringing them to a
//! GPU would take.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use engram_models::similarity::{self, Vectors};
use engram_processors::collaboration::MEMORY_CURRENT;
use engram_schemas::codec::Decoder;
use engram_schemas::memory::Memory;
use serde_json::json;

use super::stop_flag;
use crate::cli::{Global, Similar};
use crate::output;
use crate::reading;
use crate::values::Start;
use crate::wire::{Access, Connection};

pub fn run(global: &Global, args: &Similar) -> anyhow::Result<()> {
    let given = args.vector.as_deref().map(vector).transpose()?;
    let connection = Connection::open(global, Access::Read)?;
    let mut memories = memories(&connection, &args.workspace)?;
    ensure!(!memories.is_empty(), "there is no memory in a workspace {:?}", args.workspace);
    let (query, made_by) = match (given, &args.to) {
        (Some(given), _) => (given, None),
        (None, Some(name)) => {
            let memory = memories.remove(name).with_context(|| format!("there is no memory {name:?} in it"))?;
            ensure!(!memory.embedding.is_empty(), "memory {name:?} has no embedding: give it one, or give --vector");
            (memory.embedding, Some(memory.model))
        }
        (None, None) => unreachable!("the command line wants one of them"),
    };
    let all = memories.len();
    // Vectors of other models lie in other spaces.
    memories.retain(|_, memory| {
        memory.embedding.len() == query.len() && made_by.as_ref().is_none_or(|model| *model == memory.model)
    });
    if memories.len() < all {
        let others = all - memories.len();
        output::say(format_args!("{others} memories have no embedding that can be compared with it"));
    }
    let memories: Vec<Memory> = memories.into_values().collect();
    let values: Vec<f32> = memories.iter().flat_map(|memory| memory.embedding.iter().copied()).collect();
    let lengths = similarity::lengths(&values, query.len());
    let nearest = Vectors::new(&values, query.len(), &lengths)?.nearest(&query, args.count as usize)?;
    let found = nearest.iter().map(|neighbor| (&memories[neighbor.row], neighbor.similarity));
    if global.json {
        for (Memory { memory, kind, title, model, .. }, similarity) in found {
            output::json(
                &json!({"memory": memory, "similarity": similarity, "type": kind, "title": title, "model": model}),
            )?;
        }
        return Ok(());
    }
    let rows = found.map(|(memory, similarity)| {
        vec![format!("{similarity:.4}"), memory.memory.clone(), memory.kind.clone(), memory.title.clone()]
    });
    Ok(output::table(&["similarity", "memory", "type", "title"], rows)?)
}

/// A vector from a file: a list of numbers in JSON.
fn vector(path: &Path) -> anyhow::Result<Vec<f32>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let wrong = || format!("{} is no list of numbers, such as [0.1, -0.2]", path.display());
    let numbers: Vec<f32> = serde_json::from_str(&text).with_context(wrong)?;
    if numbers.is_empty() || !numbers.iter().all(|number| number.is_finite()) {
        bail!(wrong());
    }
    Ok(numbers)
}

/// The memories of a workspace that are there now, by name.
fn memories(connection: &Connection, workspace: &str) -> anyhow::Result<BTreeMap<String, Memory>> {
    let topics = connection.log.topics()?;
    let topic = topics.iter().find(|topic| topic.name == MEMORY_CURRENT);
    let topic = topic.context("there are no memories yet: the service collaboration makes them of memory.events")?;
    let spans = reading::spans(&*connection.log, topic, Start::Beginning, Some(Start::End))?;
    let mut decoder = Decoder::new(connection.registry.clone());
    let stop = stop_flag()?;
    let mut memories: BTreeMap<String, Memory> = BTreeMap::new();
    reading::read(&*connection.log, &spans, &stop, |record| {
        let Some(value) = record.and_then(|(_, record)| record.value) else { return Ok(()) };
        let memory: Memory = decoder.decode(value)?;
        if memory.workspace == workspace {
            memories.insert(memory.memory.clone(), memory);
        }
        Ok(())
    })?;
    ensure!(!stop.load(std::sync::atomic::Ordering::Relaxed), "stopped");
    memories.retain(|_, memory| !memory.deleted);
    Ok(memories)
}
