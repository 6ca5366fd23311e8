//! Which member of a group reads which partitions: Kafka's `RangeAssignor`.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::TopicPartition;

/// Shares each topic's partitions among the members that want it, in contiguous runs; where they do not divide evenly,
/// the first members get one more. `members` are in the order in which they are served.
pub fn assign(members: &[&[String]], partitions: impl Fn(&str) -> u32) -> Vec<Vec<TopicPartition>> {
    let mut assigned = vec![Vec::new(); members.len()];
    let mut wanted: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (member, topics) in members.iter().enumerate() {
        topics.iter().for_each(|topic| _ = wanted.entry(topic).or_default().insert(member));
    }
    for (topic, takers) in wanted {
        let (count, takers_count) = (partitions(topic) as usize, takers.len());
        let name: std::sync::Arc<str> = topic.into();
        let mut next = 0;
        for (rank, member) in takers.into_iter().enumerate() {
            let share = count / takers_count + usize::from(rank < count % takers_count);
            assigned[member].extend((next..next + share).map(|p| TopicPartition::new(name.clone(), p as i32)));
            next += share;
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(members: &[&[&str]], expected: &[&str]) {
        let members: Vec<Vec<String>> =
            members.iter().map(|topics| topics.iter().map(|&topic| topic.to_owned()).collect()).collect();
        let members: Vec<&[String]> = members.iter().map(Vec::as_slice).collect();
        let assigned = assign(&members, |topic| if topic == "a" { 5 } else { 2 });
        let shown: Vec<String> =
            assigned.iter().map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn partitions_are_shared_in_runs() {
        check(&[&["a"]], &["a/0 a/1 a/2 a/3 a/4"]);
        check(&[&["a"], &["a"]], &["a/0 a/1 a/2", "a/3 a/4"]);
        check(&[&["a", "b"], &["b"], &["b"]], &["a/0 a/1 a/2 a/3 a/4 b/0", "b/1", ""]);
        check(&[], &[]);
    }
}
