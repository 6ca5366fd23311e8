//! lib0's variable-length numbers, buffers and strings.

use thiserror::Error;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("the bytes break off")]
    Short,
    #[error("a number is too large")]
    Number,
    #[error("a text is not UTF-8")]
    Text,
    #[error("values are nested too deeply")]
    Nested,
    #[error("{0} is not known")]
    Unknown(&'static str),
    #[error("{0} bytes follow the end")]
    Trailing(usize),
}

/// Reads from the front of some bytes.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// What `later`, which has gone on from here, has passed over.
    pub fn until(&self, later: &Self) -> &'a [u8] {
        &self.rest[..self.rest.len() - later.rest.len()]
    }

    /// Refuses what is left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing(self.rest.len())) }
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A `varUint`: 7 bits a byte, the lowest first. JavaScript's whole numbers end at 2^53.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..56).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if number < 1 << 53 { Ok(number) } else { Err(Malformed::Number) };
            }
        }
        Err(Malformed::Number)
    }

    /// A `varUint` that is a clock or a length.
    pub fn clock(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed::Number)
    }

    /// How many things follow; each takes at least one byte.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::try_from(self.number()?).map_err(|_| Malformed::Number)?;
        if count <= self.rest.len() { Ok(count) } else { Err(Malformed::Short) }
    }

    /// A `varInt`, passed over: its first byte has 6 bits, after the sign.
    fn skip_signed(&mut self) -> Result<(), Malformed> {
        let mut left = 9;
        while self.byte()? >= 0x80 {
            left -= 1;
            if left == 0 {
                return Err(Malformed::Number);
            }
        }
        Ok(())
    }

    /// A `varUint8Array`.
    pub fn buffer(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.count()?;
        self.take(len)
    }

    /// A `varString`.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.buffer()?).map_err(|_| Malformed::Text)
    }

    /// Passes over a value of lib0's `any` encoding.
    pub fn skip_any(&mut self, depth_left: usize) -> Result<(), Malformed> {
        let depth_left = depth_left.checked_sub(1).ok_or(Malformed::Nested)?;
        match self.byte()? {
            // undefined, null, false, true
            127 | 126 | 121 | 120 => Ok(()),
            125 => self.skip_signed(),
            124 => self.take(4).map(drop),
            123 | 122 => self.take(8).map(drop),
            119 => self.text().map(drop),
            118 => {
                for _ in 0..self.count()? {
                    self.text()?;
                    self.skip_any(depth_left)?;
                }
                Ok(())
            }
            117 => {
                for _ in 0..self.count()? {
                    self.skip_any(depth_left)?;
                }
                Ok(())
            }
            116 => self.buffer().map(drop),
            _ => Err(Malformed::Unknown("a type of value")),
        }
    }
}

/// Appends a `varUint`.
pub fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Appends a `varUint8Array`, or a `varString`.
pub fn write_buffer(bytes: &mut Vec<u8>, buffer: &[u8]) {
    write_number(bytes, buffer.len() as u64);
    bytes.extend_from_slice(buffer);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_and_buffers_come_back(number in 0..1_u64 << 53, buffer in any::<Vec<u8>>()) {
            let mut bytes = Vec::new();
            write_number(&mut bytes, number);
            write_buffer(&mut bytes, &buffer);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.number(), Ok(number));
            prop_assert_eq!(reader.buffer(), Ok(buffer.as_slice()));
            prop_assert_eq!(reader.end(), Ok(()));
            for cut in 0..bytes.len() {
                let mut reader = Reader::new(&bytes[..cut]);
                prop_assert!(reader.number().is_err() || reader.buffer().is_err());
            }
        }
    }

    #[test]
    fn numbers_end_where_those_of_javascript_do() {
        let mut bytes = Vec::new();
        write_number(&mut bytes, 1 << 53);
        assert_eq!(Reader::new(&bytes).number(), Err(Malformed::Number));
        assert_eq!(Reader::new(&[0xff; 20]).number(), Err(Malformed::Number));
    }

    #[test]
    fn nesting_has_an_end() {
        assert_eq!(Reader::new(&[117, 1].repeat(50_000)).skip_any(100), Err(Malformed::Nested));
        assert_eq!(Reader::new(&[117, 1, 117, 1, 126]).skip_any(3), Ok(()));
        assert_eq!(Reader::new(&[117, 1, 117, 1, 126]).skip_any(2), Err(Malformed::Nested));
    }
}
