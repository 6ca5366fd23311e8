//! Writes a Yjs update, version 1, of a text that one client changes: the other way round than `engram_schemas::yjs::update`
//! reads it, where its layout is drawn.

use std::collections::BTreeMap;
use std::ops::Range;

use engram_schemas::yjs::lib0::{write_buffer, write_number};
use engram_schemas::yjs::update::Id;

/// The root of a document that holds the file's text.
const ROOT: &str = "text";
/// Content of an item: a string.
const STRING: u8 = 4;
const ORIGIN: u8 = 0x80;
const RIGHT_ORIGIN: u8 = 0x40;

/// An update that is being written.
pub struct Update {
    client: u32,
    /// Of its first insertion.
    clock: u32,
    count: u64,
    items: Vec<u8>,
    deleted: BTreeMap<u32, Vec<Range<u32>>>,
}

impl Update {
    /// `clock` is the client's next.
    pub fn new(client: u32, clock: u32) -> Self {
        Self { client, clock, count: 0, items: Vec::new(), deleted: BTreeMap::new() }
    }

    /// Inserts a text between its neighbours. Insertions follow each other by the client's clock.
    pub fn insert(&mut self, origin: Option<Id>, right_origin: Option<Id>, text: &str) {
        let info = |id: Option<Id>, flag: u8| if id.is_some() { flag } else { 0 };
        self.items.push(STRING | info(origin, ORIGIN) | info(right_origin, RIGHT_ORIGIN));
        for id in [origin, right_origin].into_iter().flatten() {
            write_number(&mut self.items, id.client);
            write_number(&mut self.items, id.clock.into());
        }
        if origin.is_none() && right_origin.is_none() {
            write_number(&mut self.items, 1);
            write_buffer(&mut self.items, ROOT.as_bytes());
        }
        write_buffer(&mut self.items, text.as_bytes());
        self.count += 1;
    }

    pub fn delete(&mut self, client: u32, clocks: Range<u32>) {
        self.deleted.entry(client).or_default().push(clocks);
    }

    pub fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.items.len() + 32);
        if self.count == 0 {
            write_number(&mut bytes, 0);
        } else {
            write_number(&mut bytes, 1);
            write_number(&mut bytes, self.count);
            write_number(&mut bytes, self.client.into());
            write_number(&mut bytes, self.clock.into());
            bytes.extend_from_slice(&self.items);
        }
        write_number(&mut bytes, self.deleted.len() as u64);
        for (client, mut ranges) in self.deleted {
            ranges.sort_unstable_by_key(|range| range.start);
            ranges.dedup_by(|next, last| {
                let continues = next.start == last.end;
                if continues {
                    last.end = next.end;
                }
                continues
            });
            write_number(&mut bytes, client.into());
            write_number(&mut bytes, ranges.len() as u64);
            for range in ranges {
                write_number(&mut bytes, range.start.into());
                write_number(&mut bytes, (range.end - range.start).into());
            }
        }
        bytes
    }
}
