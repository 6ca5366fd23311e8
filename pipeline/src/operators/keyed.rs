//! A typed record on its way through a processor, and what is done with one alone: map, filter, flat map, another key.
//! The results are Rust's own `Option` and iterators, so that they go on with `?`, `let else` and `for`.

/// A key, when it was, and a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed<K, V> {
    pub key: K,
    /// Event time, ms since the epoch.
    pub time_ms: i64,
    pub value: V,
}

impl<K, V> Keyed<K, V> {
    pub fn new(key: K, time_ms: i64, value: V) -> Self {
        Self { key, time_ms, value }
    }

    /// Another value, under the same key.
    pub fn map<U>(self, change: impl FnOnce(V) -> U) -> Keyed<K, U> {
        Keyed { key: self.key, time_ms: self.time_ms, value: change(self.value) }
    }

    /// Only if it is wanted.
    pub fn filter(self, wanted: impl FnOnce(&Self) -> bool) -> Option<Self> {
        wanted(&self).then_some(self)
    }

    /// Any number of others, each with a key of its own.
    pub fn flat_map<L, U, I: IntoIterator<Item = (L, U)>>(
        self,
        change: impl FnOnce(K, V) -> I,
    ) -> impl Iterator<Item = Keyed<L, U>> {
        let time_ms = self.time_ms;
        change(self.key, self.value).into_iter().map(move |(key, value)| Keyed { key, time_ms, value })
    }

    /// The same under another key. Its state belongs to the task of that key: emit it there
    /// (`Context::emit_to`, `partition_for`) before it is aggregated or joined.
    pub fn with_key<L>(self, key: impl FnOnce(&Self) -> L) -> Keyed<L, V> {
        Keyed { key: key(&self), time_ms: self.time_ms, value: self.value }
    }
}
