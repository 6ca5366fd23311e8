//! Who wrote which part of a text.
//!
//! An insertion is known for ever by its client and clock, and each edit brings clocks that no other has brought. So the
//! text as it is, with the clocks of its parts, tells by which edits it came.

use std::collections::HashMap;

use engram_schemas::document::SequencedEdit;
use engram_schemas::yjs::update::What;
use yrs::types::text::{Diff, YChange};
use yrs::{Any, Out, ReadTxn, Snapshot, Text, TextRef, Transact};

use super::super::projection::RootKind;
use super::{History, HistoryError};

/// A part of a text that came by one edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blamed<'a> {
    /// The text's name.
    pub root: String,
    /// Where it begins and ends, in UTF-16 code units; an embedded object counts as one.
    pub from: u32,
    pub to: u32,
    pub text: String,
    pub edit: &'a SequencedEdit,
}

impl History {
    /// The texts of the document, each from its beginning to its end. What an edit brought back is that edit's, and all that
    /// a branch has begun with is the branch's.
    pub fn blame(&self) -> Result<Vec<Blamed<'_>>, HistoryError> {
        let authors = Authors::of(self);
        let replica = self.replica()?;
        let mut blamed = Vec::new();
        for (name, _) in self.roots().iter().filter(|(_, kind)| **kind == RootKind::Text) {
            let text = replica.doc().get_or_insert_text(name.as_str());
            let mut at = 0;
            for Diff { insert, ychange, .. } in parts(&replica, &text) {
                let (Out::Any(Any::String(part)), Some(change)) = (insert, ychange) else {
                    at += 1;
                    continue;
                };
                let mut clock = change.id.clock;
                for character in part.chars() {
                    let units = character.len_utf16() as u32;
                    if let Some(index) = authors.of_clock(change.id.client.get(), clock) {
                        self.add(&mut blamed, name, at, character, index);
                    }
                    (at, clock) = (at + units, clock + units);
                }
            }
        }
        Ok(blamed)
    }

    fn add<'a>(&'a self, blamed: &mut Vec<Blamed<'a>>, root: &str, from: u32, character: char, index: usize) {
        let (edit, to) = (&self.edits[index], from + character.len_utf16() as u32);
        match blamed.last_mut() {
            Some(last) if last.root == root && last.to == from && last.edit.seq == edit.seq => {
                last.text.push(character);
                last.to = to;
            }
            _ => blamed.push(Blamed { root: root.to_owned(), from, to, text: character.to_string(), edit }),
        }
    }
}

/// The parts of a text with the clocks at which they begin.
///
/// SUBTLE: yrs names them where it compares two states. Compared are nothing and the whole, never a state of the past.
fn parts(replica: &super::Replica, text: &TextRef) -> Vec<Diff<YChange>> {
    let mut transaction = replica.doc().transact_mut();
    let whole = transaction.snapshot();
    text.diff_range(&mut transaction, Some(&whole), Some(&Snapshot::default()), YChange::identity)
}

/// By client, where the clocks that an edit has brought end, ascending, and the edit's index.
struct Authors(HashMap<u64, Vec<(u32, usize)>>);

impl Authors {
    fn of(history: &History) -> Self {
        let mut clients = HashMap::<u64, Vec<(u32, usize)>>::new();
        for (index, outline) in history.outlines() {
            for part in outline.structs.iter().filter(|part| part.what != What::LeftOut) {
                let known = clients.entry(part.id.client).or_default();
                if known.last().is_none_or(|(end, _)| *end < part.end()) {
                    known.push((part.end(), index));
                }
            }
        }
        Self(clients)
    }

    fn of_clock(&self, client: u64, clock: u32) -> Option<usize> {
        let known = self.0.get(&client)?;
        known.get(known.partition_point(|(end, _)| *end <= clock)).map(|(_, index)| *index)
    }
}
