//! A forest as the kernels of `models/kernels/forest.cu` read it: nodes breadth first, siblings side by side, in groves that
//! fit shared memory. Its layouts are described in `forest.cuh`.
//!
//! INVARIANT: trees keep their order, so that sums do.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::abi::{FOREST_BASE_LAST, FOREST_ENDS, FOREST_STARTS, ForestArgs};
use super::image::Image;
use crate::device::DeviceError;
use crate::forest::{Category, Combine, Forest, Leaves, Missing, Node, Split, Test, Tree};
use crate::link::Precision;

/// Nodes of a grove, in bytes: with this much of shared memory eight blocks fit a multiprocessor of compute capability 8.0.
pub const GROVE_BYTES: usize = 16 << 10;

const COMPACT_BYTES: usize = 8;
const GENERAL_BYTES: usize = 16;
/// What a compact node's bits can name.
const COMPACT_FEATURES: usize = 1 << 12;
const COMPACT_NODES: usize = 1 << 18;
/// Words of a category set: as many as f32 counts exactly, so that a category within it is within the memory.
const SET_WORDS_MAX: u32 = 1 << 24;
const NO_OUTPUT: u32 = u32::MAX;

/// A forest, laid out.
#[derive(Debug, Clone, PartialEq)]
pub struct ForestImage {
    pub image: Image,
    pub features: usize,
    pub outputs: usize,
    pub groves: u32,
    /// Whether margins are f64.
    pub is_double: bool,
    is_compact: bool,
    missing: u32,
    base_last: Option<f64>,
    sections: Sections,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sections {
    nodes: usize,
    trees: usize,
    groves: usize,
    leaves: usize,
    sets: usize,
    base: usize,
}

/// Where a call finds its rows and leaves their margins.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Address of the columns, `stride` values apart.
    pub columns: u64,
    /// Address of the margins, output by output, `stride` values apart.
    pub margins: u64,
    pub stride: usize,
    pub count: usize,
}

impl ForestImage {
    pub fn new(forest: &Forest) -> Result<Self, DeviceError> {
        let is_double = forest.precision == Precision::Double;
        let missing = uniform_missing(forest);
        let mut builder =
            Builder { is_compact: missing.is_some(), is_inline: missing.is_some() && !is_double, ..Builder::default() };
        for tree in &forest.trees {
            builder.add(tree, forest.outputs)?;
        }
        let mut image = Image::default();
        let sections = Sections {
            nodes: image.push_u32(&builder.nodes),
            trees: image.push_u32(&builder.trees),
            groves: image.push_u32(&builder.groves),
            leaves: image.push_sums(&builder.leaves, is_double),
            sets: image.push_u32(&builder.sets),
            base: image.push_f64(&forest.base),
        };
        let base_last = match forest.combine {
            Combine::BaseFirst => None,
            Combine::BaseLast { divisor } => Some(divisor),
        };
        Ok(Self {
            image,
            features: forest.features,
            outputs: forest.outputs,
            groves: (builder.groves.len() / 4) as u32,
            is_double,
            is_compact: missing.is_some(),
            missing: missing.map_or(0, missing_bits),
            base_last,
            sections,
        })
    }

    /// The kernel's name.
    pub fn kernel(&self) -> &'static str {
        match (self.is_compact, self.is_double) {
            (true, false) => "forest_compact_f32",
            (true, true) => "forest_compact_f64",
            (false, false) => "forest_general_f32",
            (false, true) => "forest_general_f64",
        }
    }

    /// Bytes of a margin.
    pub fn margin_bytes(&self) -> usize {
        if self.is_double { 8 } else { 4 }
    }

    /// A call for some of the groves, of the image at that address. Calls for consecutive groves give together what one for all
    /// of them does.
    pub fn args(&self, image: u64, rows: Rows, groves: Range<u32>) -> ForestArgs {
        let at = |section: usize| image + section as u64;
        let mut flags = if self.base_last.is_some() { FOREST_BASE_LAST } else { 0 };
        flags |= if groves.start == 0 { FOREST_STARTS } else { 0 };
        flags |= if groves.end == self.groves { FOREST_ENDS } else { 0 };
        ForestArgs {
            columns: rows.columns,
            margins: rows.margins,
            nodes: at(self.sections.nodes),
            trees: at(self.sections.trees),
            groves: at(self.sections.groves),
            leaves: at(self.sections.leaves),
            sets: at(self.sections.sets),
            base: at(self.sections.base),
            stride: rows.stride as u64,
            divisor: self.base_last.unwrap_or(1.0),
            rows: rows.count as u32,
            grove_first: groves.start,
            grove_count: groves.end - groves.start,
            outputs: self.outputs as u32,
            missing: self.missing,
            flags,
        }
    }
}

/// The one way in which values are missing, if compact nodes can hold the forest.
fn uniform_missing(forest: &Forest) -> Option<Missing> {
    if forest.features > COMPACT_FEATURES || forest.trees.iter().any(|tree| tree.nodes.len() > COMPACT_NODES) {
        return None;
    }
    let mut splits = forest.trees.iter().flat_map(|tree| &tree.nodes).filter_map(|node| match node {
        Node::Split(split) => Some(split),
        Node::Leaf(_) => None,
    });
    let missing = splits.clone().next().map_or(Missing::Nan, |split| split.missing);
    splits.all(|split| matches!(split.test, Test::Less(_)) && split.missing == missing).then_some(missing)
}

