//! Where in parallel lists of nodes the node of a tree and a number stands.

use std::collections::HashMap;
use std::ops::Range;

use super::malformed;
use crate::error::ModelError;

pub struct Rows<'a> {
    ids: &'a [i64],
    trees: HashMap<i64, Tree>,
    /// The first row of each tree, in the file's order.
    pub roots: Vec<usize>,
}

struct Tree {
    rows: Range<usize>,
    /// Empty if the ids are 0, 1, 2, .. as every converter numbers them: of millions of nodes a map would take most of the time.
    by_id: HashMap<i64, usize>,
}

impl<'a> Rows<'a> {
    /// The lists are of one length.
    pub fn new(trees: &[i64], ids: &'a [i64]) -> Result<Self, ModelError> {
        let mut rows = Self { ids, trees: HashMap::new(), roots: Vec::new() };
        let mut start = 0;
        for run in trees.chunk_by(|a, b| a == b) {
            let range = start..start + run.len();
            let is_counted = ids[range.clone()].iter().zip(0..).all(|(id, expected)| *id == expected);
            let mut by_id = HashMap::new();
            for row in range.clone().filter(|_| !is_counted) {
                if by_id.insert(ids[row], row).is_some() {
                    return Err(malformed(format!("tree {} has two nodes {}", run[0], ids[row])));
                }
            }
            rows.roots.push(start);
            start = range.end;
            if rows.trees.insert(run[0], Tree { rows: range, by_id }).is_some() {
                return Err(malformed(format!("the nodes of tree {} are not together", run[0])));
            }
        }
        Ok(rows)
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn find(&self, tree: i64, id: i64) -> Result<usize, ModelError> {
        let row = self.trees.get(&tree).and_then(|tree| {
            let counted = usize::try_from(id).ok().and_then(|id| tree.rows.clone().nth(id));
            counted.filter(|row| self.ids[*row] == id).or_else(|| tree.by_id.get(&id).copied())
        });
        row.ok_or_else(|| malformed(format!("node {id} of tree {tree} is not there")))
    }
}

#[cfg(test)]
mod tests {
    use super::Rows;

    #[test]
    fn nodes_are_found_however_they_are_numbered() {
        let (trees, ids) = ([7, 7, 7, 3, 3], [0, 1, 2, 9, 0]);
        let rows = Rows::new(&trees, &ids).unwrap();
        assert_eq!(rows.roots, [0, 3]);
        let found = [(7, 0), (7, 2), (3, 9), (3, 0)].map(|(tree, id)| rows.find(tree, id).unwrap());
        assert_eq!(found, [0, 2, 3, 4]);
        for (tree, id) in [(7, 3), (7, -1), (3, 1), (4, 0), (7, i64::MAX)] {
            assert!(rows.find(tree, id).is_err(), "{tree}, {id}");
        }
        assert!(Rows::new(&[1, 1], &[4, 4]).is_err());
        assert!(Rows::new(&[1, 2, 1], &[0, 0, 1]).is_err());
    }
}
