//! `engram state`: the committed state of a service's stores, whether the service runs or not.

use anyhow::Context as _;
use engram_pipeline::changelog;
use engram_pipeline::log::TopicPartition;
use engram_pipeline::store::{self, Query, StoreSpec};
use serde_json::{Value, json};

use crate::cli::{Global, State};
use crate::output;
use crate::wire::{self, Access, Connection};

pub fn run(global: &Global, command: &State) -> anyhow::Result<()> {
    match command {
        State::List { service } => list(global, service.as_deref()),
        State::Get { service, store, key } => {
            let mut found = entries(global, service, store, Some(key), usize::MAX)?;
            // The key as `range` shows it names one entry; a part of it may name several.
            let exact: Option<Value> = serde_json::from_str(key).ok();
            if let Some(at) = found.iter().position(|(entry_key, _)| Some(entry_key) == exact.as_ref()) {
                found = vec![found.swap_remove(at)];
            }
            match found.as_slice() {
                [] => anyhow::bail!("store {store} of service {service} has no entry {key}"),
                [entry] => print(global, std::slice::from_ref(entry)),
                several => anyhow::bail!(
                    "{} entries have {key} in their key: give one of them whole, such as '{}', or use 'engram state range'",
                    several.len(),
                    several[0].0
                ),
            }
        }
        State::Range { service, store, key, limit } => {
            let found = entries(global, service, store, key.as_deref(), *limit)?;
            print(global, &found)
        }
    }
}

fn list(global: &Global, service: Option<&str>) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for &name in wire::SERVICES.iter().filter(|name| service.is_none_or(|wanted| wanted == **name)) {
        for store in wire::stores(name)? {
            if global.json {
                output::json(&json!({"service": name, "store": store.name}))?;
            }
            rows.push(vec![name.to_owned(), store.name.to_owned()]);
        }
    }
    if let Some(name) = service {
        wire::stores(name)?;
    }
    if !global.json {
        output::table(&["service", "store"], rows)?;
    }
    Ok(())
}

type Entry = (Value, Value);

fn entries(global: &Global, service: &str, name: &str, key: Option<&str>, limit: usize) -> anyhow::Result<Vec<Entry>> {
    let stores = wire::stores(service)?;
    let index = stores.iter().position(|store| store.name == name).with_context(|| {
        let names: Vec<&str> = stores.iter().map(|store| store.name).collect();
        format!("service {service} has no store {name:?}; it has: {}", names.join(", "))
    })?;
    let connection = Connection::open(global, Access::Read)?;
    let topic = changelog::topic(service);
    let topics = connection.log.topics()?;
    let partitions = topics.iter().find(|known| known.name == topic).map_or(0, |known| known.partitions);
    anyhow::ensure!(partitions > 0, "service {service} has not run on this log yet: start it with 'engram up'");
    let mut found = Vec::new();
    for partition in 0..partitions {
        collect(
            &connection,
            service,
            &TopicPartition::new(topic.as_str(), partition),
            index,
            &stores[index],
            key,
            limit,
            &mut found,
        )?;
    }
    found.truncate(limit);
    Ok(found)
}

#[expect(clippy::too_many_arguments, reason = "one call, and a struct would only rename it")]
fn collect(
    connection: &Connection,
    service: &str,
    changelog: &TopicPartition,
    index: usize,
    store: &StoreSpec,
    wanted: Option<&str>,
    limit: usize,
    found: &mut Vec<Entry>,
) -> anyhow::Result<()> {
    let files = connection.stores(service)?.join(changelog.partition.to_string());
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let query = Query::open(&*connection.log, changelog, &files, scratch.path())?;
    query.all(store::prefix(index), |key, value| {
        let (key, value) = (store.describe)(key, value);
        if wanted.is_none_or(|wanted| matches(&key, wanted)) {
            found.push((key, value));
        }
        found.len() < limit
    })?;
    Ok(())
}

/// The key itself, or the text of one of its fields or parts.
fn matches(key: &Value, wanted: &str) -> bool {
    if serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| wanted == *key) {
        return true;
    }
    let text = |field: &Value| field.as_str().map_or_else(|| field.to_string(), str::to_owned);
    match key {
        Value::Object(fields) => fields.values().any(|field| text(field) == wanted),
        Value::Array(parts) => parts.iter().any(|part| text(part) == wanted),
        whole => text(whole) == wanted,
    }
}

fn print(global: &Global, entries: &[Entry]) -> anyhow::Result<()> {
    if global.json {
        for (key, value) in entries {
            output::json(&json!({"key": key, "value": value}))?;
        }
        return Ok(());
    }
    let rows = entries.iter().map(|(key, value)| vec![key.to_string(), value.to_string()]);
    Ok(output::table(&["key", "value"], rows)?)
}
