//! An ensemble of trees, of whichever version, and how a `Forest` is made of it.
//!
//! Both versions allow that a node has two parents (a chain of BRANCH_EQ that leads to one subtree), a `Tree` does not: shared
//! nodes are copied, up to a bound that also ends the walk of a file whose nodes go around in a circle.

use std::collections::HashMap;
use std::ops::Range;

use super::{malformed, unsupported};
use crate::error::ModelError;
use crate::forest::{Category, Combine, Forest, Leaves, Missing, NODES_MAX, Node, Split, Test, Tree};
use crate::link::{Link, Precision};

/// Largest number that a set of `Test::In` holds; a larger member, or one that is no whole number, is a node of its own.
const MEMBER_MAX: f64 = 65_535.0;
/// Words of all sets: 16 MiB, whatever a small file claims.
const SET_WORDS_MAX: usize = 1 << 22;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
    Member,
}

/// A node as the file has it. Indices are checked when it is walked.
pub enum Source {
    Branch {
        feature: u32,
        mode: Mode,
        value: f64,
        /// Of `Ensemble::members`, for `Mode::Member`.
        members: Range<usize>,
        tracks_true: bool,
        if_true: usize,
        if_false: usize,
    },
    /// Of `Ensemble::weights`.
    Leaf(Range<usize>),
}

#[derive(Debug, Clone, Copy)]
pub struct Weight {
    pub target: u32,
    pub value: f64,
}

pub struct Ensemble {
    pub nodes: Vec<Source>,
    pub roots: Vec<usize>,
    pub weights: Vec<Weight>,
    pub members: Vec<f64>,
    pub targets: usize,
    /// One for each target.
    pub base: Vec<f64>,
    pub is_average: bool,
    pub is_double: bool,
}

/// What is left to allocate.
struct Budget {
    nodes: usize,
    values: usize,
    words: usize,
}

impl Ensemble {
    /// `columns` of the input, if they are known.
    pub fn into_forest(self, columns: Option<usize>, link: Link) -> Result<Forest, ModelError> {
        let features =
            self.nodes.iter().map(|node| if let Source::Branch { feature, .. } = node { *feature } else { 0 });
        let features = features.max().unwrap_or(0) as usize + 1;
        let mut budget = Budget {
            nodes: (self.nodes.len() * 4 + (1 << 16)).min(NODES_MAX),
            values: self.weights.len() * 256 + (1 << 20),
            words: SET_WORDS_MAX,
        };
        let trees = self.roots.iter().map(|root| self.tree(*root, &mut budget)).collect::<Result<Vec<_>, _>>()?;
        Ok(Forest {
            features: columns.unwrap_or(features),
            combine: Combine::BaseLast { divisor: if self.is_average { trees.len() as f64 } else { 1.0 } },
            trees,
            outputs: self.targets,
            base: self.base,
            precision: if self.is_double { Precision::Double } else { Precision::Single },
            link,
        })
    }

    fn tree(&self, root: usize, budget: &mut Budget) -> Result<Tree, ModelError> {
        let mut growing = Growing { nodes: Vec::new(), leaves: Vec::new(), sets: Vec::new(), set_of: HashMap::new() };
        growing.slot(budget)?;
        let mut open = vec![(root, 0)];
        while let Some((source, slot)) = open.pop() {
            match self.nodes.get(source).ok_or_else(|| malformed(format!("node {source} is not there")))? {
                Source::Leaf(weights) => {
                    growing.nodes[slot] = Node::Leaf(growing.leaves.len() as u32);
                    growing.leaves.push(weights.clone());
                }
                branch => self.branch(source, branch, slot, &mut growing, &mut open, budget)?,
            }
        }
        let leaves = self.leaves(&growing.leaves, budget)?;
        Ok(Tree { nodes: growing.nodes, leaves, sets: growing.sets })
    }

    /// A branch is one node, or a chain of them if it asks for members that no set holds.
    fn branch(
        &self,
        source: usize,
        branch: &Source,
        slot: usize,
        growing: &mut Growing,
        open: &mut Vec<(usize, usize)>,
        budget: &mut Budget,
    ) -> Result<(), ModelError> {
        let Source::Branch { feature, mode, value, members, tracks_true, if_true, if_false } = branch else {
            return Ok(());
        };
        let (if_left, if_right) = if mode.is_left_true() { (*if_true, *if_false) } else { (*if_false, *if_true) };
        let tests = match mode {
            Mode::Member => growing.member_tests(source, &self.members[members.clone()], budget)?,
            _ => vec![mode.test(*value)],
        };
        // BRANCH_NEQ holds of what is missing, whatever the attribute says: NaN differs from every number.
        let tracks_true = *tracks_true || *mode == Mode::NotEqual;
        let mut slot = slot;
        for (test, is_swapped) in tests {
            let (left, right) = (growing.slot(budget)?, growing.slot(budget)?);
            let default_left = tracks_true == (mode.is_left_true() != is_swapped);
            let (left_slot, right_slot) = (left as u32, right as u32);
            growing.nodes[slot] = Node::Split(Split {
                feature: *feature,
                test,
                missing: Missing::Nan,
                default_left,
                left: left_slot,
                right: right_slot,
            });
            let (held, other) = if is_swapped { (right, left) } else { (left, right) };
            open.push((if_left, held));
            slot = other;
        }
        open.push((if_right, slot));
        Ok(())
    }

