//! Histories of several editors against oracles: lists of single characters, and the state before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use engram_schemas::document::SequencedEdit;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use yrs::types::Delta;
use yrs::updates::decoder::Decode as _;
use yrs::{
    Any, Array as _, Doc, Map as _, Observable as _, Out, ReadTxn, Text as _, TextRef, Transact, Update, Xml as _,
    XmlElementPrelim, XmlFragment as _, XmlOut, XmlTextPrelim,
};

use super::super::replica::options;
use super::*;

const EDITORS: usize = 3;

#[derive(Debug, Clone)]
enum Change {
    Insert {
        at: u32,
        length: usize,
    },
    Delete {
        at: u32,
        len: u32,
    },
    Format {
        at: u32,
        len: u32,
    },
    Embed {
        at: u32,
    },
    Set {
        key: u8,
        value: i64,
    },
    Push {
        value: i64,
    },
    Nest {
        at: u32,
        value: i64,
    },
    Drop {
        at: u32,
    },
    /// A paragraph with attributes, as editors of rich text have them.
    Paragraph {
        at: u32,
    },
    /// Typed into a paragraph.
    Write {
        at: u32,
        length: usize,
    },
    /// A paragraph goes.
    Cut {
        at: u32,
    },
    /// The editor gets all that the others have sent.
    Sync,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Change)>> {
    let change = prop_oneof![
        6 => (0..30_u32, 1..4_usize).prop_map(|(at, length)| Change::Insert { at, length }),
        4 => (0..30_u32, 1..6_u32).prop_map(|(at, len)| Change::Delete { at, len }),
        1 => (0..30_u32, 1..6_u32).prop_map(|(at, len)| Change::Format { at, len }),
        1 => (0..30_u32).prop_map(|at| Change::Embed { at }),
        2 => (0..2_u8, 0..9_i64).prop_map(|(key, value)| Change::Set { key, value }),
        1 => (0..9_i64).prop_map(|value| Change::Push { value }),
        1 => (0..4_u32, 0..9_i64).prop_map(|(at, value)| Change::Nest { at, value }),
        1 => (0..4_u32).prop_map(|at| Change::Drop { at }),
        1 => (0..4_u32).prop_map(|at| Change::Paragraph { at }),
        2 => (0..4_u32, 1..4_usize).prop_map(|(at, length)| Change::Write { at, length }),
        1 => (0..4_u32).prop_map(|at| Change::Cut { at }),
        5 => Just(Change::Sync),
    ];
    proptest::collection::vec((0..EDITORS, change), 1..40)
}

/// Only what is done to the text, and nothing but characters.
fn typing() -> impl Strategy<Value = Vec<(usize, Change)>> {
    let is_typing = |change: &Change| matches!(change, Change::Insert { .. } | Change::Delete { .. } | Change::Sync);
    steps().prop_map(move |steps| steps.into_iter().filter(|(_, change)| is_typing(change)).collect())
}

fn name(editor: usize) -> String {
    format!("user{editor}")
}

/// Each editor has letters of its own, some of which are two UTF-16 units.
fn letter(editor: usize, number: usize) -> char {
    [['a', '𝒶'], ['b', '𝒷'], ['c', '𝒸']][editor][usize::from(number.is_multiple_of(3))]
}

fn edit(seq: i64, actor: &str, update: Vec<u8>) -> SequencedEdit {
    SequencedEdit {
        document: "d".to_owned(),
        seq,
        id: format!("e{seq}"),
        time: 1_000 + seq,
        actor: actor.to_owned(),
        session: String::new(),
        update,
        partition: 0,
        offset: seq - 1,
        source: String::new(),
        purpose: String::new(),
    }
}

/// Editors of one document, and what they have sent.
struct Bed {
    editors: Vec<Doc>,
    sent: Vec<SequencedEdit>,
}

impl Bed {
    fn new(first_client: u64) -> Self {
        let editors = (0..EDITORS as u64).map(|editor| Doc::with_options(options(first_client + editor))).collect();
        Self { editors, sent: Vec::new() }
    }

    fn run(steps: &[(usize, Change)]) -> Self {
        let mut bed = Self::new(1);
        steps.iter().for_each(|(editor, change)| bed.step(*editor, change));
        bed
    }

