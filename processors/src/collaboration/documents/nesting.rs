//! How deeply the shared types of a document are nested: what is deleted or shown goes down all of it, on the stack.

use std::collections::BTreeMap;

use engram_schemas::yjs::update::{Id, Outline, Parent, Struct, What};

/// Which clocks are inside of nested types, and how deep. What is not here is right in a root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nesting {
    /// By client and first clock: the clock after the last, and how many types are around it.
    inside: BTreeMap<(u64, u32), (u32, u16)>,
}

/// Where a struct is, seen from itself.
enum Seat {
    Root,
    /// In the type that this item is.
    In(Id),
    /// In the type that this item is in.
    Beside(Id),
}

impl Nesting {
    /// Takes in an update; `None`, and nothing is taken in, if something in it is deeper than `max`.
    pub fn add(&mut self, update: &Outline<'_>, max: u16) -> Option<()> {
        // Most documents have no type inside of another.
        let nests = |part: &Struct<'_>| matches!(seat(part), Seat::In(_));
        if self.inside.is_empty() && !update.structs.iter().any(nests) {
            return Some(());
        }
        let depths = self.depths(update)?;
        if depths.iter().any(|depth| *depth > max) {
            return None;
        }
        for (part, depth) in update.structs.iter().zip(depths) {
            if depth > 0 {
                self.put(part, depth);
            }
        }
        Some(())
    }

    /// The depth of each struct. One may be in what another client inserts, further back in the update, so that each is
    /// followed to something that is known. `None`: they go round in a circle.
    fn depths(&self, update: &Outline<'_>) -> Option<Vec<u16>> {
        let parts = &update.structs;
        let by_start: BTreeMap<(u64, u32), usize> =
            parts.iter().enumerate().map(|(index, part)| ((part.id.client, part.id.clock), index)).collect();
        let find = |id: Id| {
            let (_, index) = by_start.range((id.client, 0)..=(id.client, id.clock)).next_back()?;
            (id.clock < parts[*index].end()).then_some(*index)
        };
        let mut depths: Vec<Option<u16>> = vec![None; parts.len()];
        for first in 0..parts.len() {
            let mut path = vec![first];
            while let Some(&index) = path.last() {
                if depths[index].is_some() {
                    path.pop();
                    continue;
                }
                let (id, around) = match seat(&parts[index]) {
                    Seat::Root => {
                        depths[index] = Some(0);
                        continue;
                    }
                    Seat::In(id) => (id, 1),
                    Seat::Beside(id) => (id, 0),
                };
                match find(id) {
                    Some(next) => match depths[next] {
                        Some(depth) => depths[index] = Some(depth.saturating_add(around)),
                        // INVARIANT: a path without a circle has each struct once.
                        None if path.len() > parts.len() => return None,
                        None => path.push(next),
                    },
                    None => depths[index] = Some(self.depth(id).saturating_add(around)),
                }
            }
        }
        depths.into_iter().collect()
    }

    fn depth(&self, id: Id) -> u16 {
        let before = self.inside.range((id.client, 0)..=(id.client, id.clock)).next_back();
        before.filter(|(_, (end, _))| id.clock < *end).map_or(0, |(_, (_, depth))| *depth)
    }

    fn put(&mut self, part: &Struct<'_>, depth: u16) {
        let Id { client, clock } = part.id;
        let mut before = self.inside.range_mut((client, 0)..=(client, clock));
        match before.next_back() {
            // What is typed goes on where the last character was.
            Some((_, (end, known))) if *known == depth && *end >= clock => *end = (*end).max(part.end()),
            _ => {
                self.inside.insert((client, clock), (part.end(), depth));
            }
        }
    }
}

fn seat(part: &Struct<'_>) -> Seat {
    let What::Item(item) = &part.what else { return Seat::Root };
    match (item.parent, item.origin.or(item.right_origin)) {
        (Some(Parent::Item(id)), _) => Seat::In(id),
        (None, Some(id)) => Seat::Beside(id),
        _ => Seat::Root,
    }
}

#[cfg(test)]
mod tests {
    use engram_schemas::yjs::update::{Content, Item};

    use super::*;

    fn item(client: u64, clock: u32, origin: Option<Id>, parent: Option<Parent<'static>>) -> Struct<'static> {
        let item = Item { origin, right_origin: None, parent, key: None, content: Content::Type };
        Struct { id: Id { client, clock }, len: 1, what: What::Item(item) }
    }

    fn update(structs: Vec<Struct<'static>>) -> Outline<'static> {
        Outline { structs, deleted: vec![] }
    }

    #[test]
    fn depth_is_counted_through_parents_and_neighbours_in_any_order() {
        let id = |client, clock| Id { client, clock };
        let root = item(1, 0, None, Some(Parent::Root("r")));
        let inner = item(1, 1, None, Some(Parent::Item(id(2, 0))));
        let outer = item(2, 0, None, Some(Parent::Item(id(1, 0))));
        let beside = item(2, 1, Some(id(1, 1)), None);
        let all = || update(vec![root.clone(), inner.clone(), outer.clone(), beside.clone()]);
        let mut nesting = Nesting::default();
        assert_eq!(nesting.add(&all(), 1), None);
        assert_eq!(nesting, Nesting::default());
        assert_eq!(nesting.add(&all(), 2), Some(()));
        assert_eq!(
            [(1, 0), (1, 1), (2, 0), (2, 1)].map(|(client, clock)| nesting.depth(id(client, clock))),
            [0, 2, 1, 2]
        );
        let deeper = || update(vec![item(3, 0, None, Some(Parent::Item(id(2, 1))))]);
        assert_eq!(nesting.add(&deeper(), 2), None);
        assert_eq!(nesting.add(&deeper(), 3), Some(()));
        assert_eq!(nesting.depth(id(3, 0)), 3);
    }

    #[test]
    fn a_circle_has_no_depth() {
        let one = item(1, 0, None, Some(Parent::Item(Id { client: 2, clock: 0 })));
        let other = item(2, 0, None, Some(Parent::Item(Id { client: 1, clock: 0 })));
        assert_eq!(Nesting::default().add(&update(vec![one, other]), u16::MAX), None);
    }
}
