//! `engram state`: the committed state of a service's stores, whether the service runs or not. On Kafka the processes that
//! own the partitions are asked; where none answers, the state is rebuilt from disk and changelog.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use engram_connectors::http::StoreQuery;
use engram_pipeline::clock::Clock;
use engram_pipeline::log::TopicPartition;
use engram_pipeline::replay::State;
use engram_pipeline::store::{self, Query, StoreSpec};
use engram_pipeline::{changelog, directory};
use serde_json::{Value, json};

use super::stop_flag;
use crate::cli::{At, Global, Stale, State as Command};
use crate::fork::{self, Part};
use crate::output;
use crate::past::PastService;
use crate::queries::{self, Wanted};
use crate::values::When;
use crate::wire::{self, Access, Connection};

pub fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::List { service } => list(global, service.as_deref()),
        Command::Get { service, store, key, stale, at } => {
            let wanted = Question { service, store, key: Some(key), limit: usize::MAX };
            let found = entries(global, &wanted, *stale, at)?;
            anyhow::ensure!(!found.is_empty(), "store {store} of service {service} has no entry {key}");
            print(global, &[queries::only_one(found, |(shown, _)| shown, key)?])
        }
        Command::Range { service, store, key, limit, stale, at } => {
            let wanted = Question { service, store, key: key.as_deref(), limit: *limit };
            let found = entries(global, &wanted, *stale, at)?;
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

/// What is asked of a store.
struct Question<'a> {
    service: &'a str,
    store: &'a str,
    key: Option<&'a str>,
    limit: usize,
}

fn entries(global: &Global, question: &Question<'_>, stale: Stale, at: &At) -> anyhow::Result<Vec<Entry>> {
    let &Question { service, store: name, key, limit } = question;
    let (index, store) = queries::find_store(service, name)?;
    let connection = Connection::open(global, Access::Read)?;
    if let Some(when) = &at.at {
        return past_entries(&connection, question, (index, &store), when);
    }
    if let Some(event_ms) = at.as_of_event {
        return entries_as_of_event(global, &connection, question, event_ms);
    }
    let partitions = queries::partitions(&connection.log.topics()?, service);
    anyhow::ensure!(partitions > 0, "service {service} has not run on this log yet: start it with 'engram up'");
    let wanted = Wanted::new(&store, key, partitions);
    let mut owned = BTreeMap::new();
    if global.brokers.is_some() && !stale.stale {
        let instances = directory::instances(&*connection.log, &connection.registry, &Clock::default())?;
        let (service, store, key) = (service.to_owned(), name.to_owned(), key.map(str::to_owned));
        let query = StoreQuery { service, store, key, limit, local: true };
        owned = queries::ask_all(&instances, connection.config.http.secret()?.as_deref(), &query, &wanted);
    }
    let mut found = Vec::new();
    for partition in wanted.partitions.clone() {
        if let Some(entries) = owned.remove(&partition) {
            found.extend(entries.into_iter().map(|entry| (entry.key, entry.value)));
            continue;
        }
        let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
        let query = rebuild(&connection, service, partition, scratch.path(), stale)?;
        if let Some(at) = &wanted.key {
            let value = query.get(store::prefix(index), at)?;
            found.extend(value.map(|value| (store.describe)(at, &value)));
            continue;
        }
        query.all(store::prefix(index), |key_found, value| {
            let entry = (store.describe)(key_found, value);
            if key.is_none_or(|wanted| queries::matches(&entry.0, wanted)) {
                found.push(entry);
            }
            found.len() < limit
        })?;
    }
    found.truncate(limit);
    Ok(found)
}

/// As just the events until a time make them: the service runs over them, in a folder of its own.
fn entries_as_of_event(
    global: &Global,
    connection: &Connection,
    question: &Question<'_>,
    event_ms: i64,
) -> anyhow::Result<Vec<Entry>> {
    let folder =
        tempfile::Builder::new().prefix("engram-as-of").tempdir().context("cannot create a temporary folder")?;
    let part = Part { event_ms: Some(event_ms), ..Part::default() };
    fork::run_service(global, connection, question.service, &part, folder.path(), &*stop_flag()?)?;
    let there = Global { data: folder.path().to_owned(), brokers: None, ..global.clone() };
    entries(&there, question, Stale { stale: false }, &At { at: None, as_of_event: None })
}

/// As they were: the tasks are brought back to that moment.
fn past_entries(
    connection: &Connection,
    question: &Question<'_>,
    (index, store): (usize, &StoreSpec),
    when: &When,
) -> anyhow::Result<Vec<Entry>> {
    let service = PastService::open(connection, question.service)?;
    let wanted = Wanted::new(store, question.key, service.partitions);
    let tasks = service.tasks(when)?;
    if let [task] = tasks.clone().collect::<Vec<_>>()[..] {
        anyhow::ensure!(
            wanted.partitions.contains(&task),
            "this key is in task {}: give a moment of that partition, or a time",
            wanted.partitions.start
        );
    }
    let mut found = Vec::new();
    for task in tasks.filter(|task| wanted.partitions.contains(task)) {
        let mut past = service.at(task, when)?;
        let state: &mut dyn State = &mut past.rerun;
        if let Some(at) = &wanted.key {
            found.extend(state.get(index, at)?.map(|value| (store.describe)(at, &value)));
            continue;
        }
        state.visit(index, &mut |key_found, value| {
            let entry = (store.describe)(key_found, value);
            if question.key.is_none_or(|wanted| queries::matches(&entry.0, wanted)) {
                found.push(entry);
            }
            found.len() < question.limit
        })?;
    }
    found.truncate(question.limit);
    Ok(found)
}

/// A task's state from what is on disk here and its changelog, where no process answers. `scratch` outlives it.
fn rebuild(
    connection: &Connection,
    service: &str,
    partition: i32,
    scratch: &Path,
    stale: Stale,
) -> anyhow::Result<Query> {
    let files = connection.stores(service)?.join(partition.to_string());
    let changelog = TopicPartition::new(changelog::topic(service), partition);
    if !stale.stale {
        return Ok(Query::open(&*connection.log, &changelog, &files, scratch)?);
    }
    let (query, behind) = Query::open_stale(&*connection.log, &changelog, &files, scratch)?;
    match behind {
        Some(behind) => {
            output::say(format_args!("engram: task {partition} is {behind} offsets of its changelog behind"));
        }
        None => output::say(format_args!("engram: task {partition} is not on this disk")),
    }
    Ok(query)
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
