//! Reading stores where they are open: of this process's tasks directly, of other processes' through their HTTP interface,
//! found in `services.registry`.
//!
//! A request goes one step at most: whoever is asked by another process answers for its own tasks only. What is read was
//! committed: files change only after the transaction that carries their changelog.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use engram_connectors::http::{SECRET_HEADER, STORES_PATH, StoreQuery, StoreRefusal};
use engram_pipeline::changelog;
use engram_pipeline::directory::Directory;
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{TopicInfo, partitions_of};
use engram_pipeline::service::Running;
use engram_pipeline::store::{self, Files, StoreSpec};
use engram_schemas::operations::ServiceInstance;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::commands::lock;
use crate::wire;

/// Entries of one answer.
pub const ENTRIES_MAX: usize = 100_000;
/// How long another process may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long the lists of topics and processes are believed.
const FRESH: Duration = Duration::from_secs(1);

/// An entry with its task's partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub partition: i32,
    pub key: Value,
    pub value: Value,
}

/// What a process, or all of them, have found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The partitions that were looked at.
    pub partitions: BTreeSet<i32>,
    pub entries: Vec<Entry>,
    /// There may be more: `limit` was reached.
    pub more: bool,
}

/// Answers queries in a running `engram up`.
pub struct Queries {
    pub services: Arc<Mutex<Vec<Running>>>,
    pub directory: Arc<Directory>,
    /// This process, by which it knows itself among the instances.
    pub instance: String,
    /// Shown to other processes.
    pub secret: Option<String>,
}

impl Queries {
    pub fn answer(&self, query: &StoreQuery) -> Result<Value, StoreRefusal> {
        let (index, spec) =
            find_store(&query.service, &query.store).map_err(|error| StoreRefusal::NotFound(format!("{error:#}")))?;
        let unavailable = |error: anyhow::Error| StoreRefusal::Unavailable(format!("{error:#}"));
        let view = self.directory.view(FRESH).map_err(|error| unavailable(error.into()))?;
        let wanted = Wanted::new(&spec, query.key.as_deref(), partitions(&view.topics, &query.service));
        let mut answer = self.own(query, index, &spec, &wanted).map_err(unavailable)?;
        if !query.local {
            ask_others(query, self, &view.instances, &wanted, &mut answer).map_err(unavailable)?;
        }
        serde_json::to_value(&answer).map_err(|error| unavailable(error.into()))
    }

    fn own(&self, query: &StoreQuery, index: usize, spec: &StoreSpec, wanted: &Wanted) -> anyhow::Result<Answer> {
        let mut tasks: Vec<(i32, Arc<Files>)> = lock(&self.services)
            .iter()
            .filter(|running| running.name() == query.service)
            .flat_map(Running::files)
            .filter(|(partition, _)| wanted.partitions.contains(partition))
            .collect();
        tasks.sort_by_key(|(partition, _)| *partition);
        let mut answer =
            Answer { partitions: tasks.iter().map(|(partition, _)| *partition).collect(), ..Answer::default() };
        let limit = query.limit.min(ENTRIES_MAX);
        for (partition, files) in tasks {
            if let Some(key) = &wanted.key {
                if let Some(value) = files.get(&[&[store::prefix(index)], key.as_slice()].concat())? {
                    let (key, value) = (spec.describe)(key, &value);
                    answer.entries.push(Entry { partition, key, value });
                }
                continue;
            }
            for entry in files.all(store::prefix(index)) {
                let (key, value) = entry?;
                let (key, value) = (spec.describe)(&key[1..], &value);
                if query.key.as_deref().is_some_and(|wanted| !matches(&key, wanted)) {
                    continue;
                }
                if answer.entries.len() == limit {
                    answer.more = true;
                    return Ok(answer);
                }
                answer.entries.push(Entry { partition, key, value });
            }
        }
        Ok(answer)
    }
}

/// What of a store a query wants.
pub struct Wanted {
    /// The tasks that may have it.
    pub partitions: Range<i32>,
    /// The one entry's key as it is stored, if the store can tell from how it is shown.
    pub key: Option<Vec<u8>>,
}

