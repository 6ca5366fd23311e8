//! What a document shows, as JSON: the same for every replica that has the same edits, whatever way they came.
//!
//! A text is its string, an array a list, a map an object with sorted keys, XML its markup; bytes are hexadecimal digits.

use std::collections::BTreeMap;

use engram_schemas::yjs::Coverage;
use engram_schemas::yjs::update::{Content, Outline, Parent, What};
use serde_json::{Map, Number, Value};
use xxhash_rust::xxh3::Xxh3;
use yrs::branch::{Branch, BranchPtr};
use yrs::types::text::{Diff, YChange};
use yrs::{Any, Array, ArrayRef, GetString, Map as _, MapRef, Out, ReadTxn, Text, TextRef};

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
            Content::Values | Content::Type => Some(Self::Array),
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

/// The roots by name, sorted: all of `kinds`, and others that hold something.
///
/// SUBTLE: a root of which all was deleted may be unknown to a replica that was made of a checkpoint.
pub fn roots(document: &impl ReadTxn, kinds: &BTreeMap<String, RootKind>) -> Map<String, Value> {
    let empty = |kind: &RootKind| match kind {
        RootKind::Text | RootKind::Xml => Value::String(String::new()),
        RootKind::Array => Value::Array(Vec::new()),
        RootKind::Map => Value::Object(Map::new()),
    };
    let mut shown: BTreeMap<String, Value> = kinds.iter().map(|(name, kind)| (name.clone(), empty(kind))).collect();
    for (name, root) in document.root_refs() {
        let Some(branch) = root.try_branch().map(BranchPtr::from) else { continue };
        let kind = kinds.get(name).copied().or_else(|| guess(document, branch));
        if let Some(kind) = kind {
            shown.insert(name.to_owned(), show(document, branch, kind));
        }
    }
    shown.into_iter().collect()
}

fn show(document: &impl ReadTxn, branch: BranchPtr, kind: RootKind) -> Value {
    match kind {
        RootKind::Text => Value::String(TextRef::from(branch).get_string(document)),
        RootKind::Array => array(document, branch),
        RootKind::Map => map(document, branch),
        RootKind::Xml => Value::String(xml_children(document, branch)),
    }
}

fn value(document: &impl ReadTxn, out: &Out) -> Value {
    match out {
        Out::Any(any) => to_value(any),
        Out::YText(text) => Value::String(text.get_string(document)),
        Out::YArray(inner) => array(document, BranchPtr::from(inner.as_ref())),
        Out::YMap(inner) => map(document, BranchPtr::from(inner.as_ref())),
        Out::YXmlElement(_) | Out::YXmlText(_) | Out::YXmlFragment(_) => Value::String(xml(document, out)),
        Out::YDoc(_) | Out::UndefinedRef(_) => Value::Null,
    }
}

fn array(document: &impl ReadTxn, branch: BranchPtr) -> Value {
    match items(document, branch) {
        Ok(items) => Value::Array(items.iter().map(|item| value(document, item)).collect()),
        Err(characters) => Value::String(characters),
    }
}

/// What is in an array. What has characters in it, of a text, is shown as its characters.
///
/// SUBTLE: yrs goes through characters one by one by a place that counts UTF-16 units, and turns round for ever at the first
/// one that has two.
fn items(document: &impl ReadTxn, branch: BranchPtr) -> Result<Vec<Out>, String> {
    let characters = TextRef::from(branch).get_string(document);
    if characters.is_empty() { Ok(ArrayRef::from(branch).iter(document).collect()) } else { Err(characters) }
}

fn map(document: &impl ReadTxn, branch: BranchPtr) -> Value {
    let entries = entries(document, branch);
    Value::Object(entries.iter().map(|(key, entry)| ((*key).to_owned(), value(document, entry))).collect())
}

/// What a map has, by its keys.
fn entries(document: &impl ReadTxn, branch: BranchPtr) -> BTreeMap<String, Out> {
    let map = MapRef::from(branch);
    let keys = map.keys(document).map(str::to_owned);
    keys.filter_map(|key| map.get(document, &key).map(|entry| (key, entry))).collect()
}

/// As Yjs's `toString` writes it: attributes and formats in the order of their names, nothing escaped.
fn xml(document: &impl ReadTxn, out: &Out) -> String {
    match out {
        Out::YXmlElement(element) => {
            let branch = BranchPtr::from(AsRef::<Branch>::as_ref(element));
            let name = element.tag().to_lowercase();
            let attributes: String = entries(document, branch)
                .iter()
                .map(|(key, entry)| format!(" {key}=\"{}\"", plain(&value(document, entry))))
                .collect();
            format!("<{name}{attributes}>{}</{name}>", xml_children(document, branch))
        }
        Out::YXmlFragment(fragment) => xml_children(document, BranchPtr::from(AsRef::<Branch>::as_ref(fragment))),
        Out::YXmlText(text) => {
            text.diff(document, YChange::identity).iter().map(|run| xml_run(document, run)).collect()
        }
        other => plain(&value(document, other)),
    }
}

fn xml_children(document: &impl ReadTxn, branch: BranchPtr) -> String {
    match items(document, branch) {
        Ok(children) => children.iter().map(|child| xml(document, child)).collect(),
        Err(characters) => characters,
    }
}

/// A piece of text within its formats, or what is embedded there.
fn xml_run(document: &impl ReadTxn, run: &Diff<YChange>) -> String {
    let formats: BTreeMap<&str, &Any> =
        run.attributes.iter().flat_map(|formats| formats.iter()).map(|(name, format)| (&**name, format)).collect();
    let mut text = String::new();
    for (name, format) in &formats {
        text.push_str(&format!("<{name}"));
        if let Value::Object(attributes) = to_value(format) {
            attributes.iter().for_each(|(key, entry)| text.push_str(&format!(" {key}=\"{}\"", plain(entry))));
        }
        text.push('>');
    }
    text.push_str(&xml(document, &run.insert));
    formats.keys().rev().for_each(|name| text.push_str(&format!("</{name}>")));
    text
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Where all that has named the root was deleted; `None` if it holds nothing.
fn guess(document: &impl ReadTxn, branch: BranchPtr) -> Option<RootKind> {
    if MapRef::from(branch).len(document) > 0 {
        return Some(RootKind::Map);
    }
    // What is embedded in a text is told by its runs, the values of an array are not.
    let runs = TextRef::from(branch).diff(document, YChange::identity);
    if runs.iter().any(|run| matches!(run.insert, Out::Any(_))) {
        return Some(RootKind::Text);
    }
    let items = items(document, branch).ok()?;
    match items.first()? {
        Out::YXmlElement(_) | Out::YXmlText(_) | Out::YXmlFragment(_) => Some(RootKind::Xml),
        _ => Some(RootKind::Array),
    }
}

fn to_value(any: &Any) -> Value {
    match any {
        Any::Null | Any::Undefined => Value::Null,
        Any::Bool(value) => Value::Bool(*value),
        // SUBTLE: yrs writes a `BigInt` as a floating-point number where that holds the same, and has that next time.
        Any::Number(yrs::any::Number::Int(value)) if (*value as f64) as i64 == *value => number(*value as f64),
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
