//! Records as bytes: as they wait in a producer, as they travel to the log's owner, and as they are stored.
//!
//! ```text
//! stored:   checksum u64 | running maximum timestamp i64 | payload
//! payload:  timestamp i64 | key bytes | value bytes | headers u32 | (name bytes, value bytes) ...
//! bytes:    length u32, u32::MAX for null | the bytes
//! ```
//!
//! The checksum is xxh3 over all that follows it, seeded with the offset, so that a record at another record's place is
//! found out as well. The running maximum is of all timestamps of the partition up to this record, which makes finding
//! a time a binary search.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::bytes::{Input, put_bytes};
use crate::log::{Batch, NewRecord, RecordRef};

const PREFIX: usize = 16;

/// Appends a record's payload.
pub fn put_payload(out: &mut Vec<u8>, record: &NewRecord<'_>, timestamp_ms: i64) {
    out.extend(timestamp_ms.to_be_bytes());
    put_bytes(out, record.key);
    put_bytes(out, record.value);
    out.extend((record.headers.len() as u32).to_be_bytes());
    for (name, value) in record.headers {
        put_bytes(out, Some(name.as_bytes()));
        put_bytes(out, *value);
    }
}

/// The bytes that `put_payload` will append.
pub fn payload_len(record: &NewRecord<'_>) -> usize {
    let bytes = |bytes: Option<&[u8]>| 4 + bytes.map_or(0, <[u8]>::len);
    let headers: usize = record.headers.iter().map(|(name, value)| 4 + name.len() + bytes(*value)).sum();
    8 + bytes(record.key) + bytes(record.value) + 4 + headers
}

/// Whether these bytes are what `put_payload` appends.
pub fn is_payload(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let mut read = || {
        input.i64()?;
        input.range()?;
        input.range()?;
        for _ in 0..input.u32()? {
            input.range()??;
            input.range()?;
        }
        Some(())
    };
    read().is_some() && input.is_at_end()
}

pub fn payload_timestamp(payload: &[u8]) -> i64 {
    payload.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

/// The stored form of a payload; replaces what is in `out`.
pub fn encode(out: &mut Vec<u8>, offset: i64, timestamp_max_ms: i64, payload: &[u8]) {
    out.clear();
    out.extend([0; 8]);
    out.extend(timestamp_max_ms.to_be_bytes());
    out.extend(payload);
    let checksum = xxh3_64_with_seed(&out[8..], offset.cast_unsigned());
    out[..8].copy_from_slice(&checksum.to_be_bytes());
}

/// A record as it was stored.
pub struct Stored<'a> {
    pub offset: i64,
    pub timestamp_ms: i64,
    /// The greatest timestamp of the partition up to here; never less than any record's before it.
    pub timestamp_max_ms: i64,
    bytes: &'a [u8],
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: usize,
}

impl<'a> Stored<'a> {
    /// Reads what `encode` wrote; the error says what is wrong with it.
    pub fn decode(offset: i64, bytes: &'a [u8]) -> Result<Self, &'static str> {
        let (checksum, rest) = bytes.split_first_chunk().ok_or("it is too short")?;
        if xxh3_64_with_seed(rest, offset.cast_unsigned()) != u64::from_be_bytes(*checksum) {
            return Err("its checksum is wrong");
        }
        let mut input = Input::new(bytes);
        let mut read = || {
            input.take(8)?;
            let timestamp_max_ms = input.i64()?;
            let timestamp_ms = input.i64()?;
            Some((timestamp_max_ms, timestamp_ms, input.range()?, input.range()?, input.position()))
        };
        let (timestamp_max_ms, timestamp_ms, key, value, headers) = read().ok_or("it is cut short")?;
        Ok(Self { offset, timestamp_ms, timestamp_max_ms, bytes, key, value, headers })
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - PREFIX
    }

    pub fn key(&self) -> Option<&'a [u8]> {
        self.key.clone().map(|range| &self.bytes[range])
    }

    pub fn value(&self) -> Option<&'a [u8]> {
        self.value.clone().map(|range| &self.bytes[range])
    }
}

/// The records of one fetch: their bytes one after the other, without an allocation for each.
#[derive(Default)]
pub struct StoredBatch {
    bytes: Vec<u8>,
    records: Vec<Held>,
}

/// A record of a batch, in whose bytes the ranges are.
struct Held {
    offset: i64,
    timestamp_ms: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
}

