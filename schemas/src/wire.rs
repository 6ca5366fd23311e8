//! The Confluent wire format: how a record's value says which schema it was written with.
//!
//! ```text
//! 0       0x00
//! 1..5    schema id, u32, big endian
//! 5..     Avro body
//! ```
//!
//! Source: Confluent Schema Registry, "Wire format".

use crate::SchemaId;

/// Length of the frame before the body.
pub const FRAME_BYTES: usize = 5;

/// The frame before a body.
pub fn frame(id: SchemaId) -> [u8; FRAME_BYTES] {
    let [a, b, c, d] = id.0.to_be_bytes();
    [0, a, b, c, d]
}

/// A framed value from its body.
pub fn join(id: SchemaId, body: &[u8]) -> Vec<u8> {
    [&frame(id), body].concat()
}

/// Schema id and body; `None` if this is not a framed value.
pub fn split(value: &[u8]) -> Option<(SchemaId, &[u8])> {
    let (&[magic, a, b, c, d], body) = value.split_first_chunk::<FRAME_BYTES>()?;
    (magic == 0).then_some((SchemaId(u32::from_be_bytes([a, b, c, d])), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_zero_and_the_id() {
        let value = join(SchemaId(0x0102_0304), b"body");
        assert_eq!(value, b"\0\x01\x02\x03\x04body");
        assert_eq!(split(&value), Some((SchemaId(0x0102_0304), b"body".as_slice())));
        assert_eq!(split(b"\0\0\0\0\x07"), Some((SchemaId(7), b"".as_slice())));
    }

    #[test]
    fn anything_else_is_not_framed() {
        for value in [b"".as_slice(), b"\0", b"\0\0\0\0", b"\x01\0\0\0\x01body", b"{\"a\":1}"] {
            assert_eq!(split(value), None, "{value:?}");
        }
    }
}
