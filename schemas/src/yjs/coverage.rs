//! What of the clients' insertions and deletions a document has, by which an update is new, known, or ahead of what it
//! builds on.

use std::collections::BTreeMap;
use std::ops::Range;

use super::update::{Id, Outline, Parent, Struct, What};

/// The insertions and deletions that a document has. It has no holes: of each client it knows a beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// For each client the clock that its next insertion will have.
    next: BTreeMap<u64, u32>,
    deleted: BTreeMap<u64, Ranges>,
}

/// How an update stands to what is covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relation {
    /// It brings something, and what it builds on is there.
    New,
    /// It brings nothing.
    Known,
    /// It builds on this, which is not there.
    Missing(Id),
}

impl Coverage {
    /// The clock of a client's next insertion.
    pub fn next(&self, client: u64) -> u32 {
        self.next.get(&client).copied().unwrap_or(0)
    }

    /// Clients with the clocks of their next insertions, ascending.
    pub fn clients(&self) -> impl Iterator<Item = (u64, u32)> {
        self.next.iter().map(|(client, next)| (*client, *next))
    }

    pub fn is_deleted(&self, id: Id) -> bool {
        self.deleted.get(&id.client).is_some_and(|ranges| ranges.contains(&(id.clock..id.clock + 1)))
    }

    /// The first range of an update's deletions, or a part of one, that was deleted before.
    pub fn deleted_before(&self, client: u64, range: &Range<u32>) -> Option<Range<u32>> {
        self.deleted.get(&client)?.first_overlap(range)
    }

    /// Compares an update with what is there.
    pub fn relation(&self, update: &Outline<'_>) -> Relation {
        let mut after = BTreeMap::<u64, u32>::new();
        for part in &update.structs {
            let next = after.entry(part.id.client).or_insert_with(|| self.next(part.id.client));
            match part.what {
                // A hole is no hole where it is filled already.
                What::LeftOut if part.end() <= *next => {}
                What::LeftOut => return Relation::Missing(Id { client: part.id.client, clock: *next }),
                _ if part.id.clock > *next => return Relation::Missing(Id { client: part.id.client, clock: *next }),
                _ => *next = (*next).max(part.end()),
            }
        }
        let has = |id: Id| id.clock < after.get(&id.client).copied().unwrap_or_else(|| self.next(id.client));
        for part in &update.structs {
            if let Some(missing) = causes(part).into_iter().flatten().find(|id| !has(*id)) {
                return Relation::Missing(missing);
            }
        }
        for (client, range) in &update.deleted {
            let last = Id { client: *client, clock: range.end - 1 };
            if !has(last) {
                return Relation::Missing(last);
            }
        }
        let brings = after.iter().any(|(client, next)| *next > self.next(*client))
            || update
                .deleted
                .iter()
                .any(|(client, range)| !self.deleted.get(client).is_some_and(|ranges| ranges.contains(range)));
        if brings { Relation::New } else { Relation::Known }
    }

    /// Takes in an update that is `New`.
    pub fn add(&mut self, update: &Outline<'_>) {
        for part in &update.structs {
            if part.what != What::LeftOut {
                let next = self.next.entry(part.id.client).or_default();
                *next = (*next).max(part.end());
            }
        }
        for (client, range) in &update.deleted {
            self.deleted.entry(*client).or_default().insert(range);
        }
    }
}

/// What a struct builds on.
fn causes(part: &Struct<'_>) -> [Option<Id>; 3] {
    match &part.what {
        What::Item(item) => {
            let parent = match item.parent {
                Some(Parent::Item(id)) => Some(id),
                _ => None,
            };
            [item.origin, item.right_origin, parent]
        }
        _ => [None; 3],
    }
}

/// Disjoint ranges with gaps between them, by their starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges(BTreeMap<u32, u32>);

impl Ranges {
    fn contains(&self, range: &Range<u32>) -> bool {
        self.0.range(..=range.start).next_back().is_some_and(|(_, end)| *end >= range.end)
    }

    fn first_overlap(&self, range: &Range<u32>) -> Option<Range<u32>> {
        let before = self.0.range(..=range.start).next_back().filter(|(_, end)| **end > range.start);
        let (start, end) = before.or_else(|| self.0.range(range.clone()).next())?;
        Some((*start).max(range.start)..(*end).min(range.end))
    }

