//! Typed keys and values as the bytes of a store.
//!
//! INVARIANT: bytes sort as their values do; none are the beginning of another's, so that several can follow each other in
//! one key; and there is always at least one, so that an entry with a value is told from no entry.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A type that can be a key, or a part of one, or a value.
pub trait Codec: Sized {
    /// Appends the bytes.
    fn write(&self, bytes: &mut Vec<u8>);

    /// Reads what `write` has written off the front of `bytes`; `None` if it is not there.
    fn read(bytes: &mut &[u8]) -> Option<Self>;

    /// For people, as `engram state` shows it.
    fn describe(&self) -> Value;
}

/// Reads bytes that hold one value and nothing else.
pub fn read_whole<T: Codec>(mut bytes: &[u8]) -> Option<T> {
    let value = T::read(&mut bytes)?;
    bytes.is_empty().then_some(value)
}

/// The bytes of one value.
pub fn to_bytes<T: Codec>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.write(&mut bytes);
    bytes
}

/// The first bytes after all those that begin with `prefix`.
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    match end.last_mut() {
        Some(last) => *last += 1,
        // Longer than any key that begins so is taken to be.
        None => end = vec![u8::MAX; prefix.len() + 64],
    }
    end
}

/// An entry as `StoreSpec::describe` renders it.
pub fn describe<K: Codec, V: Codec>(key: &[u8], value: &[u8]) -> (Value, Value) {
    fn part<T: Codec>(bytes: &[u8]) -> Value {
        read_whole::<T>(bytes).map_or_else(|| json!({"unreadable": bytes}), |value| value.describe())
    }
    (part::<K>(key), part::<V>(value))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// Big endian, the sign bit of signed numbers flipped.
macro_rules! number {
    ($number:ty, $unsigned:ty, $flip:expr) => {
        impl Codec for $number {
            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&((*self as $unsigned) ^ $flip).to_be_bytes());
            }

            fn read(bytes: &mut &[u8]) -> Option<Self> {
                let taken = take(bytes, size_of::<Self>())?;
                Some((<$unsigned>::from_be_bytes(taken.try_into().ok()?) ^ $flip) as Self)
            }

            fn describe(&self) -> Value {
                json!(self)
            }
        }
    };
}

number!(u8, u8, 0);
number!(u16, u16, 0);
number!(u32, u32, 0);
number!(u64, u64, 0);
number!(i32, u32, 1 << 31);
number!(i64, u64, 1 << 63);

/// By IEEE 754's total order.
impl Codec for f64 {
    fn write(&self, bytes: &mut Vec<u8>) {
        let bits = self.to_bits();
        (if bits >> 63 == 1 { !bits } else { bits ^ (1 << 63) }).write(bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let bits = u64::read(bytes)?;
        Some(Self::from_bits(if bits >> 63 == 1 { bits ^ (1 << 63) } else { !bits }))
    }

    fn describe(&self) -> Value {
        json!(self)
    }
}

impl Codec for bool {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        match u8::read(bytes)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn describe(&self) -> Value {
        json!(self)
    }
}

impl Codec for () {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(0);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        (u8::read(bytes)? == 0).then_some(())
    }

    fn describe(&self) -> Value {
        Value::Null
    }
}

/// Each zero byte is followed by 0xff; a zero byte and 0x00 end it.
///
/// Source: FoundationDB, "Tuple layer", byte strings.
impl Codec for Vec<u8> {
    fn write(&self, bytes: &mut Vec<u8>) {
        write_escaped(self, bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut value = Self::new();
        loop {
            let zero = bytes.iter().position(|byte| *byte == 0)?;
            value.extend_from_slice(take(bytes, zero)?);
            match take(bytes, 2)?[1] {
                0 => return Some(value),
                0xff => value.push(0),
                _ => return None,
            }
        }
    }

    fn describe(&self) -> Value {
        std::str::from_utf8(self).map_or_else(|_| json!(self), |text| json!(text))
    }
}

/// As its UTF-8 bytes.
impl Codec for String {
    fn write(&self, bytes: &mut Vec<u8>) {
        write_escaped(self.as_bytes(), bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(Vec::read(bytes)?).ok()
    }

    fn describe(&self) -> Value {
        json!(self)
    }
}

fn write_escaped(value: &[u8], bytes: &mut Vec<u8>) {
    for part in value.split_inclusive(|byte| *byte == 0) {
        bytes.extend_from_slice(part);
        if part.ends_with(&[0]) {
            bytes.push(0xff);
        }
    }
    bytes.extend_from_slice(&[0, 0]);
}

/// `None` sorts first.
impl<T: Codec> Codec for Option<T> {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.is_some().write(bytes);
        if let Some(value) = self {
            value.write(bytes);
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(if bool::read(bytes)? { Some(T::read(bytes)?) } else { None })
    }

