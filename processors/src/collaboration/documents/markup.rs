//! XML as text, the same for every replica: attributes come in the order of their names, as those of formats do.
//!
//! SUBTLE: yrs writes an element's attributes as its hash map has them, each time in another order. Of a document that is an
//! editor's, with two attributes on a heading, no two states would have one hash.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use yrs::types::ToJson as _;
use yrs::{Any, Array as _, ArrayRef, Out, ReadTxn, Text as _, Xml as _, XmlElementRef, XmlTextRef};

use super::projection::to_value;

/// Writes what is in a fragment or an element.
pub fn write(document: &impl ReadTxn, nodes: &ArrayRef, markup: &mut String) {
    for node in nodes.iter(document) {
        match node {
            Out::YXmlElement(element) => write_element(document, &element, markup),
            Out::YXmlText(text) => write_text(document, &text, markup),
            Out::YXmlFragment(fragment) => write(document, fragment.as_ref(), markup),
            other => markup.push_str(&plain(document, &other)),
        }
    }
}

fn write_element(document: &impl ReadTxn, element: &XmlElementRef, markup: &mut String) {
    let tag = element.try_tag().map_or("", |tag| &**tag);
    let attributes: BTreeMap<&str, Out> = element.attributes(document).collect();
    let _ = write!(markup, "<{tag}");
    for (name, value) in attributes {
        let _ = write!(markup, " {name}=\"{}\"", plain(document, &value));
    }
    markup.push('>');
    write(document, element.as_ref(), markup);
    let _ = write!(markup, "</{tag}>");
}

/// Formats are elements around what has them.
fn write_text(document: &impl ReadTxn, text: &XmlTextRef, markup: &mut String) {
    for part in text.diff(document, |_| ()) {
        let formats = part.attributes.as_deref().into_iter().flatten();
        let formats: BTreeMap<&str, Value> = formats.map(|(name, value)| (&**name, to_value(value))).collect();
        for (name, value) in &formats {
            let _ = write!(markup, "<{name}");
            for (name, value) in value.as_object().into_iter().flatten() {
                let _ = write!(markup, " {name}=\"{}\"", as_text(value));
            }
            markup.push('>');
        }
        markup.push_str(&plain(document, &part.insert));
        for name in formats.keys().rev() {
            let _ = write!(markup, "</{name}>");
        }
    }
}

fn plain(document: &impl ReadTxn, value: &Out) -> String {
    match value {
        Out::Any(Any::String(text)) => text.to_string(),
        other => as_text(&to_value(&other.to_json(document))),
    }
}

fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use yrs::types::Attrs;
    use yrs::{Doc, Transact as _, XmlElementPrelim, XmlFragment as _, XmlTextPrelim};

    use super::*;

    #[test]
    fn markup_is_the_same_for_every_replica() {
        let names = ["level", "align", "color", "id", "lang", "style"];
        for _ in 0..20 {
            let doc = Doc::new();
            let root = doc.get_or_insert_xml_fragment("root");
            let mut transaction = doc.transact_mut();
            let heading = root.push_back(&mut transaction, XmlElementPrelim::empty("heading"));
            for name in names {
                heading.insert_attribute(&mut transaction, name, 1);
            }
            let text = heading.push_back(&mut transaction, XmlTextPrelim::new(""));
            let link = Any::from(
                [("href".to_owned(), Any::from("x")), ("a".to_owned(), Any::from(true))]
                    .into_iter()
                    .collect::<std::collections::HashMap<_, _>>(),
            );
            text.insert(&mut transaction, 0, "plain ");
            let formats = Attrs::from([("link".into(), link), ("bold".into(), true.into())]);
            text.insert_with_attributes(&mut transaction, 6, "linked", formats);
            text.insert_embed(&mut transaction, 0, Any::from(7));
            root.push_back(&mut transaction, XmlElementPrelim::empty("rule"));
            let mut markup = String::new();
            write(&transaction, root.as_ref(), &mut markup);
            assert_eq!(
                markup,
                "<heading align=\"1\" color=\"1\" id=\"1\" lang=\"1\" level=\"1\" style=\"1\">7plain <bold><link a=\"true\" \
                 href=\"x\">linked</link></bold></heading><rule></rule>"
            );
        }
    }
}