fn missing_bits(missing: Missing) -> u32 {
    match missing {
        Missing::Nan => 0,
        Missing::NanOrZero => 1,
        Missing::NanIsZero => 2,
    }
}

fn category_bits(category: Category) -> u32 {
    match category {
        Category::Floor => 0,
        Category::Truncated => 1,
        Category::Whole => 2,
    }
}

#[derive(Default)]
struct Builder {
    is_compact: bool,
    /// Whether a compact leaf holds its value.
    is_inline: bool,
    nodes: Vec<u32>,
    /// node, leaf, output, width: `ForestTree`.
    trees: Vec<u32>,
    /// tree, trees, node, nodes: `Grove`.
    groves: Vec<u32>,
    leaves: Vec<f64>,
    sets: Vec<u32>,
}

impl Builder {
    fn add(&mut self, tree: &Tree, outputs: usize) -> Result<(), DeviceError> {
        let too_large =
            |_| DeviceError::Unsupported("the forest has more than 2^32 nodes, leaves or categories".to_owned());
        let node_words = if self.is_compact { COMPACT_BYTES } else { GENERAL_BYTES } / 4;
        let node = u32::try_from(self.nodes.len() / node_words).map_err(too_large)?;
        let leaf = u32::try_from(self.leaves.len()).map_err(too_large)?;
        let (output, width, values) = match &tree.leaves {
            Leaves::Scalar { output, values } => (*output, 0, values),
            Leaves::Vector { values } => (NO_OUTPUT, outputs as u32, values),
        };
        let inline = (self.is_inline && width == 0).then_some(values);
        if inline.is_none() {
            self.leaves.extend(values);
        }
        let set_at = self.add_sets(tree)?;
        for (at, first_child) in breadth_first(tree) {
            self.add_node(&tree.nodes[at], first_child, inline, &set_at);
        }
        u32::try_from(self.sets.len()).map_err(too_large)?;
        let number = (self.trees.len() / 4) as u32;
        self.trees.extend([node, leaf, output, width]);
        self.add_to_grove(number, node, tree.nodes.len(), node_words * 4);
        Ok(())
    }

    /// Copies the sets that the tree's nodes name, each behind its length. Returns where each starts.
    fn add_sets(&mut self, tree: &Tree) -> Result<HashMap<(u32, u32), u32>, DeviceError> {
        let mut set_at = HashMap::new();
        for node in &tree.nodes {
            if let Node::Split(Split { test: Test::In { start, words, .. }, .. }) = *node {
                if words > SET_WORDS_MAX {
                    return Err(DeviceError::Unsupported(format!("a set of more than {SET_WORDS_MAX} words")));
                }
                set_at.entry((start, words)).or_insert_with(|| {
                    self.sets.push(words);
                    let at = self.sets.len() as u32;
                    self.sets.extend(&tree.sets[start as usize..][..words as usize]);
                    at
                });
            }
        }
        Ok(set_at)
    }

    fn add_node(&mut self, node: &Node, left: u32, inline: Option<&Vec<f64>>, set_at: &HashMap<(u32, u32), u32>) {
        match node {
            Node::Leaf(leaf) => {
                let value = inline.map_or(*leaf, |values| (values[*leaf as usize] as f32).to_bits());
                if self.is_compact {
                    self.nodes.extend([value, 1 << 31]);
                } else {
                    self.nodes.extend([value, 0, 0, 1 << 5]);
                }
            }
            Node::Split(split) => {
                let (test, value) = match split.test {
                    Test::Less(threshold) => (0, threshold.to_bits()),
                    Test::Equal(threshold) => (1, threshold.to_bits()),
                    Test::In { start, words, category } => (2 | category_bits(category) << 6, set_at[&(start, words)]),
                };
                let default_left = u32::from(split.default_left);
                if self.is_compact {
                    self.nodes.extend([value, default_left << 30 | split.feature << 18 | left]);
                } else {
                    let flags = test | missing_bits(split.missing) << 2 | default_left << 4;
                    self.nodes.extend([value, split.feature, left, flags]);
                }
            }
        }
    }

    /// Puts the tree into the last grove, or, where it does not fit, into a new one.
    fn add_to_grove(&mut self, tree: u32, node: u32, nodes: usize, node_bytes: usize) {
        let nodes_max = GROVE_BYTES / node_bytes;
        if let [.., _, trees, _, staged] = self.groves.as_mut_slice()
            && *staged != 0
            && *staged as usize + nodes <= nodes_max
        {
            *trees += 1;
            *staged += nodes as u32;
            return;
        }
        self.groves.extend([tree, 1, node, if nodes <= nodes_max { nodes as u32 } else { 0 }]);
    }
}

/// The tree's nodes breadth first: each with the place that its left child has in this order, its right child next to it.
fn breadth_first(tree: &Tree) -> Vec<(usize, u32)> {
    let mut order = Vec::with_capacity(tree.nodes.len());
    let mut open = VecDeque::from([0_usize]);
    let mut placed = 1;
    while let Some(at) = open.pop_front() {
        order.push((at, placed));
        if let Node::Split(split) = tree.nodes[at] {
            open.extend([split.left as usize, split.right as usize]);
            placed += 2;
        }
    }
    order
}
