//! Session windows: a user's events, each within the gap of the next, by event time and in whatever order they come.

use std::collections::HashMap;

use engram_pipeline::processor::{Context, ProcessError};
use engram_pipeline::store::{Order, OwnedEntry, Store};
use engram_schemas::activity::Session;
use foldhash::fast::FixedState;

use super::windows::{from_ordered, ordered, push_source, split_source, with_source};

/// A session's key: source (length, name), user (u16 length, bytes), first event time (ordered bytes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionKey<'a> {
    pub source: &'a str,
    pub user: &'a str,
    pub start: i64,
}

impl<'a> SessionKey<'a> {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = user_prefix(self.source, self.user);
        bytes.extend_from_slice(&ordered(self.start));
        bytes
    }

    /// `None` if these are not the bytes of a session's key.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (source, rest) = split_source(bytes)?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (user, start) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        Some(Self { source, user: std::str::from_utf8(user).ok()?, start: from_ordered(start.try_into().ok()?) })
    }
}

/// A session's value: last event time (ms) and count, each an i64, big endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionValue {
    pub end: i64,
    pub count: i64,
}

impl SessionValue {
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.end.to_be_bytes());
        bytes[8..].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    /// `None` if these are not 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (end, count) = bytes.split_first_chunk::<8>()?;
        Some(Self { end: i64::from_be_bytes(*end), count: i64::from_be_bytes(count.try_into().ok()?) })
    }
}

fn user_prefix(source: &str, user: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(source.len() + user.len() + 16);
    push_source(&mut bytes, source);
    bytes.extend_from_slice(&(user.len() as u32).to_be_bytes());
    bytes.extend_from_slice(user.as_bytes());
    bytes
}

/// The start of each user's latest session, by the user's prefix: most events extend it, and need no search then.
///
/// INVARIANT: an entry is the latest session of its user that the store has, or one that the store has no more.
#[derive(Default)]
pub struct Latest(HashMap<Vec<u8>, i64, FixedState>);

/// Users that are remembered.
const LATEST_MAX: usize = 100_000;

impl Latest {
    /// Forgets all: the store was set back.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Extends the user's latest session if the event falls into it or within the gap after it. No other session can be
    /// within the gap then: those before it are more than that before its start, and there is none after it.
    fn extend(&self, store: &mut Store, prefix: &[u8], time: i64, gap_ms: i64) -> Result<bool, ProcessError> {
        let Some(&start) = self.0.get(prefix) else { return Ok(false) };
        let key = [prefix, &ordered(start)].concat();
        let Some(mut value) = store.get(&key)?.and_then(SessionValue::from_bytes) else { return Ok(false) };
        if time < start || time > value.end.saturating_add(gap_ms) {
            return Ok(false);
        }
        value = SessionValue { end: value.end.max(time), count: value.count.saturating_add(1) };
        store.put(&key, &value.to_bytes())?;
        Ok(true)
    }

    /// Remembers a session if none of the user's begins after it.
    fn note(&mut self, store: &mut Store, prefix: &[u8], start: i64) -> Result<(), ProcessError> {
        let (from, to) = (ordered(start.saturating_add(1)), ordered(i64::MAX));
        let mut is_latest = true;
        store.range(&[prefix, &from].concat(), &[prefix, &to].concat(), Order::Ascending, |_, _| {
            is_latest = false;
            false
        })?;
        if is_latest {
            if self.0.len() >= LATEST_MAX {
                self.0.clear();
            }
            self.0.insert(prefix.to_vec(), start);
        }
        Ok(())
    }
}

/// Adds an event: it begins a session, extends one, or joins two.
///
/// Sessions of a user are more than the gap apart, so those within the gap of `time` are neighbours: going backwards from
/// `time + gap`, the first that ends too early ends the search.
pub fn add(
    store: &mut Store,
    latest: &mut Latest,
    source: &str,
    user: &str,
    time: i64,
    gap_ms: i64,
) -> Result<(), ProcessError> {
    let prefix = user_prefix(source, user);
    if latest.extend(store, &prefix, time, gap_ms)? {
        return Ok(());
    }
    let from = [prefix.as_slice(), &ordered(i64::MIN)].concat();
    let to = [prefix.as_slice(), &ordered(time.saturating_add(gap_ms).saturating_add(1))].concat();
    let mut joined: Vec<Vec<u8>> = Vec::new();
    let (mut start, mut value) = (time, SessionValue { end: time, count: 1 });
    store.range(&from, &to, Order::Descending, |key, bytes| {
        let (Some(key_read), Some(found)) = (SessionKey::read(key), SessionValue::from_bytes(bytes)) else {
            return true;
        };
        if found.end < time.saturating_sub(gap_ms) {
            return false;
        }
        start = start.min(key_read.start);
        value = SessionValue { end: value.end.max(found.end), count: value.count.saturating_add(found.count) };
        joined.push(key.to_vec());
        true
    })?;
    let key = SessionKey { source, user, start }.to_bytes();
    for old in joined.iter().filter(|old| **old != key) {
        store.delete(old)?;
    }
    store.put(&key, &value.to_bytes())?;
    latest.note(store, &prefix, start)
}

/// Takes the source's sessions that ended at or before `ended` out of the store: they are final.
pub fn close(
    context: &mut Context<'_>,
    store: usize,
    source: &str,
    ended: i64,
) -> Result<Vec<OwnedEntry>, ProcessError> {
    let mut from = Vec::new();
    push_source(&mut from, source);
    let mut to = from.clone();
    to.extend_from_slice(&[u8::MAX; 5]);
    let mut closed = Vec::new();
    let store = context.store(store);
    store.range(&from, &to, Order::Ascending, |key, value| {
        if SessionValue::from_bytes(value).is_some_and(|session| session.end <= ended) {
            closed.push((key.to_vec(), value.to_vec()));
        }
        true
    })?;
    for (key, _) in &closed {
        store.delete(key)?;
    }
    Ok(closed)
}

/// The event of a session as it stands. `None` if the entry is not readable, which no entry is that this service wrote.
pub fn to_event(key: &[u8], value: &[u8], is_final: bool) -> Option<Session> {
    let key = SessionKey::read(key)?;
    let value = SessionValue::from_bytes(value)?;
    Some(Session {
        user: key.user.to_owned(),
        session_start: key.start,
        session_end: value.end,
        source: key.source.to_owned(),
        count: value.count,
        is_final,
    })
}

/// The key of a session's records in `activity.sessions`.
pub fn record_key(user: &str, start: i64, source: &str) -> String {
    with_source(format!("{user}@{start}"), source)
}
