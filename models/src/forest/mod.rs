//! A forest of decision trees, as every format's reader makes it and every device runs it.
//!
//! INVARIANT: a `Forest` that `check` has passed is sound: children and features are in range, each node has one parent,
//! and no tree is deeper than `DEPTH_MAX`. Readers call it last; devices rely on it.

mod check;
mod reference;

use crate::link::{Link, Precision};

pub use check::{DEPTH_MAX, FEATURES_MAX, NODES_MAX, OUTPUTS_MAX};

/// Trees over columns of f32. A row's margins are `base` plus what its leaves give, tree by tree in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    /// Columns of the input.
    pub features: usize,
    pub trees: Vec<Tree>,
    /// Margins of a row.
    pub outputs: usize,
    /// By output, in the margin's scale.
    pub base: Vec<f64>,
    pub combine: Combine,
    /// Of the sums and the link. Leaves of a single-precision forest are f32 values.
    pub precision: Precision,
    pub link: Link,
}

/// How the leaves' values become margins, in the forest's precision, one addition after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Combine {
    /// base + leaf + leaf + ..
    BaseFirst,
    /// (0 + leaf + leaf + ..) / divisor + base. The divisor is 1 for a plain sum, the number of trees for a mean. The base is
    /// added in f64 and the margin then rounded to the precision, which for a base that is an f32 value is the same.
    BaseLast { divisor: f64 },
}

/// A tree; its root is node 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    pub nodes: Vec<Node>,
    pub leaves: Leaves,
    /// Bits of the category sets, 32 to a word; `Test::In` and `Test::Member` name ranges of it.
    pub sets: Vec<u32>,
}

/// What the leaves of a tree give.
#[derive(Debug, Clone, PartialEq)]
pub enum Leaves {
    /// One value a leaf, for that output.
    Scalar { output: u32, values: Vec<f64> },
    /// A value for each output: leaf 0's, then leaf 1's, ..
    Vector { values: Vec<f64> },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Node {
    Split(Split),
    /// Its number among the tree's leaves.
    Leaf(u32),
}

/// A decision about a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    pub feature: u32,
    pub test: Test,
    pub missing: Missing,
    /// Where a missing value goes.
    pub default_left: bool,
    /// If the test holds.
    pub left: u32,
    pub right: u32,
}

/// What is asked of a value x that is not missing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Test {
    /// x < threshold. `x <= t` of a t in f64 is `Less(next_up(floor32(t)))`: see `Test::less_or_equal`.
    Less(f32),
    Equal(f32),
    /// x, made a category, is a member of the set of `words` words from `start`. What is below 0 or beyond the set is none.
    In {
        start: u32,
        words: u32,
        category: Category,
    },
}

/// Which category a value is that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// floor(x): XGBoost, Treelite.
    Floor,
    /// trunc(x), so that -1 < x < 0 is category 0: LightGBM's cast.
    Truncated,
    /// None: 2.5 is in no set. ONNX's BRANCH_MEMBER.
    Whole,
}

/// Which values of a feature are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    Nan,
    /// NaN, and what is as good as zero: |x| <= 1e-35. LightGBM's `zero_as_missing`.
    NanOrZero,
    /// None: NaN counts as zero. LightGBM's `missing_type` none.
    NanIsZero,
}

/// LightGBM's `kZeroThreshold`, as f32.
pub const ZERO_MAX: f32 = 1e-35;

impl Test {
    /// `x <= threshold` for x in f32, exactly.
    pub fn less_or_equal(threshold: f64) -> Self {
        let nearest = threshold as f32;
        let floor = if f64::from(nearest) > threshold { nearest.next_down() } else { nearest };
        Self::Less(floor.next_up())
    }

    /// `x < threshold` for x in f32, exactly.
    pub fn less(threshold: f64) -> Self {
        let nearest = threshold as f32;
        Self::Less(if f64::from(nearest) < threshold { nearest.next_up() } else { nearest })
    }
}

impl Tree {
    /// A tree of a single leaf.
    pub fn constant(output: u32, value: f64) -> Self {
        Self { nodes: vec![Node::Leaf(0)], leaves: Leaves::Scalar { output, values: vec![value] }, sets: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Test;

    proptest! {
        #[test]
        fn thresholds_of_f64_decide_values_of_f32_alike(bits in any::<u32>(), near in -2_i32..3, noise in any::<u64>()) {
            let x = f32::from_bits(bits);
            prop_assume!(!x.is_nan());
            let close = f64::from_bits(f64::from(x).to_bits().wrapping_add_signed(i64::from(near)));
            for threshold in [close, f64::from_bits(noise), f64::from(x)] {
                prop_assume!(!threshold.is_nan());
                let Test::Less(below) = Test::less_or_equal(threshold) else { unreachable!() };
                prop_assert_eq!(x < below, f64::from(x) <= threshold, "{} <= {}", x, threshold);
                let Test::Less(below) = Test::less(threshold) else { unreachable!() };
                prop_assert_eq!(x < below, f64::from(x) < threshold, "{} < {}", x, threshold);
            }
        }
    }
}
