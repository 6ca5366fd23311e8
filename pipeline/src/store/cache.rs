//! One store as its processor sees it: a cache over RocksDB that also holds what is not yet committed. A replay's store is the
//! cache alone for as long as it is small.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;
use indexmap::IndexMap;

use super::{Changes, Files, StoreError};

type Map = IndexMap<Box<[u8]>, Entry, FixedState>;

/// Bookkeeping of an entry beyond its key and value: map slot, allocations.
const ENTRY_OVERHEAD_BYTES: usize = 120;
/// A store in memory with fewer entries keeps deleted ones.
const PRUNE_MIN: usize = if cfg!(test) { 8 } else { 10_000 };

struct Entry {
    /// Valid if `live`; kept when deleted, so that its allocation serves the next value.
    value: Vec<u8>,
    live: bool,
    dirty: bool,
    /// It has its place in the index of a store in memory.
    is_sorted: bool,
}

impl Entry {
    fn new(value: Option<Vec<u8>>) -> Self {
        Self { live: value.is_some(), value: value.unwrap_or_default(), dirty: false, is_sorted: false }
    }

    fn value(&self) -> Option<&[u8]> {
        self.live.then_some(self.value.as_slice())
    }
}

/// A key that is compared by its first bytes, mostly, without a look at where the rest lies.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct SortedKey {
    head: u128,
    key: Box<[u8]>,
}

impl SortedKey {
    fn new(key: &[u8]) -> Self {
        Self { head: head(key), key: key.into() }
    }
}

