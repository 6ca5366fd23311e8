//! Which snapshots are kept, and how the others are deleted.
//!
//! INVARIANT: descriptors go first, then files that no remaining descriptor names. What another process may be uploading is
//! younger than the grace, or named by the newest snapshot, and is left.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Descriptor, SnapshotError, SnapshotFile, Snapshots};
use crate::worker::chain;

/// When snapshots are taken, and which are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub interval: Duration,
    /// The newest so many of each task are kept,
    pub keep: usize,
    /// and of older ones, the first of each so long a time,
    pub keep_every: Duration,
    /// until they are so old; 0 keeps none of them.
    pub keep_for: Duration,
    /// Files that no snapshot names are left alone until they are so old. No upload may take longer than half of it.
    pub grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(600),
            keep: 3,
            keep_every: Duration::from_secs(3_600),
            keep_for: Duration::ZERO,
            grace: Duration::from_secs(7_200),
        }
    }
}

impl Policy {
    /// Which of these are kept, given newest first by when they were taken (ms since the epoch).
    fn keeps(&self, taken_ms: &[i64], now_ms: i64) -> Vec<bool> {
        let every_ms = (self.keep_every.as_millis() as i64).max(1);
        let oldest_ms = now_ms - self.keep_for.as_millis() as i64;
        let slot = |at: usize| taken_ms[at] / every_ms;
        (0..taken_ms.len())
            .map(|at| {
                let first_of_its_time = at + 1 == taken_ms.len() || slot(at + 1) != slot(at);
                at < self.keep || (first_of_its_time && taken_ms[at] > oldest_ms)
            })
            .collect()
    }
}

/// What a prune has deleted and left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub snapshots_deleted: usize,
    pub snapshots_left: usize,
    pub files_deleted: usize,
    pub bytes_deleted: u64,
}

impl Snapshots {
    /// Deletes what the policy does not keep of one task.
    pub fn prune(&self, partition: i32) -> Result<Pruned, SnapshotError> {
        let task = self.of(partition);
        // Files before descriptors: a snapshot that is completed in between names files that are not in this list, or that
        // are young, or that the newest snapshot names as well.
        let files = task.files()?;
        let now_ms = self.clock.now_ms();
        let mut usable: Vec<Descriptor> = Vec::new();
        let mut gone = Vec::new();
        for key in task.newest_first()? {
            match task.read(&key) {
                Ok(Some(descriptor)) => usable.push(descriptor),
                Ok(None) => {}
                // Nobody can use it. It may yet tell someone what went wrong, until there is enough that can be used.
                Err(error @ SnapshotError::Corrupt { .. }) => {
                    tracing::warn!(service = self.service, task = partition, error = %chain(&error), "damaged snapshot");
                    if usable.len() >= self.policy.keep {
                        gone.push(key);
                    }
                }
                // Of a later build, say: what it names is not known, so nothing may be deleted.
                Err(error) => return Err(error),
            }
        }
        let taken_ms: Vec<i64> = usable.iter().map(|descriptor| descriptor.taken_ms).collect();
        let mut kept = self.policy.keeps(&taken_ms, now_ms).into_iter();
        usable.retain(|descriptor| {
            let keep = kept.next().unwrap_or(true);
            if !keep {
                gone.push(descriptor.key());
            }
            keep
        });
        for key in &gone {
            self.objects.delete(&task.descriptor_key(key))?;
        }
        let mut pruned = Pruned { snapshots_deleted: gone.len(), snapshots_left: usable.len(), ..Pruned::default() };
        let named: BTreeSet<String> =
            usable.iter().flat_map(|descriptor| &descriptor.files).map(SnapshotFile::key).collect();
        let grace_ms = self.policy.grace.as_millis() as i64;
        for file in files {
            let is_named = file.key.rsplit_once('/').is_none_or(|(_, name)| named.contains(name));
            if !is_named && now_ms - file.modified_ms > grace_ms {
                self.objects.delete(&file.key)?;
                pruned.files_deleted += 1;
                pruned.bytes_deleted += file.size;
            }
        }
        Ok(pruned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_first_of_each_hour_are_kept() {
        let hour_ms = 3_600_000;
        let policy = Policy { keep: 2, keep_for: Duration::from_secs(4 * 3_600), ..Policy::default() };
        // One every 20 minutes, the last one just now.
        let now_ms = 10 * hour_ms;
        let taken_ms: Vec<i64> = (0..24).map(|back| now_ms - back * hour_ms / 3).collect();
        let kept: Vec<i64> = policy
            .keeps(&taken_ms, now_ms)
            .into_iter()
            .zip(&taken_ms)
            .filter_map(|(kept, taken_ms)| kept.then_some((now_ms - taken_ms) / 60_000))
            .collect();
        assert_eq!(kept, [0, 20, 60, 120, 180], "minutes ago");
    }
}
