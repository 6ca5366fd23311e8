//! `engram topics`: what there is to read.

use engram_pipeline::log::TopicPartition;
use serde_json::json;

use crate::cli::Global;
use crate::output;
use crate::wire::{Access, Connection};

pub fn run(global: &Global) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let mut rows = Vec::new();
    for topic in connection.log.topics()? {
        let partitions: Vec<TopicPartition> =
            (0..topic.partitions).map(|partition| TopicPartition::new(topic.name.as_str(), partition)).collect();
        let offsets = connection.log.offsets(&partitions)?;
        let first: i64 = offsets.iter().map(|range| range.first).sum();
        let end: i64 = offsets.iter().map(|range| range.end).sum();
        if global.json {
            let ends: Vec<i64> = offsets.iter().map(|range| range.end).collect();
            output::json(&json!({"topic": topic.name, "partitions": topic.partitions, "ends": ends}))?;
        }
        rows.push(vec![topic.name, topic.partitions.to_string(), (end - first).to_string()]);
    }
    if !global.json {
        // Offsets also count the control records of transactions, on Kafka.
        output::table(&["topic", "partitions", "offsets"], rows)?;
    }
    Ok(())
}
