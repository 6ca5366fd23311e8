//! A writer's schema with the wanted paths at their places.
//!
//! Bytes are hostile: a length is compared with what is left before anything is done by it, and no count is believed, since
//! `bounds` has refused every schema whose items could take no bytes.

use std::cell::Cell;

use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, InnerDecimalSchema, NamesRef, RecordField, ResolvedSchema, UuidSchema};

use super::Field;
use super::column::Values;

/// What is done with one value of a type.
pub enum Plan {
    /// Nothing is there.
    Null(To),
    Boolean(To),
    /// An int or a long, of whatever logical type.
    Long(To),
    Float(To),
    Double(To),
    Text(To),
    Enum(To, Vec<String>),
    /// A length and so many bytes, which are no text.
    Bytes(To),
    Fixed(To, usize),
    Record(Vec<Plan>),
    Union(Vec<Plan>),
    /// What is done with some items, and with the others.
    Array(Vec<(i64, Plan)>, Box<Plan>),
    /// Keys ascend.
    Map(Vec<(String, Plan)>, Box<Plan>),
}

/// The columns that a value goes to, mostly none.
type To = Vec<usize>;

/// Values that a plan has places for: a few types that name each other in unions would be any number.
const NODES_MAX: usize = 1 << 16;

/// The schema's named types, and how many places the plan may still have.
struct Names<'a> {
    defined: &'a NamesRef<'a>,
    left: Cell<usize>,
}

/// A wanted path from somewhere on, and its column; `None` ends here.
type Wanted<'a> = (Option<&'a str>, usize);

impl Plan {
    /// Errors: one clause.
    pub fn new(schema: &Schema, fields: &[Field]) -> Result<Self, String> {
        let resolved = ResolvedSchema::new(schema).map_err(|error| error.to_string())?;
        let wanted: Vec<Wanted<'_>> =
            fields.iter().enumerate().map(|(column, field)| (Some(field.path.as_str()), column)).collect();
        let names = Names { defined: resolved.get_names(), left: Cell::new(NODES_MAX) };
        plan(schema, &names, &wanted)
    }

    /// Reads a value off the front of `bytes`. Errors: the bytes are none of the type.
    pub fn read(&self, bytes: &mut &[u8], columns: &mut [Values]) -> Result<(), &'static str> {
        match self {
            Self::Null(to) => to.iter().for_each(|&column| columns[column].set_missing()),
            Self::Boolean(to) => match take(bytes, 1)? {
                [value @ (0 | 1)] => to.iter().for_each(|&column| columns[column].set_number(*value)),
                _ => return Err("a boolean is neither 0 nor 1"),
            },
            Self::Long(to) => {
                let value = long(bytes)?;
                to.iter().for_each(|&column| columns[column].set_long(value));
            }
            Self::Float(to) => {
                let value = f32::from_le_bytes(take(bytes, 4)?.try_into().expect("four bytes"));
                to.iter().for_each(|&column| columns[column].set_number(value));
            }
            Self::Double(to) => {
                let value = f64::from_le_bytes(take(bytes, 8)?.try_into().expect("eight bytes"));
                to.iter().for_each(|&column| columns[column].set_number(value));
            }
            Self::Text(to) => {
                let text = sized(bytes)?;
                if !to.is_empty() {
                    let text = std::str::from_utf8(text).map_err(|_| "a string is not UTF-8")?;
                    set_text(text, to, columns)?;
                }
            }
            Self::Enum(to, symbols) => {
                let symbol = usize::try_from(long(bytes)?).ok().and_then(|index| symbols.get(index));
                set_text(symbol.ok_or("an enum has no such symbol")?, to, columns)?;
            }
            Self::Bytes(to) => {
                sized(bytes)?;
                to.iter().for_each(|&column| columns[column].set_missing());
            }
            Self::Fixed(to, size) => {
                take(bytes, *size)?;
                to.iter().for_each(|&column| columns[column].set_missing());
            }
            Self::Record(fields) => return fields.iter().try_for_each(|field| field.read(bytes, columns)),
            Self::Union(branches) => {
                let branch = usize::try_from(long(bytes)?).ok().and_then(|index| branches.get(index));
                return branch.ok_or("a union has no such branch")?.read(bytes, columns);
            }
            Self::Array(wanted, others) => {
                let mut at = 0;
                return blocks(bytes, |bytes| {
                    let plan = wanted.iter().find(|(index, _)| *index == at).map_or(&**others, |(_, plan)| plan);
                    at += 1;
                    plan.read(bytes, columns)
                });
            }
            Self::Map(wanted, others) => {
                // Writers mostly have keys in order, too, so the next one is likely the next one wanted.
                let mut next = 0;
                return blocks(bytes, |bytes| {
                    let key = sized(bytes)?;
                    let is_key = |(name, _): &(String, Self)| name.as_bytes() == key;
                    let found = match wanted.get(next) {
                        Some(entry) if is_key(entry) => Ok(next),
                        _ => wanted.binary_search_by(|(name, _)| name.as_bytes().cmp(key)),
                    };
                    let plan = found.map_or(&**others, |at| {
                        next = at + 1;
                        &wanted[at].1
                    });
                    plan.read(bytes, columns)
                });
            }
        }
        Ok(())
    }
}

