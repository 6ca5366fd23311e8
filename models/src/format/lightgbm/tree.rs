//! A tree of a LightGBM model: columns by split and by leaf. A child that is negative, -1 - i, is leaf i.

use super::Section;
use crate::forest::{Category, Leaves, Missing, Node, Test, Tree, ZERO_MAX};
use crate::format::nodes::{Branches, breadth_first};

/// Bits of a decision type; above them is what is missing.
const IS_CATEGORICAL: u8 = 1;
const IS_DEFAULT_LEFT: u8 = 2;

/// Reads a tree that gives to `output`.
pub fn read(tree: &Section<'_>, output: u32) -> Result<Tree, String> {
    let leaves: usize = tree.number("num_leaves")?;
    let values: Vec<f64> = tree.numbers("leaf_value", leaves)?;
    if leaves == 1 {
        return Ok(Tree::constant(output, values[0]));
    }
    let splits = leaves.checked_sub(1).ok_or("it has no leaves")?;
    let features: Vec<u32> = tree.numbers("split_feature", splits)?;
    let thresholds: Vec<f64> = tree.numbers("threshold", splits)?;
    let decisions: Vec<u8> = tree.numbers("decision_type", splits)?;
    let lefts: Vec<i32> = tree.numbers("left_child", splits)?;
    let rights: Vec<i32> = tree.numbers("right_child", splits)?;

    let (boundaries, sets) = match tree.number("num_cat")? {
        0_usize => (Vec::new(), Vec::new()),
        count => {
            let boundaries: Vec<u32> =
                tree.numbers("cat_boundaries", count.checked_add(1).ok_or("num_cat is too large")?)?;
            let words = boundaries.last().copied().unwrap_or_default();
            (boundaries, tree.numbers::<u32>("cat_threshold", words as usize)?)
        }
    };

    // The splits, then the leaves.
    let nodes = breadth_first(splits + leaves, |at| {
        let Some(decision) = decisions.get(at) else {
            return Ok(Node::Leaf((at - splits) as u32));
        };
        let child = |child: i32| {
            u32::try_from(child)
                .unwrap_or_else(|_| u32::try_from(splits).unwrap_or(u32::MAX).saturating_add(!child as u32))
        };
        let branches = Branches {
            feature: features[at],
            missing: Missing::Nan,
            default_left: decision & IS_DEFAULT_LEFT != 0,
            left: child(lefts[at]),
            right: child(rights[at]),
        };
        if decision & IS_CATEGORICAL == 0 {
            let missing = match decision >> 2 {
                0 => Missing::NanIsZero,
                1 => Missing::NanOrZero,
                2 => Missing::Nan,
                _ => return Err(format!("the decision type of node {at} is {decision}")),
            };
            if thresholds[at].is_nan() {
                return Err(format!("the threshold of node {at} is not a number"));
            }
            return Ok(split(Branches { missing, ..branches }, thresholds[at]));
        }
        let set = thresholds[at] as usize;
        let (start, end) = match boundaries.get(set..).and_then(|boundaries| boundaries.get(..2)) {
            Some([start, end]) if thresholds[at] >= 0.0 && start <= end && *end as usize <= sets.len() => {
                (*start, *end)
            }
            _ => return Err(format!("the categories of node {at} are not there")),
        };
        // What is missing is no member, whatever the decision type says.
        let test = Test::In { start, words: end - start, category: Category::Truncated };
        Ok(Branches { default_left: false, ..branches }.split(test))
    })?;
    Ok(Tree { nodes, leaves: Leaves::Scalar { output, values }, sets })
}

/// x <= threshold, for an x that counts as zero if |x| <= `ZERO_MAX`: all of those go where zero goes.
fn split(branches: Branches, threshold: f64) -> Node {
    let zero = f64::from(ZERO_MAX);
    if (0.0..zero).contains(&threshold) {
        branches.split_less_or_equal(zero)
    } else if (-zero..0.0).contains(&threshold) {
        branches.split(Test::Less(-ZERO_MAX))
    } else {
        branches.split_less_or_equal(threshold)
    }
}
