//! The RocksDB in which the embedded log lies: opened by its one owner, or beside it for reading.
//!
//! INVARIANT: what must survive is written with `Durable`, as one batch that is on the device before the call returns.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, Env, Error, ErrorKind,
    Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::keys;
use crate::log::LogError;

/// The format that this code writes; it reads this one only.
const FORMAT_VERSION: u8 = 1;
const BLOCK_CACHE_BYTES: usize = 32 << 20;
const WRITE_BUFFER_BYTES: usize = 16 << 20;
const WRITE_BUFFERS: i32 = 2;
/// The owner may remove a file between a reader's learning of it and opening it; then the reader looks again.
const CATCH_UP_ATTEMPTS: usize = 5;

/// Records that are compressed together have about so many bytes.
const BLOCK_BYTES: usize = 32 << 10;
/// What a scan reads from a file at once.
const READ_AHEAD_BYTES: usize = 256 << 10;

pub struct Files {
    db: DB,
    /// Dropped after the database that uses it.
    _scratch: Option<Scratch>,
    dir: String,
}

/// Whether a write waits for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Durable,
    /// May be lost with the machine, though never before anything written later.
    Lazy,
}

impl Files {
    /// Opens the log in `dir`/log as its owner, or creates it.
    ///
    /// Errors: `Refused` (in use, or of a newer format), `Corrupt`, `Full`.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        let path = dir.join("log");
        std::fs::create_dir_all(&path)
            .map_err(|error| LogError::failed(format!("cannot create the folder {}", path.display()), error))?;
        Self::own(&owner_options(), &path, dir.display().to_string())
    }

    /// A log that is gone when it is dropped.
    pub fn in_memory() -> Result<Self, LogError> {
        let dir = "memory".to_owned();
        let env = Env::mem_env().map_err(|error| to_log_error(&dir, &error))?;
        let mut options = owner_options();
        options.set_env(&env);
        // The binding creates the folder on the real disk, so it is one that is there.
        Self::own(&options, &std::env::temp_dir(), dir)
    }

    fn own(options: &Options, path: &Path, dir: String) -> Result<Self, LogError> {
        let db = DB::open(options, path).map_err(|error| to_log_error(&dir, &error))?;
        let files = Self { db, _scratch: None, dir };
        if !files.check_version()? {
            let mut batch = WriteBatch::default();
            batch.put(keys::VERSION, [FORMAT_VERSION]);
            files.write(batch, Write::Durable)?;
        }
        Ok(files)
    }

    /// Opens the log in `dir`/log for reading, whether or not another process owns it.
    pub fn open_beside(dir: &Path) -> Result<Self, LogError> {
        let (path, dir) = (dir.join("log"), dir.display().to_string());
        if !path.join("CURRENT").exists() {
            return Err(LogError::Refused(format!("there is no log in {dir}: give another folder with --data")));
        }
        let scratch = Scratch::create()?;
        let mut options = options();
        // A file that the owner removes stays readable while it is open.
        options.set_max_open_files(-1);
        let open = || DB::open_as_secondary(&options, &path, &scratch.0);
        let mut opened = open();
        for _ in 1..CATCH_UP_ATTEMPTS {
            if opened.is_ok() {
                break;
            }
            opened = open();
        }
        let db = opened.map_err(|error| to_log_error(&dir, &error))?;
        let files = Self { db, _scratch: Some(scratch), dir };
        files.check_version()?;
        Ok(files)
    }

    /// Brings a log opened beside its owner up to what the owner has written.
    pub fn catch_up(&self) -> Result<(), LogError> {
        let mut outcome = self.db.try_catch_up_with_primary();
        for _ in 1..CATCH_UP_ATTEMPTS {
            if outcome.is_ok() {
                break;
            }
            outcome = self.db.try_catch_up_with_primary();
        }
        outcome.map_err(|error| self.error(&error))
    }

    /// The data folder, for messages.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        self.db.get(key).map_err(|error| self.error(&error))
    }

    /// A number stored under `key`.
    pub fn get_i64(&self, key: &[u8]) -> Result<Option<i64>, LogError> {
        let Some(bytes) = self.get(key)? else { return Ok(None) };
        match <[u8; 8]>::try_from(bytes.as_slice()) {
            Ok(bytes) => Ok(Some(i64::from_be_bytes(bytes))),
            Err(_) => Err(self.corrupt("a number has not eight bytes")),
        }
    }

    /// The entries with `from <= key < to`, not yet positioned; its status is to be asked when it ends.
    pub fn range(&self, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        self.range_with(ReadOptions::default(), from, to)
    }

    /// As `range`, for one of which much is read, in large pieces.
    pub fn scan(&self, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(READ_AHEAD_BYTES);
        // What is read once would drive out of the cache what is needed again.
        options.fill_cache(false);
        self.range_with(options, from, to)
    }

    fn range_with(&self, mut options: ReadOptions, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        self.db.raw_iterator_opt(options)
    }

    /// Calls `visit` with each entry whose key begins with `prefix`, in key order.
    pub fn for_each(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let mut entries = self.range(prefix, &keys::after(prefix));
        entries.seek_to_first();
        while let Some((key, value)) = entries.item() {
            visit(key, value)?;
            entries.next();
        }
        entries.status().map_err(|error| self.error(&error))
    }

    /// Applies a batch, all of it or nothing.
    pub fn write(&self, batch: WriteBatch, write: Write) -> Result<(), LogError> {
        let mut options = WriteOptions::default();
        options.set_sync(write == Write::Durable);
        self.db.write_opt(batch, &options).map_err(|error| self.error(&error))
    }

    pub fn error(&self, error: &Error) -> LogError {
        to_log_error(&self.dir, error)
    }

    pub fn corrupt(&self, reason: &str) -> LogError {
        corrupt(&self.dir, reason)
    }

    /// Whether there is a version; refuses one that this code does not know.
    fn check_version(&self) -> Result<bool, LogError> {
        match self.get(keys::VERSION)?.as_deref() {
            None => Ok(false),
            Some([FORMAT_VERSION]) => Ok(true),
            Some([version]) => Err(LogError::Refused(format!(
                "the log in {} has format {version}, this engram knows format {FORMAT_VERSION}: use the engram that wrote it",
                self.dir
            ))),
            Some(_) => Err(self.corrupt("its format version is not one byte")),
        }
    }
}