impl Wanted {
    /// `partitions` is the service's number of tasks.
    pub fn new(spec: &StoreSpec, key: Option<&str>, partitions: i32) -> Self {
        let whole = key.and_then(|key| serde_json::from_str(key).ok());
        match whole.and_then(|key| (spec.locate)(&key)) {
            Some(place) if partitions > 0 => {
                let partition = partition_for(&place.routed_by, partitions);
                Self { partitions: partition..partition + 1, key: Some(place.key) }
            }
            _ => Self { partitions: 0..partitions, key: None },
        }
    }
}

/// The tasks of a service: as many as its changelog has partitions.
pub fn partitions(topics: &[TopicInfo], service: &str) -> i32 {
    partitions_of(topics, &changelog::topic(service))
}

/// Asks the owners of what is still wanted.
fn ask_others(
    query: &StoreQuery,
    asking: &Queries,
    instances: &[ServiceInstance],
    wanted: &Wanted,
    answer: &mut Answer,
) -> anyhow::Result<()> {
    for other in instances.iter().filter(|other| other.service == query.service && other.instance != asking.instance) {
        if answer.entries.len() >= query.limit.min(ENTRIES_MAX) {
            answer.more |= wanted.key.is_none();
            return Ok(());
        }
        let missing = wanted.partitions.clone().filter(|partition| !answer.partitions.contains(partition));
        let Some(http) = other.http.as_deref().filter(|_| owns(other, missing)) else { continue };
        match ask(&agent(), http, asking.secret.as_deref(), query) {
            Ok(theirs) => take(answer, theirs, query.limit.min(ENTRIES_MAX)),
            Err(error) => tracing::debug!(%error, http, "another process does not answer"),
        }
    }
    let missing: Vec<String> = wanted
        .partitions
        .clone()
        .filter(|partition| !answer.partitions.contains(partition))
        .map(|partition| partition.to_string())
        .collect();
    anyhow::ensure!(
        answer.more || missing.is_empty(),
        "no process answers for the partitions {} of service {}: try again when they have an owner",
        missing.join(", "),
        query.service
    );
    Ok(())
}

/// What the processes that own a service's partitions say; those that do not answer are left out.
pub fn ask_all(
    instances: &[ServiceInstance],
    secret: Option<&str>,
    query: &StoreQuery,
    wanted: &Wanted,
) -> BTreeMap<i32, Vec<Entry>> {
    let agent = agent();
    let mut found: BTreeMap<i32, Vec<Entry>> = BTreeMap::new();
    for instance in instances.iter().filter(|instance| instance.service == query.service) {
        let Some(http) = instance.http.as_deref().filter(|_| owns(instance, wanted.partitions.clone())) else {
            continue;
        };
        match ask(&agent, http, secret, query) {
            // An answer that was cut off is none: the caller wants more than one process tells at a time.
            Ok(answer) if !(answer.more && query.limit > ENTRIES_MAX) => {
                let fresh: Vec<i32> = answer.partitions.iter().copied().filter(|at| !found.contains_key(at)).collect();
                found.extend(fresh.iter().map(|&partition| (partition, Vec::new())));
                for entry in answer.entries.into_iter().filter(|entry| fresh.contains(&entry.partition)) {
                    found.entry(entry.partition).or_default().push(entry);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, http, "another process does not answer"),
        }
    }
    found
}

fn ask(agent: &ureq::Agent, http: &str, secret: Option<&str>, query: &StoreQuery) -> anyhow::Result<Answer> {
    let url = format!("http://{http}{STORES_PATH}/{}/{}", query.service, query.store);
    let mut request = agent.get(&url).query("local", "true").query("limit", query.limit.to_string());
    if let Some(key) = &query.key {
        request = request.query("key", key);
    }
    if let Some(secret) = secret {
        request = request.header(SECRET_HEADER, secret);
    }
    let mut response = request.call().with_context(|| format!("cannot ask {url}"))?;
    Ok(response.body_mut().with_config().limit(u64::MAX).read_json()?)
}

/// Another process's answer, without partitions that were answered already: while they move, two may name the same.
fn take(answer: &mut Answer, theirs: Answer, limit: usize) {
    let known = answer.partitions.clone();
    answer.entries.extend(theirs.entries.into_iter().filter(|entry| !known.contains(&entry.partition)));
    answer.partitions.extend(theirs.partitions);
    answer.more |= theirs.more || answer.entries.len() > limit;
    answer.entries.truncate(limit);
}

/// Whether it says that it runs one of these tasks.
pub fn owns(instance: &ServiceInstance, partitions: impl IntoIterator<Item = i32>) -> bool {
    let tasks: BTreeSet<i32> = instance.workers.iter().flat_map(|worker| &worker.tasks).copied().collect();
    partitions.into_iter().any(|partition| tasks.contains(&partition))
}

pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .proxy(None)
        .timeout_connect(Some(Duration::from_secs(1)))
        .timeout_global(Some(ANSWER_MAX))
        .build()
        .into()
}

