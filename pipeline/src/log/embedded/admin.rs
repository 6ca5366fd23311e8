//! The owner's administration: topics and groups that come and go.

use std::collections::BTreeMap;

use rocksdb::WriteBatch;

use super::keys;
use super::owner::{Owner, into_log_error};
use super::view::{self, Topic, View};
use crate::log::{LogError, TopicSpec};

/// Kafka's bound on names.
pub const NAME_MAX: usize = 249;

impl Owner {
    /// Creates the topics that do not exist.
    pub fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        specs.iter().try_for_each(check_topic)?;
        let _writing = self.writing();
        let existing = self.topics()?;
        let mut next = match self.files().get_i64(keys::NEXT_TOPIC)? {
            Some(next) => u32::try_from(next).map_err(|_| self.files().corrupt("the next topic id is no id"))?,
            None => 1,
        };
        let mut created: BTreeMap<&str, Topic> = BTreeMap::new();
        for spec in specs {
            if existing.iter().all(|(name, _)| *name != spec.name) && !created.contains_key(spec.name.as_str()) {
                created.insert(&spec.name, Topic::new(next, spec));
                next += 1;
            }
        }
        if created.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.put(keys::NEXT_TOPIC, i64::from(next).to_be_bytes());
        for (name, topic) in &created {
            batch.put(keys::topic(name), topic.encode());
        }
        self.check_writable(&self.state())?;
        self.apply(batch).map_err(into_log_error)?;
        self.change(|state| created.into_iter().for_each(|(name, topic)| state.add_topic(name.to_owned(), topic)));
        self.coordinator.rebalance_all();
        Ok(())
    }

    /// Deletes topics, their records, and the positions that groups have in them.
    pub fn delete_topics(&self, names: &[&str]) -> Result<(), LogError> {
        let _writing = self.writing();
        let mut batch = WriteBatch::default();
        let mut ids = Vec::new();
        {
            let state = self.state();
            self.check_writable(&state)?;
            for name in names {
                let Some(topic) = state.topics.get(*name) else { continue };
                ids.push(topic.id);
                batch.delete(keys::topic(name));
                keys::topic_ranges(topic.id).into_iter().for_each(|(from, to)| batch.delete_range(from, to));
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        self.files().for_each(&[keys::POSITION], |key, _| {
            if keys::parse_position(key).is_some_and(|(_, id)| ids.contains(&id)) {
                batch.delete(key);
            }
            Ok(())
        })?;
        self.apply(batch).map_err(into_log_error)?;
        self.change(|state| names.iter().for_each(|name| state.remove_topic(name)));
        self.coordinator.rebalance_all();
        Ok(())
    }

    /// Forgets a group that has no members.
    pub fn delete_group(&self, name: &str) -> Result<(), LogError> {
        let _writing = self.writing();
        let members =
            self.coordinator.groups().iter().find(|group| group.name == name).map_or(0, |group| group.members);
        if members > 0 {
            return Err(LogError::Refused(format!(
                "group {name} has {members} members: stop the services that belong to it first"
            )));
        }
        self.check_writable(&self.state())?;
        let mut batch = WriteBatch::default();
        let prefix = keys::group(name);
        self.files().for_each(&prefix, |key, _| {
            batch.delete(key);
            Ok(())
        })?;
        self.apply(batch).map_err(into_log_error)
    }
}

fn check_topic(spec: &TopicSpec) -> Result<(), LogError> {
    let named = !spec.name.is_empty() && spec.name.len() <= NAME_MAX;
    if named && (1..view::PARTITIONS_MAX).contains(&spec.partitions) {
        return Ok(());
    }
    Err(LogError::Refused(format!(
        "topic {:?} with {} partitions cannot be: a name has 1 to {NAME_MAX} bytes, a topic 1 to {} partitions",
        spec.name,
        spec.partitions,
        view::PARTITIONS_MAX - 1
    )))
}
