//! `engram lag`: how far each service is behind its inputs.

use engram_pipeline::log::TopicPartition;
use serde_json::json;

use crate::cli::Global;
use crate::output;
use crate::wire::{self, Access, Connection};

pub fn run(global: &Global) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let log = &connection.log;
    let topics = log.topics()?;
    let mut rows = Vec::new();
    for &name in wire::SERVICES {
        let service = wire::service_on(&connection, name)?;
        for input in &service.inputs {
            let Some(topic) = topics.iter().find(|topic| topic.name == *input) else { continue };
            let partitions: Vec<TopicPartition> =
                (0..topic.partitions).map(|partition| TopicPartition::new(input.as_str(), partition)).collect();
            let committed = log.committed(name, &partitions)?;
            let offsets = log.offsets(&partitions)?;
            for ((partition, position), range) in partitions.iter().zip(committed).zip(offsets) {
                let position = position.unwrap_or(range.first);
                // A position may be younger than the end that was read before it.
                let lag = (range.end - position).max(0);
                if global.json {
                    output::json(&json!({
                        "service": name, "topic": input, "partition": partition.partition, "position": position,
                        "end": range.end, "lag": lag
                    }))?;
                }
                rows.push(vec![
                    name.to_owned(),
                    partition.to_string(),
                    position.to_string(),
                    range.end.to_string(),
                    lag.to_string(),
                ]);
            }
        }
    }
    if !global.json {
        output::table(&["service", "partition", "position", "end", "lag"], rows)?;
    }
    Ok(())
}
