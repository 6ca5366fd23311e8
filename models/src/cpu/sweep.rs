//! Trees of up to 256 leaves, for all rows of a block at once: each decision is taken for every row, a byte a row, in as many
//! rows as a vector has bytes. No row takes a path, so nothing is fetched by an address that depends on a row but its leaf's value.
//!
//! Leaves are numbered from left to right, and the decisions are swept in preorder. A row's position starts at leaf 0:
//!
//! ```text
//! if position == first leaf below the decision and the row goes right: position = first leaf of the right child
//! ```
//!
//! INVARIANT: when a decision's turn comes, the row's position is the first leaf below it exactly if the row comes to that
//! decision. For what is left of the row's path was left behind by a step to the right, and at what is right of it the row
//! already stands in a subtree further left. The last position is the row's leaf.
//! The idea that leaves may be found by all decisions in any data-independent order is that of Lucchese et al.: "QuickScorer"
//! (SIGIR 2015); sets of leaves there, a single byte here.

use super::BLOCK;
use super::ranks::Ranks;
use crate::forest::{Node, Tree};

/// Leaves that a byte numbers.
pub(super) const LEAVES_MAX: usize = 256;

/// A decision, in 6 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decision {
    lane: u16,
    /// What is above goes right.
    cut: i8,
    /// The first leaf below it.
    first: u8,
    /// The first leaf of its right child.
    middle: u8,
}

/// The decisions of a tree and its leaves, from left to right.
pub(super) fn compile(tree: &Tree, ranks: &mut Ranks) -> (Vec<Decision>, Vec<u32>) {
    let (mut decisions, mut leaves) = (Vec::new(), Vec::new());
    // A node to visit, or a decision whose left side is done.
    enum Open {
        Node(u32),
        Middle(usize),
    }
    let mut open = vec![Open::Node(0)];
    while let Some(next) = open.pop() {
        match next {
            Open::Middle(decision) => {
                let decision: &mut Decision = &mut decisions[decision];
                decision.middle = leaves.len() as u8;
            }
            Open::Node(at) => match &tree.nodes[at as usize] {
                Node::Leaf(leaf) => leaves.push(*leaf),
                Node::Split(split) => {
                    let (lane, cut) = ranks.decision(split, &tree.sets);
                    let lane = u16::try_from(lane).expect("the lanes are bounded");
                    open.extend([Open::Node(split.right), Open::Middle(decisions.len()), Open::Node(split.left)]);
                    decisions.push(Decision { lane, cut, first: leaves.len() as u8, middle: 0 });
                }
            },
        }
    }
    (decisions, leaves)
}

/// Rows that are swept together: their positions stay in registers, and what a decision is loaded for.
const SWEEP: usize = 256;
/// The same for the last rows of a batch.
const SWEEP_LAST: usize = 64;

#[inline(always)]
fn sweep(decisions: &[Decision], lanes: &[[i8; BLOCK]], rows: usize, positions: &mut [u8; BLOCK]) {
    let mut start = 0;
    while start < rows {
        if rows - start > SWEEP / 2 {
            sweep_from::<SWEEP>(start, decisions, lanes, positions);
            start += SWEEP;
        } else {
            sweep_from::<SWEEP_LAST>(start, decisions, lanes, positions);
            start += SWEEP_LAST;
        }
    }
}

#[inline(always)]
fn sweep_from<const ROWS: usize>(
    start: usize,
    decisions: &[Decision],
    lanes: &[[i8; BLOCK]],
    positions: &mut [u8; BLOCK],
) {
    let mut at = [0_u8; ROWS];
    for decision in decisions {
        let lane: &[i8; ROWS] = lanes[decision.lane as usize][start..start + ROWS].try_into().expect("of that size");
        for (at, byte) in at.iter_mut().zip(lane) {
            let goes = (*at == decision.first) & (*byte > decision.cut);
            // What is selected is not branched on: so the loop becomes two comparisons and a move of vectors.
            *at = std::hint::select_unpredictable(goes, decision.middle, *at);
        }
    }
    positions[start..start + ROWS].copy_from_slice(&at);
}

/// The leaf of each of the block's first rows.
#[inline(never)]
pub(super) fn positions(decisions: &[Decision], lanes: &[[i8; BLOCK]], rows: usize, positions: &mut [u8; BLOCK]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(decisions: &[Decision], lanes: &[[i8; BLOCK]], rows: usize, positions: &mut [u8; BLOCK]) {
            sweep(decisions, lanes, rows, positions);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has it.
            return unsafe { wide(decisions, lanes, rows, positions) };
        }
    }
    sweep(decisions, lanes, rows, positions);
}