    fn step(&mut self, editor: usize, change: &Change) {
        let doc = &self.editors[editor];
        if matches!(change, Change::Sync) {
            self.sent.iter().for_each(|edit| take(doc, &edit.update));
            return;
        }
        let (text, map) = (doc.get_or_insert_text("text"), doc.get_or_insert_map("map"));
        let (list, xml) = (doc.get_or_insert_array("list"), doc.get_or_insert_xml_fragment("xml"));
        let mut transaction = doc.transact_mut();
        let number = self.sent.len();
        match *change {
            Change::Insert { at, length } => {
                let typed: String = (0..length).map(|index| letter(editor, number + index)).collect();
                let at = boundary(&text, &transaction, at);
                text.insert(&mut transaction, at, &typed);
            }
            Change::Delete { at, len } => {
                let (from, to) = (boundary(&text, &transaction, at), boundary(&text, &transaction, at + len));
                text.remove_range(&mut transaction, from, to - from);
            }
            Change::Format { at, len } => {
                let (from, to) = (boundary(&text, &transaction, at), boundary(&text, &transaction, at + len));
                let bold = yrs::types::Attrs::from([("b".into(), true.into())]);
                text.format(&mut transaction, from, to - from, bold);
            }
            Change::Embed { at } => {
                let at = boundary(&text, &transaction, at);
                text.insert_embed(&mut transaction, at, Any::from(number as i64));
            }
            Change::Set { key, value } => {
                map.insert(&mut transaction, format!("k{key}"), value);
            }
            Change::Push { value } => {
                list.push_back(&mut transaction, value);
            }
            Change::Nest { at, value } => {
                let at = at.min(list.len(&transaction));
                let nested = list.insert(&mut transaction, at, yrs::MapPrelim::default());
                nested.insert(&mut transaction, "v", value);
            }
            Change::Drop { at } => {
                let len = list.len(&transaction);
                if len > 0 {
                    list.remove(&mut transaction, at.min(len - 1));
                }
            }
            Change::Paragraph { at } => {
                let at = at.min(xml.len(&transaction));
                let paragraph = xml.insert(&mut transaction, at, XmlElementPrelim::empty("p"));
                paragraph.insert_attribute(&mut transaction, "align", "left");
                paragraph.insert_attribute(&mut transaction, "level", number as i64);
                paragraph.push_back(&mut transaction, XmlTextPrelim::new(letter(editor, number).to_string()));
            }
            Change::Write { at, length } => {
                let paragraph = xml.get(&transaction, at).and_then(XmlOut::into_xml_element);
                let text = paragraph.and_then(|paragraph| paragraph.first_child()).and_then(XmlOut::into_xml_text);
                if let Some(text) = text {
                    let typed: String = (0..length).map(|index| letter(editor, number + index)).collect();
                    text.insert(&mut transaction, 0, &typed);
                }
            }
            Change::Cut { at } => {
                if at < xml.len(&transaction) {
                    xml.remove_range(&mut transaction, at, 1);
                }
            }
            Change::Sync => unreachable!("done above"),
        }
        transaction.commit();
        let update = transaction.encode_update_v1();
        drop(transaction);
        if !Outline::read(&update).expect("an update").is_empty() {
            self.sent.push(edit(number as i64 + 1, &name(editor), update));
        }
    }

    fn history(&self) -> History {
        History::new(self.sent.clone()).expect("no gap")
    }

    /// Appends a rollback.
    fn roll_back(&mut self, selection: &Selection) -> bool {
        let seq = self.sent.len() as i64 + 1;
        let made = self.history().rollback(selection, &format!("r{seq}")).expect("a rollback");
        let Some(Rollback { update, source }) = made else { return false };
        self.sent.push(SequencedEdit { source, purpose: ROLLBACK.to_owned(), ..edit(seq, "root", update) });
        true
    }
}

fn take(doc: &Doc, update: &[u8]) {
    doc.transact_mut().apply_update(Update::decode_v1(update).expect("an update")).expect("applied");
}

/// The next place that is not within a character.
fn boundary(text: &TextRef, transaction: &impl ReadTxn, at: u32) -> u32 {
    let mut units = 0;
    for part in text.diff(transaction, |_| ()) {
        let lengths: Vec<u32> = match part.insert {
            Out::Any(Any::String(part)) => part.chars().map(|character| character.len_utf16() as u32).collect(),
            _ => vec![1],
        };
        for length in lengths {
            if units >= at {
                return units;
            }
            units += length;
        }
    }
    units
}

/// What a history shows, without roots that are empty.
fn shown(history: &History) -> Map<String, Value> {
    let Some(state) = history.state().expect("a state") else { return Map::new() };
    let roots: Map<String, Value> = serde_json::from_str(&state.roots).expect("JSON");
    roots.into_iter().filter(|(_, root)| ![json!(""), json!([]), json!({})].contains(root)).collect()
}

