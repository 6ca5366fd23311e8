//! What a document shows, as JSON: the same for every replica that has the same edits, whatever way they came.
//!
//! A text is its string, an array a list, a map an object with sorted keys, XML its markup; bytes are hexadecimal digits.

use std::collections::BTreeMap;

use engram_schemas::yjs::Coverage;
use engram_schemas::yjs::update::{Content, Outline, Parent, What};
use serde_json::{Map, Number, Value};
use xxhash_rust::xxh3::Xxh3;
use yrs::branch::BranchPtr;
use yrs::types::ToJson;
use yrs::{Any, Array, ArrayRef, GetString, Map as _, MapRef, Out, ReadTxn, TextRef};

use super::markup;

/// What a root is. Yjs does not write it down: its content tells, and only where something names the root as its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKind {
    Text,
    Array,
    Map,
    Xml,
}

impl RootKind {
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Text, Self::Array, Self::Map, Self::Xml].into_iter().find(|kind| *kind as u8 == byte)
    }

    fn of(content: Content, has_key: bool) -> Option<Self> {
        match content {
            _ if has_key => Some(Self::Map),
            Content::Deleted => None,
            Content::Text => Some(Self::Text),
            Content::Values | Content::Type | Content::Document => Some(Self::Array),
            Content::Xml => Some(Self::Xml),
        }
    }
}

/// The roots that an update names, with what they are.
pub fn named_roots<'a>(update: &Outline<'a>) -> impl Iterator<Item = (&'a str, RootKind)> {
    update.structs.iter().filter_map(|part| match &part.what {
        What::Item(item) => match item.parent {
            Some(Parent::Root(name)) => Some((name, RootKind::of(item.content, item.key.is_some())?)),
            _ => None,
        },
        _ => None,
    })
}

/// The roots by name, sorted.
pub fn roots(document: &impl ReadTxn, kinds: &BTreeMap<String, RootKind>) -> Map<String, Value> {
    let mut names: Vec<(&str, Out)> = document.root_refs().collect();
    names.sort_unstable_by_key(|(name, _)| *name);
    let shown = names.into_iter().filter_map(|(name, root)| {
        let branch = root.try_branch().map(BranchPtr::from)?;
        let kind = kinds.get(name).copied().unwrap_or_else(|| guess(document, branch));
        Some((name.to_owned(), show(document, branch, kind)))
    });
    shown.collect()
}

fn show(document: &impl ReadTxn, branch: BranchPtr, kind: RootKind) -> Value {
    match kind {
        RootKind::Text => Value::String(TextRef::from(branch).get_string(document)),
        RootKind::Array => to_value(&ArrayRef::from(branch).to_json(document)),
        RootKind::Map => to_value(&MapRef::from(branch).to_json(document)),
        RootKind::Xml => {
            let mut markup = String::new();
            markup::write(document, &ArrayRef::from(branch), &mut markup);
            Value::String(markup)
        }
    }
}

/// Where all that has named the root was deleted.
fn guess(document: &impl ReadTxn, branch: BranchPtr) -> RootKind {
    let array = ArrayRef::from(branch);
    if MapRef::from(branch).len(document) > 0 {
        return RootKind::Map;
    }
    if array.len(document) == 0 || !TextRef::from(branch).get_string(document).is_empty() {
        return RootKind::Text;
    }
    match array.get(document, 0) {
        Some(Out::YXmlElement(_) | Out::YXmlText(_) | Out::YXmlFragment(_)) => RootKind::Xml,
        _ => RootKind::Array,
    }
}

pub(super) fn to_value(any: &Any) -> Value {
    match any {
        Any::Null | Any::Undefined => Value::Null,
        Any::Bool(value) => Value::Bool(*value),
        Any::Number(yrs::any::Number::Int(value)) => Value::Number((*value).into()),
        Any::Number(yrs::any::Number::Float(value)) => number(*value),
        Any::String(text) => Value::String(text.to_string()),
        Any::Buffer(bytes) => Value::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        Any::Array(items) => Value::Array(items.iter().map(to_value).collect()),
        Any::Map(entries) => {
            let sorted: BTreeMap<&String, &Any> = entries.iter().collect();
            Value::Object(sorted.into_iter().map(|(key, value)| (key.clone(), to_value(value))).collect())
        }
    }
}

/// As JavaScript writes it: whole numbers without a point, and null for what JSON has no number for.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        return Value::Number((value as i64).into());
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// XXH3 (128 bits, hexadecimal) of the roots as JSON and the state vector: one for each state, whatever its updates were.
pub fn hash(roots: &Map<String, Value>, coverage: &Coverage) -> String {
    let mut hasher = Xxh3::new();
    hasher.update(serde_json::to_string(roots).expect("JSON can be written").as_bytes());
    for (client, next) in coverage.clients() {
        hasher.update(&client.to_le_bytes());
        hasher.update(&next.to_le_bytes());
    }
    format!("{:032x}", hasher.digest128())
}
