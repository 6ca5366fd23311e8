//! A forest's trees in their forms, and a block's way through them.

use super::BLOCK;
use super::columns::Columns;
use super::margins::Real;
use super::ranks::{self, Ranks, RanksBuilder};
use super::sweep::{self, Decision};
use super::walk::{self, Step, Walks};
use crate::forest::{Combine, Forest, Leaves, Node, Split, Test, Tree};

/// What is run, in a precision.
pub(super) struct Plan<R> {
    outputs: usize,
    /// What a row's margins start with, by output.
    first: Vec<R>,
    trees: Vec<Piece<R>>,
    /// What the sums are divided by, and what is added then.
    last: Option<(R, Vec<f64>)>,
    ranks: Ranks,
    walks: Walks,
}

/// A tree.
struct Piece<R> {
    form: Form,
    /// The output that leaves are added to; all, if there is none.
    output: Option<usize>,
    /// Of the leaves, as the form numbers them.
    values: Vec<R>,
}

enum Form {
    Sweep(Vec<Decision>),
    Walk(Vec<Step>),
    Plain(Tree),
}

/// Rows that are taken through all trees, as the forms want them.
struct Block {
    start: usize,
    rows: usize,
    ranks: ranks::Lanes,
    values: walk::Lanes,
}

/// Decisions with a lane of their own that a swept tree may have: each is computed for every row.
const FLAGS_MAX: usize = 8;
/// Lanes of a block: 1 MiB, as much as a core's cache holds.
const LANES_MAX: usize = 2048;

impl<R: Real> Plan<R> {
    pub fn new(forest: &Forest) -> Self {
        let mut swept: Vec<_> = forest.trees.iter().map(is_swept).collect();
        let mut ranks = rank(forest, &swept);
        if ranks.lanes_bound() > LANES_MAX {
            swept.iter_mut().zip(&forest.trees).for_each(|(swept, tree)| *swept = is_leaf(tree));
            ranks = rank(forest, &swept);
        }
        let mut walks = Walks::default();
        let mut trees = Vec::with_capacity(forest.trees.len());
        for (tree, is_swept) in forest.trees.iter().zip(swept) {
            let (form, leaves) = if is_swept {
                let (decisions, leaves) = sweep::compile(tree, &mut ranks);
                (Form::Sweep(decisions), leaves)
            } else if let Some((steps, leaves)) = walks.compile(tree) {
                (Form::Walk(steps), leaves)
            } else {
                let (leaves, width) = match &tree.leaves {
                    Leaves::Scalar { values, .. } => (values.len(), 1),
                    Leaves::Vector { values } => (values.len(), forest.outputs),
                };
                (Form::Plain(tree.clone()), (0..(leaves / width) as u32).collect())
            };
            let (output, values, width) = match &tree.leaves {
                Leaves::Scalar { output, values } => (Some(*output as usize), values, 1),
                Leaves::Vector { values } => (None, values, forest.outputs),
            };
            let of_leaf = |leaf: &u32| values[*leaf as usize * width..][..width].iter().map(|value| R::round(*value));
            trees.push(Piece { form, output, values: leaves.iter().flat_map(of_leaf).collect() });
        }
        let (first, last) = match forest.combine {
            Combine::BaseFirst => (forest.base.clone(), None),
            Combine::BaseLast { divisor } => {
                (vec![0.0; forest.outputs], Some((R::round(divisor), forest.base.clone())))
            }
        };
        let first = first.into_iter().map(R::round).collect();
        Self { outputs: forest.outputs, first, trees, last, ranks, walks }
    }

