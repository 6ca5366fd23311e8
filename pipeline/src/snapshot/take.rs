//! Taking a snapshot: a checkpoint of the running task's files, the new ones among them uploaded, then the descriptor.
//!
//! The worker's thread has no part in it. RocksDB flushes its memtables (16 MiB at most, in the background) and makes hard
//! links, while the task writes into new memtables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::Xxh3;

use super::descriptor::{hex, is_file_name};
use super::{Descriptor, SnapshotError, SnapshotFile, Snapshots};
use crate::manifest::LastCommit;
use crate::store::{Files, StoreError};

const BUFFER_BYTES: usize = 1 << 20;

/// What became of a snapshot that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub partition: i32,
    pub sequence: i64,
    pub digest: String,
    /// Of all its files, and of those that were uploaded for it.
    pub bytes: u64,
    pub uploaded_bytes: u64,
    /// For the flush and the links.
    pub checkpoint: Duration,
    pub took: Duration,
}

/// What is known of a task's files, so that they are not read again for each snapshot.
#[derive(Default)]
pub(super) struct Known {
    checksums: HashMap<LocalFile, u128>,
    /// What was uploaded last.
    last: Option<Descriptor>,
}

/// A file's identity on this disk: RocksDB never changes a file that it has written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LocalFile {
    name: String,
    size: u64,
    inode: u64,
}

impl Snapshots {
    /// Takes a snapshot of a task that runs here, unless nothing was committed since the last one, or it does not run here.
    /// Waits while another is being taken.
    pub fn take(&self, partition: i32) -> Result<Option<Taken>, SnapshotError> {
        let mut known = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_one(partition, known.entry(partition).or_default())
    }

