//! A run: changes gathered from a changelog, to be written as one sorted file in which each key has its last value.
//!
//! Between the changelog's reader and `Files::load`; neither is on a record's way in normal processing.

use super::META;

/// Bookkeeping of a change beyond its bytes.
const CHANGE_BYTES: usize = size_of::<Change>();

/// Changes in the order in which they were made.
#[derive(Default)]
pub struct Run {
    /// Keys and values, one after the other.
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Clone, Copy)]
struct Change {
    /// The key's first bytes after those that all keys of the run share: decides most comparisons without touching `bytes`.
    head: u64,
    /// Of the key in `bytes`; it grows with every change, so the larger is the later.
    start: u32,
    key_len: u32,
    /// `DELETED`, or the length of the value, which follows the key.
    value_len: u32,
}

const DELETED: u32 = u32::MAX;

impl Run {
    /// Room for about so many bytes, so that it does not grow while it is filled.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), changes: Vec::new() }
    }

    /// `key` is not empty: it begins with its store's prefix. Panics beyond 4 GiB: whoever fills it stops long before.
    pub fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a record is far smaller than 4 GiB");
        let start = u32::try_from(self.bytes.len()).expect("a run is far smaller than 4 GiB");
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.changes.push(Change { head: 0, start, key_len: length(key), value_len: value.map_or(DELETED, length) });
    }

    /// Memory that it takes.
    pub fn size_in_bytes(&self) -> usize {
        self.bytes.len() + self.changes.len() * CHANGE_BYTES
    }

    /// Each change in the order in which it was made.
    pub fn visit(&self, mut visit: impl FnMut(&[u8], Option<&[u8]>)) {
        for change in &self.changes {
            visit(self.key(change), self.value(change));
        }
    }

    /// The last change of each key, in key order.
    pub fn visit_sorted<E>(mut self, mut visit: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), E>) -> Result<(), E> {
        let shared = self.shared_prefix();
        let mut changes = std::mem::take(&mut self.changes);
        for change in &mut changes {
            // Those of `META` come before all others, and do not share the others' beginning: they keep the smallest head.
            let key = self.key(change);
            let rest = if is_meta(key) { &[] } else { &key[shared..] };
            let mut head = [0; 8];
            let taken = rest.len().min(8);
            head[..taken].copy_from_slice(&rest[..taken]);
            change.head = u64::from_be_bytes(head);
        }
        // Equal heads may hide a shorter key whose rest is zeros, so whole keys decide then.
        let key = |change: &Change| (change.head, self.key(change));
        changes.sort_unstable_by(|a, b| {
            a.head.cmp(&b.head).then_with(|| self.key(a).cmp(self.key(b))).then(a.start.cmp(&b.start))
        });
        let mut rest = changes.iter().peekable();
        while let Some(change) = rest.next() {
            if rest.peek().is_some_and(|next| key(next) == key(change)) {
                continue;
            }
            visit(self.key(change), self.value(change))?;
        }
        Ok(())
    }

    fn shared_prefix(&self) -> usize {
        let mut keys = self.changes.iter().map(|change| self.key(change)).filter(|key| !is_meta(key));
        let Some(first) = keys.next() else { return 0 };
        keys.fold(first.len(), |shared, key| {
            if key.len() >= shared && key[..shared] == first[..shared] {
                return shared;
            }
            key.iter().zip(&first[..shared]).take_while(|(a, b)| a == b).count()
        })
    }

    fn key(&self, change: &Change) -> &[u8] {
        &self.bytes[change.start as usize..][..change.key_len as usize]
    }

    fn value(&self, change: &Change) -> Option<&[u8]> {
        let start = change.start as usize + change.key_len as usize;
        (change.value_len != DELETED).then(|| &self.bytes[start..][..change.value_len as usize])
    }
}

fn is_meta(key: &[u8]) -> bool {
    key.first() == Some(&META)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sorted_run_is_a_map(changes in proptest::collection::vec(
            (proptest::collection::vec(0..3_u8, 0..12), proptest::option::of(proptest::collection::vec(any::<u8>(), 0..4))),
            0..60,
        ), prefix in proptest::collection::vec(any::<u8>(), 1..12)) {
            let mut run = Run::default();
            let mut map = BTreeMap::new();
            for (key, value) in changes {
                let key = [prefix.as_slice(), &key].concat();
                run.set(&key, value.as_deref());
                map.insert(key, value);
            }
            let mut found = Vec::new();
            run.visit_sorted(|key, value| {
                found.push((key.to_vec(), value.map(<[u8]>::to_vec)));
                Ok::<(), ()>(())
            }).expect("visited");
            prop_assert_eq!(found, map.into_iter().collect::<Vec<_>>());
        }
    }
}
