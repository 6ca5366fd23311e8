//! Tumbling windows by event time: the keys and counts of the store, and what of it is closed as time goes on.
//!
//! The first step counts by user, as the input is partitioned by user; the second counts what was gathered by other
//! dimensions, after its repartition. Each has a watermark of its own (`clock`).

use engram_pipeline::processor::{Context, ProcessError};
use engram_pipeline::store::{Order, OwnedEntry, Store, StoreError};
use engram_schemas::activity::WindowCount;

use super::config::{Dimension, SourceConfig};

/// Which step of the service has counted a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Users = 1,
    Gathered = 2,
}

/// A window of one key.
///
/// ```text
/// 0       step
/// 1       length n of the source's name
/// 2..     the source's name
/// n+2..   start of the window, i64 with its sign bit flipped, big endian: bytewise order is time order
/// n+10    dimension
/// n+11..  key, UTF-8
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowKey<'a> {
    pub step: Step,
    pub source: &'a str,
    pub start: i64,
    pub dimension: Dimension,
    pub key: &'a str,
}

impl<'a> WindowKey<'a> {
    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.push(self.step as u8);
        push_source(bytes, self.source);
        bytes.extend_from_slice(&ordered(self.start));
        bytes.push(self.dimension as u8);
        bytes.extend_from_slice(self.key.as_bytes());
    }

    /// `None` if these are not the bytes of a window's key.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&step, rest) = bytes.split_first()?;
        let step = match step {
            1 => Step::Users,
            2 => Step::Gathered,
            _ => return None,
        };
        let (source, rest) = split_source(rest)?;
        let (start, rest) = rest.split_first_chunk::<8>()?;
        let (&dimension, key) = rest.split_first()?;
        let dimension = *Dimension::ALL.get(usize::from(dimension))?;
        Some(Self { step, source, start: from_ordered(*start), dimension, key: std::str::from_utf8(key).ok()? })
    }
}

/// What a window has counted: count, first and last event time (ms), each an i64, big endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub count: i64,
    pub first: i64,
    pub last: i64,
}

impl Counted {
    pub fn one(time: i64) -> Self {
        Self { count: 1, first: time, last: time }
    }

    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }

    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (chunk, number) in bytes.chunks_exact_mut(8).zip([self.count, self.first, self.last]) {
            chunk.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// `None` if these are not 24 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 24] = bytes.try_into().ok()?;
        let number = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 of 24 bytes"));
        Some(Self { count: number(0), first: number(8), last: number(16) })
    }
}

/// The start of the window that `time` falls into. Times before the epoch fall into windows before it.
pub fn window_start(time: i64, size_ms: i64) -> i64 {
    time - time.rem_euclid(size_ms)
}

/// The number of the last window (start / size) that is closed once the watermark has reached `time`: the last with
/// start + size + grace <= time. `None`: none ever is.
pub fn last_closed(config: &SourceConfig, time: i64) -> Option<i64> {
    let closed = time.saturating_sub(config.grace_ms?).saturating_sub(config.size_ms);
    Some(closed.div_euclid(config.size_ms))
}

/// Adds to a window.
pub fn add(store: &mut Store, key: &[u8], counted: &Counted) -> Result<(), StoreError> {
    store.update(key, |value| {
        let mut total = *counted;
        if let Some(before) = Counted::from_bytes(value) {
            total.merge(&before);
        }
        value.clear();
        value.extend_from_slice(&total.to_bytes());
        true
    })
}

/// The key of what was gathered for a window, by which its task is found.
pub fn repartition_key(dimension: Dimension, key: &str) -> String {
    format!("{}:{key}", dimension.name())
}

/// The event of a window as it stands. `None` if the entry is not readable, which no entry is that this service wrote.
pub fn to_event(key: &[u8], value: &[u8], size_of: impl Fn(&str) -> i64, is_final: bool) -> Option<WindowCount> {
    let key = WindowKey::read(key)?;
    let counted = Counted::from_bytes(value)?;
    Some(WindowCount {
        window_start: key.start,
        window_end: key.start + size_of(key.source),
        dimension: key.dimension.name().to_owned(),
        key: key.key.to_owned(),
        source: key.source.to_owned(),
        count: counted.count,
        first_ts: counted.first,
        last_ts: counted.last,
        is_final,
    })
}

/// The key of a window's records in `activity.windows`.
pub fn record_key(event: &WindowCount) -> String {
    with_source(format!("{}:{}@{}", event.dimension, event.key, event.window_start), &event.source)
}

/// What has windows of its own has keys of its own.
pub fn with_source(key: String, source: &str) -> String {
    if source.is_empty() { key } else { format!("{key}/{source}") }
}

/// Takes the windows of a step and source that begin after `first`, and at `last` or before, out of the store: the entries are
/// final.
pub fn close(
    context: &mut Context<'_>,
    store: usize,
    step: Step,
    source: &str,
    (first, last): (i64, i64),
) -> Result<Vec<OwnedEntry>, ProcessError> {
    let mut from = vec![step as u8];
    push_source(&mut from, source);
    let mut to = from.clone();
    from.extend_from_slice(&ordered(first.saturating_add(1)));
    to.extend_from_slice(&ordered(last.saturating_add(1)));
    let mut closed = Vec::new();
    let store = context.store(store);
    store.range(&from, &to, Order::Ascending, |key, value| {
        closed.push((key.to_vec(), value.to_vec()));
        true
    })?;
    for (key, _) in &closed {
        store.delete(key)?;
    }
    Ok(closed)
}

/// A source's name with its length before it, so that no name is the beginning of another.
pub fn push_source(bytes: &mut Vec<u8>, source: &str) {
    bytes.push(source.len() as u8);
    bytes.extend_from_slice(source.as_bytes());
}

/// The name that `push_source` has written, and what follows it.
pub fn split_source(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    let (source, rest) = rest.split_at_checked(usize::from(len))?;
    Some((std::str::from_utf8(source).ok()?, rest))
}

/// Eight bytes that sort as the numbers do.
pub fn ordered(number: i64) -> [u8; 8] {
    ((number as u64) ^ (1 << 63)).to_be_bytes()
}

pub fn from_ordered(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)) as i64
}
