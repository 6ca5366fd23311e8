//! Universal Binary JSON (ubjson.org, draft 12), as much of it as XGBoost writes. Numbers are big-endian.
//!
//! ```text
//! map    {  (length, key bytes, value)*  }        length: a whole number with its marker
//! text   S  length  bytes
//! array  [  value*  ]      [ # count value*      [ $ marker # count number*
//! ```

use super::malformed;
use super::value::{Array, NESTING_MAX, Value};
use crate::error::ModelError;
use crate::format::bytes::Bytes;

/// Reads a file of one value.
pub fn read(file: &[u8]) -> Result<Value, ModelError> {
    let mut reader = Reader { bytes: Bytes::new(file) };
    let value = reader.value(0)?;
    if reader.bytes.is_at_end() { Ok(value) } else { Err(reader.unexpected()) }
}

struct Reader<'a> {
    bytes: Bytes<'a>,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, ModelError> {
        if depth > NESTING_MAX {
            return Err(malformed(format!("it is nested more than {NESTING_MAX} deep")));
        }
        match self.byte()? {
            b'{' => self.map(depth),
            b'[' => self.array(depth),
            b'S' => self.text().map(Value::Text),
            b'Z' => Ok(Value::Null),
            b'T' => Ok(Value::Bool(true)),
            b'F' => Ok(Value::Bool(false)),
            marker => self.number(marker).map(Value::Number),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, ModelError> {
        let mut fields = Vec::new();
        while !self.bytes.skip(b'}') {
            let name = self.text()?;
            fields.push((name, self.value(depth + 1)?));
        }
        Ok(Value::Map(fields))
    }

    fn array(&mut self, depth: usize) -> Result<Value, ModelError> {
        if self.bytes.skip(b'$') {
            let marker = self.byte()?;
            if !self.bytes.skip(b'#') {
                return Err(self.unexpected());
            }
            let count = self.length()?;
            return self.typed(marker, count);
        }
        let mut array = Array::default();
        if self.bytes.skip(b'#') {
            for _ in 0..self.length()? {
                array.push(self.value(depth + 1)?);
            }
        } else {
            while !self.bytes.skip(b']') {
                array.push(self.value(depth + 1)?);
            }
        }
        Ok(array.finish())
    }

    /// Numbers of one marker, which stand one after the other.
    fn typed(&mut self, marker: u8, count: u64) -> Result<Value, ModelError> {
        let numbers = match marker {
            b'i' => self.all(count, |bytes| f64::from(i8::from_be_bytes(bytes))),
            b'U' => self.all(count, |bytes| f64::from(u8::from_be_bytes(bytes))),
            b'I' => self.all(count, |bytes| f64::from(i16::from_be_bytes(bytes))),
            b'l' => self.all(count, |bytes| f64::from(i32::from_be_bytes(bytes))),
            b'L' => self.all(count, |bytes| i64::from_be_bytes(bytes) as f64),
            b'd' => self.all(count, |bytes| f64::from(f32::from_be_bytes(bytes))),
            b'D' => self.all(count, f64::from_be_bytes),
            _ => None,
        };
        numbers.map(Value::Numbers).ok_or_else(|| self.unexpected())
    }

    fn all<const N: usize>(&mut self, count: u64, decode: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
        let bytes = self.bytes.take(count.checked_mul(N as u64)?)?;
        Some(bytes.as_chunks().0.iter().map(|chunk| decode(*chunk)).collect())
    }

    fn number(&mut self, marker: u8) -> Result<f64, ModelError> {
        match self.typed(marker, 1)? {
            Value::Numbers(numbers) if numbers.len() == 1 => Ok(numbers[0]),
            _ => Err(self.unexpected()),
        }
    }

    fn text(&mut self) -> Result<String, ModelError> {
        let length = self.length()?;
        let bytes = self.bytes.take(length).ok_or_else(|| self.unexpected())?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.unexpected())
    }

    fn length(&mut self) -> Result<u64, ModelError> {
        let length = match self.byte()? {
            b'i' => self.bytes.array().map(|bytes| i64::from(i8::from_be_bytes(bytes))),
            b'U' => self.bytes.array().map(|bytes| i64::from(u8::from_be_bytes(bytes))),
            b'I' => self.bytes.array().map(|bytes| i64::from(i16::from_be_bytes(bytes))),
            b'l' => self.bytes.array().map(|bytes| i64::from(i32::from_be_bytes(bytes))),
            b'L' => self.bytes.array().map(i64::from_be_bytes),
            _ => None,
        };
        length.and_then(|length| u64::try_from(length).ok()).ok_or_else(|| self.unexpected())
    }

    fn byte(&mut self) -> Result<u8, ModelError> {
        self.bytes.byte().ok_or_else(|| self.unexpected())
    }

    fn unexpected(&self) -> ModelError {
        malformed(format!("its UBJSON is broken at byte {}", self.bytes.position()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        let file = b"{U\x01a[$d#U\x02\x3f\x80\x00\x00\xc0\x00\x00\x00i\x01b[#i\x02SU\x01xSU\x01yI\x00\x01c[U\x07T]}";
        let value = read(file).expect("it is UBJSON");
        assert_eq!(value.numbers("a"), Ok(&[1.0, -2.0][..]));
        assert_eq!(value.list("b").map(<[Value]>::len), Ok(2));
        assert_eq!(value.numbers("c"), Ok(&[7.0, 1.0][..]));
    }

    #[test]
    fn claimed_lengths_take_no_memory() {
        for length in [1_i64 << 31, 1 << 40, 1 << 60, i64::MAX, -1] {
            for head in [&b"S"[..], b"[#", b"[$L#", b"[$D#", b"[$U#", b"[$Z#", b"[$[#", b"{"] {
                let mut file = head.to_vec();
                file.push(b'L');
                file.extend(length.to_be_bytes());
                assert!(matches!(read(&file), Err(ModelError::Malformed { .. })), "{length} {head:?}");
            }
        }
        assert!(read(&b"[".repeat(100_000)).is_err());
        assert!(read(&b"{U\x01a".repeat(100_000)).is_err());
    }
}
