//! A document as the collaboration service keeps it, without its stores: `Documents::take` and `Open::load`.

use std::collections::BTreeMap;

use crate::containers::{Containers, Misplaced};
use crate::places::Places;
use crate::projection::{self, RootKind};
use crate::replica::Replica;
use crate::yjs::{Coverage, Outline, Relation};

const NESTING_MAX: u16 = 64;

#[derive(Default)]
pub struct Document {
    pub replica: Replica,
    coverage: Coverage,
    containers: Containers,
    places: Places,
    roots: BTreeMap<String, RootKind>,
    pub taken: Vec<Vec<u8>>,
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    Taken,
    Malformed,
    Known,
    Missing,
    TooDeep,
    Misplaced,
    Failed,
}

impl Document {
    pub fn take(&mut self, update: &[u8]) -> Outcome {
        let Ok(outline) = Outline::read(update) else { return Outcome::Malformed };
        match self.coverage.relation(&outline) {
            Relation::Known => return Outcome::Known,
            Relation::Missing(_) => return Outcome::Missing,
            Relation::New => {}
        }
        match self.containers.add(&outline, NESTING_MAX) {
            Ok(()) => {}
            Err(Misplaced::TooDeep) => return Outcome::TooDeep,
            Err(_) => return Outcome::Misplaced,
        }
        let _ = self.places.conflicts(&outline, &self.coverage, false);
        if self.replica.apply(update).is_err() {
            *self = Self::load(&std::mem::take(&mut self.taken));
            return Outcome::Failed;
        }
        self.include(update, &outline);
        Outcome::Taken
    }

    fn include(&mut self, update: &[u8], outline: &Outline<'_>) {
        self.coverage.add(outline);
        self.places.add(outline, self.taken.len() as i64, "");
        for (name, kind) in projection::named_roots(outline) {
            self.roots.entry(name.to_owned()).or_insert(kind);
        }
        self.taken.push(update.to_vec());
    }

    fn load(updates: &[Vec<u8>]) -> Self {
        let mut document = Self::default();
        for update in updates {
            assert_eq!(document.take(update), Outcome::Taken, "what was taken once is taken again");
        }
        document
    }

    /// Goes on from the whole.
    pub fn checkpoint(&mut self) {
        let whole = Self::load(&[self.replica.state()]);
        let roots = std::mem::take(&mut self.roots);
        *self = Self { roots, ..whole };
    }

    pub fn roots(&self) -> serde_json::Map<String, serde_json::Value> {
        self.replica.roots(&self.roots)
    }

    /// The whole is one that can be read and applied, and the updates make the same again.
    ///
    /// A copy made of the whole may show something else: where a forged item names neighbours that cannot be, or half of a
    /// surrogate pair, its place depends on how the updates came. It does among editors, too.
    pub fn check(&self) {
        let state = self.replica.state();
        let outline = Outline::read(&state).expect("the whole can be read");
        let mut coverage = Coverage::default();
        assert!(!matches!(coverage.relation(&outline), Relation::Missing(_)), "the whole has no holes");
        coverage.add(&outline);
        assert!(coverage.clients().eq(self.coverage.clients()), "{coverage:?} {:?}", self.coverage);
        Containers::default().add(&outline, u16::MAX).expect("the whole has its items in place");
        let mut copy = Replica::default();
        copy.apply(&state).expect("the whole can be applied");
        let _ = copy.roots(&self.roots);
        let shown = self.roots();
        let again = Self::load(&self.taken);
        assert_eq!(again.roots(), shown, "the updates make the document again");
        assert_eq!(again.replica.state(), state, "the updates make the same bytes again");
    }
}
