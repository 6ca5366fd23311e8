//! `engram fork`: a range of history as a new embedded environment, to try things on.

use anyhow::Context as _;
use engram_pipeline::log::TopicPartition;
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::partitions_of;
use serde_json::json;

use super::stop_flag;
use crate::cli::{Fork, Global};
use crate::data_dir::DataDir;
use crate::fork::{self, Part};
use crate::output::{self, Usage};
use crate::values::When;
use crate::wire::{Access, Connection};

pub fn run(global: &Global, args: &Fork) -> anyhow::Result<()> {
    let new = DataDir::new(&global.data);
    let is_used = std::fs::read_dir(new.path()).is_ok_and(|mut entries| entries.next().is_some());
    anyhow::ensure!(
        !is_used,
        "{} is not empty: give a new folder with --data; where the history is, say with --of or --brokers",
        new.path().display()
    );
    let source = Global { data: args.of.clone(), ..global.clone() };
    let from = Connection::open(&source, Access::Read)?;
    let part = part(&from, args)?;
    let stop = stop_flag()?;
    let held = new.hold()?;
    let log = EmbeddedLog::open(new.path())?;
    let copied = fork::copy(&from, &part, &log, &stop);
    drop(log);
    drop(held);
    let taken = match copied {
        Ok(taken) => taken,
        Err(error) => {
            // Half a history would look like a whole one.
            std::fs::remove_dir_all(new.path()).with_context(|| format!("cannot remove {}", new.path().display()))?;
            return Err(error);
        }
    };
    if global.json {
        return Ok(output::json(&json!({"topics": taken.topics, "records": taken.records}))?);
    }
    fork::tell(&taken, new.path());
    output::say(format_args!("run the services on it: engram up --data {} --exit-when-idle 2", new.path().display()));
    Ok(())
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