/// Sorts as the key does, if two have different ones.
fn head(key: &[u8]) -> u128 {
    let mut head = [0; 16];
    let len = key.len().min(16);
    head[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(head)
}

/// What entries were before they were changed.
#[derive(Default)]
struct Undo {
    /// Slots, in the order of the changes, with where their values lie; `None`: there was no entry.
    entries: Vec<(usize, Option<Range<usize>>)>,
    bytes: Vec<u8>,
}

impl Undo {
    fn push(&mut self, slot: usize, value: Option<&[u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.entries.push((slot, value.map(|_| start..self.bytes.len())));
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
    }
}

/// The order of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

impl Order {
    fn compare(self, a: &[u8], b: &[u8]) -> Ordering {
        match self {
            Self::Ascending => a.cmp(b),
            Self::Descending => b.cmp(a),
        }
    }
}

/// What was done with a store while it was traced.
#[derive(Debug, Default)]
pub struct Trace {
    /// Keys that were read, whether there was an entry or not.
    pub read: BTreeSet<Box<[u8]>>,
    /// Keys that were written, with the values from before; `None`: there was no entry.
    pub written: BTreeMap<Box<[u8]>, Option<Vec<u8>>>,
}

/// A keyed store. Keys are ordered bytewise in ranges.
///
/// The cache has two generations, each at most half the bound: entries that are used move to the young one; when that is
/// full, it becomes the old one, and what was left in the old is forgotten (it is in RocksDB).
///
/// A store that began empty is held whole for as long as its entries fit into half a generation: then RocksDB is not asked for
/// keys that have none, as those of new windows.
///
/// In a replay, whose state nobody has to find after a crash, such a store can be in memory alone (`keep_in_memory`), with an
/// index of all keys for ranges.
pub struct Store {
    prefix: u8,
    files: Arc<Files>,
    young: Map,
    old: Map,
    /// Slots of dirty entries in `young`, in the order in which they became dirty.
    dirty: Vec<usize>,
    /// Slots of the entries that a commit under way carries: RocksDB has not got them yet, so they stay young.
    frozen: Vec<usize>,
    /// The slots of dirty and frozen entries by their keys; built by the first range of a commit, then kept up. Those of all
    /// entries in a store in memory, which keeps it.
    fresh_sorted: Option<BTreeMap<SortedKey, usize>>,
    /// `Some`: RocksDB has nothing of it. What has changed since the last commit that happened.
    in_memory: Option<Undo>,
    /// So many entries let a store in memory look for deleted ones.
    prune_at: usize,
    young_bytes: usize,
    cache_bytes_max: usize,
    /// Every entry is in the cache: what is not there is nowhere.
    is_whole: bool,
    aborts: u64,
    /// `None`: it is not traced.
    trace: Option<Trace>,
    /// Scratch for the RocksDB key.
    full_key: Vec<u8>,
}

impl Store {
    /// `is_empty`: the files have no entry of it.
    pub(crate) fn new(prefix: u8, files: Arc<Files>, cache_bytes_max: usize, is_empty: bool) -> Self {
        Self {
            prefix,
            files,
            young: Map::default(),
            old: Map::default(),
            dirty: Vec::new(),
            frozen: Vec::new(),
            fresh_sorted: None,
            in_memory: None,
            prune_at: PRUNE_MIN,
            young_bytes: 0,
            cache_bytes_max,
            is_whole: is_empty,
            aborts: 0,
            trace: None,
            full_key: Vec::new(),
        }
    }

    pub fn get(&mut self, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        let slot = self.slot(key, true)?;
        if let Some(trace) = &mut self.trace {
            trace.read.insert(key.into());
        }
        Ok(self.young[slot].value())
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        // What was there before is of interest to a trace only.
        let slot = self.slot(key, self.trace.is_some())?;
        self.change(slot, key, |buffer| {
            buffer.clear();
            buffer.extend_from_slice(value);
            true
        });
        Ok(())
    }

    pub fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.update(key, |_| false)
    }

    /// Reads and writes an entry with one look-up. `change` gets the value's bytes, empty if there is no entry, and says
    /// whether there is one afterwards.
    pub fn update(&mut self, key: &[u8], change: impl FnOnce(&mut Vec<u8>) -> bool) -> Result<(), StoreError> {
        let slot = self.slot(key, true)?;
        self.change(slot, key, change);
        Ok(())
    }

    fn change(&mut self, slot: usize, key: &[u8], change: impl FnOnce(&mut Vec<u8>) -> bool) {
        let entry = &mut self.young[slot];
        if !entry.live {
            self.young_bytes = self.young_bytes.saturating_sub(entry.value.len());
            entry.value.clear();
        }
        if let Some(trace) = &mut self.trace
            && !trace.written.contains_key(key)
        {
            trace.written.insert(key.into(), entry.live.then(|| entry.value.clone()));
        }
        if let Some(undo) = &mut self.in_memory
            && !entry.dirty
        {
            undo.push(slot, entry.value());
        }
        let before = entry.value.len();
        let was_live = entry.live;
        entry.live = change(&mut entry.value);
        self.young_bytes = (self.young_bytes + entry.value.len()).saturating_sub(before);
        if !entry.dirty && (entry.live || was_live) {
            entry.dirty = true;
            self.dirty.push(slot);
            if let Some(sorted) = &mut self.fresh_sorted
                && !entry.is_sorted
            {
                entry.is_sorted = self.in_memory.is_some();
                sorted.insert(SortedKey::new(key), slot);
            }
        }
    }

    /// Visits the entries with `from <= key < to`, in key order or against it, until `visit` returns false.
    pub fn range(
        &mut self,
        from: &[u8],
        to: &[u8],
        order: Order,
        visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        if self.fresh_sorted.is_none() {
            self.fresh_sorted = Some(self.sort());
        }
        let (young, sorted) = (&self.young, self.fresh_sorted.as_ref().expect("just made"));
        let trace = &mut self.trace;
        let mut visit = visit;
        let mut visit = |key: &[u8], value: &[u8]| {
            if let Some(trace) = trace {
                trace.read.insert(key.into());
            }
            visit(key, value)
        };
        let mut fresh = sorted.range(SortedKey::new(from)..SortedKey::new(to));
        let mut next_fresh = || {
            let next = match order {
                Order::Ascending => fresh.next(),
                Order::Descending => fresh.next_back(),
            };
            next.map(|(sorted, slot)| (&sorted.key, slot))
        };
        if self.in_memory.is_some() {
            while let Some((key, &slot)) = next_fresh() {
                if young[slot].value().is_some_and(|value| !visit(key, value)) {
                    break;
                }
            }
            return Ok(());
        }
        let mut stored = self.files.range(self.prefix, from, to, order)?;
        let (mut head, mut stored_head) = (next_fresh(), stored.next().transpose()?);
        loop {
            let which = match (&head, &stored_head) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((key, _)), Some((stored_key, _))) => order.compare(key, &stored_key[1..]),
            };
            let go_on = if which == Ordering::Greater {
                let (key, value) = stored_head.take().expect("compared above");
                stored_head = stored.next().transpose()?;
                visit(&key[1..], &value)
            } else {
                if which == Ordering::Equal {
                    // The fresh entry hides the stored one.
                    stored_head = stored.next().transpose()?;
                }
                let (key, &slot) = head.take().expect("compared above");
                head = next_fresh();
                let entry = &young[slot];
                !entry.live || visit(key, &entry.value)
            };
            if !go_on {
                return Ok(());
            }
        }
    }

    /// What ranges look for beside RocksDB.
    fn sort(&mut self) -> BTreeMap<SortedKey, usize> {
        if self.in_memory.is_none() {
            let fresh = self.frozen.iter().chain(&self.dirty);
            let key = |slot| SortedKey::new(self.young.get_index(slot).expect("fresh entries stay young").0);
            return fresh.map(|&slot| (key(slot), slot)).collect();
        }
        let entries = self.young.iter_mut().enumerate();
        let sorted = entries.filter(|(_, (_, entry))| entry.live || entry.dirty).map(|(slot, (key, entry))| {
            entry.is_sorted = true;
            (SortedKey::new(key), slot)
        });
        sorted.collect()
    }

    /// As `changes`, in key order.
    pub(crate) fn sorted_changes(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut sorted: Vec<_> = self.changes().map(|(key, value)| (head(key), key, value)).collect();
        sorted.sort_unstable_by_key(|&(head, key, _)| (head, key));
        sorted.into_iter().map(|(_, key, value)| (key, value))
    }

    /// What the next commit changes, in the order of first change: each key with its new value, `None` if deleted.
    pub fn changes(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.dirty.iter().map(|&slot| {
            let (key, entry) = self.young.get_index(slot).expect("dirty entries stay young");
            (key.as_ref(), entry.value())
        })
    }

    /// From now on RocksDB gets nothing of it, which began empty and has no entries yet.
    pub(crate) fn keep_in_memory(&mut self) {
        debug_assert!(self.is_whole && self.young.is_empty(), "a store that is new");
        self.in_memory = Some(Undo::default());
    }

    /// Whether commits are to leave its changes out of RocksDB.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.in_memory.is_some()
    }

    /// What is committed of a store in memory that has grown beyond `bytes_max`, for RocksDB, on which it is a cache from
    /// now on. To be called between commits.
    pub(crate) fn outgrow(&mut self, bytes_max: usize) -> Option<Changes> {
        if self.in_memory.is_none() || self.young_bytes <= bytes_max {
            return None;
        }
        debug_assert!(self.dirty.is_empty() && self.frozen.is_empty(), "between commits");
        let mut changes = Changes::default();
        for (key, entry) in self.young.iter_mut().filter(|(_, entry)| entry.live) {
            entry.is_sorted = false;
            self.full_key.clear();
            self.full_key.push(self.prefix);
            self.full_key.extend_from_slice(key);
            changes.set(&self.full_key, Some(&entry.value));
        }
        (self.in_memory, self.fresh_sorted) = (None, None);
        Some(changes)
    }

    /// Begins to note what is read and written, for a replay that tells of it, or stops.
    pub(crate) fn trace(&mut self, on: bool) {
        self.trace = on.then(Trace::default);
    }

    /// What was done since the last time; nothing unless it is traced.
    pub(crate) fn take_trace(&mut self) -> Trace {
        self.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// How often it was set back: what was noted of its contents before no longer holds.
    pub fn aborts(&self) -> u64 {
        self.aborts
    }

    /// The key of a change in RocksDB and the changelog.
    pub(crate) fn prefix(&self) -> u8 {
        self.prefix
    }

    /// A commit carries the changes from here on: what is changed now belongs to the next. At most one is under way.
    pub(crate) fn freeze(&mut self) {
        debug_assert!(self.frozen.is_empty(), "one commit at a time");
        std::mem::swap(&mut self.dirty, &mut self.frozen);
        for &slot in &self.frozen {
            self.young[slot].dirty = false;
        }
    }

    /// The frozen changes have happened: they are in RocksDB now, if it gets them.
    pub(crate) fn committed(&mut self) {
        if let Some(undo) = &mut self.in_memory {
            undo.clear();
            return self.committed_in_memory();
        }
        self.frozen.clear();
        self.fresh_sorted = None;
        if self.young_bytes > self.cache_bytes_max / 2 {
            self.is_whole = self.is_whole && self.forget_deleted();
            if !self.is_whole {
                self.age();
            }
        }
    }

    /// No commit is under way, as a replay has no two at a time.
    fn committed_in_memory(&mut self) {
        debug_assert!(self.dirty.is_empty(), "what is changed is committed before more is");
        if let Some(sorted) = &mut self.fresh_sorted {
            for &slot in &self.frozen {
                let (key, entry) = self.young.get_index_mut(slot).expect("all entries are young");
                if !entry.live && std::mem::take(&mut entry.is_sorted) {
                    sorted.remove(&SortedKey::new(key));
                }
            }
        }
        self.frozen.clear();
        if self.young.len() >= self.prune_at {
            self.forget_deleted();
            self.prune_at = (2 * self.young.len()).max(PRUNE_MIN);
        }
    }

    /// The transaction was aborted: neither the frozen changes nor those that were made on top of them ever were.
    pub(crate) fn aborted(&mut self) {
        self.aborts += 1;
        if let Some(undo) = &mut self.in_memory {
            for (slot, before) in undo.entries.drain(..).rev() {
                let (key, entry) = self.young.get_index_mut(slot).expect("all entries are young");
                let before = before.map(|place| &undo.bytes[place]);
                self.young_bytes = (self.young_bytes + before.map_or(0, <[u8]>::len)).saturating_sub(entry.value.len());
                (entry.live, entry.dirty) = (before.is_some(), false);
                entry.value.clear();
                entry.value.extend_from_slice(before.unwrap_or_default());
                if let Some(sorted) = &mut self.fresh_sorted
                    && entry.is_sorted != entry.live
                {
                    entry.is_sorted = entry.live;
                    if entry.live {
                        sorted.insert(SortedKey::new(key), slot);
                    } else {
                        sorted.remove(&SortedKey::new(key));
                    }
                }
            }
            undo.clear();
            self.dirty.clear();
            self.frozen.clear();
            return;
        }
        self.is_whole = false;
        self.young.clear();
        self.old.clear();
        self.dirty.clear();
        self.frozen.clear();
        self.fresh_sorted = None;
        self.young_bytes = 0;
    }

    /// Leaves out what is deleted and committed; whether that was enough for a cache to go on with what is left.
    fn forget_deleted(&mut self) -> bool {
        let room = Map::with_capacity_and_hasher(self.young.len() / 2, FixedState::default());
        let entries = std::mem::replace(&mut self.young, room);
        self.young_bytes = 0;
        let mut slots = vec![usize::MAX; entries.len()];
        for (slot, (key, entry)) in entries.into_iter().enumerate() {
            if entry.live || entry.dirty {
                self.young_bytes += key.len() + entry.value.len() + ENTRY_OVERHEAD_BYTES;
                slots[slot] = self.young.insert_full(key, entry).0;
            }
        }
        self.dirty.iter_mut().for_each(|slot| *slot = slots[*slot]);
        self.fresh_sorted.iter_mut().flat_map(BTreeMap::values_mut).for_each(|slot| *slot = slots[*slot]);
        self.young_bytes <= self.cache_bytes_max / 4
    }

    /// The young generation becomes the old one, but for what is dirty.
    fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.young_bytes = 0;
        let mut dirty: Vec<(usize, usize)> = self.dirty.iter().copied().enumerate().collect();
        // SUBTLE: taken out from the last slot down, `swap_remove` moves no entry that is still to be taken. They go in again
        // in the order in which they became dirty, which is that of the outputs made of them.
        dirty.sort_unstable_by_key(|&(_, slot)| std::cmp::Reverse(slot));
        let mut kept: Vec<(usize, Box<[u8]>, Entry)> = Vec::with_capacity(dirty.len());
        for (order, slot) in dirty {
            let (key, entry) = self.old.swap_remove_index(slot).expect("dirty entries stay young");
            kept.push((order, key, entry));
        }
        kept.sort_unstable_by_key(|&(order, ..)| order);
        self.dirty.clear();
        for (_, key, entry) in kept {
            self.young_bytes += key.len() + entry.value.len() + ENTRY_OVERHEAD_BYTES;
            self.dirty.push(self.young.insert_full(key, entry).0);
        }
    }

    /// The slot of `key` in the young generation, filled from the old one or, unless it is overwritten anyway, RocksDB.
    fn slot(&mut self, key: &[u8], is_read: bool) -> Result<usize, StoreError> {
        if let Some(slot) = self.young.get_index_of(key) {
            return Ok(slot);
        }
        let entry = match self.old.swap_remove(key) {
            Some(entry) => entry,
            None if self.is_whole || !is_read => Entry::new(None),
            None => {
                self.full_key.clear();
                self.full_key.push(self.prefix);
                self.full_key.extend_from_slice(key);
                Entry::new(self.files.get(&self.full_key)?)
            }
        };
        self.young_bytes += key.len() + entry.value.len() + ENTRY_OVERHEAD_BYTES;
        Ok(self.young.insert_full(key.into(), entry).0)
    }
}
