//! Joins of a stream with a table: each record of the stream meets what the table says of its key.
//!
//! With a table of versions the record meets what the table said at the record's own time, so that one that comes late sees
//! what it would have seen in time. Only records of the stream make results; changes of the table make none.
//!
//! Source: Kafka Streams, KStream-KTable joins; KIP-914 (versioned tables).

use super::value::ValueStore;
use super::versioned::VersionedStore;
use crate::processor::{Context, ProcessError};
use crate::store::codec::Codec;

/// What becomes of a record whose key the table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableJoinKind {
    /// Nothing.
    Inner,
    /// It goes out alone.
    Left,
}

/// Where the table is kept.
pub enum Table<K, V> {
    /// What was written last, whatever its time.
    Latest(ValueStore<K, V>),
    /// Every version, for a while.
    Versioned(VersionedStore<K, V>),
}

/// Joins a stream with a table.
pub struct TableJoin<K, V> {
    kind: TableJoinKind,
    table: Table<K, V>,
}

impl<K: Codec + Clone, V: Codec> TableJoin<K, V> {
    pub fn new(kind: TableJoinKind, table: Table<K, V>) -> Self {
        Self { kind, table }
    }

    /// Takes a record of the table; `None` deletes. Returns false if its time is longer ago than the versions are kept.
    pub fn table(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        time_ms: i64,
        value: Option<V>,
    ) -> Result<bool, ProcessError> {
        match (&mut self.table, value) {
            (Table::Versioned(table), value) => table.put(context, key, time_ms, value),
            (Table::Latest(table), Some(value)) => table.put(context, key, &value).map(|()| true),
            (Table::Latest(table), None) => table.delete(context, key).map(|()| true),
        }
    }

    /// What a record of the stream meets: `None` if it makes no result, `Some(None)` if it goes out alone.
    pub fn stream(
        &mut self,
        context: &mut Context<'_>,
        key: &K,
        time_ms: i64,
    ) -> Result<Option<Option<V>>, ProcessError> {
        context.advance_stream_time(time_ms);
        let met = match &mut self.table {
            Table::Latest(table) => table.get(context, key)?,
            Table::Versioned(table) => table.get_as_of(context, key, time_ms)?.map(|version| version.value),
        };
        Ok(match (self.kind, met) {
            (TableJoinKind::Inner, None) => None,
            (_, met) => Some(met),
        })
    }
}