fn options() -> Options {
    let mut block = BlockBasedOptions::default();
    block.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    // Nearly all that is read are scans.
    block.set_block_size(BLOCK_BYTES);
    // In parts: each scan needs one of them, and those of a large log do not fit into the cache.
    block.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    block.set_pin_top_level_index_and_filter(true);
    block.set_cache_index_and_filter_blocks(true);
    block.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&block);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options
}

fn owner_options() -> Options {
    let mut options = options();
    options.create_if_missing(true);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(WRITE_BUFFERS);
    options.set_max_background_jobs(2);
    options
}

/// A folder for the log files of RocksDB itself, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> Result<Self, LogError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("engram-log-{}-{number}-{}", std::process::id(), crate::clock::now_ms());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)
            .map_err(|error| LogError::failed(format!("cannot create the folder {}", path.display()), error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn corrupt(dir: &str, reason: &str) -> LogError {
    let reason = format!("{reason}; restore the folder from a copy, or move it away and ingest anew");
    LogError::Corrupt { what: format!("the log in {dir}"), reason }
}

fn to_log_error(dir: &str, error: &Error) -> LogError {
    classify(dir, error.kind(), error.as_ref())
}

fn classify(dir: &str, kind: ErrorKind, text: &str) -> LogError {
    if text.contains("No space left") || text.contains("Disk quota") {
        return LogError::Full(dir.to_owned());
    }
    match kind {
        ErrorKind::IOError if is_lock_conflict(text) => LogError::Refused(format!(
            "the log in {dir} is in use by another process: stop the engram that runs there, or give another folder with \
             --data"
        )),
        ErrorKind::Corruption => corrupt(dir, text),
        _ => LogError::failed(format!("the log in {dir} cannot be used"), text),
    }
}

/// Whether RocksDB found its folder locked; other trouble with its LOCK file is none of that.
pub fn is_lock_conflict(text: &str) -> bool {
    text.contains("lock hold by current process")
        || (text.contains("While lock file") && text.contains("temporarily unavailable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_and_no_newer_format() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        assert!(matches!(Files::open(dir.path()), Err(LogError::Refused(text)) if text.contains("in use")));
        let mut batch = WriteBatch::default();
        batch.put(keys::VERSION, [FORMAT_VERSION + 1]);
        files.write(batch, Write::Durable).unwrap();
        drop(files);
        assert!(matches!(Files::open(dir.path()), Err(LogError::Refused(text)) if text.contains("format 2")));
    }

    #[test]
    fn errors_say_what_to_do() {
        let full = classify("data", ErrorKind::IOError, "IO error: No space left on device: While appending to file");
        assert!(matches!(full, LogError::Full(dir) if dir == "data"));
        let denied = "IO error: Permission denied: While open a file for lock: data/blocks/LOCK";
        assert!(matches!(classify("data", ErrorKind::IOError, denied), LogError::Failed { .. }));
        let corrupt = classify("data", ErrorKind::Corruption, "Corruption: block checksum mismatch");
        assert!(matches!(corrupt, LogError::Corrupt { what, .. } if what.contains("data")));
    }
}
