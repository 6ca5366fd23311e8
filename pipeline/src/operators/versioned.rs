//! Keyed state with its past: each write has a time, and a read asks for a time.
//!
//! A version holds from its time until the next one's. Versions that ended more than `retention_ms` before stream time are
//! forgotten, the latest never; a write as old as that is refused.
//!
//! Source: KIP-889.

use crate::processor::{Context, ProcessError};
use crate::store::codec::{Codec, to_bytes};
use crate::store::{Due, Order, StoreError, StoreSpec, TimedStore};

/// Versions forgotten by one write.
const FORGOTTEN_MAX: usize = 100;

/// A value and since when it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version<V> {
    pub time_ms: i64,
    pub value: V,
}

/// A typed view of the `store`-th store of the service, with versions.
pub struct VersionedStore<K, V> {
    retention_ms: i64,
    store: usize,
    /// By key and time; `None` is a deletion. Due when forgotten.
    versions: TimedStore<(K, i64), Option<V>>,
    forgotten: Vec<Due<(K, i64), Option<V>>>,
}

impl<K: Codec + Clone, V: Codec> VersionedStore<K, V> {
    pub fn new(store: usize, retention_ms: i64) -> Self {
        Self { retention_ms, store, versions: TimedStore::new(0), forgotten: Vec::new() }
    }

    pub fn spec(name: &'static str) -> StoreSpec {
        TimedStore::<(K, i64), Option<V>>::spec(name)
    }

    /// Writes a key's value as of a time, to which stream time moves; `None` deletes. A second write for the same time
    /// replaces the first. Returns false, and does nothing, if the time is longer ago than the retention.
    pub fn put(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        time_ms: i64,
        value: Option<V>,
    ) -> Result<bool, ProcessError> {
        context.advance_stream_time(time_ms);
        let now = context.stream_time();
        self.forget(context, now)?;
        if time_ms < now.saturating_sub(self.retention_ms) {
            return Ok(false);
        }
        let before = self.newest(context, key, time_ms.saturating_sub(1))?;
        let after = self.oldest_after(context, key, time_ms)?;
        let store = context.store(self.store);
        if let Some(Version { time_ms: started, value: previous }) = before {
            let due = self.forgotten_at(time_ms);
            self.versions.put(store, &(key.clone(), started), due, &previous)?;
        }
        let due = match after {
            Some(ended) => self.forgotten_at(ended),
            // That there is nothing is told by nothing as well, once nothing older can be written any more.
            None if value.is_none() => self.forgotten_at(time_ms),
            None => i64::MAX,
        };
        self.versions.put(store, &(key.clone(), time_ms), due, &value)?;
        Ok(true)
    }

    /// The latest version.
    pub fn get(&mut self, context: &mut Context<'_>, key: &K) -> Result<Option<Version<V>>, ProcessError> {
        self.get_as_of(context, key, i64::MAX)
    }

    /// The version that held at a time; `None` if that is longer ago than the retention, unless the latest held then.
    pub fn get_as_of(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        time_ms: i64,
    ) -> Result<Option<Version<V>>, ProcessError> {
        let Some(Version { time_ms: started, value: Some(value) }) = self.newest(context, key, time_ms)? else {
            return Ok(None);
        };
        let is_kept = time_ms >= context.stream_time().saturating_sub(self.retention_ms);
        if is_kept || self.oldest_after(context, key, started)?.is_none() {
            return Ok(Some(Version { time_ms: started, value }));
        }
        Ok(None)
    }

    fn forgotten_at(&self, ended_ms: i64) -> i64 {
        ended_ms.saturating_add(self.retention_ms).saturating_add(1)
    }

    fn forget(&mut self, context: &mut Context<'_>, now: i64) -> Result<(), StoreError> {
        self.versions.take_due(context.store(self.store), now, FORGOTTEN_MAX, &mut self.forgotten)?;
        self.forgotten.clear();
        Ok(())
    }

    /// The last version that began at a time or before.
    fn newest(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        time_ms: i64,
    ) -> Result<Option<Version<Option<V>>>, StoreError> {
        let from = to_bytes(&(key.clone(), i64::MIN));
        let mut to = to_bytes(&(key.clone(), time_ms));
        to.push(0);
        let mut found = None;
        self.versions.range(context.store(self.store), &from, &to, Order::Descending, |(_, time_ms), _, value| {
            found = Some(Version { time_ms, value });
            false
        })?;
        Ok(found)
    }

    /// The beginning of the first version after a time.
    fn oldest_after(&mut self, context: &mut Context<'_>, key: &K, time_ms: i64) -> Result<Option<i64>, StoreError> {
        let mut from = to_bytes(&(key.clone(), time_ms));
        from.push(0);
        let mut to = to_bytes(&(key.clone(), i64::MAX));
        to.push(0);
        let mut found = None;
        self.versions.range(context.store(self.store), &from, &to, Order::Ascending, |(_, time_ms), _, _| {
            found = Some(time_ms);
            false
        })?;
        Ok(found)
    }
}
