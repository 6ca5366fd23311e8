//! The group coordinator: which member of a group reads which partitions, by Kafka's eager protocol.
//!
//! ```text
//!            assigned anew            told, once another wants to join
//! Joining ---------------> Holding ------------------------------------> Revoking
//!    ^                        |  too slow                 too slow |        |
//!    |                        +-------------> Lost <---------------+        |
//!    +------ release ------------------------- | -------- release ----------+
//! ```
//!
//! A rebalance begins when a member joins, leaves or is given up, or topics change. It waits until no member holds
//! partitions any more; then a new generation is assigned. All members live in this process: one that is gone has said so
//! by being dropped, so slowness alone costs a member its place only when others wait for it.
//!
//! INVARIANT: a partition is held by one member at a time, and only a member that holds its partitions may commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::admin::NAME_MAX;
use super::bytes::Input;
use super::range;
use crate::clock::{Clock, Moment};
use crate::log::{CommitError, GroupInfo, LogError, MemberOptions, Membership, Rebalance, TopicPartition};

/// How long a rebalance waits for a member that does not poll (`max.poll.interval.ms`): it may be restoring its stores.
const SESSION_TIMEOUT: Duration = Duration::from_secs(300);

pub struct Coordinator {
    clock: Clock,
    groups: Mutex<Groups>,
}

#[derive(Default)]
struct Groups {
    by_name: HashMap<String, Group>,
    /// Numbers of members; never used twice.
    next: u64,
}

#[derive(Default)]
struct Group {
    /// By number.
    members: BTreeMap<u64, Member>,
    generation: u64,
    /// A rebalance waits to be completed.
    preparing: bool,
}

struct Member {
    topics: Vec<String>,
    client_id: String,
    instance_id: Option<String>,
    last_poll: Moment,
    /// The generation of its partitions.
    generation: u64,
    stage: Stage,
}

#[derive(Clone)]
enum Stage {
    Joining,
    Holding { partitions: Vec<TopicPartition>, told: bool },
    Revoking { partitions: Vec<TopicPartition> },
    Lost { partitions: Vec<TopicPartition>, told: bool },
}

impl Coordinator {
    pub fn new(clock: Clock) -> Self {
        Self { clock, groups: Mutex::default() }
    }

    /// Joins a group; answers the member's number.
    ///
    /// A static member takes the place of the one with its instance id, with what that one held.
    pub fn join(&self, options: &MemberOptions) -> Result<u64, LogError> {
        if options.group.is_empty() || options.group.len() > NAME_MAX {
            return Err(LogError::Refused(format!(
                "the group name {:?} must have 1 to {NAME_MAX} bytes",
                options.group
            )));
        }
        let mut groups = self.groups_lock();
        groups.next += 1;
        let number = groups.next;
        let group = groups.by_name.entry(options.group.clone()).or_default();
        let mut member = Member {
            topics: options.topics.clone(),
            client_id: options.client_id.clone(),
            instance_id: options.instance_id.clone(),
            last_poll: self.clock.now(),
            generation: group.generation,
            stage: Stage::Joining,
        };
        let same = |other: &Member| other.instance_id.is_some() && other.instance_id == options.instance_id;
        let former = group.members.extract_if(.., |_, other| same(other)).next();
        match former {
            Some((_, Member { stage: Stage::Holding { partitions, .. }, topics, .. })) if topics == options.topics => {
                member.stage = Stage::Holding { partitions, told: false };
            }
            _ => group.preparing = true,
        }
        group.members.insert(number, member);
        Ok(number)
    }

    /// Leaves the group, if the member is still in it.
    pub fn leave(&self, group: &str, number: u64) {
        let mut groups = self.groups_lock();
        let Some(members) = groups.by_name.get_mut(group) else { return };
        if members.members.remove(&number).is_some() {
            members.preparing = true;
        }
        if members.members.is_empty() {
            groups.by_name.remove(group);
        }
    }

