//! Git's replica of a document: which client inserted each character at which clock, deleted ones included, in the order of
//! the document. The characters themselves are in the repository.
//!
//! INVARIANT: the order is the one that Yjs gives what git has written, so that an insertion's neighbours here are those that
//! an editor would have had, and the same edits are written as the same bytes.

use std::collections::BTreeMap;

use engram_schemas::yjs::Outline;
use engram_schemas::yjs::update::{Id, What};

use super::difference::{Change, units};
use super::update::Update;

/// UTF-16 code units in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    client: u32,
    clock: u32,
    len: u32,
    is_deleted: bool,
}

impl Run {
    fn end(&self) -> u32 {
        self.clock + self.len
    }

    fn first(&self) -> Id {
        Id { client: self.client.into(), clock: self.clock }
    }

    fn last(&self) -> Id {
        Id { client: self.client.into(), clock: self.end() - 1 }
    }

    fn has(&self, id: Id) -> bool {
        u64::from(self.client) == id.client && (self.clock..self.end()).contains(&id.clock)
    }

    /// Its first `len` units, and the others.
    fn split(self, len: u32) -> (Self, Self) {
        (Self { len, ..self }, Self { clock: self.clock + len, len: self.len - len, ..self })
    }
}

/// A document, without its characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    runs: Runs,
    /// The clock of each client's next insertion.
    next: BTreeMap<u32, u32>,
}

impl Pieces {
    /// How long the text is, UTF-16 code units.
    pub fn units(&self) -> u64 {
        self.runs.0.iter().filter(|run| !run.is_deleted).map(|run| u64::from(run.len)).sum()
    }

