//! What the fuzz targets do with the bytes that they are given. A target fails where one of these panics.
//!
//! The modules under test are compiled from their sources, not taken from their crates, so that a build with sanitizers takes
//! seconds: the crates would bring Arrow and RocksDB along.

extern crate self as engram_schemas;

#[path = "../../schemas/src/yjs/mod.rs"]
pub mod yjs;

#[path = "../../processors/src/collaboration/documents/containers.rs"]
pub mod containers;
#[path = "../../processors/src/collaboration/documents/places.rs"]
pub mod places;
#[path = "../../processors/src/collaboration/documents/projection.rs"]
pub mod projection;
// What only its crate uses of it.
#[allow(dead_code)]
#[path = "../../processors/src/collaboration/documents/replica.rs"]
pub mod replica;

pub mod document;

use document::Document;
use yjs::protocol::{Message, read_awareness, read_state_vector, write_awareness};
use yjs::{Coverage, Outline, Reader, Relation};

/// A frame from an editor, message by message.
pub fn protocol(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    while let Ok(Some(message)) = Message::read(&mut reader) {
        match message {
            Message::Step1(state_vector) => drop(read_state_vector(state_vector)),
            Message::Step2(update) | Message::Update(update) => outline(update),
            Message::Awareness(update) => awareness(update),
            Message::Authentication | Message::QueryAwareness => {}
        }
    }
}

/// What can be read of an awareness update comes back when it is written.
pub fn awareness(bytes: &[u8]) {
    let Ok(shown) = read_awareness(bytes) else { return };
    let written = write_awareness(shown.iter().cloned());
    assert_eq!(read_awareness(&written), Ok(shown));
}

/// An update that is new to an empty document is known to it afterwards.
pub fn outline(bytes: &[u8]) {
    let Ok(outline) = Outline::read(bytes) else { return };
    let mut coverage = Coverage::default();
    if coverage.relation(&outline) == Relation::New {
        coverage.add(&outline);
        assert_eq!(coverage.relation(&outline), Relation::Known);
    }
}

/// Updates of one document, one after the other: `length u16, little endian | update`. Whatever they are, the document can be
/// written down and made again.
pub fn documents(mut bytes: &[u8]) {
    let mut document = Document::default();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (update, rest) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))));
        bytes = rest;
        document.take(update);
    }
    document.check();
}