    /// What has changed for a member. `partitions` tells how many a topic has.
    ///
    /// Errors: `Fenced` if another member has taken its place.
    pub fn poll(
        &self,
        group: &str,
        number: u64,
        partitions: impl Fn(&str) -> u32,
    ) -> Result<Option<Rebalance>, LogError> {
        let mut groups = self.groups_lock();
        let group = groups.by_name.get_mut(group).ok_or_else(fenced)?;
        group.members.get_mut(&number).ok_or_else(fenced)?.last_poll = self.clock.now();
        group.advance(&self.clock, partitions);
        let preparing = group.preparing;
        let member = group.members.get_mut(&number).ok_or_else(fenced)?;
        let (stage, told) = match std::mem::replace(&mut member.stage, Stage::Joining) {
            Stage::Holding { partitions, told: true } if preparing => {
                (Stage::Revoking { partitions: partitions.clone() }, Some(Rebalance::Revoked(partitions)))
            }
            Stage::Holding { partitions, told: false } => {
                (Stage::Holding { partitions: partitions.clone(), told: true }, Some(Rebalance::Assigned(partitions)))
            }
            Stage::Lost { partitions, told: false } => {
                (Stage::Lost { partitions: Vec::new(), told: true }, Some(Rebalance::Lost(partitions)))
            }
            unchanged => (unchanged, None),
        };
        member.stage = stage;
        Ok(told)
    }

    /// Takes back what a member held; it takes part in the next generation.
    pub fn release(&self, group: &str, number: u64) -> Result<(), LogError> {
        let mut groups = self.groups_lock();
        let group = groups.by_name.get_mut(group).ok_or_else(fenced)?;
        let member = group.members.get_mut(&number).ok_or_else(fenced)?;
        member.stage = Stage::Joining;
        group.preparing = true;
        Ok(())
    }

    pub fn membership(&self, group: &str, number: u64) -> Result<Membership, LogError> {
        let groups = self.groups_lock();
        let member = groups.by_name.get(group).and_then(|group| group.members.get(&number)).ok_or_else(fenced)?;
        Ok(Membership([number, member.generation].map(u64::to_be_bytes).concat().into()))
    }

    /// Whether a member may commit.
    ///
    /// Errors: `Fenced`.
    pub fn check(&self, group: &str, membership: &Membership) -> Result<(), CommitError> {
        let mut input = Input::new(&membership.0);
        let named = input.u64().zip(input.u64());
        let groups = self.groups_lock();
        let holds = named.is_some_and(|(number, generation)| {
            let member = groups.by_name.get(group).and_then(|group| group.members.get(&number));
            member.is_some_and(|member| member.generation == generation && member.stage.may_commit())
        });
        if holds {
            return Ok(());
        }
        Err(CommitError::Fenced(format!("the partitions of this member of group {group} belong to others by now")))
    }

    /// The groups that have members.
    pub fn groups(&self) -> Vec<GroupInfo> {
        let groups = self.groups_lock();
        let info = |(name, group): (&String, &Group)| {
            let state = if group.preparing { "PreparingRebalance" } else { "Stable" };
            GroupInfo { name: name.clone(), state: state.to_owned(), members: group.members.len() }
        };
        groups.by_name.iter().map(info).collect()
    }

    /// Has every group share its partitions anew, as topics have come or gone.
    pub fn rebalance_all(&self) {
        self.groups_lock().by_name.values_mut().for_each(|group| group.preparing = true);
    }

    fn groups_lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Completes a rebalance that waits for nobody any more.
    fn advance(&mut self, clock: &Clock, partitions: impl Fn(&str) -> u32) {
        if !self.preparing {
            return;
        }
        for member in self.members.values_mut() {
            let slow = clock.since(member.last_poll) > SESSION_TIMEOUT;
            match &mut member.stage {
                // It does not know of these partitions yet.
                Stage::Holding { told: false, .. } => member.stage = Stage::Joining,
                Stage::Holding { partitions, .. } | Stage::Revoking { partitions } if slow => {
                    member.stage = Stage::Lost { partitions: std::mem::take(partitions), told: false };
                }
                _ => {}
            }
        }
        if self.members.values().any(|member| member.stage.may_commit()) {
            return;
        }
        self.generation += 1;
        self.preparing = false;
        let mut joining: Vec<(u64, &mut Member)> = Vec::new();
        for (number, member) in &mut self.members {
            if matches!(member.stage, Stage::Joining) {
                joining.push((*number, member));
            }
        }
        // Kafka's order: static members first, by instance id; then the others by member id.
        joining.sort_by(|(left, a), (right, b)| {
            let order = |member: &Member| (member.instance_id.is_none(), member.instance_id.clone());
            (order(a), &a.client_id, left).cmp(&(order(b), &b.client_id, right))
        });
        let topics: Vec<&[String]> = joining.iter().map(|(_, member)| member.topics.as_slice()).collect();
        let shares = range::assign(&topics, partitions);
        for ((_, member), partitions) in joining.into_iter().zip(shares) {
            member.generation = self.generation;
            member.stage = Stage::Holding { partitions, told: false };
        }
    }
}

