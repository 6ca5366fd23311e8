//! A task's RocksDB: what its stores had committed at a position of the changelog.
//!
//! One database a task, one column family, no write-ahead log. RocksDB flushes memtables in the order in which they were
//! filled, and a write batch never spans two, so after a crash the database is what it was right after some commit.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBIteratorWithThreadMode, Direction, Env, Error, ErrorKind,
    IteratorMode, Options, ReadOptions, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::{META, Order, StoreError};
use crate::clock::{Clock, Moment};
use crate::log::embedded::is_lock_conflict;

const POSITION: &[u8] = &[META, b'p', b'o', b's', b'i', b't', b'i', b'o', b'n'];

/// When a batch was applied last, ms since the epoch.
const WRITTEN: &[u8] = &[META, b'w', b'r', b'i', b't', b't', b'e', b'n'];

/// What is in memory is written to files this often, so that a killed process has at most so much to read again from its
/// changelogs.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// The size of the write-ahead log, which is not used, at which a checkpoint flushes what is in memory.
const NEVER_FLUSH: u64 = u64::MAX;

/// The memory that all RocksDBs of a process share.
pub struct Budget {
    cache: Cache,
    write_buffers: WriteBufferManager,
    /// `None`: the disk.
    memory: Option<Env>,
}

impl Budget {
    /// `bytes` in all: half for blocks read, half for writes not yet flushed.
    pub fn new(bytes: usize) -> Self {
        Self {
            cache: Cache::new_lru_cache(bytes / 2),
            // No stall: when over the budget, RocksDB flushes early.
            write_buffers: WriteBufferManager::new_write_buffer_manager(bytes / 2, false),
            memory: None,
        }
    }

    /// The databases lie in memory and are gone with the budget: for tests.
    pub fn in_memory(bytes: usize) -> Result<Self, StoreError> {
        let env = Env::mem_env().map_err(|error| to_store_error(Path::new("memory"), &error))?;
        Ok(Self { memory: Some(env), ..Self::new(bytes) })
    }
}

/// The database of one task.
pub struct Files {
    db: DB,
    path: PathBuf,
    write: WriteOptions,
    clock: Clock,
    flushed: Mutex<Moment>,
}

impl Files {
    /// Opens the task's database, or creates it.
    ///
    /// Errors: `InUse`, `Damaged`, `Full`.
    pub fn open(path: &Path, budget: &Budget, clock: &Clock) -> Result<Self, StoreError> {
        std::fs::create_dir_all(path).map_err(|error| StoreError::Damaged {
            path: path.display().to_string(),
            reason: format!("the folder cannot be created ({error})"),
        })?;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_manager(&budget.write_buffers);
        options.set_write_buffer_size(16 << 20);
        options.set_max_background_jobs(2);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_block_based_table_factory(&block_options(&budget.cache));
        if let Some(memory) = &budget.memory {
            options.set_env(memory);
        }
        let db = DB::open(&options, path).map_err(|error| to_store_error(path, &error))?;
        Ok(Self::from_db(db, path, clock.clone()))
    }

    /// Opens the task's database for reading while its task may be running in another process.
    ///
    /// `scratch` is a folder for RocksDB's own log files.
    pub fn open_beside(path: &Path, scratch: &Path) -> Result<Self, StoreError> {
        let db =
            DB::open_as_secondary(&Options::default(), path, scratch).map_err(|error| to_store_error(path, &error))?;
        Ok(Self::from_db(db, path, Clock::default()))
    }

    fn from_db(db: DB, path: &Path, clock: Clock) -> Self {
        let mut write = WriteOptions::default();
        // The changelog is the log.
        write.disable_wal(true);
        let flushed = Mutex::new(clock.now());
        Self { db, path: path.to_owned(), write, clock, flushed }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get(key).map_err(|error| self.error(&error))
    }