    fn insert(&mut self, range: &Range<u32>) {
        let (mut start, mut end) = (range.start, range.end);
        if let Some((before, before_end)) = self.0.range(..=start).next_back()
            && *before_end >= start
        {
            start = *before;
            end = end.max(*before_end);
        }
        while let Some((next, next_end)) = self.0.range(start..=end).next().map(|(next, end)| (*next, *end)) {
            self.0.remove(&next);
            end = end.max(next_end);
        }
        self.0.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::yjs::update::{Content, Item};

    fn inserted(client: u64, clock: u32, len: u32, origin: Option<Id>) -> Struct<'static> {
        let parent = origin.is_none().then_some(Parent::Root("text"));
        let item = Item { origin, right_origin: None, parent, key: None, content: Content::Text };
        Struct { id: Id { client, clock }, len, what: What::Item(item) }
    }

    #[test]
    fn an_update_is_new_known_or_ahead() {
        let mut coverage = Coverage::default();
        let id = |client, clock| Id { client, clock };
        let first = Outline { structs: vec![inserted(1, 0, 3, None)], deleted: vec![] };
        assert_eq!(coverage.relation(&first), Relation::New);
        coverage.add(&first);
        assert_eq!(coverage.relation(&first), Relation::Known);
        let gap = Outline { structs: vec![inserted(1, 4, 1, None)], deleted: vec![] };
        assert_eq!(coverage.relation(&gap), Relation::Missing(id(1, 3)));
        let beside = |origin| Outline { structs: vec![inserted(2, 0, 1, Some(origin))], deleted: vec![] };
        assert_eq!(coverage.relation(&beside(id(1, 2))), Relation::New);
        assert_eq!(coverage.relation(&beside(id(1, 3))), Relation::Missing(id(1, 3)));
        assert_eq!(coverage.relation(&beside(id(3, 0))), Relation::Missing(id(3, 0)));
        let overlapping = Outline { structs: vec![inserted(1, 1, 4, None)], deleted: vec![] };
        assert_eq!(coverage.relation(&overlapping), Relation::New);
        let deletion = |range| Outline { structs: vec![], deleted: vec![(1, range)] };
        assert_eq!(coverage.relation(&deletion(1..4)), Relation::Missing(id(1, 3)));
        assert_eq!(coverage.relation(&deletion(1..3)), Relation::New);
        coverage.add(&deletion(1..3));
        assert_eq!(coverage.relation(&deletion(2..3)), Relation::Known);
        assert!(coverage.is_deleted(id(1, 1)) && !coverage.is_deleted(id(1, 0)));
        let hole = Struct { id: id(1, 3), len: 2, what: What::LeftOut };
        let with_hole = Outline { structs: vec![hole, inserted(1, 5, 1, None)], deleted: vec![] };
        assert_eq!(coverage.relation(&with_hole), Relation::Missing(id(1, 3)));
    }

    proptest! {
        /// Against a set of single clocks.
        #[test]
        fn ranges_are_a_set(inserts in proptest::collection::vec((0..40_u32, 1..8_u32), 0..20), asked in (0..40_u32, 1..8_u32)) {
            let mut ranges = Ranges::default();
            let mut model = std::collections::BTreeSet::new();
            for (start, len) in inserts {
                ranges.insert(&(start..start + len));
                model.extend(start..start + len);
            }
            let asked = asked.0..asked.0 + asked.1;
            prop_assert_eq!(ranges.contains(&asked), asked.clone().all(|clock| model.contains(&clock)));
            let first = asked.clone().find(|clock| model.contains(clock));
            let overlap = ranges.first_overlap(&asked);
            prop_assert_eq!(overlap.as_ref().map(|range| range.start), first);
            prop_assert!(overlap.is_none_or(|range| range.clone().all(|clock| model.contains(&clock)) && asked.end >= range.end));
            let told: Vec<u32> = ranges.0.iter().flat_map(|(start, end)| *start..*end).collect();
            prop_assert_eq!(told, model.into_iter().collect::<Vec<_>>());
        }
    }
}
