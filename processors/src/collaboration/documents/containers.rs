//! What each item of a document is in: a root, or another item, and there perhaps at a key.
//!
//! An item names its neighbours, and is in what they are in. No editor names two that are in different things, and yrs does
//! not look: it would hang such an item into one list and count it to the other, and hold on to a type after it was deleted,
//! which is undefined behaviour. Nor may types be nested without bound: what is deleted or shown goes down all of them, on
//! the stack.
//!
//! INVARIANT: what was taken in has for each item one container, and no container is within itself.

use std::collections::{BTreeMap, HashMap};

use engram_schemas::yjs::update::{Id, Item, Outline, Parent, Struct, What};
use thiserror::Error;

/// What an update says of the places of its items cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Misplaced {
    #[error("shared types are nested too deeply")]
    TooDeep,
    #[error("the neighbours of an item are not in the same")]
    Apart,
    #[error("an item is within itself")]
    Circle,
}

/// By index: see `Containers`.
type Container = usize;

/// Of what was deleted and forgotten.
const GONE: Container = 0;

/// The containers of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containers {
    /// By client and first clock: the clock after the last, and what they are in.
    items: BTreeMap<(u64, u32), (u32, Container)>,
    indexes: HashMap<(Holder, Option<String>), Container>,
    /// How many types are around each container.
    depths: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Holder {
    Root(String),
    Item(Id),
}

impl Default for Containers {
    fn default() -> Self {
        Self { items: BTreeMap::new(), indexes: HashMap::new(), depths: vec![0] }
    }
}

impl Containers {
    /// Takes in an update whose causes are there. Nothing is taken in if something in it is misplaced, or in more than
    /// `depth_max` types.
    pub fn add(&mut self, update: &Outline<'_>, depth_max: u16) -> Result<(), Misplaced> {
        let before = self.depths.len();
        match self.containers(&update.structs, depth_max) {
            Ok(containers) => {
                update.structs.iter().zip(containers).for_each(|(part, container)| self.put(part, container));
                Ok(())
            }
            Err(misplaced) => {
                self.depths.truncate(before);
                self.indexes.retain(|_, container| *container < before);
                Err(misplaced)
            }
        }
    }

