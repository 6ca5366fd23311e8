//! Whether a group can share its topics: partition p of every input belongs to task p, so all must have as many.

use super::{LogError, TopicInfo};

/// # Errors
/// `Refused`, naming the topics and their counts, or the topic that does not exist.
pub fn check(known: &[TopicInfo], topics: &[String]) -> Result<(), LogError> {
    let mut counts = Vec::with_capacity(topics.len());
    for name in topics {
        let topic = known.iter().find(|topic| topic.name == *name);
        let topic = topic.ok_or_else(|| LogError::Refused(format!("topic {name} does not exist")))?;
        counts.push((name, topic.partitions));
    }
    if counts.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        return Ok(());
    }
    let listed: Vec<String> = counts.iter().map(|(name, count)| format!("{name} has {count}")).collect();
    Err(LogError::Refused(format!(
        "the inputs of a service need equal partition counts, but {}: recreate them with the same number",
        listed.join(", ")
    )))
}
