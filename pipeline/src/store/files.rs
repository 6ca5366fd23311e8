//! A task's RocksDB: what its stores had committed at a position of the changelog.
//!
//! One database a task, one column family, no write-ahead log. RocksDB flushes memtables in the order in which they were
//! filled, and a write batch never spans two, so after a crash the database is what it was right after some commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DBIteratorWithThreadMode, Direction, Env,
    Error, ErrorKind, IngestExternalFileOptions, IteratorMode, Options, ReadOptions, SnapshotWithThreadMode,
    SstFileWriter, WaitForCompactOptions, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::{META, Order, Run, StoreError};
use crate::clock::{Clock, Moment};
use crate::log::embedded::is_lock_conflict;
use crate::restore::TASKS_AT_ONCE;

const POSITION: &[u8] = &[META, b'p', b'o', b's', b'i', b't', b'i', b'o', b'n'];

/// When a batch was applied last, ms since the epoch.
const WRITTEN: &[u8] = &[META, b'w', b'r', b'i', b't', b't', b'e', b'n'];

/// Where the last commit left the inputs.
const INPUTS: &[u8] = &[META, b'i', b'n', b'p', b'u', b't', b's'];

/// What is in memory is written to files this often, so that a killed process has at most so much to read again from its
/// changelogs.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// SUBTLE: a bulk load leaves many files in level 0, which compactions then work off behind the running task. With RocksDB's
/// own triggers (20, 36) the task's first writes would wait for them.
const LEVEL0_FILES: (i32, i32) = (64, 128);
/// Compactions rest during a bulk load, until it has made so many files: then reads would become too slow.
const LOADED_FILES_MAX: u64 = 40;

/// The size of the write-ahead log, which is not used, at which a checkpoint flushes what is in memory.
const NEVER_FLUSH: u64 = u64::MAX;

/// The memory that all RocksDBs of a process share.
pub struct Budget {
    bytes: usize,
    cache: Cache,
    write_buffers: WriteBufferManager,
    /// `None`: the disk.
    memory: Option<Env>,
}

impl Budget {
    /// `bytes` in all: half for blocks read, half for writes not yet flushed.
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes,
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

    /// Records of a changelog that a bulk load gathers before it writes them. Tasks that are restored at a time, each with
    /// one run being filled and one being written, take about the budget, most of which is not in use then.
    fn run_bytes(&self) -> usize {
        (self.bytes / (2 * TASKS_AT_ONCE)).clamp(4 << 20, 64 << 20)
    }
}