    fn describe(&self) -> Value {
        self.as_ref().map_or(Value::Null, Codec::describe)
    }
}

/// 0x01 before each entry, 0x00 after the last.
impl<K: Codec + Ord, V: Codec> Codec for BTreeMap<K, V> {
    fn write(&self, bytes: &mut Vec<u8>) {
        for (key, value) in self {
            true.write(bytes);
            key.write(bytes);
            value.write(bytes);
        }
        false.write(bytes);
    }

    /// Entries that are out of order were not written so.
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut map = Self::new();
        while bool::read(bytes)? {
            let key = K::read(bytes)?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return None;
            }
            map.insert(key, V::read(bytes)?);
        }
        Some(map)
    }

    /// An object where the keys are text, pairs otherwise.
    fn describe(&self) -> Value {
        let entries = || self.iter().map(|(key, value)| (key.describe(), value.describe()));
        let texts = entries().map(|(key, value)| Some((key.as_str()?.to_owned(), value)));
        texts
            .collect::<Option<_>>()
            .map_or_else(|| entries().map(|(key, value)| json!([key, value])).collect(), Value::Object)
    }
}

macro_rules! tuple {
    ($($part:ident $at:tt),+) => {
        impl<$($part: Codec),+> Codec for ($($part,)+) {
            fn write(&self, bytes: &mut Vec<u8>) {
                $(self.$at.write(bytes);)+
            }

            fn read(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($part::read(bytes)?,)+))
            }

            fn describe(&self) -> Value {
                Value::Array(vec![$(self.$at.describe()),+])
            }
        }
    };
}

tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);

/// Any serde type as JSON: for values; as a key it sorts as its text does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned> Codec for Json<T> {
    fn write(&self, bytes: &mut Vec<u8>) {
        write_escaped(self.describe().to_string().as_bytes(), bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        serde_json::from_slice(&Vec::read(bytes)?).ok().map(Self)
    }

    /// Null where JSON has no way to say it, such as a map whose keys are no strings.
    fn describe(&self) -> Value {
        serde_json::to_value(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Key = (Option<String>, Vec<u8>, i64, (bool, i32));

    proptest! {
        /// Fails if the escape of zero bytes or the flipped sign is left out.
        #[test]
        fn bytes_come_back_and_sort_as_their_values(
            a in any::<Key>(), b in any::<Key>(), zeros in proptest::collection::vec(0..2_u8, 0..6), x in any::<f64>(), y in any::<f64>(),
        ) {
            prop_assert_eq!(read_whole::<Key>(&to_bytes(&a)), Some(a.clone()));
            prop_assert_eq!(to_bytes(&a).cmp(&to_bytes(&b)), a.cmp(&b));
            // Close neighbours: the same but for zero bytes at the end of a part.
            let c = (a.0.clone(), zeros, a.2, a.3);
            let d = (a.0.clone(), a.1.clone(), b.2, b.3);
            for (one, other) in [(&a, &c), (&a, &d), (&c, &d)] {
                prop_assert_eq!(to_bytes(one).cmp(&to_bytes(other)), one.cmp(other));
            }
            prop_assert_eq!(to_bytes(&x).cmp(&to_bytes(&y)), x.total_cmp(&y));
            prop_assert_eq!(read_whole::<f64>(&to_bytes(&x)).map(f64::to_bits), Some(x.to_bits()));
        }

        #[test]
        fn maps_come_back_and_sort_as_their_values(
            a in proptest::collection::btree_map(any::<u8>(), 0..3_u8, 0..4), b in proptest::collection::btree_map(0..3_u8, 0..3_u8, 0..4),
        ) {
            prop_assert_eq!(read_whole(&to_bytes(&a)), Some(a.clone()));
            prop_assert_eq!(to_bytes(&a).cmp(&to_bytes(&b)), a.cmp(&b));
        }

        #[test]
        fn whatever_is_read_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(key) = read_whole::<Key>(&bytes) {
                prop_assert_eq!(to_bytes(&key), bytes.clone());
            }
            if let Some(map) = read_whole::<BTreeMap<u8, bool>>(&bytes) {
                prop_assert_eq!(to_bytes(&map), bytes);
            }
        }
    }

    #[test]
    fn maps_are_shown_as_objects_where_their_keys_are_text() {
        let text = BTreeMap::from([("a".to_owned(), 1_i64)]);
        assert_eq!((text.describe(), BTreeMap::from([(1_u8, true)]).describe()), (json!({"a": 1}), json!([[1, true]])));
    }

    #[test]
    fn any_serde_type_is_a_value() {
        let value = Json(std::collections::BTreeMap::from([("a".to_owned(), vec![1.5, 2.0])]));
        assert_eq!(read_whole(&to_bytes(&value)), Some(value));
    }
}