impl Stage {
    fn may_commit(&self) -> bool {
        matches!(self, Self::Holding { .. } | Self::Revoking { .. })
    }
}

fn fenced() -> LogError {
    LogError::Fenced("another member has taken this one's place in its group".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    struct Test {
        coordinator: Coordinator,
        hand: ManualClock,
    }

    impl Test {
        fn new() -> Self {
            let hand = ManualClock::new(0);
            Self { coordinator: Coordinator::new(hand.clock()), hand }
        }

        fn join(&self, instance_id: Option<&str>) -> u64 {
            let options = MemberOptions {
                group: "g".to_owned(),
                topics: vec!["t".to_owned()],
                client_id: "c".to_owned(),
                instance_id: instance_id.map(str::to_owned),
            };
            self.coordinator.join(&options).unwrap()
        }

        fn poll(&self, member: u64) -> String {
            let numbers = |list: Vec<TopicPartition>| {
                list.iter().map(|partition| partition.partition.to_string()).collect::<Vec<_>>().join(",")
            };
            match self.coordinator.poll("g", member, |_| 3) {
                Ok(Some(Rebalance::Assigned(list))) => numbers(list),
                Ok(Some(Rebalance::Revoked(list))) => format!("revoked {}", numbers(list)),
                Ok(Some(Rebalance::Lost(list))) => format!("lost {}", numbers(list)),
                other => format!("{other:?}"),
            }
        }

        fn may_commit(&self, membership: &Membership) -> bool {
            self.coordinator.check("g", membership).is_ok()
        }

        fn membership(&self, member: u64) -> Membership {
            self.coordinator.membership("g", member).unwrap()
        }
    }

    #[test]
    fn a_second_member_gets_its_share_after_the_first_has_released() {
        let test = Test::new();
        let one = test.join(None);
        assert_eq!(test.poll(one), "0,1,2");
        let held = test.membership(one);
        let two = test.join(None);
        assert_eq!(test.poll(two), "Ok(None)");
        assert_eq!(test.poll(one), "revoked 0,1,2");
        assert!(test.may_commit(&held), "a last commit before the release");
        assert_eq!(test.coordinator.groups()[0].state, "PreparingRebalance");
        test.coordinator.release("g", one).unwrap();
        assert!(!test.may_commit(&held));
        assert_eq!((test.poll(two), test.poll(one)), ("2".to_owned(), "0,1".to_owned()));
        assert!(!test.may_commit(&held) && test.may_commit(&test.membership(one)));
        assert_eq!(test.coordinator.groups()[0].state, "Stable");
        test.coordinator.leave("g", one);
        assert_eq!(test.poll(two), "revoked 2");
        test.coordinator.release("g", two).unwrap();
        assert_eq!(test.poll(two), "0,1,2");
    }

    #[test]
    fn a_slow_member_loses_its_partitions_when_others_wait() {
        let test = Test::new();
        let slow = test.join(None);
        assert_eq!(test.poll(slow), "0,1,2");
        let held = test.membership(slow);
        test.hand.advance(SESSION_TIMEOUT * 2);
        assert!(test.may_commit(&held), "nobody waits");
        let quick = test.join(None);
        assert_eq!(test.poll(quick), "0,1,2");
        assert!(!test.may_commit(&held));
        assert_eq!(test.poll(slow), "lost 0,1,2");
        test.coordinator.release("g", slow).unwrap();
        assert_eq!(test.poll(quick), "revoked 0,1,2");
    }

    #[test]
    fn a_static_member_takes_its_former_place() {
        let test = Test::new();
        let former = test.join(Some("a"));
        assert_eq!(test.poll(former), "0,1,2");
        let held = test.membership(former);
        let next = test.join(Some("a"));
        assert_eq!(test.poll(next), "0,1,2");
        assert!(test.poll(former).contains("Fenced"));
        assert!(!test.may_commit(&held));
        test.coordinator.leave("g", former);
        assert_eq!(test.coordinator.groups()[0].members, 1);
    }
}