/// A store by name, with its index.
pub fn find_store(service: &str, name: &str) -> anyhow::Result<(usize, StoreSpec)> {
    let stores = wire::stores(service)?;
    let index = stores.iter().position(|store| store.name == name).with_context(|| {
        let names: Vec<&str> = stores.iter().map(|store| store.name).collect();
        format!("service {service} has no store {name:?}; it has: {}", names.join(", "))
    })?;
    Ok((index, stores[index].clone()))
}

/// The one of the entries that were found for a key: what has the key whole, or else what has it in its key.
///
/// Errors: there is none, or several.
pub fn only_one<T>(mut found: Vec<T>, shown: impl Fn(&T) -> &Value, key: &str) -> anyhow::Result<T> {
    let whole: Option<Value> = serde_json::from_str(key).ok();
    if found.iter().any(|entry| Some(shown(entry)) == whole.as_ref()) {
        found.retain(|entry| Some(shown(entry)) == whole.as_ref());
        anyhow::ensure!(
            found.len() == 1,
            "{} tasks have an entry {key}: ask for that of one with --at PARTITION:OFFSET, or see all with 'engram state range'",
            found.len()
        );
    }
    anyhow::ensure!(
        found.len() <= 1,
        "{} entries have {key} in their key: give one of them whole, such as '{}', or use 'engram state range'",
        found.len(),
        shown(&found[0])
    );
    found.pop().with_context(|| format!("there is no entry {key}"))
}

/// The key itself or some of it (fields of an object, the first parts of a list), or the text of one of its fields or parts.
pub fn matches(key: &Value, wanted: &str) -> bool {
    match (serde_json::from_str::<Value>(wanted), key) {
        (Ok(wanted), key) if wanted == *key => return true,
        (Ok(Value::Object(wanted)), Value::Object(fields)) => {
            return wanted.iter().all(|(name, wanted)| fields.get(name) == Some(wanted));
        }
        (Ok(Value::Array(wanted)), Value::Array(parts)) => return parts.starts_with(&wanted),
        _ => {}
    }
    let text = |field: &Value| field.as_str().map_or_else(|| field.to_string(), str::to_owned);
    match key {
        Value::Object(fields) => fields.values().any(|field| text(field) == wanted),
        Value::Array(parts) => parts.iter().any(|part| text(part) == wanted),
        whole => text(whole) == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_found_by_itself_by_some_of_it_or_by_a_text_in_it() {
        let (object, list) = (json!({"workspace": "w", "memory": "m"}), json!(["d", "s"]));
        for (key, wanted, expected) in [
            (&object, r#"{"memory":"m","workspace":"w"}"#, true),
            (&object, r#"{"workspace":"w"}"#, true),
            (&object, r#"{"workspace":"m"}"#, false),
            (&object, r#"{"tenant":"w"}"#, false),
            (&object, "m", true),
            (&object, "w m", false),
            (&list, r#"["d","s"]"#, true),
            (&list, r#"["d"]"#, true),
            (&list, r#"["s"]"#, false),
            (&list, "s", true),
            (&json!("17"), "17", true),
            (&json!(17), "17", true),
        ] {
            assert_eq!(matches(key, wanted), expected, "{key} {wanted}");
        }
    }
}
