//! The group members of this process, so that a producer can commit on behalf of one.
//!
//! A `Membership` of this log is a key into this table: librdkafka wants the consumer's group metadata read anew for
//! every commit, so what travels through the port is which consumer to ask, not what it once said.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rdkafka::TopicPartitionList;
use rdkafka::bindings::rd_kafka_t;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::GroupProtocol;
use super::consumer::GroupContext;
use crate::log::{CommitError, LogError, Membership};

pub struct Members {
    protocol: GroupProtocol,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Keys are never used twice.
    last_key: u64,
    members: HashMap<u64, Weak<BaseConsumer<GroupContext>>>,
}

/// A member's consumer, for the time of one commit.
pub struct Member(Arc<BaseConsumer<GroupContext>>);

impl Members {
    pub fn new(protocol: GroupProtocol) -> Self {
        Self { protocol, table: Mutex::default() }
    }

    /// Whether a member whose commit named a former generation may still be in its group. By KIP-848 the group goes on to
    /// the next one without waiting for its members, which learn of it by their next heartbeat.
    pub fn may_lag(&self) -> bool {
        self.protocol == GroupProtocol::Consumer
    }

    pub fn add(&self, consumer: &Arc<BaseConsumer<GroupContext>>) -> Membership {
        let mut table = self.lock();
        table.members.retain(|_, member| member.strong_count() > 0);
        table.last_key += 1;
        let key = table.last_key;
        table.members.insert(key, Arc::downgrade(consumer));
        Membership(Arc::from(key.to_be_bytes()))
    }

    pub fn get(&self, membership: &Membership) -> Result<Member, CommitError> {
        let key = <[u8; 8]>::try_from(&*membership.0).map(u64::from_be_bytes);
        key.ok()
            .and_then(|key| self.lock().members.get(&key).and_then(Weak::upgrade))
            .map(Member)
            .ok_or_else(|| CommitError::Fenced("the member has left its group".to_owned()))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    pub fn native(&self) -> *mut rd_kafka_t {
        self.0.client().native_ptr()
    }

    /// Commits positions outside of any transaction.
    pub fn commit(&self, positions: &TopicPartitionList) -> Result<(), CommitError> {
        self.0.commit(positions, CommitMode::Sync).map_err(|error| match error {
            KafkaError::ConsumerCommit(
                Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::FencedInstanceId
                | Code::RebalanceInProgress
                | Code::AssignmentLost
                | Code::FencedMemberEpoch
                | Code::StaleMemberEpoch,
            ) => CommitError::Fenced(error.to_string()),
            // Found out by a heartbeat before this commit.
            error if matches!(self.0.client().fatal_error(), Some((Code::FencedInstanceId, _))) => {
                CommitError::Fenced(error.to_string())
            }
            error => CommitError::Log(LogError::failed("cannot commit the positions", error)),
        })
    }
}
