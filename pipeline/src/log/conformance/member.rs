//! A group's member as a worker would be: it answers rebalances at once, and keeps a record of them.

use std::time::Duration;

use super::fixture::{Fixture, until};
use crate::log::{GroupConsumer, LogError, MemberOptions, Membership, Rebalance, TopicPartition};

pub struct Member {
    pub consumer: Box<dyn GroupConsumer>,
    /// What it holds, in the order in which it reads them.
    pub held: Vec<TopicPartition>,
    pub events: Vec<Rebalance>,
    /// Why it has ended.
    pub fenced: bool,
}

impl Member {
    /// Joins a group. `instance_id` is made this case's own.
    pub fn join(fixture: &Fixture<'_>, group: &str, topics: &[&str], instance_id: Option<&str>) -> Self {
        let options = MemberOptions {
            group: group.to_owned(),
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
            client_id: fixture.prefix.clone(),
            instance_id: instance_id.map(|id| fixture.name(id)),
        };
        let consumer = fixture.log.member(&options).expect("a group can be joined");
        Self { consumer, held: Vec::new(), events: Vec::new(), fenced: false }
    }

    /// Serves the group once.
    pub fn step(&mut self) {
        if self.fenced {
            return;
        }
        let event = match self.consumer.poll_group() {
            Ok(event) => event,
            Err(LogError::Fenced(_)) => {
                self.fenced = true;
                return;
            }
            Err(error) => panic!("the group cannot be served: {error:?}"),
        };
        match &event {
            Some(Rebalance::Assigned(partitions)) => {
                assert!(!partitions.iter().any(|partition| self.held.contains(partition)), "nothing is assigned twice");
                let positions: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
                self.consumer.take(&positions).expect("a member's partitions can be taken");
                self.held.extend_from_slice(partitions);
            }
            Some(Rebalance::Revoked(partitions) | Rebalance::Lost(partitions)) => {
                assert!(partitions.iter().all(|partition| self.held.contains(partition)), "only what it holds goes");
                self.consumer.release(partitions).expect("partitions can be given back");
                self.held.retain(|partition| !partitions.contains(partition));
            }
            None => self.consumer.wait(Duration::from_millis(5)).expect("a member can wait"),
        }
        self.events.extend(event);
    }

    pub fn membership(&self) -> Membership {
        self.consumer.membership().expect("a member that holds partitions has its place in the group")
    }

    /// The numbers of the partitions that it holds of a topic, ordered.
    pub fn numbers(&self, topic: &str) -> Vec<i32> {
        let held = self.held.iter().filter(|partition| &*partition.topic == topic);
        let mut numbers: Vec<i32> = held.map(|partition| partition.partition).collect();
        numbers.sort_unstable();
        numbers
    }

    pub fn count(&self) -> usize {
        self.held.len()
    }
}

/// Serves the members until each holds as many partitions.
#[track_caller]
pub fn settle<const N: usize>(members: [&mut Member; N], counts: [usize; N]) {
    let mut members = members;
    until(&format!("the members hold {counts:?} partitions"), || {
        members.iter_mut().for_each(|member| member.step());
        let held = members.each_ref().map(|member| member.count());
        (held == counts).then_some(())
    });
}
