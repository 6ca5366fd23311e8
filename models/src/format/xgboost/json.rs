//! JSON as XGBoost writes it, which is with `NaN`, `Infinity` and `-Infinity`: XGBoost 2 has them in the trees of several outputs.

use super::malformed;
use super::value::{Array, NESTING_MAX, Value};
use crate::error::ModelError;
use crate::format::bytes::Bytes;

/// Reads a file of one value.
pub fn read(file: &[u8]) -> Result<Value, ModelError> {
    let mut reader = Reader { bytes: Bytes::new(file) };
    let value = reader.value(0)?;
    reader.skip_space();
    // Some writers end text with a zero byte.
    if reader.bytes.peek() == Some(0) {
        reader.bytes.byte();
    }
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
        self.skip_space();
        match self.bytes.peek() {
            Some(b'{') => self.map(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.text().map(Value::Text),
            _ => self.word(),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, ModelError> {
        self.bytes.byte();
        let mut fields = Vec::new();
        self.skip_space();
        if self.bytes.skip(b'}') {
            return Ok(Value::Map(fields));
        }
        loop {
            self.skip_space();
            let name = self.text()?;
            self.skip_space();
            if !self.bytes.skip(b':') {
                return Err(self.unexpected());
            }
            fields.push((name, self.value(depth + 1)?));
            self.skip_space();
            if self.bytes.skip(b'}') {
                return Ok(Value::Map(fields));
            }
            if !self.bytes.skip(b',') {
                return Err(self.unexpected());
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, ModelError> {
        self.bytes.byte();
        let mut array = Array::default();
        self.skip_space();
        if self.bytes.skip(b']') {
            return Ok(array.finish());
        }
        loop {
            array.push(self.value(depth + 1)?);
            self.skip_space();
            if self.bytes.skip(b']') {
                return Ok(array.finish());
            }
            if !self.bytes.skip(b',') {
                return Err(self.unexpected());
            }
        }
    }

    /// What has no quotes around it.
    fn word(&mut self) -> Result<Value, ModelError> {
        let mut word = [0; 64];
        let mut length = 0;
        while let Some(byte) = self.bytes.peek().filter(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)) {
            *word.get_mut(length).ok_or_else(|| self.unexpected())? = byte;
            length += 1;
            self.bytes.byte();
        }
        let word = std::str::from_utf8(&word[..length]).unwrap_or_default();
        Ok(match word {
            "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "NaN" => Value::Number(f64::NAN),
            "Infinity" => Value::Number(f64::INFINITY),
            "-Infinity" => Value::Number(f64::NEG_INFINITY),
            _ if word.starts_with(|first: char| first.is_ascii_digit() || first == '-') => {
                Value::Number(word.parse().map_err(|_| self.unexpected())?)
            }
            _ => return Err(self.unexpected()),
        })
    }

    fn text(&mut self) -> Result<String, ModelError> {
        if !self.bytes.skip(b'"') {
            return Err(self.unexpected());
        }
        let mut text = Vec::new();
        loop {
            match self.bytes.byte() {
                Some(b'"') => break,
                Some(b'\\') => self.escaped(&mut text)?,
                Some(byte) => text.push(byte),
                None => return Err(self.unexpected()),
            }
        }
        String::from_utf8(text).map_err(|_| self.unexpected())
    }

    fn escaped(&mut self, text: &mut Vec<u8>) -> Result<(), ModelError> {
        text.push(match self.bytes.byte() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let first = self.unit()?;
                let mut units = vec![first];
                if (0xd800..0xdc00).contains(&first) {
                    if self.bytes.array() != Some(*b"\\u") {
                        return Err(self.unexpected());
                    }
                    units.push(self.unit()?);
                }
                let decoded = String::from_utf16(&units).map_err(|_| self.unexpected())?;
                text.extend(decoded.bytes());
                return Ok(());
            }
            _ => return Err(self.unexpected()),
        });
        Ok(())
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Result<u16, ModelError> {
        let digits: Option<[u8; 4]> = self.bytes.array();
        let is_hex = |digits: &[u8; 4]| digits.iter().all(u8::is_ascii_hexdigit);
        digits
            .filter(is_hex)
            .and_then(|digits| u16::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok())
            .ok_or_else(|| self.unexpected())
    }

    fn skip_space(&mut self) {
        while self.bytes.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.bytes.byte();
        }
    }

    fn unexpected(&self) -> ModelError {
        malformed(format!("its JSON is broken at byte {}", self.bytes.position()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        let text = r#" {"a": [1, -2.5E3, true], "b": {}, "c": [[], "\u00e9\ud83d\ude00\n"], "d": [NaN, -Infinity], "e": null} "#;
        let value = read(text.as_bytes()).expect("it is JSON");
        assert_eq!(value.numbers("a"), Ok(&[1.0, -2500.0, 1.0][..]));
        assert_eq!(value.find("b"), Some(&Value::Map(Vec::new())));
        assert_eq!(value.list("c").map(|list| list[1].clone()), Ok(Value::Text("é😀\n".to_owned())));
        let numbers = value.numbers("d").expect("they are numbers");
        assert!(numbers[0].is_nan() && numbers[1] == f64::NEG_INFINITY);
        assert_eq!(value.find("e"), Some(&Value::Null));
    }

    #[test]
    fn broken_json_is_refused() {
        let deep = "[".repeat(100_000);
        let long = "1".repeat(100);
        for text in [
            "",
            "{",
            "[1,",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":1,}",
            "\"",
            "\"\\",
            "\"\\u12",
            "\"\\ud800x\"",
            "nul",
            "1e",
            "inf",
            "nan",
            "--1",
            "[1]]",
            &deep,
            &long,
            "\"\\u+123\"",
        ] {
            assert!(matches!(read(text.as_bytes()), Err(ModelError::Malformed { .. })), "{text}");
        }
    }
}
