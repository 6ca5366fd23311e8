//! The length-prefixed bytes of which records and requests are made.

use std::ops::Range;

/// Stands for null where a length is expected.
const NULL: u32 = u32::MAX;

/// Appends bytes with their length. Nothing that is written reaches 4 GiB: `TRANSACTION_BYTES_MAX`.
pub fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            out.extend((bytes.len() as u32).to_be_bytes());
            out.extend(bytes);
        }
        None => out.extend(NULL.to_be_bytes()),
    }
}

pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, Some(text.as_bytes()));
}

/// Reads from the front; everything answers `None` where the bytes end too early.
pub struct Input<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub fn position(&self) -> usize {
        self.position
    }

    pub fn is_at_end(&self) -> bool {
        self.position == self.bytes.len()
    }

    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let range = self.skip(length)?;
        Some(&self.bytes[range])
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.u64().map(u64::cast_signed)
    }

    /// Where the next bytes lie; the inner `None` is null.
    pub fn range(&mut self) -> Option<Option<Range<usize>>> {
        match self.u32()? {
            NULL => Some(None),
            length => self.skip(length as usize).map(Some),
        }
    }

    /// The next bytes; the inner `None` is null.
    pub fn bytes(&mut self) -> Option<Option<&'a [u8]>> {
        let range = self.range()?;
        Some(range.map(|range| &self.bytes[range]))
    }

    pub fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()??.to_vec()).ok()
    }

    fn skip(&mut self, length: usize) -> Option<Range<usize>> {
        let end = self.position.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let range = self.position..end;
        self.position = end;
        Some(range)
    }
}
