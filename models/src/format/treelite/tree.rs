//! A tree of a checkpoint: columns by node.
//!
//! ```text
//! i32 nodes, u8 has categories, then arrays by node, unless said otherwise:
//! i8 kind, i32 left, i32 right, i32 feature, u8 default left, T leaf value, T threshold, i8 comparison, u8 categories right,
//! T values of the leaf vectors (not by node), u64 begin, u64 end, u32 categories (not by node), u64 begin, u64 end,
//! six arrays of statistics; then optional fields of the tree and of the nodes
//! ```

use super::Output;
use super::fields::{Fields, Number};
use crate::error::ModelError;
use crate::forest::{Category, Leaves, Missing, Node, Test, Tree};
use crate::format::nodes::{Branches, add_set, breadth_first};

/// A tree as the file has it.
pub struct Columns<T> {
    kinds: Vec<i8>,
    lefts: Vec<i32>,
    rights: Vec<i32>,
    features: Vec<i32>,
    default_lefts: Vec<u8>,
    leaves: Vec<T>,
    thresholds: Vec<T>,
    comparisons: Vec<i8>,
    sends_members_right: Vec<u8>,
    vectors: Ranges<T>,
    categories: Ranges<u32>,
}

/// Values, and which of them are a node's.
struct Ranges<T> {
    values: Vec<T>,
    begins: Vec<u64>,
    ends: Vec<u64>,
}

impl<T: Number> Ranges<T> {
    fn read(fields: &mut Fields<'_>) -> Result<Self, ModelError> {
        Ok(Self { values: fields.array()?, begins: fields.array()?, ends: fields.array()? })
    }

    /// Those of a node. `used` is how many were given before: ranges do not overlap, so that a file cannot ask for more work
    /// than it has bytes.
    fn of(&self, node: usize, used: &mut usize) -> Option<&[T]> {
        let begin = usize::try_from(*self.begins.get(node)?).ok()?;
        let end = usize::try_from(*self.ends.get(node)?).ok()?;
        let values = self.values.get(begin..end)?;
        *used += values.len();
        (*used <= self.values.len()).then_some(values)
    }
}

impl<T: Number + Into<f64>> Columns<T> {
    pub fn read(fields: &mut Fields<'_>) -> Result<Self, ModelError> {
        let (_nodes, _has_categories): (i32, u8) = (fields.scalar()?, fields.scalar()?);
        let columns = Self {
            kinds: fields.array()?,
            lefts: fields.array()?,
            rights: fields.array()?,
            features: fields.array()?,
            default_lefts: fields.array()?,
            leaves: fields.array()?,
            thresholds: fields.array()?,
            comparisons: fields.array()?,
            sends_members_right: fields.array()?,
            vectors: Ranges::read(fields)?,
            categories: Ranges::read(fields)?,
        };
        // Rows, hessians and gains, each with whether it is there.
        for _ in 0..3 {
            let (_statistic, _is_there): (Vec<u64>, Vec<u8>) = (fields.array()?, fields.array()?);
        }
        fields.skip_optional()?;
        fields.skip_optional()?;
        Ok(columns)
    }

    /// The tree, which gives to `output`, one of `outputs`.
    pub fn tree(&self, output: Output, outputs: usize, words_left: &mut usize) -> Result<Tree, String> {
        let mut values: Vec<f64> = Vec::new();
        let mut leaves = 0;
        let mut sets = Vec::new();
        let (mut vectors_used, mut categories_used) = (0, 0);
        let cut_short = |at: usize| format!("node {at} is cut short");
        let nodes = breadth_first(self.kinds.len(), |at| match self.kinds[at] {
            0 => {
                let vector = self.vectors.of(at, &mut vectors_used).ok_or_else(|| cut_short(at))?;
                match output {
                    Output::All if vector.len() == outputs => values.extend(vector.iter().map(|value| (*value).into())),
                    Output::One(_) if vector.len() == 1 => values.push(vector[0].into()),
                    Output::One(_) if vector.is_empty() => {
                        values.push((*self.leaves.get(at).ok_or_else(|| cut_short(at))?).into());
                    }
                    _ => return Err(format!("leaf {at} has {} values", vector.len())),
                }
                leaves += 1;
                Ok(Node::Leaf(leaves - 1))
            }
            kind @ (1 | 2) => {
                let branches = self.branches(at).ok_or_else(|| cut_short(at))?;
                if kind == 1 {
                    return self.numerical(at, branches);
                }
                let members = self.categories.of(at, &mut categories_used).ok_or_else(|| cut_short(at))?;
                let (start, words) = add_set(members.iter().copied().map(Some), &mut sets, words_left)?;
                let test = Test::In { start, words, category: Category::Floor };
                let is_right = *self.sends_members_right.get(at).ok_or_else(|| cut_short(at))? != 0;
                Ok(if is_right { branches.split_unless(test) } else { branches.split(test) })
            }
            kind => Err(format!("node {at} is of the kind {kind}")),
        })?;
        let leaves = match output {
            Output::One(output) => Leaves::Scalar { output, values },
            Output::All => Leaves::Vector { values },
        };
        Ok(Tree { nodes, leaves, sets })
    }

    fn branches(&self, at: usize) -> Option<Branches> {
        Some(Branches {
            feature: u32::try_from(*self.features.get(at)?).ok()?,
            missing: Missing::Nan,
            default_left: *self.default_lefts.get(at)? != 0,
            left: u32::try_from(*self.lefts.get(at)?).ok()?,
            right: u32::try_from(*self.rights.get(at)?).ok()?,
        })
    }

    fn numerical(&self, at: usize, branches: Branches) -> Result<Node, String> {
        let (Some(threshold), Some(comparison)) = (self.thresholds.get(at), self.comparisons.get(at)) else {
            return Err(format!("node {at} is cut short"));
        };
        let threshold: f64 = (*threshold).into();
        if threshold.is_nan() {
            return Err(format!("the threshold of node {at} is not a number"));
        }
        Ok(match comparison {
            1 if f64::from(threshold as f32) == threshold => branches.split(Test::Equal(threshold as f32)),
            // No f32 is equal to it.
            1 => branches.split(Test::Less(f32::NEG_INFINITY)),
            2 => branches.split(Test::less(threshold)),
            3 => branches.split_less_or_equal(threshold),
            4 => branches.split_greater(threshold),
            5 => branches.split_unless(Test::less(threshold)),
            _ => return Err(format!("node {at} compares in the way {comparison}")),
        })
    }
}
