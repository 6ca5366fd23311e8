//! `engram services`: which services there are, their groups, and how their workers are doing: those of this data folder,
//! and on Kafka those of all processes that have announced themselves.

use std::collections::BTreeSet;

use engram_pipeline::clock::Clock;
use engram_pipeline::directory;
use engram_schemas::operations::{ServiceInstance, WorkerTasks};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::output;
use crate::values::rfc3339;
use crate::wire::{self, Access, Connection};

pub fn run(global: &Global) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let groups = connection.log.groups()?;
    let here = running_here(&connection);
    let instances = match &global.brokers {
        Some(_) => directory::instances(&*connection.log, &connection.registry, &Clock::default())?,
        None => Vec::new(),
    };
    let (mut rows, mut processes) = (Vec::new(), Vec::new());
    for &name in wire::SERVICES {
        let group = groups.iter().find(|group| group.name == name);
        let of_service: Vec<&Value> = here.iter().filter(|service| service["service"] == name).collect();
        let workers: Vec<&Value> =
            of_service.iter().filter_map(|service| service["workers"].as_array()).flatten().collect();
        let instances: Vec<&ServiceInstance> = instances.iter().filter(|instance| instance.service == name).collect();
        let sum = |field: &str| workers.iter().filter_map(|worker| worker[field].as_u64()).sum::<u64>();
        let restoring = workers.iter().filter_map(|worker| worker["restoring"].as_array()).flatten();
        let restoring: Vec<String> = restoring
            .map(|task| {
                format!("{}: {} % of its {}", task["task"], task["percent"], task["from"].as_str().unwrap_or(""))
            })
            .collect();
        let standby = of_service.iter().filter_map(|service| service["standby"].as_array()).flatten();
        let standby: Vec<&Value> = standby.collect();
        let trouble = workers.iter().find_map(|worker| worker["trouble"].as_str());
        let state = match (workers.is_empty(), instances.len()) {
            (false, 0 | 1) => "running here".to_owned(),
            (false, count) => format!("running here, and in {} other processes", count - 1),
            (true, 1..) => format!("running in {} other processes", instances.len()),
            (true, 0) => match group {
                Some(group) if group.members > 0 => format!("elsewhere ({} members, {})", group.members, group.state),
                _ => "stopped".to_owned(),
            },
        };
        if global.json {
            output::json(&json!({
                "service": name, "state": state, "members": group.map_or(0, |group| group.members), "workers": workers,
                "standby": standby, "instances": instances
            }))?;
        }
        rows.push(vec![
            name.to_owned(),
            state,
            workers.len().to_string(),
            sum("records").to_string(),
            if restoring.is_empty() { sum("restored_records").to_string() } else { restoring.join(", ") },
            standby.len().to_string(),
            trouble.unwrap_or_default().to_owned(),
        ]);
        processes.extend(instances.into_iter().map(row));
    }
    if !global.json {
        output::table(&["service", "state", "workers", "records", "restored", "standbys", "trouble"], rows)?;
        if !processes.is_empty() {
            println!();
            output::table(&["service", "instance", "http", "partitions", "standbys", "workers", "started"], processes)?;
        }
    }
    Ok(())
}

fn row(instance: &ServiceInstance) -> Vec<String> {
    let sorted = |of: fn(&WorkerTasks) -> &[i32]| {
        let tasks: BTreeSet<i32> = instance.workers.iter().flat_map(|worker| of(worker).iter().copied()).collect();
        tasks.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
    };
    vec![
        instance.service.clone(),
        instance.instance.clone(),
        instance.http.clone().unwrap_or_else(|| "not to be reached".to_owned()),
        sorted(|worker| &worker.tasks),
        sorted(|worker| &worker.standbys),
        instance.workers.len().to_string(),
        rfc3339(instance.started),
    ]
}

/// What the `engram up` of this data folder says of its services; nothing if none runs.
fn running_here(connection: &Connection) -> Vec<Value> {
    let Some(running) = connection.data.running() else { return Vec::new() };
    let url = format!("http://{}{}", running.http, engram_connectors::http::SERVICES_PATH);
    wire::local_agent()
        .get(&url)
        .call()
        .ok()
        .and_then(|mut response| response.body_mut().read_json().ok())
        .unwrap_or_default()
}
