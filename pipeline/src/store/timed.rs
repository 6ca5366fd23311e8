//! Entries that each come due at a time, and are taken in the order of their times: what windows, joins, timers and stores
//! with a TTL keep.
//!
//! ```text
//! space 0x00 key         due (i64), value
//! space 0x01 due key     nothing: the entries by their times
//! ```
//!
//! INVARIANT: each entry stands in both places.

use std::marker::PhantomData;

use super::codec::{Codec, describe, read_whole};
use super::{Order, Store, StoreError, StoreSpec};

const ENTRIES: u8 = 0;
const BY_DUE: u8 = 1;

/// A typed view of a store, or of a part of one.
pub struct TimedStore<K, V> {
    space: u8,
    /// Nothing is due before it: what was taken leaves tombstones in RocksDB, which a search from the beginning would
    /// have to step over.
    earliest: i64,
    /// The store's when `earliest` was noted.
    aborts: u64,
    key: Vec<u8>,
    value: Vec<u8>,
    types: PhantomData<fn() -> (K, V)>,
}

/// What came due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due<K, V> {
    pub due: i64,
    pub key: K,
    pub value: V,
}

impl<K: Codec, V: Codec> TimedStore<K, V> {
    /// A view of the part of a store that begins with `space`.
    pub fn new(space: u8) -> Self {
        Self { space, earliest: i64::MIN, aborts: 0, key: Vec::new(), value: Vec::new(), types: PhantomData }
    }

    /// The store of that name, whatever spaces it has.
    pub fn spec(name: &'static str) -> StoreSpec {
        StoreSpec::new(name, describe_timed::<K, V>)
    }

    pub fn get(&mut self, store: &mut Store, key: &K) -> Result<Option<(i64, V)>, StoreError> {
        self.entry_key(key);
        store.get(&self.key)?.map(read_entry).transpose()
    }

    /// Replaces the entry, if there is one.
    pub fn put(&mut self, store: &mut Store, key: &K, due: i64, value: &V) -> Result<(), StoreError> {
        self.entry_key(key);
        let before = store.get(&self.key)?.map(read_due).transpose()?;
        self.value.clear();
        due.write(&mut self.value);
        value.write(&mut self.value);
        store.put(&self.key, &self.value)?;
        self.is_due(store, key, before, due)
    }

    /// Changes the entry, or a default one if there is none, with one look-up where its time stays. `told` gets what it is
    /// then.
    pub fn fold(
        &mut self,
        store: &mut Store,
        key: &K,
        due: i64,
        change: impl FnOnce(&mut V),
        told: impl FnOnce(V),
    ) -> Result<(), StoreError>
    where
        V: Default,
    {
        self.entry_key(key);
        let mut before = Ok(None);
        store.update(&self.key, |bytes| {
            let mut value = V::default();
            if !bytes.is_empty() {
                match read_entry(bytes) {
                    Ok((due, found)) => (before, value) = (Ok(Some(due)), found),
                    Err(error) => {
                        before = Err(error);
                        return true;
                    }
                }
            }
            change(&mut value);
            bytes.clear();
            due.write(bytes);
            value.write(bytes);
            told(value);
            true
        })?;
        self.is_due(store, key, before?, due)
    }

    /// Notes when an entry is due, if that has changed.
    fn is_due(&mut self, store: &mut Store, key: &K, before: Option<i64>, due: i64) -> Result<(), StoreError> {
        if before == Some(due) {
            return Ok(());
        }
        if let Some(before) = before {
            self.due_key(before, key);
            store.delete(&self.key)?;
        }
        self.due_key(due, key);
        store.put(&self.key, &[])?;
        self.earliest = self.earliest(store).min(due);
        Ok(())
    }

    /// Whether there was one.
    pub fn delete(&mut self, store: &mut Store, key: &K) -> Result<bool, StoreError> {
        self.entry_key(key);
        let Some(due) = store.get(&self.key)?.map(read_due).transpose()? else { return Ok(false) };
        store.delete(&self.key)?;
        self.due_key(due, key);
        store.delete(&self.key)?;
        Ok(true)
    }

    /// Nothing comes due before this time; something may at it, or later.
    pub fn earliest(&mut self, store: &Store) -> i64 {
        if self.aborts != store.aborts() {
            (self.earliest, self.aborts) = (i64::MIN, store.aborts());
        }
        self.earliest
    }

