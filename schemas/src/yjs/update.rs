//! The outline of a Yjs update, version 1.
//!
//! ```text
//! update   clients: count, then for each   structs: count, client, clock of the first, structs
//!          deleted: count, then for each   client, ranges: count, then for each  clock, length
//! struct   info: u8   0: gone for good, length   10: left out, length   otherwise an item; info's low 5 bits: its content
//!          [0x80: origin]  [0x40: right origin]  neither: parent, and [0x20: the parent's key]
//!          content
//! ```

use std::collections::BTreeSet;
use std::ops::Range;

use super::lib0::{Malformed, Reader};

/// How deeply values within one item may be nested.
pub(super) const VALUE_DEPTH_MAX: usize = 100;
/// The last clock that a client may reach: Yjs implementations count with 32 bits, some of them signed.
const CLOCK_MAX: u32 = i32::MAX as u32;

/// A single insertion: the `clock`-th of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pub client: u64,
    pub clock: u32,
}

/// What an update inserts and deletes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline<'a> {
    pub structs: Vec<Struct<'a>>,
    pub deleted: Vec<(u64, Range<u32>)>,
}

/// Consecutive clocks of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struct<'a> {
    pub id: Id,
    pub len: u32,
    pub what: What<'a>,
}

impl Struct<'_> {
    /// The clock after it.
    pub fn end(&self) -> u32 {
        self.id.clock + self.len
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What<'a> {
    /// Deleted, and forgotten.
    Gone,
    /// Not in this update.
    LeftOut,
    Item(Item<'a>),
}

/// Where something is inserted, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<'a> {
    /// What was to its left, and to its right, for its author.
    pub origin: Option<Id>,
    pub right_origin: Option<Id>,
    /// Said where neither neighbour is.
    pub parent: Option<Parent<'a>>,
    /// The key in a map; likewise.
    pub key: Option<&'a str>,
    pub content: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Parent<'a> {
    Root(&'a str),
    Item(Id),
}

/// Kinds of content, as far as they tell what their parent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Deleted,
    /// Characters, formats and embedded objects: of a text.
    Text,
    /// JSON values and bytes: of an array or a map.
    Values,
    /// A nested array, map or text.
    Type,
    /// A nested element, fragment or text of XML.
    Xml,
}

impl<'a> Outline<'a> {
    /// Reads all of an update.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        read(bytes, |_, _| {})
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.structs.is_empty() && self.deleted.is_empty()
    }
}

/// How a value is written in an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// As lib0's `any`.
    Any,
    /// As JSON in a `varString`.
    Json,
}

/// Reads all of an update; `note` is given its values, each with its bytes, in their order.
pub(super) fn read<'a>(bytes: &'a [u8], mut note: impl FnMut(Written, &'a [u8])) -> Result<Outline<'a>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut outline = Outline::default();
    let mut clients = BTreeSet::new();
    for _ in 0..reader.count()? {
        let count = reader.count()?;
        let client = once(reader.number()?, &mut clients)?;
        let mut clock = reader.clock()?;
        for _ in 0..count {
            let (len, what) = read_struct(&mut reader, &mut note)?;
            let end = clock.checked_add(len).filter(|end| *end <= CLOCK_MAX).ok_or(Malformed::Number)?;
            if len > 0 {
                outline.structs.push(Struct { id: Id { client, clock }, len, what });
            }
            clock = end;
        }
    }
    clients.clear();
    for _ in 0..reader.count()? {
        let client = once(reader.number()?, &mut clients)?;
        for _ in 0..reader.count()? {
            let (clock, len) = (reader.clock()?, reader.clock()?);
            let end = clock.checked_add(len).filter(|end| *end <= CLOCK_MAX).ok_or(Malformed::Number)?;
            if len > 0 {
                outline.deleted.push((client, clock..end));
            }
        }
    }
    reader.end()?;
    Ok(outline)
}

/// A client comes once: of what came the second time, yrs would lose some and take some twice.
fn once(client: u64, clients: &mut BTreeSet<u64>) -> Result<u64, Malformed> {
    if clients.insert(client) { Ok(client) } else { Err(Malformed::Unknown("a client that comes twice")) }
}