impl StoredBatch {
    /// Room for so many records and bytes, so that it does not grow while it is filled.
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), records: Vec::with_capacity(records) }
    }

    /// What `with_capacity` takes, for another batch like this.
    pub fn size(&self) -> (usize, usize) {
        (self.records.len(), self.bytes.len())
    }

    pub fn push(&mut self, record: &Stored<'_>) {
        // What comes before the key is not asked for again.
        let start = self.bytes.len();
        let place = |range: &Option<Range<usize>>| {
            range.as_ref().map(|range| start + range.start - PREFIX..start + range.end - PREFIX)
        };
        self.records.push(Held {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: place(&record.key),
            value: place(&record.value),
            headers: start + record.headers - PREFIX..start + record.bytes.len() - PREFIX,
        });
        self.bytes.extend_from_slice(&record.bytes[PREFIX..]);
    }

    pub fn last_offset(&self) -> Option<i64> {
        self.records.last().map(|record| record.offset)
    }

    fn visit_headers_of(&self, record: &Held, visit: &mut dyn FnMut(&str, Option<&[u8]>)) -> Option<()> {
        let mut input = Input::new(&self.bytes[record.headers.clone()]);
        for _ in 0..input.u32()? {
            let name = String::from_utf8_lossy(input.bytes()??);
            visit(&name, input.bytes()?);
        }
        Some(())
    }
}

impl Batch for StoredBatch {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn record(&self, index: usize) -> RecordRef<'_> {
        let Held { offset, timestamp_ms, key, value, .. } = &self.records[index];
        let bytes = |range: &Option<Range<usize>>| range.clone().map(|range| &self.bytes[range]);
        RecordRef { offset: *offset, timestamp_ms: *timestamp_ms, key: bytes(key), value: bytes(value) }
    }

    fn visit_headers(&self, index: usize, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        self.visit_headers_of(&self.records[index], visit).expect("a payload whose checksum is right is whole");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(record: &NewRecord<'_>) -> Vec<u8> {
        let (mut payload, mut out) = (Vec::new(), Vec::new());
        put_payload(&mut payload, record, record.timestamp_ms.unwrap());
        assert_eq!(payload.len(), payload_len(record));
        assert_eq!(payload_timestamp(&payload), record.timestamp_ms.unwrap());
        assert!(is_payload(&payload) && (0..payload.len()).all(|len| !is_payload(&payload[..len])));
        encode(&mut out, 3, 9, &payload);
        out
    }

    fn record<'a>(value: Option<&'a [u8]>, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> NewRecord<'a> {
        NewRecord { topic: "t", partition: 0, timestamp_ms: Some(5), key: Some(b"k"), value, headers }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let bytes = stored(&record(Some(b""), &[("h", Some(b"x")), ("h", None)]));
        let other = stored(&record(None, &[]));
        let (first, second) = (Stored::decode(3, &bytes).unwrap(), Stored::decode(3, &other).unwrap());
        assert_eq!(first.timestamp_max_ms, 9);
        let mut batch = StoredBatch::default();
        batch.push(&second);
        batch.push(&first);
        let expected = RecordRef { offset: 3, timestamp_ms: 5, key: Some(b"k"), value: Some(b"") };
        assert_eq!((batch.len(), batch.record(1), batch.last_offset()), (2, expected, Some(3)));
        assert_eq!(batch.record(0), RecordRef { value: None, ..expected });
        let headers: Vec<_> = batch.headers(1).into_iter().map(|header| (header.key, header.value)).collect();
        assert_eq!(headers, [("h".to_owned(), Some(b"x".to_vec())), ("h".to_owned(), None)]);
        assert_eq!(batch.headers(0), []);
        assert_eq!(Stored::decode(3, &stored(&record(None, &[]))).unwrap().value(), None);
    }

    #[test]
    fn golden_bytes() {
        let bytes = stored(&record(None, &[("h", Some(b"x"))]));
        let body = b"\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x05\0\0\0\x01k\xff\xff\xff\xff\0\0\0\x01\0\0\0\x01h\0\0\0\x01x";
        assert_eq!(&bytes[8..], body);
        assert_eq!(bytes[..8], xxh3_64_with_seed(body, 3).to_be_bytes());
    }

    #[test]
    fn any_changed_byte_is_found_and_so_is_another_place() {
        let bytes = stored(&record(Some(b"value"), &[]));
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            assert!(Stored::decode(3, &damaged).is_err(), "byte {index}");
        }
        assert!(Stored::decode(4, &bytes).is_err());
    }
}