fn plan(schema: &Schema, names: &Names<'_>, wanted: &[Wanted<'_>]) -> Result<Plan, String> {
    let left = names.left.get().checked_sub(1);
    names.left.set(left.ok_or_else(|| format!("a value has more than {NODES_MAX} places"))?);
    let to = || wanted.iter().filter(|(path, _)| path.is_none()).map(|(_, column)| *column).collect::<To>();
    Ok(match schema {
        Schema::Null => Plan::Null(to()),
        Schema::Boolean => Plan::Boolean(to()),
        Schema::Int
        | Schema::Long
        | Schema::Date
        | Schema::TimeMillis
        | Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => Plan::Long(to()),
        Schema::Float => Plan::Float(to()),
        Schema::Double => Plan::Double(to()),
        Schema::String | Schema::Uuid(UuidSchema::String) => Plan::Text(to()),
        Schema::Enum(symbols) => Plan::Enum(to(), symbols.symbols.clone()),
        Schema::Bytes
        | Schema::BigDecimal
        | Schema::Uuid(UuidSchema::Bytes)
        | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Bytes, .. }) => Plan::Bytes(to()),
        Schema::Fixed(fixed)
        | Schema::Duration(fixed)
        | Schema::Uuid(UuidSchema::Fixed(fixed))
        | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Fixed(fixed), .. }) => {
            Plan::Fixed(to(), fixed.size)
        }
        Schema::Ref { name } => {
            let defined = names.defined.get(name).ok_or_else(|| format!("{} is not defined", name.fullname(None)))?;
            plan(defined, names, wanted)?
        }
        Schema::Record(record) => {
            let field = |field: &RecordField| plan(&field.schema, names, &below(wanted, &field.name));
            Plan::Record(record.fields.iter().map(field).collect::<Result<_, _>>()?)
        }
        Schema::Union(union) => {
            let branch = |branch: &Schema| plan(branch, names, wanted);
            Plan::Union(union.variants().iter().map(branch).collect::<Result<_, _>>()?)
        }
        Schema::Array(array) => {
            let mut firsts: Vec<&str> = wanted.iter().filter_map(|(path, _)| path.map(first)).collect();
            firsts.sort_unstable();
            firsts.dedup();
            let mut items = Vec::new();
            for name in firsts {
                // Written otherwise ("01") it is no item.
                if let Some(index) = name.parse::<i64>().ok().filter(|index| index.to_string() == name) {
                    items.push((index, plan(&array.items, names, &below(wanted, name))?));
                }
            }
            Plan::Array(items, Box::new(plan(&array.items, names, &[])?))
        }
        Schema::Map(map) => {
            let mut entries = Vec::new();
            if has_parts(&map.types, names) {
                let mut firsts: Vec<&str> = wanted.iter().filter_map(|(path, _)| path.map(first)).collect();
                firsts.sort_unstable();
                firsts.dedup();
                for name in firsts {
                    entries.push((name.to_owned(), plan(&map.types, names, &below(wanted, name))?));
                }
            } else {
                let mut keys: Vec<&str> = wanted.iter().filter_map(|(path, _)| *path).collect();
                keys.sort_unstable();
                keys.dedup();
                for key in keys {
                    let of_key = wanted.iter().filter(|(path, _)| *path == Some(key));
                    let of_key: Vec<Wanted<'_>> = of_key.map(|(_, column)| (None, *column)).collect();
                    entries.push((key.to_owned(), plan(&map.types, names, &of_key)?));
                }
            }
            Plan::Map(entries, Box::new(plan(&map.types, names, &[])?))
        }
    })
}