fn text_of(history: &History) -> String {
    shown(history).get("text").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A character, or an embedded object, with the edits that it came by and went by.
#[derive(Debug, Clone, Copy)]
struct Letter {
    character: Option<char>,
    by: i64,
}

/// The text as a list of single characters, and those that were deleted, by what yrs tells its observers of each edit.
fn letters(edits: &[SequencedEdit]) -> (Vec<Letter>, Vec<(Letter, i64)>) {
    let doc = Doc::with_options(options(99));
    let text = doc.get_or_insert_text("text");
    let deltas = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&deltas);
    text.observe("letters", move |transaction, event| {
        told.lock().expect("no panic").extend(event.delta(transaction).to_vec());
    });
    let (mut there, mut gone) = (Vec::<Letter>::new(), Vec::new());
    for edit in edits {
        take(&doc, &edit.update);
        let mut at = 0;
        // Lengths are in UTF-16 units.
        let count = |there: &[Letter], at: usize, mut units: u32| {
            let mut count = 0;
            while units > 0 {
                units -= there[at + count].character.map_or(1, |character| character.len_utf16() as u32);
                count += 1;
            }
            count
        };
        for delta in std::mem::take(&mut *deltas.lock().expect("no panic")) {
            match delta {
                Delta::Retain(len, _) => at += count(&there, at, len),
                Delta::Deleted(len) => {
                    let end = at + count(&there, at, len);
                    gone.extend(there.drain(at..end).map(|letter| (letter, edit.seq)));
                }
                Delta::Inserted(Out::Any(Any::String(inserted)), _) => {
                    for character in inserted.chars() {
                        there.insert(at, Letter { character: Some(character), by: edit.seq });
                        at += 1;
                    }
                }
                Delta::Inserted(_, _) => {
                    there.insert(at, Letter { character: None, by: edit.seq });
                    at += 1;
                }
            }
        }
    }
    (there, gone)
}

fn counted(characters: impl Iterator<Item = char>) -> BTreeMap<char, usize> {
    let mut counts = BTreeMap::new();
    characters.for_each(|character| *counts.entry(character).or_default() += 1);
    counts
}

