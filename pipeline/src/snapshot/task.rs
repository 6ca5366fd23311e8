//! One task's snapshots in the object store: its keys, its descriptors.

use super::{Descriptor, Objects, SnapshotError};
use crate::snapshot::objects::Object;

/// The snapshots of one task.
#[derive(Clone)]
pub struct TaskSnapshots<'a> {
    pub(super) objects: &'a Objects,
    pub(super) log_id: &'a str,
    pub(super) service: &'a str,
    pub(super) partition: i32,
    folder: String,
}

impl<'a> TaskSnapshots<'a> {
    pub(super) fn new(objects: &'a Objects, log_id: &'a str, service: &'a str, partition: i32) -> Self {
        let folder = format!("{log_id}/{service}/{partition}");
        Self { objects, log_id, service, partition, folder }
    }

    pub(super) fn descriptor_key(&self, name: &str) -> String {
        format!("{}/snapshots/{name}", self.folder)
    }

    pub(super) fn file_key(&self, name: &str) -> String {
        format!("{}/files/{name}", self.folder)
    }

    /// The keys of the descriptors, newest first; nothing has been read yet.
    pub fn newest_first(&self) -> Result<Vec<String>, SnapshotError> {
        let mut keys: Vec<String> = self
            .objects
            .list(&self.descriptor_key(""))?
            .into_iter()
            .filter_map(|object| object.key.rsplit_once('/').map(|(_, name)| name.to_owned()))
            .filter(|name| name.ends_with(".json"))
            .collect();
        keys.reverse();
        Ok(keys)
    }

    /// The commits that they are of, newest first.
    pub fn sequences(&self) -> Result<Vec<i64>, SnapshotError> {
        Ok(self.newest_first()?.iter().filter_map(|key| sequence(key)).collect())
    }

    pub(super) fn files(&self) -> Result<Vec<Object>, SnapshotError> {
        self.objects.list(&self.file_key(""))
    }

    /// Reads a descriptor and checks that it is what its key says. `None`: it has gone meanwhile.
    pub fn read(&self, name: &str) -> Result<Option<Descriptor>, SnapshotError> {
        let key = self.descriptor_key(name);
        let Some(bytes) = self.objects.get(&key)? else { return Ok(None) };
        let what = format!("snapshot {}", self.objects.name(&key));
        let found = Descriptor::from_json(&bytes, &what, name)?;
        if (found.log.as_str(), found.service.as_str(), found.partition) != (self.log_id, self.service, self.partition)
        {
            let reason = format!("it is of {} {}/{}", found.log, found.service, found.partition);
            return Err(SnapshotError::Corrupt { what, reason });
        }
        Ok(Some(found))
    }
}

/// The commit of which the descriptor with this key is.
pub(super) fn sequence(key: &str) -> Option<i64> {
    key.split('-').next()?.parse().ok()
}