/// What is wanted of the part of this name.
fn below<'a>(wanted: &[Wanted<'a>], name: &str) -> Vec<Wanted<'a>> {
    let rest = |&(path, column): &Wanted<'a>| match path?.split_once('.') {
        Some((first, rest)) => (first == name).then_some((Some(rest), column)),
        None => (path? == name).then_some((None, column)),
    };
    wanted.iter().filter_map(rest).collect()
}

fn first(path: &str) -> &str {
    path.split_once('.').map_or(path, |(first, _)| first)
}

/// A path may go on below a value of this type.
fn has_parts(schema: &Schema, names: &Names<'_>) -> bool {
    match schema {
        Schema::Record(_) | Schema::Array(_) | Schema::Map(_) => true,
        Schema::Union(union) => union.variants().iter().any(|branch| has_parts(branch, names)),
        Schema::Ref { name } => names.defined.get(name).is_some_and(|defined| has_parts(defined, names)),
        _ => false,
    }
}

#[inline]
fn set_text(text: &str, to: &[usize], columns: &mut [Values]) -> Result<(), &'static str> {
    for &column in to {
        if !columns[column].set_text(text) {
            return Err("a batch's texts are longer than 2 GiB");
        }
    }
    Ok(())
}

/// The items of an array or a map: blocks of so many, until one of none. A negative count is followed by the block's bytes,
/// which are not believed either: all readers agree on what a value is.
fn blocks(bytes: &mut &[u8], mut item: impl FnMut(&mut &[u8]) -> Result<(), &'static str>) -> Result<(), &'static str> {
    loop {
        let mut count = long(bytes)?;
        if count == 0 {
            return Ok(());
        }
        if count < 0 {
            long(bytes)?;
            count = count.checked_neg().ok_or("a block has too many items")?;
        }
        for _ in 0..count {
            item(bytes)?;
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], &'static str> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or("it breaks off")?;
    *bytes = rest;
    Ok(taken)
}

/// A length and so many bytes.
fn sized<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = usize::try_from(long(bytes)?).map_err(|_| "a length is negative")?;
    take(bytes, length)
}

/// A zigzag varint of at most 10 bytes (Avro 1.12, "Binary encoding").
#[inline]
fn long(bytes: &mut &[u8]) -> Result<i64, &'static str> {
    // Lengths, counts and branches have one byte.
    if let Some((&byte, rest)) = bytes.split_first()
        && byte & 0x80 == 0
    {
        *bytes = rest;
        return Ok(unzigzag(u64::from(byte)));
    }
    long_of_many(bytes)
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

#[inline(never)]
fn long_of_many(bytes: &mut &[u8]) -> Result<i64, &'static str> {
    let mut value = 0_u64;
    for (at, &byte) in bytes.iter().enumerate().take(10) {
        if at == 9 && byte > 1 {
            return Err("a number has more than 64 bits");
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Ok(unzigzag(value));
        }
    }
    Err(if bytes.len() < 10 { "it breaks off" } else { "a number is longer than 10 bytes" })
}
