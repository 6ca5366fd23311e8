//! Trees of any depth, row by row: from node to node, several rows at a time, so that one row's fetches hide behind the
//! others'. No branch depends on a row but the one that ends the walk.
//!
//! ```text
//! node, 8 bytes:  f32 threshold | u32 child << 12 | lane         next = child + !(x < threshold)
//! leaf:           u32 its number | u32 (itself - 1) << 12 | 0    lane 0 is NaN, which is less than nothing: next = itself
//! ```
//!
//! A lane is a feature's values, in which what is missing is -inf or NaN, by where it goes. `x < -inf` never holds, so a split
//! at -inf that sends what is missing left is not walked; nor is one that is not `Less`.

use std::collections::HashMap;

use super::BLOCK;
use super::columns::Columns;
use crate::forest::{Missing, Node, Split, Test, Tree, ZERO_MAX};

const LANE_BITS: u32 = 12;
const LANES_MAX: usize = 1 << LANE_BITS;
/// Nodes that a link can name.
const NODES_MAX: usize = 1 << (32 - LANE_BITS);
/// Rows in flight.
const GROUP: usize = 16;
/// Steps between looks at whether all rows have arrived.
const STRIDE: usize = 4;

#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    threshold: f32,
    link: u32,
}

/// The lanes that walks read.
#[derive(Default)]
pub(super) struct Walks {
    lanes: Vec<(u32, Missing, bool)>,
    numbers: HashMap<(u32, Missing, bool), usize>,
}

/// The lanes of a block of rows: group by group of rows, so that what a group reads is close together, lane by lane.
pub(super) struct Lanes {
    groups: Vec<[f32; GROUP]>,
    /// Lanes of a group.
    width: usize,
    values: [f32; BLOCK],
}

impl Walks {
    /// The steps of a tree and its leaves by their new numbers, or nothing if it cannot be walked. A leaf alone cannot: nothing
    /// is before it.
    pub fn compile(&mut self, tree: &Tree) -> Option<(Vec<Step>, Vec<u32>)> {
        let is_walked = |split: &Split| match split.test {
            Test::Less(threshold) => threshold > f32::NEG_INFINITY || !split.default_left,
            Test::Equal(_) | Test::In { .. } => false,
        };
        if matches!(tree.nodes[0], Node::Leaf(_))
            || tree.nodes.len() > NODES_MAX
            || tree.nodes.iter().any(|node| matches!(node, Node::Split(split) if !is_walked(split)))
        {
            return None;
        }
        let mut steps = vec![Step { threshold: 0.0, link: 0 }];
        let mut leaves = Vec::new();
        // By levels: what most rows read is close together.
        let mut open = std::collections::VecDeque::from([(0_u32, 0_usize)]);
        while let Some((at, to)) = open.pop_front() {
            steps[to] = match &tree.nodes[at as usize] {
                Node::Leaf(leaf) => {
                    leaves.push(*leaf);
                    let itself = (to as u32).wrapping_sub(1) << LANE_BITS;
                    Step { threshold: f32::from_bits(leaves.len() as u32 - 1), link: itself }
                }
                Node::Split(split) => {
                    let Test::Less(threshold) = split.test else { unreachable!("it was asked above") };
                    let lane = self.lane((split.feature, split.missing, split.default_left))?;
                    let child = steps.len();
                    steps.extend([Step { threshold: 0.0, link: 0 }; 2]);
                    open.extend([(split.left, child), (split.right, child + 1)]);
                    Step { threshold, link: (child as u32) << LANE_BITS | lane as u32 }
                }
            };
        }
        Some((steps, leaves))
    }

    fn lane(&mut self, key: (u32, Missing, bool)) -> Option<usize> {
        if let Some(lane) = self.numbers.get(&key) {
            return Some(*lane);
        }
        let lane = self.lanes.len() + 1;
        (lane < LANES_MAX).then(|| {
            self.lanes.push(key);
            self.numbers.insert(key, lane);
            lane
        })
    }

    /// Copies the rows from `start` on, at most a block of them.
    pub fn fill(&self, columns: &Columns<'_>, start: usize, rows: usize, to: &mut Lanes) {
        let Lanes { groups, width, values } = to;
        for (number, (feature, missing, default_left)) in self.lanes.iter().enumerate() {
            columns.column(*feature).copy(start, &mut values[..rows]);
            let default = if *default_left { f32::NEG_INFINITY } else { f32::NAN };
            values.iter_mut().for_each(|value| {
                *value = match missing {
                    Missing::Nan if value.is_nan() => default,
                    Missing::NanOrZero if value.is_nan() || value.abs() <= ZERO_MAX => default,
                    Missing::NanIsZero if value.is_nan() => 0.0,
                    _ => *value,
                }
            });
            let lane = groups[number + 1..].iter_mut().step_by(*width);
            lane.zip(values.as_chunks().0).for_each(|(lane, values)| *lane = *values);
        }
    }
}

impl Lanes {
    pub fn new(walks: &Walks) -> Self {
        let width = walks.lanes.len() + 1;
        Self { groups: vec![[f32::NAN; GROUP]; BLOCK / GROUP * width], width, values: [0.0; BLOCK] }
    }
}

/// The leaf of each of the block's first rows.
pub(super) fn leaves(steps: &[Step], lanes: &Lanes, rows: usize, leaves: &mut [u32; BLOCK]) {
    let groups = lanes.groups.chunks_exact(lanes.width);
    for (start, lanes) in (0..rows).step_by(GROUP).zip(groups) {
        let mut at = [0_u32; GROUP];
        loop {
            let before = at;
            for _ in 0..STRIDE {
                for (row, at) in at.iter_mut().enumerate() {
                    // SAFETY: see `Walks::compile`: links name steps of this tree, and lanes of these walks.
                    let (step, lane) = unsafe {
                        let step = steps.get_unchecked(*at as usize);
                        (step, lanes.get_unchecked(step.link as usize % LANES_MAX))
                    };
                    let value = lane[row];
                    let is_less = value < step.threshold;
                    *at = (step.link >> LANE_BITS).wrapping_add(u32::from(!is_less));
                }
            }
            // Not `at == before`, which calls memcmp.
            if at.iter().zip(before).fold(0, |moved, (at, before)| moved | (at ^ before)) == 0 {
                break;
            }
        }
        for (leaf, at) in leaves[start..].iter_mut().zip(at) {
            *leaf = steps[at as usize].threshold.to_bits();
        }
    }
}