    /// The entries of the store with this prefix, `from <= key < to`; keys come with the prefix.
    pub fn range(&self, prefix: u8, from: &[u8], to: &[u8], order: Order) -> Result<Entries<'_>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound([&[prefix], from].concat());
        options.set_iterate_upper_bound([&[prefix], to].concat());
        let mode = match order {
            Order::Ascending => IteratorMode::Start,
            Order::Descending => IteratorMode::End,
        };
        Ok(Entries { inner: self.db.iterator_opt(mode, options), files: self })
    }

    /// All entries of the store with this prefix.
    pub fn all(&self, prefix: u8) -> Entries<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound([prefix + 1]);
        let inner = self.db.iterator_opt(IteratorMode::From(&[prefix], Direction::Forward), options);
        Entries { inner, files: self }
    }

    /// The changelog offset up to which this database is filled; 0 for a new one.
    pub fn position(&self) -> Result<i64, StoreError> {
        Ok(self.number(POSITION)?.unwrap_or(0))
    }

    /// When this database was written to last (ms since the epoch); `None` for a new one.
    pub fn written_ms(&self) -> Result<Option<i64>, StoreError> {
        self.number(WRITTEN)
    }

    fn number(&self, key: &[u8]) -> Result<Option<i64>, StoreError> {
        let Some(bytes) = self.get(key)? else { return Ok(None) };
        let number = <[u8; 8]>::try_from(bytes.as_slice()).map(i64::from_be_bytes);
        number.map(Some).map_err(|_| StoreError::Damaged {
            path: self.path.display().to_string(),
            reason: "its position is not readable".into(),
        })
    }

    /// Applies changes together with the changelog position after them, atomically. Now and then what is in memory is
    /// written to files, and this call waits for it.
    pub fn apply(&self, mut changes: Changes, position: i64) -> Result<(), StoreError> {
        changes.0.put(POSITION, position.to_be_bytes());
        changes.0.put(WRITTEN, self.clock.now_ms().to_be_bytes());
        self.db.write_opt(changes.0, &self.write).map_err(|error| self.error(&error))?;
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.clock.since(*flushed) < FLUSH_INTERVAL {
            return Ok(());
        }
        *flushed = self.clock.now();
        self.flush()
    }

    /// Copies (by hard links) to a new folder what is in files by now, which is what a process killed at this moment leaves.
    pub fn copy_flushed(&self, to: &Path) -> Result<(), StoreError> {
        let checkpoint = Checkpoint::new(&self.db).map_err(|error| self.error(&error))?;
        checkpoint.create_checkpoint_with_log_size(to, NEVER_FLUSH).map_err(|error| self.error(&error))
    }

    /// Writes everything to disk.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|error| self.error(&error))
    }

    fn error(&self, error: &Error) -> StoreError {
        to_store_error(&self.path, error)
    }
}

/// Changes to be applied at once; keys are full keys.
#[derive(Default)]
pub struct Changes(WriteBatch);

impl Changes {
    pub fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => self.0.put(key, value),
            None => self.0.delete(key),
        }
    }

    pub fn size_in_bytes(&self) -> usize {
        self.0.size_in_bytes()
    }
}

/// Stored entries in key order.
pub struct Entries<'a> {
    inner: DBIteratorWithThreadMode<'a, DB>,
    files: &'a Files,
}

impl Iterator for Entries<'_> {
    type Item = Result<(Box<[u8]>, Box<[u8]>), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.inner.next().map(|entry| entry.map_err(|error| self.files.error(&error)))
    }
}

fn block_options(cache: &Cache) -> BlockBasedOptions {
    let mut block = BlockBasedOptions::default();
    block.set_block_cache(cache);
    block.set_bloom_filter(10.0, false);
    block.set_cache_index_and_filter_blocks(true);
    block.set_pin_l0_filter_and_index_blocks_in_cache(true);
    block
}

fn to_store_error(path: &Path, error: &Error) -> StoreError {
    let path = path.display().to_string();
    let text = error.as_ref();
    if text.contains("No space left") || text.contains("File too large") || text.contains("Disk quota") {
        StoreError::Full { path }
    } else if error.kind() == ErrorKind::IOError && is_lock_conflict(text) {
        StoreError::InUse { path }
    } else {
        let reason = format!("{text}; move that folder away and start again: it is rebuilt from its changelog");
        StoreError::Damaged { path, reason }
    }
}
