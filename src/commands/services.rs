//! `engram services`: which services there are, their groups, and how their workers here are doing.

use serde_json::{Value, json};

use crate::cli::Global;
use crate::output;
use crate::wire::{self, Access, Connection};

pub fn run(global: &Global) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let groups = connection.log.groups()?;
    let here = running_here(&connection);
    let mut rows = Vec::new();
    for &name in wire::SERVICES {
        let group = groups.iter().find(|group| group.name == name);
        let of_service: Vec<&Value> = here.iter().filter(|service| service["service"] == name).collect();
        let workers: Vec<&Value> =
            of_service.iter().filter_map(|service| service["workers"].as_array()).flatten().collect();
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
        let state = match (group, workers.is_empty()) {
            (_, false) => "running here".to_owned(),
            (Some(group), true) if group.members > 0 => {
                // Kafka counts a static member for 10 s after it has gone.
                format!("elsewhere, or just stopped ({} members, {})", group.members, group.state)
            }
            _ => "stopped".to_owned(),
        };
        if global.json {
            output::json(&json!({
                "service": name, "state": state, "members": group.map_or(0, |group| group.members), "workers": workers,
                "standby": standby
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
    }
    if !global.json {
        output::table(&["service", "state", "workers", "records", "restored", "standbys", "trouble"], rows)?;
    }
    Ok(())
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
