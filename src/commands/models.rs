//! `engram models`: which models score which events. A command goes into every partition of `control.commands`, in one
//! transaction, so that each task of the scoring service has it at some place among its inputs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use engram_connectors::events::{self, Of};
use engram_models::ModelFile;
use engram_pipeline::log::{NewRecord, ProducerOptions};
use engram_pipeline::service;
use engram_processors::scoring;
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::scoring::{Feature, ModelLoaded, ModelUnloaded};
use engram_schemas::{CONTRACT, Event};
use serde::Deserialize;
use serde_json::json;

use super::stop_flag;
use crate::cli::{Global, Models};
use crate::models::{self, ModelStore};
use crate::output;
use crate::reading::{self, Span};
use crate::values::{Start, rfc3339};
use crate::wire::{self, Access, Connection};

/// Characters of a hash that people see.
const HASH_SHOWN: usize = 12;

pub fn run(global: &Global, command: &Models) -> anyhow::Result<()> {
    match command {
        Models::Load { name, model, features } => load(global, name, model, features),
        Models::Unload { name } => unload(global, name),
        Models::List => list(global),
    }
}

/// What of events a model scores, as its user writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Declaration {
    topic: String,
    event: String,
    #[serde(default)]
    series: String,
    #[serde(default)]
    time: String,
    features: Vec<Feature>,
}

fn load(global: &Global, name: &str, path: &Path, features: &Path) -> anyhow::Result<()> {
    let file = models::read(path)?;
    let text = std::fs::read_to_string(features).with_context(|| format!("cannot read {}", features.display()))?;
    let wrong = || format!("{} cannot be used", features.display());
    let declared: Declaration =
        toml::from_str(&text).map_err(|error| anyhow::anyhow!("{}", error.message())).with_context(wrong)?;
    let spec = ModelLoaded {
        time: engram_pipeline::clock::now_ms(),
        name: name.to_owned(),
        hash: file.hash().to_owned(),
        topic: declared.topic,
        event: declared.event,
        series: declared.series,
        time_field: declared.time,
        features: in_order(&file, declared.features).with_context(wrong)?,
    };
    spec.check().map_err(anyhow::Error::new)?;
    scoring::check(&spec).map_err(anyhow::Error::msg).with_context(wrong)?;
    check_event(&spec).with_context(wrong)?;
    let connection = Connection::open(global, Access::Write)?;
    let topics = &connection.config.scoring.topics;
    if !topics.contains(&spec.topic) {
        bail!(
            "the scoring service does not read {}: name it in scoring.topics (now {})",
            spec.topic,
            topics.join(", ")
        );
    }
    ModelStore::open(&connection.config.scoring, &connection.data)?.put(&spec.hash, path)?;
    command(&connection, name, &spec)?;
    if global.json {
        return Ok(output::json(&json!({"model": name, "hash": spec.hash, "format": file.format()}))?);
    }
    let hash = &spec.hash[..HASH_SHOWN];
    Ok(output::line(format_args!("{name}: {} {hash} scores {} of {}", described(&file), spec.event, spec.topic))?)
}

fn described(file: &ModelFile) -> String {
    match file {
        ModelFile::Model(model) => format!("{} model", model.format),
        ModelFile::Detector { detector, .. } => format!("detector {}", detector.kernel()),
    }
}

/// The features in the order of the model's columns: by name where both have names, else as they come.
fn in_order(file: &ModelFile, mut list: Vec<Feature>) -> anyhow::Result<Vec<Feature>> {
    file.check_columns(list.len()).map_err(anyhow::Error::msg)?;
    if file.names().is_empty() || list.iter().any(|feature| feature.name.is_none()) {
        return Ok(list);
    }
    let mut ordered = Vec::with_capacity(list.len());
    for name in file.names() {
        let found = list.iter().position(|feature| feature.name.as_ref() == Some(name));
        let found =
            found.with_context(|| format!("the model wants a column {name:?}, and no feature has that name"))?;
        ordered.push(list.swap_remove(found));
    }
    Ok(ordered)
}