    /// As `take`, but leaves it if one is being taken.
    pub(super) fn take_in_turn(&self, partition: i32) -> Result<Option<Taken>, SnapshotError> {
        match self.taking.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Poisoned(known)) => {
                self.take_one(partition, known.into_inner().entry(partition).or_default())
            }
            Ok(mut known) => self.take_one(partition, known.entry(partition).or_default()),
        }
    }

    fn take_one(&self, partition: i32, known: &mut Known) -> Result<Option<Taken>, SnapshotError> {
        let started = Instant::now();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(files) = running.get(&partition).and_then(std::sync::Weak::upgrade) else { return Ok(None) };
        drop(running);
        let is_known = |commit| known.last.as_ref().is_some_and(|last: &Descriptor| last.is_of(&commit));
        if last_commit(&files)?.is_none_or(is_known) {
            return Ok(None);
        }
        let folder = Scratch::new(self.folder.join(format!("snapshot-{partition}")))?;
        files.checkpoint(&folder.0)?;
        // Open no longer than needed: the task may be closed, and another worker open its files.
        drop(files);
        let checkpoint = started.elapsed();
        let (descriptor, uploaded_bytes) = self.upload(partition, &folder.0, known)?;
        let taken = Taken {
            partition,
            sequence: descriptor.sequence,
            bytes: descriptor.bytes(),
            digest: descriptor.digest.clone(),
            uploaded_bytes,
            checkpoint,
            took: started.elapsed(),
        };
        known.last = Some(descriptor);
        Ok(Some(taken))
    }

    fn upload(&self, partition: i32, folder: &Path, known: &mut Known) -> Result<(Descriptor, u64), SnapshotError> {
        let started_ms = self.clock.now_ms();
        let local = list(folder)?;
        let mut descriptor = self.describe(partition, folder)?;
        let task = self.of(partition);
        // SUBTLE: a file that is there already is shared only if the newest snapshot names it, or if it is young. Any other
        // may be deleted by a `prune` that runs elsewhere at this moment, so it is written again, which makes it young.
        let there: BTreeMap<String, (u64, i64)> = task
            .files()?
            .into_iter()
            .filter_map(|file| Some((file.key.rsplit_once('/')?.1.to_owned(), (file.size, file.modified_ms))))
            .collect();
        let named: BTreeSet<String> = match task.newest_first()?.first().map(|newest| task.read(newest)) {
            Some(Ok(Some(newest))) => newest.files.iter().map(SnapshotFile::key).collect(),
            _ => BTreeSet::new(),
        };
        let young_ms = self.policy.grace.as_millis() as i64 / 2;
        let mut checksums = HashMap::new();
        let mut uploaded_bytes = 0;
        for file in local {
            let path = folder.join(&file.name);
            let checksum = match known.checksums.get(&file) {
                Some(checksum) => *checksum,
                None => checksum_of(&path)?,
            };
            let found = SnapshotFile { name: file.name.clone(), size: file.size, checksum: hex(checksum) };
            let key = found.key();
            let is_there = there.get(&key).is_some_and(|(size, modified_ms)| {
                *size == file.size && (named.contains(&key) || started_ms - modified_ms < young_ms)
            });
            if !is_there {
                self.objects.put_file(&task.file_key(&key), &path, file.size)?;
                uploaded_bytes += file.size;
            }
            checksums.insert(file, checksum);
            descriptor.files.push(found);
        }
        known.checksums = checksums;
        descriptor.files.sort();
        descriptor.taken_ms = self.clock.now_ms();
        if descriptor.taken_ms - started_ms > young_ms {
            let reason = "its upload took so long that its first files may have been pruned".to_owned();
            return Err(SnapshotError::Unusable { what: format!("the snapshot of task {partition}"), reason });
        }
        let key = task.descriptor_key(&descriptor.key());
        self.objects.put(&key, descriptor.to_json())?;
        Ok((descriptor, uploaded_bytes))
    }

    /// What the checkpoint says of itself.
    fn describe(&self, partition: i32, folder: &Path) -> Result<Descriptor, SnapshotError> {
        let files = Files::open_read_only(folder)?;
        let commit = last_commit(&files)?.unwrap_or_default();
        Ok(Descriptor {
            version: Descriptor::version(),
            log: self.log_id.clone(),
            service: self.service.clone(),
            partition,
            sequence: commit.sequence,
            digest: hex(u128::from_be_bytes(commit.digest)),
            changelog_position: files.position()?,
            inputs: files.inputs(commit.sequence)?,
            stores: self.stores.clone(),
            files: Vec::new(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            written_ms: files.written_ms()?.unwrap_or(0),
            taken_ms: 0,
            checksum: String::new(),
        })
    }
}

pub(super) fn last_commit(files: &Files) -> Result<Option<LastCommit>, StoreError> {
    Ok(files.get(LastCommit::KEY)?.and_then(|bytes| LastCommit::from_bytes(&bytes)))
}

fn list(folder: &Path) -> Result<Vec<LocalFile>, SnapshotError> {
    let list = || {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_file_name(&name) {
                let meta = entry.metadata()?;
                files.push(LocalFile { name, size: meta.len(), inode: inode(&meta) });
            }
        }
        Ok(files)
    };
    list().map_err(SnapshotError::disk(format!("read {}", folder.display())))
}

#[cfg(unix)]
fn inode(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(not(unix))]
fn inode(_meta: &std::fs::Metadata) -> u64 {
    0
}

fn checksum_of(path: &Path) -> Result<u128, SnapshotError> {
    let read = || {
        let mut file = File::open(path)?;
        let (mut digest, mut buffer) = (Xxh3::new(), vec![0; BUFFER_BYTES]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(digest.digest128()),
                read => digest.update(&buffer[..read]),
            }
        }
    };
    read().map_err(SnapshotError::disk(format!("read {}", path.display())))
}

/// A folder that does not exist yet, and is deleted when dropped.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(path: PathBuf) -> Result<Self, SnapshotError> {
        // Of a process that was killed.
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(SnapshotError::disk(format!("delete {}", path.display()))(error))
            }
            _ => Ok(Self(path)),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
