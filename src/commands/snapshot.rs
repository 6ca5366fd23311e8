//! `engram snapshot`: takes, lists and prunes snapshots of the services' stores.

use std::sync::Arc;

use anyhow::Context as _;
use engram_connectors::http;
use engram_pipeline::clock::Clock;
use engram_pipeline::snapshot::{SnapshotError, Snapshots, Taken};
use engram_pipeline::store::{Budget, Files};
use serde_json::{Value, json};

use crate::cli::{Global, Snapshot};
use crate::data_dir::{DataDir, RunningProcess};
use crate::output;
use crate::wire::{self, Access, Connection};

pub fn run(global: &Global, command: &Snapshot) -> anyhow::Result<()> {
    match command {
        Snapshot::Create { service } => create(global, service),
        Snapshot::List { service } => list(global, service.as_deref()),
        Snapshot::Prune { service } => prune(global, service.as_deref()),
    }
}

fn create(global: &Global, service: &str) -> anyhow::Result<()> {
    wire::stores(service)?;
    let data = DataDir::new(&global.data);
    let taken = match data.running() {
        Some(running) => ask(&running, service)?,
        None => {
            // Nobody may open the stores meanwhile.
            let _held = data.hold()?;
            take_from_disk(&Connection::open(global, Access::Held)?, service)?
        }
    };
    let rows = taken.as_array().cloned().unwrap_or_default();
    if global.json {
        rows.iter().try_for_each(output::json)?;
        return Ok(());
    }
    let cell = |row: &Value, name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
    let names = ["task", "sequence", "bytes", "uploaded_bytes", "checkpoint_ms", "took_ms"];
    Ok(output::table(&names, rows.iter().map(|row| names.iter().map(|name| cell(row, name)).collect()))?)
}

/// The process that runs the service takes them.
fn ask(running: &RunningProcess, service: &str) -> anyhow::Result<Value> {
    let url = format!("http://{}{}", running.http, http::SNAPSHOT_PATH);
    // A large state takes as long as it takes.
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build().into();
    let response = agent.post(&url).header(http::TOKEN_HEADER, &running.token).send(service);
    let mut response = response
        .with_context(|| format!("the 'engram up' of this data folder (process {}) does not answer", running.pid))?;
    if response.status().is_success() {
        return Ok(response.body_mut().read_json()?);
    }
    anyhow::bail!("{}", response.body_mut().read_to_string()?.trim())
}

/// As the answer to `SNAPSHOT_PATH`: what was taken of the tasks that run in this process.
pub fn take_all(snapshots: &Snapshots) -> anyhow::Result<Value> {
    let mut taken = Vec::new();
    for partition in snapshots.running() {
        taken.extend(snapshots.take(partition)?.as_ref().map(describe));
    }
    Ok(taken.into())
}

fn take_from_disk(connection: &Connection, service: &str) -> anyhow::Result<Value> {
    let snapshots = switched_on(connection, service)?;
    let folder = connection.stores(service)?;
    let budget = Budget::new(connection.config.memory.stores_mib << 20);
    let mut open = Vec::new();
    for entry in std::fs::read_dir(&folder).into_iter().flatten() {
        let path = entry?.path();
        let partition = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<i32>().ok());
        if let Some(partition) = partition.filter(|_| Files::exist(&path)) {
            let files = Arc::new(Files::open(&path, &budget, &Clock::default())?);
            snapshots.watch(partition, &files);
            open.push(files);
        }
    }
    anyhow::ensure!(
        !open.is_empty(),
        "service {service} has no stores in {}: start it with 'engram up', or give the --data of the process that runs it",
        folder.display()
    );
    take_all(&snapshots)
}

fn list(global: &Global, service: Option<&str>) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for_each_task(global, service, |snapshots, partition| {
        let task = snapshots.of(partition);
        for key in task.newest_first()? {
            let row = match task.read(&key) {
                Ok(None) => continue,
                Ok(Some(found)) => json!({
                    "service": found.service, "task": partition, "sequence": found.sequence, "digest": found.digest,
                    "changelog_position": found.changelog_position, "inputs": found.inputs, "bytes": found.bytes(),
                    "files": found.files.len(), "taken": time(found.taken_ms), "build": found.build
                }),
                Err(error @ (SnapshotError::Corrupt { .. } | SnapshotError::Unusable { .. })) => {
                    json!({"service": snapshots.service(), "task": partition, "error": output::one_line(&error)})
                }
                Err(error) => return Err(error.into()),
            };
            rows.push(row);
        }
        Ok(())
    })?;
    if global.json {
        return Ok(rows.iter().try_for_each(output::json)?);
    }
    let cell = |row: &Value, name: &str| match &row[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let names = ["service", "task", "sequence", "taken", "bytes", "files", "changelog_position", "error"];
    Ok(output::table(&names, rows.iter().map(|row| names.iter().map(|name| cell(row, name)).collect()))?)
}

fn prune(global: &Global, service: Option<&str>) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for_each_task(global, service, |snapshots, partition| {
        let pruned = snapshots.prune(partition)?;
        if global.json {
            output::json(&json!({
                "service": snapshots.service(), "task": partition, "snapshots_deleted": pruned.snapshots_deleted,
                "snapshots_left": pruned.snapshots_left, "files_deleted": pruned.files_deleted,
                "bytes_deleted": pruned.bytes_deleted
            }))?;
        }
        let numbers = [pruned.snapshots_deleted, pruned.snapshots_left, pruned.files_deleted];
        let mut row = vec![snapshots.service().to_owned(), partition.to_string()];
        row.extend(numbers.iter().map(usize::to_string));
        row.push(pruned.bytes_deleted.to_string());
        rows.push(row);
        Ok(())
    })?;
    if !global.json {
        let names = ["service", "task", "snapshots deleted", "snapshots left", "files deleted", "bytes deleted"];
        output::table(&names, rows)?;
    }
    Ok(())
}

/// Every task of these services that has snapshots.
fn for_each_task(
    global: &Global,
    service: Option<&str>,
    mut visit: impl FnMut(&Snapshots, i32) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Some(name) = service {
        wire::stores(name)?;
    }
    let connection = Connection::open(global, Access::Read)?;
    for &name in wire::SERVICES.iter().filter(|name| service.is_none_or(|wanted| wanted == **name)) {
        let snapshots = switched_on(&connection, name)?;
        for partition in snapshots.partitions()? {
            visit(&snapshots, partition)?;
        }
    }
    Ok(())
}

fn switched_on(connection: &Connection, service: &str) -> anyhow::Result<Snapshots> {
    connection.snapshots(service)?.context("snapshots.url is \"none\": give another in the configuration")
}

fn describe(taken: &Taken) -> Value {
    json!({
        "task": taken.partition, "sequence": taken.sequence, "digest": taken.digest, "bytes": taken.bytes,
        "uploaded_bytes": taken.uploaded_bytes, "checkpoint_ms": taken.checkpoint.as_millis() as u64,
        "took_ms": taken.took.as_millis() as u64
    })
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}