/// Of topics that are Engram's own it is known which events they have.
fn check_event(spec: &ModelLoaded) -> anyhow::Result<()> {
    if CONTRACT.iter().any(|subject| subject.topic == spec.topic) {
        events::subject(Of::AnyTopic, &spec.topic, Some(&spec.event))?;
    }
    Ok(())
}

fn unload(global: &Global, name: &str) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Write)?;
    let known = loaded(&connection)?;
    if !known.contains_key(name) {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        bail!(
            "no model {name:?} is loaded; there is: {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        );
    }
    command(&connection, name, &ModelUnloaded { time: engram_pipeline::clock::now_ms(), name: name.to_owned() })?;
    if global.json {
        return Ok(output::json(&json!({"model": name}))?);
    }
    Ok(output::line(format_args!("{name} scores nothing from here on"))?)
}

fn list(global: &Global) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let models = loaded(&connection)?;
    if global.json {
        return Ok(models.values().try_for_each(output::json)?);
    }
    let rows = models.into_values().map(|spec| {
        let hash = spec.hash.chars().take(HASH_SHOWN).collect();
        vec![spec.name, hash, spec.topic, spec.event, spec.features.len().to_string(), rfc3339(spec.time)]
    });
    Ok(output::table(&["model", "hash", "topic", "event", "features", "loaded"], rows)?)
}

/// The models that the commands so far have left in service: every partition has them all.
fn loaded(connection: &Connection) -> anyhow::Result<BTreeMap<String, ModelLoaded>> {
    let mut models = BTreeMap::new();
    let topics = connection.log.topics()?;
    let Some(topic) = topics.iter().find(|topic| topic.name == scoring::COMMANDS) else { return Ok(models) };
    let spans: Vec<Span> =
        reading::spans(&*connection.log, topic, Start::Beginning, Some(Start::End))?.into_iter().take(1).collect();
    let mut decoder = Decoder::new(connection.registry.clone());
    reading::read(&*connection.log, &spans, &*stop_flag()?, |record| {
        let Some(value) = record.and_then(|(_, record)| record.value) else { return Ok(()) };
        if decoder.type_name(value)? == Some(ModelUnloaded::NAME) {
            models.remove(&decoder.decode::<ModelUnloaded>(value)?.name);
        } else {
            let spec: ModelLoaded = decoder.decode(value)?;
            models.insert(spec.name.clone(), spec);
        }
        Ok(())
    })?;
    Ok(models)
}

/// Writes a command into every partition, all or none.
fn command<E: Event>(connection: &Connection, name: &str, event: &E) -> anyhow::Result<()> {
    let service = wire::service_on(connection, scoring::NAME)?;
    let partitions = service::prepare_topics(&*connection.log, &service, connection.config.partitions.0)?;
    let mut value = Vec::new();
    Encoder::register(&*connection.registry, scoring::COMMANDS)?.encode(event, &mut value)?;
    let options =
        ProducerOptions { client_id: "engram-models".to_owned(), transactional_id: Some("engram-models".to_owned()) };
    let mut producer = connection.log.producer(&options)?;
    let now_ms = engram_pipeline::clock::now_ms();
    let (id, time) = (format!("{:032x}", rand::random::<u128>()), rfc3339(now_ms));
    for partition in 0..partitions {
        let record = NewRecord {
            topic: scoring::COMMANDS,
            partition,
            timestamp_ms: Some(now_ms),
            key: Some(name.as_bytes()),
            value: Some(&value),
            headers: &[
                ("ce_specversion", Some(b"1.0")),
                ("ce_id", Some(id.as_bytes())),
                ("ce_type", Some(E::NAME.as_bytes())),
                ("ce_source", Some(b"engram/models")),
                ("ce_time", Some(time.as_bytes())),
            ],
        };
        producer.write(&record, false)?;
    }
    Ok(producer.commit(None)?)
}
