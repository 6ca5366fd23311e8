//! Reading: the records of assigned partitions, and the members of groups.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::owner::Owner;
use super::stored::StoredBatch;
use super::view::{self, Place, View};
use crate::log::{
    Batch, Consumer, Fetched, GroupConsumer, LogError, MemberOptions, Membership, Rebalance, TopicPartition,
};

/// A fetch ends with the record that reaches as many bytes.
const FETCH_BYTES: usize = 1 << 20;

/// Reads the partitions that it was given.
pub struct Reader {
    view: Arc<dyn View>,
    assigned: Vec<Assigned>,
}

struct Assigned {
    place: Place,
    position: i64,
    /// Up to where it may be read, as far as it was looked: beside the owner a look is dear.
    stable: i64,
    /// Records and bytes of the last batch: the next is like it.
    size: (usize, usize),
}

impl Reader {
    pub fn new(view: Arc<dyn View>) -> Self {
        Self { view, assigned: Vec::new() }
    }

    fn is_ready(&self) -> Result<bool, LogError> {
        for assigned in &self.assigned {
            if assigned.position < self.view.ends(assigned.place)?.stable {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Consumer for Reader {
    fn assign(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        let assigned = positions.iter().map(|(partition, position)| {
            let place = view::place(&*self.view, partition)?;
            Ok(Assigned {
                place,
                position: (*position).max(view::FIRST_OFFSET),
                stable: view::FIRST_OFFSET,
                size: (0, 0),
            })
        });
        self.assigned = assigned.collect::<Result<_, LogError>>()?;
        Ok(())
    }

    fn fetch(&mut self, index: usize, records_max: usize) -> Result<Fetched, LogError> {
        let Assigned { place, position, stable, size } = &mut self.assigned[index];
        if *position >= *stable {
            *stable = self.view.ends(*place)?.stable;
        }
        if *position >= *stable || records_max == 0 {
            return Ok(Fetched { records: None, end: (*position == *stable).then_some(*stable) });
        }
        let (mut records, mut bytes) = (StoredBatch::with_capacity(size.0, size.1), 0);
        let through = view::for_each_record(self.view.files(), *place, (*position, *stable), |record| {
            bytes += record.len();
            records.push(&record);
            Ok(records.len() < records_max && bytes < FETCH_BYTES)
        })?;
        let next = match records.last_offset() {
            Some(last) if !through => last + 1,
            // What is left before the end are holes.
            _ => *stable,
        };
        if next >= *stable {
            // Before the position moves: records that cannot be handed out are fetched again.
            *stable = self.view.ends(*place)?.stable;
        }
        (*position, *size) = (next, records.size());
        let end = (*position == *stable).then_some(*stable);
        let records = (!records.is_empty()).then(|| Box::new(records) as Box<dyn Batch>);
        Ok(Fetched { records, end })
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), LogError> {
        let deadline = Instant::now() + timeout;
        loop {
            // Taken before the look, so that a commit after the look ends the wait.
            let version = self.view.version();
            if self.is_ready()? || Instant::now() >= deadline {
                return Ok(());
            }
            self.view.wait(version, deadline);
        }
    }
}

/// A member of a group.
pub struct Member {
    reader: Reader,
    owner: Arc<Owner>,
    group: String,
    number: u64,
}

impl Member {
    pub fn join(owner: Arc<Owner>, options: &MemberOptions) -> Result<Self, LogError> {
        let number = owner.coordinator.join(options)?;
        let reader = Reader::new(Arc::clone(&owner) as Arc<dyn View>);
        Ok(Self { reader, owner, group: options.group.clone(), number })
    }
}

impl Consumer for Member {
    fn assign(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        self.reader.assign(positions)
    }

    fn fetch(&mut self, index: usize, records_max: usize) -> Result<Fetched, LogError> {
        self.reader.fetch(index, records_max)
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), LogError> {
        self.reader.wait(timeout)
    }
}

impl GroupConsumer for Member {
    fn poll_group(&mut self) -> Result<Option<Rebalance>, LogError> {
        let partitions = |topic: &str| self.owner.topic(topic).ok().flatten().map_or(0, |topic| topic.partitions);
        self.owner.coordinator.poll(&self.group, self.number, partitions)
    }

    fn take(&mut self, positions: &[(TopicPartition, i64)]) -> Result<(), LogError> {
        // All that it held was given back before: this log's groups share their partitions all at once.
        self.reader.assign(positions)
    }

    fn release(&mut self, _partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.reader.assign(&[])?;
        self.owner.coordinator.release(&self.group, self.number)
    }

    fn membership(&self) -> Result<Membership, LogError> {
        self.owner.coordinator.membership(&self.group, self.number)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.owner.coordinator.leave(&self.group, self.number);
    }
}
