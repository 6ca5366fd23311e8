//! Going back in a service's past for a command: what `engram_pipeline::replay` needs, from a connection.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use engram_pipeline::dead_letter;
use engram_pipeline::log::{Cleanup, TopicPartition, partitions_of};
use engram_pipeline::processor::Service;
use engram_pipeline::replay::{
    MEMORY_BYTES_MAX, Moment, OutputId, Past, Program, ReadOnlyRegistry, ReplayError, Rerun, RerunOptions, State,
};
use engram_pipeline::snapshot::Snapshots;
use engram_pipeline::store::{Budget, StoreSpec};
use engram_schemas::registry::Registry;
use serde_json::Value;
use tempfile::TempDir;

use crate::commands::stop_flag;
use crate::queries::{self, Wanted};
use crate::values::{When, rfc3339};
use crate::wire::{self, Connection};

/// A service whose past is looked at.
pub struct PastService<'a> {
    connection: &'a Connection,
    service: Arc<Service>,
    registry: Arc<dyn Registry>,
    snapshots: Option<Snapshots>,
    budget: Budget,
    /// Of the service.
    pub partitions: i32,
    dead_letter_partitions: i32,
    stop: Arc<AtomicBool>,
}

/// Outputs of a task until some moment.
#[derive(Debug, Clone, Copy)]
pub struct OutputsAt {
    /// All of the commits until this one.
    whole: i64,
    /// So many of the next.
    part: usize,
}

impl OutputsAt {
    pub fn has(self, id: &OutputId) -> bool {
        id.sequence <= self.whole || id.sequence == self.whole + 1 && id.index < self.part
    }
}

/// A task as it was, with the folder that it lives in.
pub struct PastTask {
    pub rerun: Rerun,
    /// Last: the files are closed before it goes.
    _folder: TempDir,
}

impl<'a> PastService<'a> {
    pub fn open(connection: &'a Connection, name: &str) -> anyhow::Result<Self> {
        Self::open_until(connection, name, stop_flag()?)
    }

    /// The same, until `stop` is set.
    pub fn open_until(connection: &'a Connection, name: &str, stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        wire::stores(name)?;
        let topics = connection.log.topics()?;
        let partitions = queries::partitions(&topics, name);
        anyhow::ensure!(partitions > 0, "service {name} has not run on this log yet: start it with 'engram up'");
        Ok(Self {
            connection,
            service: Arc::new(wire::service_on(connection, name)?),
            registry: Arc::new(ReadOnlyRegistry(Arc::clone(&connection.registry))),
            snapshots: connection.snapshots(name)?,
            budget: Budget::new(connection.config.memory.stores_mib << 20),
            partitions,
            dead_letter_partitions: partitions_of(&topics, dead_letter::TOPIC),
            stop,
        })
    }

    pub fn past(&self, task: i32) -> Past<'_> {
        self.past_by(task, Program::Same)
    }

    pub fn past_by(&self, task: i32, program: Program) -> Past<'_> {
        Past {
            rerun: RerunOptions {
                service: &self.service,
                log: &*self.connection.log,
                registry: &self.registry,
                budget: &self.budget,
                partitions: self.partitions,
                dead_letter_partitions: self.dead_letter_partitions,
                memory_bytes_max: MEMORY_BYTES_MAX,
                program,
                stop: Some(&self.stop),
            },
            snapshots: self.snapshots.as_ref(),
            task,
        }
    }

    /// The topics of its outputs, each once.
    pub fn outputs(&self) -> std::collections::BTreeSet<&str> {
        self.service.outputs.iter().map(|output| output.topic.as_str()).collect()
    }

    /// Whether its outputs to a topic are kept for ever.
    pub fn keeps(&self, topic: &str) -> bool {
        !self.service.topics.iter().any(|spec| spec.name == topic && spec.cleanup == Cleanup::Compact)
    }

    /// How much of what a task has written there was at a moment.
    pub fn outputs_at(&self, task: i32, when: &When) -> anyhow::Result<OutputsAt> {
        let whole = self.past(task).commit_before(&self.moment(when)).map_err(explained)?;
        let part = match when {
            When::Time(_) => 0,
            When::Record { .. } => {
                let written = self.at(task, when)?.rerun.uncommitted();
                written.iter().filter(|written| self.writes(&written.topic)).count()
            }
        };
        Ok(OutputsAt { whole, part })
    }

    /// Whether a topic is one of its inputs.
    pub fn reads(&self, topic: &str) -> bool {
        self.service.inputs.iter().any(|input| input == topic)
    }

    /// The entries of a task's store that are wanted: key as stored, key and value as shown.
    pub fn entries(
        &self,
        task: &mut PastTask,
        index: usize,
        spec: &StoreSpec,
        wanted: &Wanted,
        key: &str,
    ) -> anyhow::Result<Vec<(Vec<u8>, Value, Value)>> {
        let mut found = Vec::new();
        let state: &mut dyn State = &mut task.rerun;
        let mut add = |at: &[u8], value: &[u8]| {
            let (shown, value) = (spec.describe)(at, value);
            if wanted.key.is_some() || queries::matches(&shown, key) {
                found.push((at.to_vec(), shown, value));
            }
            true
        };
        match &wanted.key {
            Some(at) => {
                if let Some(value) = state.get(index, at)? {
                    add(at, &value);
                }
            }
            None => state.visit(index, &mut add)?,
        }
        Ok(found)
    }

    /// Whether a topic is one of its outputs.
    pub fn writes(&self, topic: &str) -> bool {
        self.service.outputs.iter().any(|output| output.topic == topic)
    }

    /// The tasks that have a moment by this name: one, if it is a record.
    pub fn tasks(&self, when: &When) -> anyhow::Result<std::ops::Range<i32>> {
        match when {
            When::Time(_) => Ok(0..self.partitions),
            When::Record { place, .. } => {
                let (task, count) = (place.partition, self.partitions);
                anyhow::ensure!(
                    task < count,
                    "service {} has {count} tasks: there is no partition {task}",
                    self.service.name
                );
                Ok(task..task + 1)
            }
        }
    }

    pub fn moment(&self, when: &When) -> Moment {
        match when {
            When::Time(time_ms) => Moment::Time(*time_ms),
            When::Record { topic, place } => {
                let topic = topic.as_deref().unwrap_or(&self.service.inputs[0]);
                Moment::Record(TopicPartition::new(topic, place.partition), place.offset)
            }
        }
    }

    /// A task as it was.
    pub fn at(&self, task: i32, when: &When) -> anyhow::Result<PastTask> {
        let folder =
            tempfile::Builder::new().prefix("engram-past").tempdir().context("cannot create a temporary folder")?;
        let rerun = self.past(task).at(&self.moment(when), &folder.path().join("store")).map_err(explained)?;
        Ok(PastTask { rerun, _folder: folder })
    }
}

/// With the earliest moment as people write it.
pub fn explained(error: ReplayError) -> anyhow::Error {
    match error {
        ReplayError::TooEarly { what, earliest_ms: Some(earliest_ms) } => {
            anyhow::anyhow!("{what}: the earliest moment that can be had is {}", rfc3339(earliest_ms))
        }
        error => error.into(),
    }
}
