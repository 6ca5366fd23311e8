//! Keyed state that is forgotten: an entry expires when stream time has come `ttl_ms` past the event time of its last write.
//!
//! What has expired is gone for readers at once, by stream time alone, so commits and restarts make no difference. It is
//! deleted, and its deletion written to the changelog, by `expire`: at most `EXPIRED_MAX` entries a call.

use std::vec::Drain;

use crate::processor::{Context, ProcessError};
use crate::store::codec::Codec;
use crate::store::{Due, StoreSpec, TimedStore};

/// Entries deleted by one `expire`: to be called before each commit, so that none takes long.
pub const EXPIRED_MAX: usize = 10_000;

/// A typed view of the `store`-th store of the service, with expiry.
pub struct TtlStore<K, V> {
    ttl_ms: i64,
    store: usize,
    entries: TimedStore<K, V>,
    expired: Vec<Due<K, V>>,
}

impl<K: Codec, V: Codec> TtlStore<K, V> {
    pub fn new(store: usize, ttl_ms: i64) -> Self {
        Self { ttl_ms, store, entries: TimedStore::new(0), expired: Vec::new() }
    }

    pub fn spec(name: &'static str) -> StoreSpec {
        TimedStore::<K, V>::spec(name)
    }

    pub fn get(&mut self, context: &mut Context<'_>, key: &K) -> Result<Option<V>, ProcessError> {
        let now = context.stream_time();
        let entry = self.entries.get(context.store(self.store), key)?;
        Ok(entry.filter(|(due, _)| *due > now).map(|(_, value)| value))
    }

    /// Writes a value as of an event time, to which stream time moves. One that has expired already only takes away what
    /// there was.
    pub fn put(&mut self, context: &mut Context<'_>, key: &K, time_ms: i64, value: &V) -> Result<(), ProcessError> {
        context.advance_stream_time(time_ms);
        let due = time_ms.saturating_add(self.ttl_ms);
        if due <= context.stream_time() {
            return self.delete(context, key);
        }
        Ok(self.entries.put(context.store(self.store), key, due, value)?)
    }

    pub fn delete(&mut self, context: &mut Context<'_>, key: &K) -> Result<(), ProcessError> {
        self.entries.delete(context.store(self.store), key)?;
        Ok(())
    }

    /// Deletes what has expired, the oldest first, and tells what it was.
    pub fn expire(&mut self, context: &mut Context<'_>) -> Result<Drain<'_, Due<K, V>>, ProcessError> {
        self.expired.clear();
        let now = context.stream_time();
        self.entries.take_due(context.store(self.store), now, EXPIRED_MAX, &mut self.expired)?;
        Ok(self.expired.drain(..))
    }
}
