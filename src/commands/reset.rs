//! `engram reset SERVICE`: as if the service had never run. Its inputs stay.

use anyhow::Context as _;
use engram_pipeline::{changelog, manifest};
use serde_json::json;

use crate::cli::{Global, Reset};
use crate::data_dir::DataDir;
use crate::output;
use crate::wire::{self, Access, Connection};

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
    let service = wire::service(&args.service, &connection.config)?;
    let group = connection.log.groups()?.into_iter().find(|group| group.name == service.name);
    anyhow::ensure!(
        group.is_none_or(|group| group.members == 0),
        "service {} is still running somewhere: stop it first",
        service.name
    );
    let known = connection.log.topics()?;
    let mut topics: Vec<String> = service.outputs.iter().map(|output| output.topic.clone()).collect();
    topics.extend([changelog::topic(service.name), manifest::topic(service.name)]);
    topics.sort();
    topics.dedup();
    topics.retain(|name| known.iter().any(|topic| topic.name == *name));
    let stores = connection.stores(service.name)?;
    if !args.yes {
        anyhow::bail!(output::Usage(format!(
            "this deletes the positions of service {}, the stores in {}, and the topics {}; add --yes to do it",
            service.name,
            stores.display(),
            topics.join(", ")
        )));
    }
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
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