fn is_within(part: impl Iterator<Item = char>, whole: &str) -> bool {
    let mut whole = whole.chars();
    part.into_iter().all(|wanted| whole.any(|character| character == wanted))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn blame_names_the_edit_of_every_character(steps in steps()) {
        let history = Bed::run(&steps).history();
        let (expected, _) = letters(history.edits());
        let mut at = 0;
        let expected: Vec<(u32, char, i64)> = expected.iter().filter_map(|letter| {
            let from = at;
            at += letter.character.map_or(1, |character| character.len_utf16() as u32);
            letter.character.map(|character| (from, character, letter.by))
        }).collect();
        let mut told = Vec::new();
        for part in history.blame().expect("a blame") {
            prop_assert_eq!(part.root.as_str(), "text");
            let mut from = part.from;
            for character in part.text.chars() {
                told.push((from, character, part.edit.seq));
                from += character.len_utf16() as u32;
            }
            prop_assert_eq!(from, part.to);
        }
        prop_assert_eq!(told, expected);
    }

    /// Nothing that they typed is left, and all else is there that others have not deleted, in its order.
    #[test]
    fn a_rollback_of_somebody_leaves_what_others_did(steps in typing(), editor in 0..EDITORS, since in proptest::option::of(0..40_i64)) {
        let mut bed = Bed::run(&steps);
        let (there, gone) = letters(&bed.sent);
        let selection = Selection::Actor { actor: name(editor), since: since.map(|since| 1_000 + since) };
        let is_undone = |seq: i64| selection.has(&bed.sent[seq as usize - 1]);
        let stay: Vec<char> =
            there.iter().filter(|letter| !is_undone(letter.by)).filter_map(|letter| letter.character).collect();
        let back = gone.iter().filter(|(letter, by)| !is_undone(letter.by) && is_undone(*by));
        let back = back.filter_map(|(letter, _)| letter.character).collect::<Vec<_>>();
        let before = text_of(&bed.history());
        let has_changed = bed.roll_back(&selection);
        let after = text_of(&bed.history());
        prop_assert_eq!(counted(after.chars()), counted(stay.iter().chain(&back).copied()));
        prop_assert!(is_within(stay.iter().copied(), &after), "{:?} in {}", stay, after);
        prop_assert!(has_changed || before == after);
        // Once more changes nothing, and what has been undone can be done again.
        prop_assert!(!bed.roll_back(&selection));
        prop_assert_eq!(text_of(&bed.history()), after);
        if has_changed {
            let seq = bed.sent.len() as i64;
            bed.roll_back(&Selection::Range { from_seq: seq, to_seq: seq });
            prop_assert_eq!(text_of(&bed.history()), before);
        }
    }

    #[test]
    fn without_its_last_edits_a_document_is_as_before(steps in steps(), last in 1..4_usize) {
        let mut bed = Bed::run(&steps);
        let count = bed.sent.len();
        let kept = count.saturating_sub(last);
        let before = History::new(bed.sent[..kept].to_vec()).expect("no gap");
        bed.roll_back(&Selection::Range { from_seq: kept as i64 + 1, to_seq: count as i64 });
        prop_assert_eq!(shown(&bed.history()), shown(&before));
    }

    /// Both go on after the branch; merged, they are what one has that got all edits.
    #[test]
    fn a_branch_comes_back(steps in steps(), on_source in steps(), on_branch in steps()) {
        let mut source = Bed::run(&steps);
        let state = source.history().state().expect("a state").map(|state| state.state);
        prop_assume!(state.is_some());
        let mut branch = Bed::new(11);
        branch.sent.push(edit(1, "root", state.expect("assumed")));
        (0..EDITORS).for_each(|editor| branch.step(editor, &Change::Sync));
        on_source.iter().for_each(|(editor, change)| source.step(*editor, change));
        on_branch.iter().for_each(|(editor, change)| branch.step(*editor, change));
        let whole = |bed: &Bed| bed.history().state().expect("a state").expect("edits").state;
        let merged = Doc::with_options(options(98));
        source.sent.iter().chain(&branch.sent).for_each(|edit| take(&merged, &edit.update));
        if let Some(update) = merge(&whole(&source), &whole(&branch)).expect("a merge") {
            let seq = source.sent.len() as i64 + 1;
            source.sent.push(edit(seq, "root", update));
        }
        prop_assert_eq!(merge(&whole(&source), &whole(&branch)).expect("a merge"), None);
        let copy = Doc::with_options(options(97));
        take(&copy, &whole(&source));
        for doc in [&merged, &copy] {
            doc.get_or_insert_text("text");
            doc.get_or_insert_map("map");
            doc.get_or_insert_array("list");
            doc.get_or_insert_xml_fragment("xml");
        }
        let kinds = source.history().roots();
        let shown = |doc: &Doc| projection::roots(&doc.transact(), &kinds);
        prop_assert_eq!(shown(&copy), shown(&merged));
        prop_assert_eq!(copy.transact().state_vector(), merged.transact().state_vector());
    }
}

#[test]
fn edits_of_a_history_are_numbered() {
    let numbered = |seqs: &[i64]| History::new(seqs.iter().map(|seq| edit(*seq, "a", vec![0, 0])).collect());
    assert!(numbered(&[]).is_ok_and(|history| history.state().expect("a state").is_none()));
    assert!(numbered(&[1, 2, 3]).is_ok());
    assert!(matches!(numbered(&[1, 3]), Err(HistoryError::Gap { expected: 2, seq: 3 })));
    assert!(matches!(numbered(&[2]), Err(HistoryError::Gap { expected: 1, seq: 2 })));
    let damaged = History::new(vec![edit(1, "a", vec![9, 9])]).expect("no gap");
    assert!(matches!(damaged.blame(), Err(HistoryError::Damaged { seq: 1, .. })));
    assert!(merge(&[0, 0], &[9]).is_err());
}

/// A selection is read back from what a rollback has written down.
#[test]
fn selections_are_json() {
    for (text, selection) in [
        (r#"{"actor":"ada"}"#, Selection::Actor { actor: "ada".to_owned(), since: None }),
        (r#"{"actor":"ada","since":5}"#, Selection::Actor { actor: "ada".to_owned(), since: Some(5) }),
        (r#"{"from_seq":1,"to_seq":2}"#, Selection::Range { from_seq: 1, to_seq: 2 }),
    ] {
        assert_eq!(serde_json::from_str::<Selection>(text).expect("a selection"), selection);
        assert_eq!(serde_json::to_string(&selection).expect("JSON"), text);
    }
    assert!(serde_json::from_str::<Selection>(r#"{"actor":"ada","from_seq":1}"#).is_err());
}