    /// Takes entries out that are due at `until` or before, in the order of (due, key), at most `most` of them.
    pub fn take_due(
        &mut self,
        store: &mut Store,
        until: i64,
        most: usize,
        taken: &mut Vec<Due<K, V>>,
    ) -> Result<(), StoreError> {
        let from = self.earliest(store);
        if from > until || most == 0 {
            return Ok(());
        }
        let (mut found, mut later) = (Vec::new(), None);
        let bytes = |due: i64| {
            let mut bytes = vec![self.space, BY_DUE];
            due.write(&mut bytes);
            bytes
        };
        store.range(&bytes(from), &[self.space, BY_DUE + 1], Order::Ascending, |key, _| {
            let mut rest = &key[2..];
            let entry = i64::read(&mut rest).zip(Some(rest.to_vec()));
            match entry {
                Some((due, _)) if due > until || found.len() == most => {
                    later = Some(due);
                    false
                }
                entry => {
                    found.push(entry);
                    true
                }
            }
        })?;
        for entry in found {
            let (due, key) = entry.ok_or_else(|| unreadable("the time of an entry"))?;
            self.key.clear();
            self.key.extend_from_slice(&[self.space, ENTRIES]);
            self.key.extend_from_slice(&key);
            let value = store.get(&self.key)?.ok_or_else(|| unreadable("an entry that comes due"))?;
            let value = read_entry::<V>(value)?.1;
            store.delete(&self.key)?;
            let key = read_whole(&key).ok_or_else(|| unreadable("a key"))?;
            self.due_key(due, &key);
            store.delete(&self.key)?;
            taken.push(Due { due, key, value });
        }
        self.earliest = later.unwrap_or(i64::MAX);
        Ok(())
    }

    /// Visits entries with `from <= key < to`, in key order or against it, until `visit` returns false. Bounds are bytes of
    /// a key, or the beginning of one.
    pub fn range(
        &mut self,
        store: &mut Store,
        from: &[u8],
        to: &[u8],
        order: Order,
        mut visit: impl FnMut(K, i64, V) -> bool,
    ) -> Result<(), StoreError> {
        let bound = |bytes: &[u8]| [&[self.space, ENTRIES], bytes].concat();
        let mut outcome = Ok(());
        store.range(&bound(from), &bound(to), order, |key, value| {
            let key = read_whole(&key[2..]).ok_or_else(|| unreadable("a key"));
            match key.and_then(|key| Ok((key, read_entry(value)?))) {
                Ok((key, (due, value))) => visit(key, due, value),
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            }
        })?;
        outcome
    }

    fn entry_key(&mut self, key: &K) {
        self.key.clear();
        self.key.extend_from_slice(&[self.space, ENTRIES]);
        key.write(&mut self.key);
    }

    fn due_key(&mut self, due: i64, key: &K) {
        self.key.clear();
        self.key.extend_from_slice(&[self.space, BY_DUE]);
        due.write(&mut self.key);
        key.write(&mut self.key);
    }
}

fn read_due(mut bytes: &[u8]) -> Result<i64, StoreError> {
    i64::read(&mut bytes).ok_or_else(|| unreadable("the time of an entry"))
}

fn read_entry<V: Codec>(bytes: &[u8]) -> Result<(i64, V), StoreError> {
    read_whole(bytes).ok_or_else(|| unreadable("a value"))
}

/// What is stored is of another type than the one that it is read as.
pub(crate) fn unreadable(what: &str) -> StoreError {
    StoreError::Damaged {
        path: "this service's task".to_owned(),
        reason: format!(
            "{what} in it is not of the type that this program reads: use the program that wrote it, or start anew with \
             'engram reset SERVICE --yes'"
        ),
    }
}

fn describe_timed<K: Codec, V: Codec>(key: &[u8], value: &[u8]) -> (serde_json::Value, serde_json::Value) {
    match key {
        [_, ENTRIES, key @ ..] => describe::<K, (i64, V)>(key, value),
        [_, BY_DUE, key @ ..] => {
            let (key, _) = describe::<(i64, K), ()>(key, &[0]);
            (serde_json::json!({"due": key[0], "key": key[1]}), serde_json::Value::Null)
        }
        _ => describe::<(), ()>(key, value),
    }
}