    fn leaves(&self, leaves: &[Range<usize>], budget: &mut Budget) -> Result<Leaves, ModelError> {
        let weights = |leaf: &Range<usize>| self.weights[leaf.clone()].iter();
        let output = leaves.iter().flat_map(weights).map(|weight| weight.target).next().unwrap_or(0);
        if leaves.iter().flat_map(weights).all(|weight| weight.target == output) {
            // A leaf without a weight adds nothing.
            let value = |leaf: &Range<usize>| weights(leaf).next().map_or(0.0, |weight| weight.value);
            return Ok(Leaves::Scalar { output, values: leaves.iter().map(value).collect() });
        }
        let count = leaves.len().checked_mul(self.targets).filter(|count| *count <= budget.values);
        let count =
            count.ok_or_else(|| ModelError::TooLarge("leaves of many targets that have few weights".to_owned()))?;
        budget.values -= count;
        let mut values = vec![0.0; count];
        for (leaf, values) in leaves.iter().zip(values.chunks_exact_mut(self.targets)) {
            weights(leaf).for_each(|weight| values[weight.target as usize] = weight.value);
        }
        Ok(Leaves::Vector { values })
    }
}

/// A tree that is not whole yet.
struct Growing {
    nodes: Vec<Node>,
    leaves: Vec<Range<usize>>,
    sets: Vec<u32>,
    /// Start and words of the set of a node of the file, however often it is copied.
    set_of: HashMap<usize, (u32, u32)>,
}

impl Growing {
    fn slot(&mut self, budget: &mut Budget) -> Result<usize, ModelError> {
        budget.nodes = budget.nodes.checked_sub(1).ok_or_else(|| unsupported("its trees share nodes too often"))?;
        self.nodes.push(Node::Leaf(0));
        Ok(self.nodes.len() - 1)
    }

    /// Tests one of which holds of a member, each with whether its answer is swapped.
    fn member_tests(
        &mut self,
        source: usize,
        members: &[f64],
        budget: &mut Budget,
    ) -> Result<Vec<(Test, bool)>, ModelError> {
        if members.is_empty() {
            return Err(malformed("a BRANCH_MEMBER has no members"));
        }
        let is_small = |member: &f64| (0.0..=MEMBER_MAX).contains(member) && member.trunc() == *member;
        let largest = members.iter().copied().filter(is_small).fold(-1.0, f64::max);
        let mut tests = Vec::new();
        if largest >= 0.0 {
            let (start, words) = match self.set_of.get(&source) {
                Some(set) => *set,
                None => {
                    let (start, words) = (self.sets.len(), largest as usize / 32 + 1);
                    let left = budget.words.checked_sub(words);
                    budget.words = left.ok_or_else(|| ModelError::TooLarge("the sets of its members".to_owned()))?;
                    self.sets.resize(start + words, 0);
                    for member in members.iter().filter(|member| is_small(member)) {
                        self.sets[start + *member as usize / 32] |= 1 << (*member as usize % 32);
                    }
                    let set = (start as u32, words as u32);
                    self.set_of.insert(source, set);
                    set
                }
            };
            tests.push((Test::In { start, words, category: Category::Whole }, false));
        }
        // Of f64 members, one that is no f32 is none of a column of f32.
        let others = members.iter().filter(|member| !is_small(member) && f64::from(**member as f32) == **member);
        tests.extend(others.map(|member| (Test::Equal(*member as f32), false)));
        if tests.is_empty() {
            tests.push((Test::Less(f32::NEG_INFINITY), false));
        }
        Ok(tests)
    }
}

impl Mode {
    /// Whether the test that it comes to holds where it does.
    fn is_left_true(self) -> bool {
        matches!(self, Self::LessOrEqual | Self::Less | Self::Equal | Self::Member)
    }

    /// The test, and whether its answer is swapped.
    fn test(self, value: f64) -> (Test, bool) {
        match self {
            // `Test::less_or_equal` cannot say this one: nothing is next to infinity. x <= inf is not x < -inf.
            Self::LessOrEqual | Self::Greater if value == f64::INFINITY => (Test::Less(f32::NEG_INFINITY), true),
            Self::LessOrEqual | Self::Greater => (Test::less_or_equal(value), false),
            Self::Less | Self::GreaterOrEqual => (Test::less(value), false),
            // Of f64, one that is no f32 equals none.
            _ if f64::from(value as f32) != value && !value.is_nan() => (Test::Less(f32::NEG_INFINITY), false),
            _ => (Test::Equal(value as f32), false),
        }
    }
}