/// The database of one task.
pub struct Files {
    db: DB,
    path: PathBuf,
    options: Options,
    run_bytes: usize,
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
        // A task's list of files is small, and each opening begins a new one.
        options.set_manifest_preallocation_size(64 << 10);
        options.set_level_zero_slowdown_writes_trigger(LEVEL0_FILES.0);
        options.set_level_zero_stop_writes_trigger(LEVEL0_FILES.1);
        options.set_block_based_table_factory(&block_options(&budget.cache));
        if let Some(memory) = &budget.memory {
            options.set_env(memory);
        }
        let db = DB::open(&options, path).map_err(|error| to_store_error(path, &error))?;
        Ok(Self { run_bytes: budget.run_bytes(), ..Self::from_db(db, path, options, clock.clone()) })
    }

    /// Whether a task has files there.
    pub fn exist(path: &Path) -> bool {
        path.join("CURRENT").exists()
    }

    /// Opens the task's database for reading while its task may be running in another process.
    ///
    /// `scratch` is a folder for RocksDB's own log files.
    pub fn open_beside(path: &Path, scratch: &Path) -> Result<Self, StoreError> {
        let options = Options::default();
        let db = DB::open_as_secondary(&options, path, scratch).map_err(|error| to_store_error(path, &error))?;
        Ok(Self::from_db(db, path, options, Clock::default()))
    }

    /// Opens a database that nobody writes to, for reading.
    pub fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let mut options = Options::default();
        options.set_keep_log_file_num(1);
        let db = DB::open_for_read_only(&options, path, false).map_err(|error| to_store_error(path, &error))?;
        Ok(Self::from_db(db, path, options, Clock::default()))
    }

    fn from_db(db: DB, path: &Path, options: Options, clock: Clock) -> Self {
        let mut write = WriteOptions::default();
        // The changelog is the log.
        write.disable_wal(true);
        let flushed = Mutex::new(clock.now());
        Self { db, path: path.to_owned(), options, run_bytes: 0, write, clock, flushed }
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

    /// The entries as they are now, whatever is written later.
    pub fn pin(&self) -> Pinned<'_> {
        Pinned { snapshot: self.db.snapshot(), files: self }
    }

    /// The changelog offset up to which this database is filled; 0 for a new one.
    pub fn position(&self) -> Result<i64, StoreError> {
        Ok(self.number(POSITION)?.unwrap_or(0))
    }

    /// When this database was written to last (ms since the epoch); `None` for a new one.
    pub fn written_ms(&self) -> Result<Option<i64>, StoreError> {
        self.number(WRITTEN)
    }

    /// Where commit `sequence` left the inputs, by topic; empty if that is not known.
    pub fn inputs(&self, sequence: i64) -> Result<BTreeMap<String, i64>, StoreError> {
        let stored =
            self.get(INPUTS)?.and_then(|bytes| serde_json::from_slice::<(i64, BTreeMap<String, i64>)>(&bytes).ok());
        // One that is older was followed by commits that came by the changelog, which does not tell.
        Ok(stored.filter(|(of, _)| *of == sequence).map(|(_, inputs)| inputs).unwrap_or_default())
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

    /// Writes entries that `apply` was not told of, for a store that has been in memory.
    pub(crate) fn write(&self, changes: Changes) -> Result<(), StoreError> {
        self.db.write_opt(changes.0, &self.write).map_err(|error| self.error(&error))
    }

    /// Bytes that a run for `load` should have.
    pub fn run_bytes(&self) -> usize {
        self.run_bytes
    }

    /// As `apply`, for many changes at once: they become a file of RocksDB's own, beside memtables and their flushes.
    ///
    /// A crash leaves the database at the position of the last run loaded, or at this one.
    pub fn load(&self, mut run: Run, position: i64) -> Result<(), StoreError> {
        run.set(POSITION, Some(&position.to_be_bytes()));
        run.set(WRITTEN, Some(&self.clock.now_ms().to_be_bytes()));
        // No name that RocksDB would take for its own. It links the file under one, and removes this.
        let path = self.path.join("loading");
        let write = || {
            let mut writer = SstFileWriter::create(&self.options);
            writer.open(&path)?;
            run.visit_sorted(|key, value| match value {
                Some(value) => writer.put(key, value),
                None => writer.delete(key),
            })?;
            writer.finish()?;
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            options.set_snapshot_consistency(false);
            self.db.ingest_external_file_opts(&options, vec![&path])
        };
        write().map_err(|error| self.error(&error))
    }

    /// Lets compactions rest while a bulk load runs, unless it has made too many files already.
    pub fn loading(&self, loading: bool) -> Result<(), StoreError> {
        let files = self.db.property_int_value("rocksdb.num-files-at-level0").ok().flatten().unwrap_or(0);
        let rest = if loading && files < LOADED_FILES_MAX { "true" } else { "false" };
        self.db.set_options(&[("disable_auto_compactions", rest)]).map_err(|error| self.error(&error))
    }

    /// Makes `to`, a new folder on the same disk, a copy as of some commit: what is in memory is flushed, then files are
    /// hard links. May be called on any thread, while the task goes on writing.
    ///
    /// SUBTLE: it is at a commit without anyone waiting for it: each commit is one write batch, and the copy is a prefix
    /// of those, as what is on disk after a crash is. Which commit, the copy itself tells.
    pub fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(to))
            .map_err(|error| self.error(&error))
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

    /// Writes everything to disk and waits until no compaction is due: for measurements.
    pub fn settle(&self) -> Result<(), StoreError> {
        let mut options = WaitForCompactOptions::default();
        options.set_flush(true);
        self.db.wait_for_compact(&options).map_err(|error| self.error(&error))
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

    /// Where commit `sequence` leaves the inputs, for snapshots.
    pub fn set_inputs<'a>(&mut self, sequence: i64, inputs: impl Iterator<Item = (&'a str, i64)>) {
        let inputs: BTreeMap<&str, i64> = inputs.collect();
        self.0.put(INPUTS, serde_json::to_vec(&(sequence, inputs)).expect("names and numbers have a JSON form"));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn size_in_bytes(&self) -> usize {
        self.0.size_in_bytes()
    }
}

/// A database as it was at some moment. Nothing is copied: RocksDB keeps what it shows.
pub struct Pinned<'a> {
    snapshot: SnapshotWithThreadMode<'a, DB>,
    files: &'a Files,
}

impl Pinned<'_> {
    /// By the full key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.snapshot.get(key).map_err(|error| self.files.error(&error))
    }

    /// All entries of the store with this prefix.
    pub fn all(&self, prefix: u8) -> Entries<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound([prefix + 1]);
        let inner = self.snapshot.iterator_opt(IteratorMode::From(&[prefix], Direction::Forward), options);
        Entries { inner, files: self.files }
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
    // SUBTLE: in parts. The whole filter of a file of small keys is larger than what the cache keeps for it (a shard, a sixteenth
    // of it or less), so that each look-up would read megabytes from the file and check their checksum.
    block.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    block.set_partition_filters(true);
    block.set_pin_top_level_index_and_filter(true);
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
