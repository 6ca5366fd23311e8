//! Keyed state: one value a key; aggregate, reduce and count are ways of changing it.

use std::marker::PhantomData;

use crate::processor::{Context, ProcessError};
use crate::store::codec::{self, Codec, read_whole};
use crate::store::{Order, StoreError, StoreSpec, unreadable};

/// A typed view of the `store`-th store of the service.
pub struct ValueStore<K, V> {
    store: usize,
    key: Vec<u8>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Codec, V: Codec> ValueStore<K, V> {
    pub fn new(store: usize) -> Self {
        Self { store, key: Vec::new(), types: PhantomData }
    }

    pub fn spec(name: &'static str) -> StoreSpec {
        StoreSpec::new(name, codec::describe::<K, V>)
    }

    pub fn get(&mut self, context: &mut Context<'_>, key: &K) -> Result<Option<V>, ProcessError> {
        let value = context.store(self.store).get(bytes(&mut self.key, key))?;
        Ok(value.map(|value| read_whole(value).ok_or_else(|| unreadable("a value"))).transpose()?)
    }

    pub fn put(&mut self, context: &mut Context<'_>, key: &K, value: &V) -> Result<(), ProcessError> {
        Ok(context.store(self.store).update(bytes(&mut self.key, key), |entry| {
            entry.clear();
            value.write(entry);
            true
        })?)
    }

    pub fn delete(&mut self, context: &mut Context<'_>, key: &K) -> Result<(), ProcessError> {
        Ok(context.store(self.store).delete(bytes(&mut self.key, key))?)
    }

    /// Changes a value, which is `None` where there is none, with one look-up.
    pub fn update<T>(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        change: impl FnOnce(&mut Option<V>) -> T,
    ) -> Result<T, ProcessError> {
        let mut outcome = Err(unreadable("a value"));
        context.store(self.store).update(bytes(&mut self.key, key), |entry| {
            let mut value = None;
            if !entry.is_empty() {
                value = read_whole(entry);
                if value.is_none() {
                    return true;
                }
            }
            outcome = Ok(change(&mut value));
            entry.clear();
            if let Some(value) = &value {
                value.write(entry);
            }
            value.is_some()
        })?;
        Ok(outcome?)
    }

    /// Folds something into a key's aggregate, and returns what it is now.
    pub fn aggregate(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        fold: impl FnOnce(&mut V),
    ) -> Result<V, ProcessError>
    where
        V: Default + Clone,
    {
        self.update(context, key, |value| {
            let value = value.get_or_insert_default();
            fold(value);
            value.clone()
        })
    }

    /// Combines a key's value with another of the same type; the first is taken as it is.
    pub fn reduce(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        other: V,
        combine: impl FnOnce(V, V) -> V,
    ) -> Result<V, ProcessError>
    where
        V: Clone,
    {
        self.update(context, key, |value| {
            let combined = match value.take() {
                None => other,
                Some(before) => combine(before, other),
            };
            value.insert(combined).clone()
        })
    }

    /// Visits the entries with `from <= key < to`, until `visit` returns false.
    pub fn range(
        &mut self,
        context: &mut Context<'_>,
        from: &K,
        to: &K,
        order: Order,
        visit: impl FnMut(K, V) -> bool,
    ) -> Result<(), ProcessError> {
        self.range_of_bytes(context, &codec::to_bytes(from), &codec::to_bytes(to), order, visit)
    }

    /// Visits the entries whose keys begin with `part`'s bytes: those with that first part, of keys that have several.
    pub fn with_first<P: Codec>(
        &mut self,
        context: &mut Context<'_>,
        part: &P,
        visit: impl FnMut(K, V) -> bool,
    ) -> Result<(), ProcessError> {
        let from = codec::to_bytes(part);
        let to = codec::end_of(&from);
        self.range_of_bytes(context, &from, &to, Order::Ascending, visit)
    }

    fn range_of_bytes(
        &mut self,
        context: &mut Context<'_>,
        from: &[u8],
        to: &[u8],
        order: Order,
        mut visit: impl FnMut(K, V) -> bool,
    ) -> Result<(), ProcessError> {
        let mut outcome: Result<(), StoreError> = Ok(());
        context.store(self.store).range(from, to, order, |key, value| match (read_whole(key), read_whole(value)) {
            (Some(key), Some(value)) => visit(key, value),
            _ => {
                outcome = Err(unreadable("an entry"));
                false
            }
        })?;
        Ok(outcome?)
    }
}

impl<K: Codec> ValueStore<K, i64> {
    /// One more of this key; returns how many there are.
    pub fn count(&mut self, context: &mut Context<'_>, key: &K) -> Result<i64, ProcessError> {
        self.aggregate(context, key, |count| *count = count.saturating_add(1))
    }
}

fn bytes<'a, K: Codec>(scratch: &'a mut Vec<u8>, key: &K) -> &'a [u8] {
    scratch.clear();
    key.write(scratch);
    scratch
}