fn read_struct<'a>(
    reader: &mut Reader<'a>,
    note: &mut impl FnMut(Written, &'a [u8]),
) -> Result<(u32, What<'a>), Malformed> {
    let info = reader.byte()?;
    match info {
        0 => return Ok((length(reader)?, What::Gone)),
        10 => return Ok((length(reader)?, What::LeftOut)),
        _ => {}
    }
    let read_id = |reader: &mut Reader<'a>| Ok(Id { client: reader.number()?, clock: reader.clock()? });
    let origin = if info & 0x80 != 0 { Some(read_id(reader)?) } else { None };
    let right_origin = if info & 0x40 != 0 { Some(read_id(reader)?) } else { None };
    let (mut parent, mut key) = (None, None);
    if origin.is_none() && right_origin.is_none() {
        let is_root = reader.number()? == 1;
        parent = Some(if is_root { Parent::Root(reader.text()?) } else { Parent::Item(read_id(reader)?) });
        if info & 0x20 != 0 {
            key = Some(reader.text()?);
        }
    }
    let (len, content) = read_content(reader, info & 0x1f, note)?;
    Ok((len, What::Item(Item { origin, right_origin, parent, key, content })))
}

/// A struct without content has some length.
fn length(reader: &mut Reader<'_>) -> Result<u32, Malformed> {
    match reader.clock()? {
        0 => Err(Malformed::Unknown("an empty struct")),
        len => Ok(len),
    }
}

fn read_content<'a>(
    reader: &mut Reader<'a>,
    kind: u8,
    note: &mut impl FnMut(Written, &'a [u8]),
) -> Result<(u32, Content), Malformed> {
    let one = |content| Ok((1, content));
    match kind {
        1 => Ok((length(reader)?, Content::Deleted)),
        3 => reader.buffer().and_then(|_| one(Content::Values)),
        4 => {
            let units = reader.text()?.encode_utf16().count();
            Ok((u32::try_from(units).map_err(|_| Malformed::Number)?, Content::Text))
        }
        5 => json(reader, note).and_then(|()| one(Content::Text)),
        6 => {
            reader.text()?;
            json(reader, note).and_then(|()| one(Content::Text))
        }
        7 => match reader.number()? {
            0..=2 => one(Content::Type),
            3 => reader.text().and_then(|_| one(Content::Xml)),
            4 | 6 => one(Content::Xml),
            // SUBTLE: 5 is a hook, the name of which yrs takes for what follows.
            _ => Err(Malformed::Unknown("a shared type")),
        },
        8 => {
            let count = reader.count()?;
            for _ in 0..count {
                any_value(reader, note)?;
            }
            Ok((u32::try_from(count).map_err(|_| Malformed::Number)?, Content::Values))
        }
        // SUBTLE: 9 is a document within this one. When it is deleted, yrs reads memory that it has given back.
        // 2 is JSON texts, which only old versions of Yjs have written.
        _ => Err(Malformed::Unknown("a kind of content")),
    }
}

fn any_value<'a>(reader: &mut Reader<'a>, note: &mut impl FnMut(Written, &'a [u8])) -> Result<(), Malformed> {
    let before = *reader;
    reader.skip_any(VALUE_DEPTH_MAX)?;
    note(Written::Any, before.until(reader));
    Ok(())
}

/// JSON in a text, not read further: who decodes it has a bound for its depth.
fn json<'a>(reader: &mut Reader<'a>, note: &mut impl FnMut(Written, &'a [u8])) -> Result<(), Malformed> {
    let before = *reader;
    let text = reader.text()?;
    let depth = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if depth > VALUE_DEPTH_MAX && serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return Err(Malformed::Nested);
    }
    note(Written::Json, before.until(reader));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    /// A client 1 that types "a" into the root "a".
    const TYPED: &[u8] = &[1, 1, 1, 0, 4, 1, 1, b'a', 1, b'a', 0];

    #[test]
    fn an_update_is_read() {
        let outline = Outline::read(TYPED).expect("an update");
        let item = Item {
            origin: None,
            right_origin: None,
            parent: Some(Parent::Root("a")),
            key: None,
            content: Content::Text,
        };
        assert_eq!(outline.structs, [Struct { id: Id { client: 1, clock: 0 }, len: 1, what: What::Item(item) }]);
        assert_eq!(outline.deleted, []);
        assert!(Outline::read(&[0, 0]).expect("an update").is_empty());
    }

    #[test]
    fn what_is_no_update_is_refused() {
        for cut in 0..TYPED.len() {
            assert!(Outline::read(&TYPED[..cut]).is_err(), "{cut}");
        }
        assert_eq!(Outline::read(&[TYPED, &[0]].concat()), Err(Malformed::Trailing(1)));
        // A length of 2^32 - 1, which two of would overflow.
        assert_eq!(Outline::read(&[1, 1, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]), Err(Malformed::Number));
        // Four billion clients.
        assert_eq!(Outline::read(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]), Err(Malformed::Short));
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_no_panic(bytes in any::<Vec<u8>>(), at in 0..TYPED.len(), byte in any::<u8>()) {
            let _ = Outline::read(&bytes);
            let mut typed = TYPED.to_vec();
            typed[at] = byte;
            let _ = Outline::read(&typed);
        }
    }
}
