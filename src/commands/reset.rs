//! `engram reset SERVICE`: as if the service had never run. Its inputs stay.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use engram_pipeline::{changelog, manifest, retry};
use serde_json::json;

use crate::cli::{Global, Reset};
use crate::data_dir::DataDir;
use crate::output;
use crate::wire::{self, Access, Connection};

/// Kafka counts a static member (KIP-345) that has just stopped among the group's for its session timeout of 10 s.
const LEAVING_MAX: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(200);

pub fn run(global: &Global, args: &Reset) -> anyhow::Result<()> {
    // Named wrongly, it must fail before anything is opened.
    wire::stores(&args.service)?;
    let data = DataDir::new(&global.data);
    if global.brokers.is_none() {
        wire::check_has_log(&data)?;
    }
    // On Kafka too: nobody may open the stores while they are deleted.
    let _held = data.hold()?;
    let connection = Connection::open(global, Access::Held)?;
    let service = wire::service(&args.service, &connection.config, &connection.data)?;
    let until = Instant::now() + LEAVING_MAX;
    while connection.log.groups()?.iter().any(|group| group.name == service.name && group.members > 0) {
        anyhow::ensure!(
            Instant::now() < until,
            "service {} is still running somewhere: stop it first, then try again",
            service.name
        );
        std::thread::sleep(LOOK);
    }
    let known = connection.log.topics()?;
    let mut topics: Vec<String> = service.outputs.iter().map(|output| output.topic.clone()).collect();
    topics.extend([changelog::topic(service.name), manifest::topic(service.name), retry::topic(service.name)]);
    topics.sort();
    topics.dedup();
    topics.retain(|name| known.iter().any(|topic| topic.name == *name));
    let stores = connection.stores(service.name)?;
    let snapshots = connection.snapshots(service.name)?;
    if !args.yes {
        anyhow::bail!(output::Usage(format!(
            "this deletes the positions of service {}, the stores in {}, its snapshots, and the topics {}; add --yes to do it",
            service.name,
            stores.display(),
            topics.join(", ")
        )));
    }
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    // Before the topics: a snapshot of the old history must not be taken for one of the new.
    if let Some(snapshots) = snapshots {
        snapshots.delete_all().context("cannot delete the snapshots: try again when they can be reached")?;
    }
    // SUBTLE: the topics first. Stores that are ahead of their changelog are refused, so that a reset which was broken off
    // cannot go unnoticed; positions that were forgotten while the state was kept would count everything twice.
    connection.log.delete_topics(&names)?;
    connection.log.delete_group(service.name)?;
    if stores.exists() {
        std::fs::remove_dir_all(&stores).with_context(|| format!("cannot delete {}", stores.display()))?;
    }
    if global.json {
        output::json(&json!({"service": service.name, "deleted_topics": topics}))?;
    } else {
        println!("service {} begins anew with the next 'engram up'", service.name);
    }
    Ok(())
}