    /// Makes changes, which have something between them, as an update of `client`.
    pub fn edit(&mut self, client: u32, changes: &[Change<'_>]) -> Vec<u8> {
        let mut clock = self.next.get(&client).copied().unwrap_or(0);
        let mut update = Update::new(client, clock);
        let mut left = Cursor::new(std::mem::take(&mut self.runs));
        let mut done = 0;
        for change in changes {
            left.keep(change.at - done);
            if !change.inserted.is_empty() {
                let origin = left.passed.0.last().filter(|_| change.at > 0).map(Run::last);
                update.insert(origin, left.next.as_ref().map(Run::first), change.inserted);
                let run = Run { client, clock, len: units(change.inserted), is_deleted: false };
                clock = run.end();
                self.next.insert(client, clock);
                left.passed.push(run);
            }
            left.delete(change.removed, &mut update);
            done = change.at + change.removed;
        }
        self.runs = left.end();
        update.into_bytes()
    }

    /// Takes in an update that was written by `edit`, once or again. `None` if it cannot be one that follows.
    pub fn apply(&mut self, update: &Outline<'_>) -> Option<()> {
        for part in &update.structs {
            let What::Item(item) = &part.what else { return None };
            let client = u32::try_from(part.id.client).ok()?;
            let next = self.next.entry(client).or_default();
            if part.end() <= *next {
                continue;
            }
            if part.id.clock != *next {
                return None;
            }
            *next = part.end();
            let index = match item.origin {
                None => 0,
                Some(origin) => self.runs.split_after(origin)?,
            };
            self.runs.0.insert(index, Run { client, clock: part.id.clock, len: part.len, is_deleted: false });
        }
        let mut passed = Runs::default();
        for mut run in std::mem::take(&mut self.runs.0) {
            // They are ordered by client and clock, as `Update` has written them.
            let from = update
                .deleted
                .partition_point(|(client, range)| (*client, range.end) <= (u64::from(run.client), run.clock));
            for (client, range) in &update.deleted[from..] {
                if *client != u64::from(run.client) || range.start >= run.end() {
                    break;
                }
                let (before, rest) = run.split(range.start.saturating_sub(run.clock));
                let (deleted, rest) = rest.split(range.end.min(rest.end()) - rest.clock);
                passed.push(before);
                passed.push(Run { is_deleted: true, ..deleted });
                run = rest;
            }
            passed.push(run);
        }
        self.runs = passed;
        Some(())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Runs(Vec<Run>);

impl Runs {
    /// Appends a run, to the last one if it goes on with it.
    fn push(&mut self, run: Run) {
        match self.0.last_mut() {
            _ if run.len == 0 => {}
            Some(last) if (last.client, last.end(), last.is_deleted) == (run.client, run.clock, run.is_deleted) => {
                last.len += run.len;
            }
            _ => self.0.push(run),
        }
    }

    /// The index right after a unit.
    fn split_after(&mut self, id: Id) -> Option<usize> {
        let index = self.0.iter().position(|run| run.has(id))?;
        let run = self.0[index];
        let (before, after) = run.split(id.clock + 1 - run.clock);
        if after.len > 0 {
            self.0[index] = before;
            self.0.insert(index + 1, after);
        }
        Some(index + 1)
    }
}

/// A place in a document that is changed from its beginning to its end.
struct Cursor {
    passed: Runs,
    next: Option<Run>,
    rest: std::vec::IntoIter<Run>,
}

impl Cursor {
    fn new(runs: Runs) -> Self {
        let mut rest = runs.0.into_iter();
        Self { passed: Runs::default(), next: rest.next(), rest }
    }

    /// Passes so many units of the text.
    fn keep(&mut self, count: u32) {
        self.pass(count, |run| run);
    }

    fn delete(&mut self, count: u32, update: &mut Update) {
        self.pass(count, |run| {
            update.delete(run.client, run.clock..run.end());
            Run { is_deleted: true, ..run }
        });
    }

    /// What is deleted lies before the units that are passed, or between them, never behind.
    fn pass(&mut self, mut count: u32, mut change: impl FnMut(Run) -> Run) {
        while count > 0 {
            let run = self.next.take().expect("changes are within the text");
            let (passed, left) = if run.is_deleted { (run, None) } else { cut(run, count) };
            if !passed.is_deleted {
                count -= passed.len;
            }
            self.passed.push(if passed.is_deleted { passed } else { change(passed) });
            self.next = left.or_else(|| self.rest.next());
        }
    }

    fn end(mut self) -> Runs {
        for run in self.next.into_iter().chain(self.rest) {
            self.passed.push(run);
        }
        self.passed
    }
}

/// At most `len` units of a run, and what is left of it.
fn cut(run: Run, len: u32) -> (Run, Option<Run>) {
    if run.len <= len {
        return (run, None);
    }
    let (before, after) = run.split(len);
    (before, Some(after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use yrs::updates::decoder::Decode;
    use yrs::{Doc, GetString, OffsetKind, Options, ReadTxn, Transact, Update as YrsUpdate};

    use super::super::difference::changes;
    use super::super::tests::texts;
    use super::*;

    fn editor() -> Doc {
        let client = yrs::block::ClientID::new(7);
        Doc::with_options(Options { offset_kind: OffsetKind::Utf16, ..Options::with_client_id(client) })
    }

    fn take(doc: &Doc, update: &[u8]) -> String {
        let mut transaction = doc.transact_mut();
        transaction.apply_update(YrsUpdate::decode_v1(update).expect("an update")).expect("it fits");
        assert!(!transaction.has_missing_updates());
        transaction.get_text("text").map(|text| text.get_string(&transaction)).unwrap_or_default()
    }

    #[test]
    fn the_bytes_of_an_update() {
        let mut pieces = Pieces::default();
        let inserted = [1, 1, 5, 0, 4, 1, 4, b't', b'e', b'x', b't', 2, b'a', b'b', 0];
        assert_eq!(pieces.edit(5, &changes("", "ab")), inserted);
        // Behind 5:1, with nothing to the right; nothing is deleted.
        assert_eq!(pieces.edit(6, &changes("ab", "abc")), [1, 1, 6, 0, 0x84, 5, 1, 1, b'c', 0]);
        // All of it goes: one range of 5, one of 6.
        assert_eq!(pieces.edit(5, &changes("abc", "")), [0, 2, 5, 1, 0, 2, 6, 1, 0, 1]);
        assert_eq!(pieces.units(), 0);
    }

    proptest! {
        /// Through a whole history, by several authors: an editor that takes the updates has the text; so has a replica that
        /// is read back from them, which then goes on as the first one; and all of it comes out as the same bytes again.
        #[test]
        fn updates_make_the_texts((texts, authors) in (texts(), proptest::collection::vec(0..3_u32, 12))) {
            let (mut pieces, mut again, mut read_back) = (Pieces::default(), Pieces::default(), Pieces::default());
            let doc = editor();
            let mut old = String::new();
            for (new, author) in texts.iter().zip(authors) {
                let changes = changes(&old, new);
                if changes.is_empty() {
                    continue;
                }
                let update = pieces.edit(author, &changes);
                prop_assert_eq!(&again.edit(author, &changes), &update);
                prop_assert_eq!(&take(&doc, &update), new);
                prop_assert_eq!(pieces.units(), new.encode_utf16().count() as u64);
                let outline = Outline::read(&update).expect("an outline");
                prop_assert!(read_back.apply(&outline).is_some());
                prop_assert_eq!(&read_back, &pieces);
                // As after dead letters were sent back.
                prop_assert!(read_back.apply(&outline).is_some());
                prop_assert_eq!(&read_back, &pieces);
                old.clone_from(new);
            }
        }
    }

    #[test]
    fn what_does_not_follow_is_refused() {
        let mut pieces = Pieces::default();
        pieces.edit(5, &changes("", "ab"));
        let later = pieces.edit(5, &changes("ab", "abc"));
        assert_eq!(Pieces::default().apply(&Outline::read(&later).expect("an outline")), None);
    }
}