    /// The margins of the rows from `start` on, as many as there is room for.
    pub fn run(&self, columns: &Columns<'_>, start: usize, out: &mut [R]) {
        let (ranks, values) = (ranks::Lanes::new(&self.ranks), walk::Lanes::new(&self.walks));
        let mut block = Block { start, rows: 0, ranks, values };
        for out in out.chunks_mut(BLOCK * self.outputs) {
            block.start += block.rows;
            block.rows = out.len() / self.outputs;
            self.ranks.fill(columns, block.start, block.rows, &mut block.ranks);
            self.walks.fill(columns, block.start, block.rows, &mut block.values);
            match self.first[..] {
                [first] => out.fill(first),
                _ => out.chunks_exact_mut(self.outputs).for_each(|out| out.copy_from_slice(&self.first)),
            }
            for tree in &self.trees {
                tree.add(columns, &block, self.outputs, out);
            }
            if let Some((divisor, base)) = &self.last {
                for out in out.chunks_exact_mut(self.outputs) {
                    out.iter_mut().zip(base).for_each(|(out, base)| {
                        let mean: f64 = (*out / *divisor).into();
                        *out = R::round(mean + base);
                    });
                }
            }
        }
    }
}

impl<R: Real> Piece<R> {
    /// Adds the tree's leaves to a block's margins.
    fn add(&self, columns: &Columns<'_>, block: &Block, outputs: usize, out: &mut [R]) {
        match &self.form {
            Form::Sweep(decisions) => {
                let mut leaves = [0; BLOCK];
                sweep::positions(decisions, block.ranks.bytes(), block.rows, &mut leaves);
                self.sum(&leaves, outputs, out);
            }
            Form::Walk(steps) => {
                let mut leaves = [0; BLOCK];
                walk::leaves(steps, &block.values, block.rows, &mut leaves);
                self.sum(&leaves, outputs, out);
            }
            Form::Plain(tree) => {
                let mut leaves = [0; BLOCK];
                for (row, leaf) in leaves.iter_mut().enumerate().take(block.rows) {
                    *leaf = plain_leaf(tree, columns, block.start + row);
                }
                self.sum(&leaves, outputs, out);
            }
        }
    }

    fn sum<L: Copy + Into<u32>>(&self, leaves: &[L; BLOCK], outputs: usize, out: &mut [R]) {
        let Some(output) = self.output else {
            for (out, leaf) in out.chunks_exact_mut(outputs).zip(leaves) {
                let values = &self.values[(*leaf).into() as usize * outputs..][..outputs];
                out.iter_mut().zip(values).for_each(|(out, value)| *out = *out + *value);
            }
            return;
        };
        if outputs == 1 {
            for (out, leaf) in out.iter_mut().zip(leaves) {
                *out = *out + self.values[(*leaf).into() as usize];
            }
            return;
        }
        for (out, leaf) in out[output..].iter_mut().step_by(outputs).zip(leaves) {
            *out = *out + self.values[(*leaf).into() as usize];
        }
    }
}

/// The ranks of the trees that are swept.
fn rank(forest: &Forest, swept: &[bool]) -> Ranks {
    let mut builder = RanksBuilder::default();
    for (tree, _) in forest.trees.iter().zip(swept).filter(|(_, swept)| **swept) {
        splits(tree).for_each(|split| builder.add(split));
    }
    builder.finish()
}

fn is_leaf(tree: &Tree) -> bool {
    matches!(tree.nodes[0], Node::Leaf(_))
}

fn is_swept(tree: &Tree) -> bool {
    let is_flag = |split: &&Split| !matches!(split.test, Test::Less(_));
    splits(tree).count() < sweep::LEAVES_MAX && splits(tree).filter(is_flag).count() <= FLAGS_MAX
}

/// The splits that a row may come to: nodes that none can come to have not been checked.
fn splits(tree: &Tree) -> impl Iterator<Item = &Split> {
    let mut open = vec![0_u32];
    std::iter::from_fn(move || {
        while let Some(at) = open.pop() {
            if let Node::Split(split) = &tree.nodes[at as usize] {
                open.extend([split.left, split.right]);
                return Some(split);
            }
        }
        None
    })
}

/// The leaf that a row comes to, by the reference's steps.
fn plain_leaf(tree: &Tree, columns: &Columns<'_>, row: usize) -> u32 {
    let mut at = 0;
    loop {
        match &tree.nodes[at as usize] {
            Node::Leaf(leaf) => return *leaf,
            Node::Split(split) => {
                let value = columns.column(split.feature).value(row);
                at = if split.goes_left(value, &tree.sets) { split.left } else { split.right };
            }
        }
    }
}
