//! Restoring a task's files from a snapshot, where it has none.
//!
//! INVARIANT: the task's folder appears by one rename, after every file in it has been checked against its descriptor and is
//! on disk. A folder that is there already is never touched.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::descriptor::hex;
use super::take::{Scratch, last_commit};
use super::task::sequence;
use super::{Descriptor, SnapshotError, SnapshotFile, Snapshots};
use crate::changelog::is_too_old;
use crate::progress::Progress;
use crate::store::Files;
use crate::worker::chain;

/// Files downloaded at a time.
const DOWNLOADS: usize = 4;

impl Snapshots {
    /// Fills the task's folder from the newest snapshot that can be used, and returns what it was. `None`: there is none, the
    /// changelog has to do; why is logged.
    ///
    /// `changelog_end` is the end of the task's changelog: what lies beyond it belongs to another history.
    pub fn restore(
        &self,
        partition: i32,
        changelog_end: i64,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Option<Descriptor> {
        let warn = |snapshot: &str, error: &SnapshotError, then: &str| {
            tracing::warn!(service = self.service, task = partition, snapshot, error = %chain(error), "{then}");
        };
        let keys = match self.of(partition).newest_first() {
            Ok(keys) => keys,
            Err(error) => {
                warn("", &error, "snapshots cannot be listed; restoring from the changelog");
                return None;
            }
        };
        for key in keys {
            match self.restore_one(partition, &key, changelog_end, progress, stop) {
                Ok(Some(descriptor)) => return Some(descriptor),
                // Deleted since it was listed.
                Ok(None) => {}
                Err(_) if stop.load(Ordering::Relaxed) => return None,
                // Each of the others would be waited for, too.
                Err(error @ SnapshotError::ObjectStore { .. }) if !is_not_found(&error) => {
                    warn(&key, &error, "snapshots cannot be read; restoring from the changelog");
                    return None;
                }
                Err(error) => warn(&key, &error, "snapshot not used; trying the one before it, then the changelog"),
            }
        }
        None
    }

    fn restore_one(
        &self,
        partition: i32,
        key: &str,
        changelog_end: i64,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Result<Option<Descriptor>, SnapshotError> {
        let Some(descriptor) = self.of(partition).read(key)? else { return Ok(None) };
        self.check_usable(&descriptor, changelog_end)?;
        let scratch = Scratch::new(self.folder.join(format!("restoring-{partition}")))?;
        let folder = &scratch.0;
        std::fs::create_dir_all(folder).map_err(SnapshotError::disk(format!("create {}", folder.display())))?;
        self.fetch(&descriptor, folder, progress, stop)?;
        let path = self.folder.join(partition.to_string());
        let publish = || {
            // Empty, or it is somebody's: then this fails, and so does the rename.
            if path.exists() {
                std::fs::remove_dir(&path)?;
            }
            File::open(folder)?.sync_all()?;
            std::fs::rename(folder, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        publish().map_err(SnapshotError::disk(format!("move {} to {}", folder.display(), path.display())))?;
        Ok(Some(descriptor))
    }

    /// Fills `folder` with the files of the newest usable snapshot of a commit up to `sequence_max`, and returns what it is.
    /// For a replay: neither the changelog that follows nor the task's own folder has a part in it.
    pub fn copy_to(
        &self,
        partition: i32,
        sequence_max: i64,
        folder: &Path,
    ) -> Result<Option<Descriptor>, SnapshotError> {
        let keys = self.of(partition).newest_first()?;
        for key in keys.iter().filter(|key| sequence(key).is_some_and(|sequence| sequence <= sequence_max)) {
            let copied = || -> Result<Option<Descriptor>, SnapshotError> {
                let Some(descriptor) = self.of(partition).read(key)? else { return Ok(None) };
                self.check_stores(&descriptor)?;
                std::fs::create_dir_all(folder).map_err(SnapshotError::disk(format!("create {}", folder.display())))?;
                self.fetch(&descriptor, folder, &Progress::new("replay", partition), &AtomicBool::new(false))?;
                Ok(Some(descriptor))
            };
            match copied() {
                Ok(Some(descriptor)) => return Ok(Some(descriptor)),
                Ok(None) => {}
                Err(error @ SnapshotError::ObjectStore { .. }) if !is_not_found(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(snapshot = key, error = %chain(&error), "snapshot not used; trying the one before it");
                }
            }
            let clear = || match std::fs::remove_dir_all(folder) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                outcome => outcome,
            };
            clear().map_err(SnapshotError::disk(format!("empty {}", folder.display())))?;
        }
        Ok(None)
    }

    /// Fills `folder` with the snapshot's files, and checks them.
    fn fetch(
        &self,
        descriptor: &Descriptor,
        folder: &Path,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Result<(), SnapshotError> {
        progress.snapshot(descriptor.bytes());
        self.download(descriptor.partition, &descriptor.files, folder, progress, stop)?;
        check_store(descriptor, folder)
    }

    fn check_stores(&self, descriptor: &Descriptor) -> Result<(), SnapshotError> {
        if descriptor.stores == self.stores {
            return Ok(());
        }
        let reason = format!("it has the stores {:?}, the service has {:?}", descriptor.stores, self.stores);
        Err(SnapshotError::Unusable { what: format!("snapshot {}", descriptor.key()), reason })
    }

    fn check_usable(&self, descriptor: &Descriptor, changelog_end: i64) -> Result<(), SnapshotError> {
        let reason = if descriptor.changelog_position > changelog_end {
            format!(
                "it is at offset {} of a changelog that ends at {changelog_end}: it is of another history",
                descriptor.changelog_position
            )
        } else if is_too_old(&self.clock, descriptor.written_ms) {
            "it is so old that what was deleted since may no longer be told by the changelog".to_owned()
        } else {
            return self.check_stores(descriptor);
        };
        Err(SnapshotError::Unusable { what: format!("snapshot {}", descriptor.key()), reason })
    }

    fn download(
        &self,
        partition: i32,
        files: &[SnapshotFile],
        folder: &Path,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Result<(), SnapshotError> {
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let outcome = self.download_one(partition, file, folder, |bytes| {
                    progress.add_bytes(bytes);
                    !stop.load(Ordering::Relaxed) && !failed.load(Ordering::Relaxed)
                });
                if outcome.is_err() && failed.swap(true, Ordering::Relaxed) {
                    // Another was first: this one was only told to stop.
                    return Ok(());
                }
                outcome?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..DOWNLOADS.min(files.len())).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).fold(Ok(()), Result::and)
        })
    }

    fn download_one(
        &self,
        partition: i32,
        file: &SnapshotFile,
        folder: &Path,
        seen: impl FnMut(u64) -> bool,
    ) -> Result<(), SnapshotError> {
        let key = self.of(partition).file_key(&file.key());
        let checksum = hex(self.objects.get_file(&key, &folder.join(&file.name), seen)?);
        if checksum != file.checksum {
            let reason = format!("its checksum is {checksum}");
            return Err(SnapshotError::Corrupt { what: self.objects.name(&key), reason });
        }
        Ok(())
    }
}

/// The files make the store that the descriptor speaks of.
fn check_store(descriptor: &Descriptor, folder: &Path) -> Result<(), SnapshotError> {
    let files = Files::open_read_only(folder)?;
    let is_of = last_commit(&files)?.is_some_and(|commit| descriptor.is_of(&commit));
    if !is_of || files.position()? != descriptor.changelog_position {
        let reason = "its files are of another commit".to_owned();
        return Err(SnapshotError::Corrupt { what: format!("snapshot {}", descriptor.key()), reason });
    }
    Ok(())
}

fn is_not_found(error: &SnapshotError) -> bool {
    matches!(error, SnapshotError::ObjectStore { source: object_store::Error::NotFound { .. }, .. })
}
