//! The keys of the embedded log in its RocksDB. Numbers are big-endian, so that keys sort as their numbers do.
//!
//! ```text
//! m version                          format version, one byte
//! m topic                            id of the next topic, u32; ids are never used twice
//! t NAME                             topic: id u32, partitions u32, cleanup u8, max_message_bytes u64
//! p ID:u32 PARTITION:u32             partition: stable i64, end i64, running maximum timestamp i64
//! c ID:u32 PARTITION:u32             offset up to which the partition was compacted, i64
//! r ID:u32 PARTITION:u32 OFFSET:u64  record, as `stored` lays it out
//! g LEN:u16 GROUP ID:u32 PARTITION:u32   a group's position, i64
//! x TRANSACTIONAL_ID                 epoch of its newest producer, u64
//! ```

pub const VERSION: &[u8] = b"mversion";
pub const NEXT_TOPIC: &[u8] = b"mtopic";
/// The first byte of topics' keys, and of positions', and of producers'.
pub const TOPIC: u8 = b't';
pub const POSITION: u8 = b'g';
pub const PRODUCER: u8 = b'x';

const PARTITION: u8 = b'p';
const COMPACTED: u8 = b'c';
const RECORD: u8 = b'r';

/// What belongs to one topic lies in these ranges.
pub fn topic_ranges(id: u32) -> [(Vec<u8>, Vec<u8>); 3] {
    [PARTITION, COMPACTED, RECORD].map(|kind| (numbered(kind, &[id]), numbered(kind, &[id + 1])))
}

pub fn topic(name: &str) -> Vec<u8> {
    [&[TOPIC], name.as_bytes()].concat()
}

pub fn producer(transactional_id: &str) -> Vec<u8> {
    [&[PRODUCER], transactional_id.as_bytes()].concat()
}

pub fn partition(id: u32, partition: u32) -> Vec<u8> {
    numbered(PARTITION, &[id, partition])
}

pub fn compacted(id: u32, partition: u32) -> Vec<u8> {
    numbered(COMPACTED, &[id, partition])
}

pub fn record(id: u32, partition: u32, offset: i64) -> [u8; 17] {
    let mut key = [RECORD; 17];
    key[1..5].copy_from_slice(&id.to_be_bytes());
    key[5..9].copy_from_slice(&partition.to_be_bytes());
    key[9..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The offset in a record's key.
pub fn record_offset(key: &[u8]) -> Option<i64> {
    key.get(9..17).and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes)
}

/// What the keys of a group's positions begin with. Longer names were refused (`NAME_MAX`).
pub fn group(group: &str) -> Vec<u8> {
    [&[POSITION], (group.len() as u16).to_be_bytes().as_slice(), group.as_bytes()].concat()
}

pub fn position(name: &str, id: u32, partition: u32) -> Vec<u8> {
    let mut key = group(name);
    key.extend(id.to_be_bytes());
    key.extend(partition.to_be_bytes());
    key
}

/// The group and the topic id in a position's key.
pub fn parse_position(key: &[u8]) -> Option<(&str, u32)> {
    let (length, rest) = key.get(1..)?.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let id = u32::from_be_bytes(*rest.first_chunk::<4>()?);
    Some((std::str::from_utf8(name).ok()?, id))
}

/// The first key after all that begin with `prefix`, which is not all 0xff.
pub fn after(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    while key.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = key.last_mut() {
        *last += 1;
    }
    key
}

fn numbered(kind: u8, numbers: &[u32]) -> Vec<u8> {
    let mut key = vec![kind];
    numbers.iter().for_each(|number| key.extend(number.to_be_bytes()));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_keys() {
        assert_eq!(record(1, 2, 3), *b"r\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x03");
        assert_eq!(partition(1, 258), b"p\0\0\0\x01\0\0\x01\x02");
        assert_eq!(position("ab", 1, 2), b"g\0\x02ab\0\0\0\x01\0\0\0\x02");
        assert_eq!(topic("events"), b"tevents");
        assert_eq!(producer("a-0"), b"xa-0");
    }

    #[test]
    fn keys_tell_what_they_were_made_of() {
        assert_eq!(record_offset(&record(7, 8, i64::MAX)), Some(i64::MAX));
        assert_eq!(parse_position(&position("größe", 9, 1)), Some(("größe", 9)));
        assert_eq!(after(b"g\xff"), b"h");
        assert!(record(1, 1, 255) < record(1, 1, 256) && record(1, 1, i64::MAX) < record(1, 2, 0));
    }
}
