//! One way to write an update. Objects within values are hash tables to yrs, which writes their entries in another order each
//! time; here the same values always make the same bytes.

use super::lib0::{Malformed, Reader, write_buffer, write_number};
use super::update::{self, VALUE_DEPTH_MAX, Written};

/// The update with the entries of all objects sorted by their keys.
pub fn canonical(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut sorted = Vec::with_capacity(bytes.len());
    let mut copied = 0;
    let mut failed = None;
    update::read(bytes, |written, value| {
        let start = value.as_ptr() as usize - bytes.as_ptr() as usize;
        sorted.extend_from_slice(&bytes[copied..start]);
        copied = start + value.len();
        let mut reader = Reader::new(value);
        let done = match written {
            Written::Any => sort_any(&mut reader, VALUE_DEPTH_MAX, &mut sorted),
            Written::Json => reader.text().map(|text| sort_json(text, &mut sorted)),
        };
        failed = failed.or(done.err());
    })?;
    sorted.extend_from_slice(&bytes[copied..]);
    failed.map_or(Ok(sorted), Err)
}

fn sort_any(reader: &mut Reader<'_>, depth_left: usize, sorted: &mut Vec<u8>) -> Result<(), Malformed> {
    let depth_left = depth_left.checked_sub(1).ok_or(Malformed::Nested)?;
    let mut after = *reader;
    match after.byte()? {
        118 => {
            let mut entries = Vec::new();
            for _ in 0..after.count()? {
                let key = after.text()?;
                let mut value = Vec::new();
                sort_any(&mut after, depth_left, &mut value)?;
                entries.push((key, value));
            }
            entries.sort_by_key(|(key, _)| *key);
            sorted.push(118);
            write_number(sorted, entries.len() as u64);
            for (key, value) in entries {
                write_buffer(sorted, key.as_bytes());
                sorted.extend_from_slice(&value);
            }
        }
        117 => {
            let count = after.count()?;
            sorted.push(117);
            write_number(sorted, count as u64);
            for _ in 0..count {
                sort_any(&mut after, depth_left, sorted)?;
            }
        }
        _ => {
            after = *reader;
            after.skip_any(depth_left + 1)?;
            sorted.extend_from_slice(reader.until(&after));
        }
    }
    *reader = after;
    Ok(())
}

/// What is no JSON, as yrs writes it, stays as it is: JavaScript writes `undefined` for what has no value.
fn sort_json(text: &str, sorted: &mut Vec<u8>) {
    let mut rest = text;
    let value = if text.contains('{') { json_value(&mut rest, VALUE_DEPTH_MAX) } else { None };
    write_buffer(sorted, value.filter(|_| rest.is_empty()).as_deref().unwrap_or(text).as_bytes());
}

/// The next value of some JSON without blanks.
///
/// SUBTLE: numbers are copied, since not every parser reads back the very number that was written.
fn json_value(rest: &mut &str, depth_left: usize) -> Option<String> {
    let depth_left = depth_left.checked_sub(1)?;
    let (open, close) = match rest.as_bytes().first()? {
        b'{' => ('{', '}'),
        b'[' => ('[', ']'),
        b'"' => return json_text(rest).map(str::to_owned),
        _ => {
            let (value, after) = rest.split_at(rest.find([',', ']', '}']).unwrap_or(rest.len()));
            *rest = after;
            return Some(value.to_owned());
        }
    };
    *rest = &rest[1..];
    let mut entries = Vec::new();
    while !rest.starts_with(close) {
        if !entries.is_empty() {
            *rest = rest.strip_prefix(',')?;
        }
        let mut entry = String::new();
        if open == '{' {
            entry.push_str(json_text(rest)?);
            *rest = rest.strip_prefix(':')?;
            entry.push(':');
        }
        entry.push_str(&json_value(rest, depth_left)?);
        entries.push(entry);
    }
    *rest = &rest[1..];
    if open == '{' {
        entries.sort_unstable();
    }
    Some(format!("{open}{}{close}", entries.join(",")))
}

/// The next text, with its quotation marks.
fn json_text<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let inner = rest.strip_prefix('"')?;
    let mut is_escaped = false;
    let end = inner.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })?;
    let (text, after) = rest.split_at(end + 2);
    *rest = after;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client 1 sets "k" of the root "m" to `value`, embeds `json` into the root "t", and deletes.
    fn update(value: &[u8], json: &str) -> Vec<u8> {
        let mut bytes = vec![1, 2, 1, 0, 0x28, 1, 1, b'm', 1, b'k', 1];
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(&[5, 1, 1, b't']);
        write_buffer(&mut bytes, json.as_bytes());
        bytes.extend_from_slice(&[1, 1, 1, 0, 1]);
        bytes
    }

    #[test]
    fn objects_are_sorted_wherever_they_are() {
        let inner = |first: u8, second: u8| [117, 1, 118, 2, 1, first, 126, 1, second, 119, 1, b'x'];
        let object = |first: u8, second: u8, between: &[u8]| {
            let mut bytes = vec![118, 2, 1, first];
            bytes.extend_from_slice(if first == b'a' { between } else { &[125, 1] });
            bytes.extend_from_slice(&[1, second]);
            bytes.extend_from_slice(if first == b'a' { &[125, 1] } else { between });
            bytes
        };
        let one = update(&object(b'b', b'a', &inner(b'c', b'd')), r#"{"b":[{"d":0.10,"c\"":{}},[]],"a":"}"}"#);
        let other = update(&object(b'a', b'b', &inner(b'c', b'd')), r#"{"a":"}","b":[{"c\"":{},"d":0.10},[]]}"#);
        assert_ne!(one, other);
        assert_eq!(canonical(&one).as_ref(), Ok(&other));
        assert_eq!(canonical(&other), Ok(other));
        for odd in ["undefined {", "{", "{}{}", r#"{"a"}"#, r#"{"a":1"#, r#"{"a\"#, "[,{}]"] {
            let plain = update(&[126], odd);
            assert_eq!(canonical(&plain), Ok(plain));
        }
    }
}
