//! `engram fork`: a range of history as a new embedded environment, to try things on.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use engram_pipeline::log::TopicPartition;
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::partitions_of;
use serde_json::json;

use super::stop_flag;
use crate::cli::{Fork, Global};
use crate::data_dir::DataDir;
use crate::fork::{self, Part, Taken};
use crate::models::ModelStore;
use crate::output::{self, Usage};
use crate::values::When;
use crate::wire::{Access, Connection};

pub fn run(global: &Global, args: &Fork) -> anyhow::Result<()> {
    // A link to a folder stands for the folder.
    let path = std::fs::canonicalize(&global.data).unwrap_or_else(|_| global.data.clone());
    let is_used = std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some());
    anyhow::ensure!(
        !is_used,
        "{} is not empty: give a new folder with --data; where the history is, say with --of or --brokers",
        path.display()
    );
    let from = Connection::open(&source(global, args)?, Access::Read)?;
    let part = part(&from, args)?;
    let stop = stop_flag()?;
    // Half a history would look like a whole one, so it gets its name when it is there.
    let mut partial = path.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    anyhow::ensure!(
        !partial.exists(),
        "{} is left of a fork that did not come to its end: remove it first",
        partial.display()
    );
    let taken = copy(&from, &part, &partial, &stop).and_then(|taken| {
        anyhow::ensure!(taken.records > 0, "there are no inputs of that range: give other times");
        std::fs::rename(&partial, &path).with_context(|| format!("cannot name the fork {}", path.display()))?;
        Ok(taken)
    });
    let taken = match taken {
        Ok(taken) => taken,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&partial);
            return Err(error);
        }
    };
    if global.json {
        return Ok(output::json(&json!({"topics": taken.topics, "records": taken.records}))?);
    }
    fork::tell(&taken, &path);
    let brokers = if global.brokers.is_some() { " --brokers ''" } else { "" };
    let registry = global.registry.as_ref().map_or_else(String::new, |url| format!(" --registry {url}"));
    output::say(format_args!(
        "run the services on it: engram up{brokers}{registry} --data {} --exit-when-idle 2",
        path.display()
    ));
    Ok(())
}

/// Where the history is: what was said, or else what other commands would take.
fn source(global: &Global, args: &Fork) -> anyhow::Result<Global> {
    let data = match (&args.of, std::env::var_os("ENGRAM_DATA")) {
        (Some(of), _) => of.clone(),
        (None, Some(data)) if !data.is_empty() => PathBuf::from(data),
        (None, _) => PathBuf::from("engram-data"),
    };
    let brokers = global.brokers.clone().filter(|_| args.of.is_none());
    anyhow::ensure!(
        brokers.is_some() || DataDir::new(&data).has_log(),
        "there is no log in {}: say where the history is with --of or --brokers",
        data.display()
    );
    Ok(Global { data, brokers, ..global.clone() })
}

fn copy(from: &Connection, part: &Part, folder: &Path, stop: &AtomicBool) -> anyhow::Result<Taken> {
    let to = DataDir::new(folder);
    let _held = to.hold()?;
    let taken = fork::copy(from, part, &EmbeddedLog::open(folder)?, stop)?;
    ModelStore::copy(&from.data, &to)?;
    Ok(taken)
}

fn part(from: &Connection, args: &Fork) -> anyhow::Result<Part> {
    let mut part = Part { from_ms: args.from, event_ms: args.as_of_event, ..Part::default() };
    match &args.at {
        None => {}
        Some(When::Time(ms)) => part.to_ms = Some(*ms),
        Some(When::Record { topic: None, .. }) => {
            anyhow::bail!(Usage("--at takes a TIME, or the TOPIC/PARTITION/OFFSET of an input".to_owned()))
        }
        Some(When::Record { topic: Some(topic), place }) => {
            let partition = TopicPartition::new(topic.as_str(), place.partition);
            anyhow::ensure!(
                !fork::derived(from)?.contains(topic),
                "{topic} is no input but what services make: give a record of an input"
            );
            anyhow::ensure!(
                place.partition < partitions_of(&from.log.topics()?, topic),
                "there is no partition {partition}; 'engram topics' shows what there is"
            );
            let range = from.log.offsets(std::slice::from_ref(&partition))?[0];
            anyhow::ensure!(
                (range.first..range.stable).contains(&place.offset),
                "there is no record at {topic}/{place}: the log has the offsets {} to {}",
                range.first,
                range.stable - 1
            );
            // Of the other partitions: what had been written when this record was.
            let mut written_ms = None;
            engram_pipeline::changelog::read_batches(
                &*from.log,
                &partition,
                place.offset,
                place.offset + 1,
                |batch, at| -> anyhow::Result<()> {
                    written_ms.get_or_insert(batch.record(at).timestamp_ms);
                    Ok(())
                },
            )?;
            part.to_ms = written_ms;
            part.record = Some((partition, place.offset));
        }
    }
    Ok(part)
}
