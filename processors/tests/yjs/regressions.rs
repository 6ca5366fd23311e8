//! What damaged updates have found, each as small as it could be made.

use engram_processors::collaboration::DOCUMENT_REJECTS;
use engram_processors::collaboration::documents::DocumentsConfig;
use engram_schemas::document::EditRejected;

use super::bed::Bed;

/// An update of one struct, the first of its client, and no deletions.
fn update(client: u8, content: &[u8]) -> Vec<u8> {
    [&[1, 1, client, 0], content, &[0]].concat()
}

/// What a document shows and, in their order, why edits were refused.
fn shown(updates: &[Vec<u8>]) -> (String, Vec<String>) {
    let mut bed = Bed::new(DocumentsConfig::default());
    updates.iter().for_each(|update| {
        bed.write("d", update);
    });
    let shown = bed.states().remove("d").map(|state| state.roots).unwrap_or_default();
    let refused = bed.read::<EditRejected>(DOCUMENT_REJECTS).into_iter().map(|edit| edit.detail).collect();
    bed.replays();
    (shown, refused)
}

/// Found by a task that never came back: yrs turned round for ever at the first character of two UTF-16 units.
#[test]
fn an_array_may_hold_characters() {
    let null = update(1, &[8, 1, 1, b'a', 1, 126]);
    let text = update(2, &[4, 1, 1, b'a', 6, b'x', 0xf0, 0x9f, 0x91, 0x8b, b'y']);
    assert_eq!(shown(&[null, text]), (r#"{"a":"x👋y"}"#.to_owned(), vec![]));
}

/// Found by a crash: after the type around one of them was deleted, yrs went on with it through the item between both.
#[test]
fn an_item_is_not_between_two_roots() {
    let one = update(1, &[4, 1, 1, b'a', 1, b'x']);
    let other = update(2, &[4, 1, 1, b'b', 1, b'y']);
    let between = update(3, &[0xc4, 1, 0, 2, 0, 1, b'z']);
    let refused = "the neighbours of an item are not in the same".to_owned();
    assert_eq!(shown(&[one, other, between]), (r#"{"a":"x","b":"y"}"#.to_owned(), vec![refused]));
}

/// Found by a sanitizer: yrs used a document within a document after it had given it back.
#[test]
fn documents_within_documents_are_refused() {
    let within = update(1, &[9, 1, 1, b'a', 1, b'g', 118, 0]);
    assert_eq!(shown(&[within]), (String::new(), vec!["a kind of content is not known".to_owned()]));
}

/// Found by a checkpoint that could not be read: yrs does not write the name of a hook.
#[test]
fn hooks_are_refused() {
    let hook = update(1, &[7, 1, 1, b'a', 5, 1, b'p']);
    assert_eq!(shown(&[hook]), (String::new(), vec!["a shared type is not known".to_owned()]));
}

/// Found by reading the code of yrs: it writes the entries of an object in any order.
#[test]
fn a_document_is_written_in_one_way() {
    let keys: Vec<u8> = (b'a'..=b'z').flat_map(|key| [1, key, 126]).collect();
    let object = [&[0x28, 1, 1, b'm', 1, b'k', 1, 118, 26][..], &keys].concat();
    for _ in 0..8 {
        let mut bed = Bed::new(DocumentsConfig::default());
        bed.write("d", &update(1, &object));
        assert_eq!(bed.states().remove("d").expect("a state").state, update(1, &object));
    }
}