    /// The container of each struct. One may be beside what another client inserts, further back in the update, so that
    /// each is followed to something that is known.
    fn containers(&mut self, parts: &[Struct<'_>], depth_max: u16) -> Result<Vec<Container>, Misplaced> {
        let by_start: BTreeMap<(u64, u32), usize> = if parts.len() > 1 {
            parts.iter().enumerate().map(|(index, part)| ((part.id.client, part.id.clock), index)).collect()
        } else {
            BTreeMap::new()
        };
        let mut found: Vec<Option<Container>> = vec![None; parts.len()];
        let mut path = Vec::new();
        for first in 0..parts.len() {
            path.push(first);
            while let Some(&index) = path.last() {
                if found[index].is_some() {
                    path.pop();
                    continue;
                }
                let known = |id: Id| {
                    self.of(id).map_or_else(
                        || match find(parts, &by_start, id) {
                            Some(next) => found[next].ok_or(next),
                            None => Ok(GONE),
                        },
                        Ok,
                    )
                };
                match needed(&parts[index]).map(|id| id.map(known).transpose()) {
                    [Ok(left), Ok(right)] => {
                        found[index] = Some(self.settle(&parts[index], left, right, depth_max)?);
                    }
                    // INVARIANT: a path without a circle has each struct once.
                    _ if path.len() > parts.len() => return Err(Misplaced::Circle),
                    [Err(next), _] | [_, Err(next)] => path.push(next),
                }
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// The container of a struct, from those of what it names.
    fn settle(
        &mut self,
        part: &Struct<'_>,
        left: Option<Container>,
        right: Option<Container>,
        depth_max: u16,
    ) -> Result<Container, Misplaced> {
        let What::Item(item) = &part.what else { return Ok(GONE) };
        let container = match (item.parent, left, right) {
            (Some(Parent::Root(name)), ..) => self.index(Holder::Root(name.to_owned()), item, 0),
            (Some(Parent::Item(id)), around, _) => {
                let depth = self.depths[around.unwrap_or(GONE)].saturating_add(1);
                self.index(Holder::Item(id), item, depth)
            }
            (None, Some(left), Some(right)) if left == right || right == GONE => left,
            (None, Some(GONE), Some(right)) => right,
            (None, Some(_), Some(_)) => return Err(Misplaced::Apart),
            (None, left, right) => left.or(right).unwrap_or(GONE),
        };
        if self.depths[container] > depth_max {
            return Err(Misplaced::TooDeep);
        }
        // Where its beginning is there already, the rest goes beside the last of that.
        let next = self.next(part.id.client);
        let is_half = part.id.clock < next && next < part.end();
        let beside = if is_half { self.of(Id { clock: next - 1, ..part.id }) } else { None };
        match beside {
            Some(beside) if ![GONE, container].contains(&beside) => Err(Misplaced::Apart),
            _ => Ok(container),
        }
    }

    fn index(&mut self, holder: Holder, item: &Item<'_>, depth: u16) -> Container {
        let next = self.depths.len();
        let index = *self.indexes.entry((holder, item.key.map(str::to_owned))).or_insert(next);
        if index == next {
            self.depths.push(depth);
        }
        index
    }

    /// What an item is in that was taken in.
    fn of(&self, id: Id) -> Option<Container> {
        let (_, (end, container)) = self.items.range((id.client, 0)..=(id.client, id.clock)).next_back()?;
        (id.clock < *end).then_some(*container)
    }

    fn next(&self, client: u64) -> u32 {
        let last = self.items.range((client, 0)..=(client, u32::MAX)).next_back();
        last.map_or(0, |(_, (end, _))| *end)
    }

    fn put(&mut self, part: &Struct<'_>, container: Container) {
        let client = part.id.client;
        let last = self.items.range_mut((client, 0)..=(client, u32::MAX)).next_back();
        let start = last.as_ref().map_or(0, |(_, (end, _))| *end);
        match last {
            _ if part.end() <= start => {}
            // What is typed goes on where the last character was.
            Some((_, (end, known))) if *known == container => *end = part.end(),
            _ => {
                self.items.insert((client, start.max(part.id.clock)), (part.end(), container));
            }
        }
    }
}

/// The items by which a struct's container is known.
fn needed(part: &Struct<'_>) -> [Option<Id>; 2] {
    match &part.what {
        What::Item(Item { parent: Some(Parent::Item(id)), .. }) => [Some(*id), None],
        What::Item(item) => [item.origin, item.right_origin],
        _ => [None; 2],
    }
}

fn find(parts: &[Struct<'_>], by_start: &BTreeMap<(u64, u32), usize>, id: Id) -> Option<usize> {
    let (_, index) = by_start.range((id.client, 0)..=(id.client, id.clock)).next_back()?;
    (id.clock < parts[*index].end()).then_some(*index)
}

#[cfg(test)]
mod tests {
    use engram_schemas::yjs::update::Content;

    use super::*;

    fn id(client: u64, clock: u32) -> Id {
        Id { client, clock }
    }

    fn item(at: Id, len: u32, neighbours: [Option<Id>; 2], parent: Option<Parent<'static>>) -> Struct<'static> {
        let [origin, right_origin] = neighbours;
        let item = Item { origin, right_origin, parent, key: None, content: Content::Type };
        Struct { id: at, len, what: What::Item(item) }
    }

    fn inside(at: Id, parent: Parent<'static>) -> Struct<'static> {
        item(at, 1, [None; 2], Some(parent))
    }

    fn between(at: Id, left: Id, right: Id) -> Struct<'static> {
        item(at, 1, [Some(left), Some(right)], None)
    }

    fn update(structs: Vec<Struct<'static>>) -> Outline<'static> {
        Outline { structs, deleted: vec![] }
    }

    #[test]
    fn depth_is_counted_through_parents_and_neighbours_in_any_order() {
        let root = inside(id(1, 0), Parent::Root("r"));
        let inner = inside(id(1, 1), Parent::Item(id(2, 0)));
        let outer = inside(id(2, 0), Parent::Item(id(1, 0)));
        let beside = item(id(2, 1), 1, [Some(id(1, 1)), None], None);
        let all = update(vec![root, inner, outer, beside]);
        let mut containers = Containers::default();
        assert_eq!(containers.add(&all, 1), Err(Misplaced::TooDeep));
        assert_eq!(containers, Containers::default());
        assert_eq!(containers.add(&all, 2), Ok(()));
        let depths =
            [id(1, 0), id(1, 1), id(2, 0), id(2, 1)].map(|id| containers.depths[containers.of(id).expect("in")]);
        assert_eq!(depths, [0, 2, 1, 2]);
        let deeper = update(vec![inside(id(3, 0), Parent::Item(id(2, 1)))]);
        assert_eq!(containers.add(&deeper, 2), Err(Misplaced::TooDeep));
        assert_eq!(containers.add(&deeper, 3), Ok(()));
    }

    #[test]
    fn a_circle_is_refused() {
        let one = inside(id(1, 0), Parent::Item(id(2, 0)));
        let other = inside(id(2, 0), Parent::Item(id(1, 0)));
        assert_eq!(Containers::default().add(&update(vec![one, other]), u16::MAX), Err(Misplaced::Circle));
    }

    #[test]
    fn neighbours_are_in_the_same() {
        let mut containers = Containers::default();
        let there = ["a", "b"].map(|root| inside(id(1, u32::from(root == "b")), Parent::Root(root)));
        let gone = Struct { id: id(1, 2), len: 1, what: What::Gone };
        assert_eq!(containers.add(&update([there.to_vec(), vec![gone]].concat()), 1), Ok(()));
        let apart = update(vec![between(id(2, 0), id(1, 0), id(1, 1))]);
        assert_eq!(containers.add(&apart, 1), Err(Misplaced::Apart));
        let beside_gone = update(vec![between(id(2, 0), id(1, 0), id(1, 2)), between(id(2, 1), id(2, 0), id(1, 0))]);
        assert_eq!(containers.add(&beside_gone, 1), Ok(()));
        // An item of another root, the beginning of which is there as one of the first.
        let rest = |root| update(vec![item(id(2, 1), 3, [None; 2], Some(Parent::Root(root)))]);
        assert_eq!(containers.add(&rest("b"), 1), Err(Misplaced::Apart));
        assert_eq!(containers.add(&rest("a"), 1), Ok(()));
        assert_eq!(containers.next(2), 4);
    }
}
