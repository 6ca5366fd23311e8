//! Whether a forest is sound.

use super::{Forest, Leaves, Node, Test, Tree};
use crate::error::ModelError;

/// Deepest tree.
pub const DEPTH_MAX: usize = 10_000;
/// Nodes of all trees.
pub const NODES_MAX: usize = 1 << 28;
/// Columns and margins of a row.
pub const FEATURES_MAX: usize = 1 << 20;
pub const OUTPUTS_MAX: usize = 1 << 16;
/// Words of a category set: as many as an f32 counts without a gap.
pub const WORDS_MAX: u32 = 1 << 24;

impl Forest {
    /// Refuses what no device could run. `format` is for the message.
    pub fn check(&self, format: &'static str) -> Result<(), ModelError> {
        let malformed = |reason: String| ModelError::Malformed { format, reason };
        for (what, count, max) in [("features", self.features, FEATURES_MAX), ("outputs", self.outputs, OUTPUTS_MAX)] {
            if count == 0 || count > max {
                return Err(malformed(format!("it has {count} {what}; 1 to {max} are taken")));
            }
        }
        if self.base.len() != self.outputs {
            return Err(malformed(format!("{} base scores for {} outputs", self.base.len(), self.outputs)));
        }
        if self.trees.is_empty() {
            return Err(malformed("it has no trees".to_owned()));
        }
        if self.trees.iter().map(|tree| tree.nodes.len()).sum::<usize>() > NODES_MAX {
            return Err(ModelError::TooLarge(format!("more than {NODES_MAX} nodes")));
        }
        for (number, tree) in self.trees.iter().enumerate() {
            self.check_tree(tree).map_err(|reason| malformed(format!("tree {number}: {reason}")))?;
        }
        Ok(())
    }

    fn check_tree(&self, tree: &Tree) -> Result<(), String> {
        let leaves = match &tree.leaves {
            Leaves::Scalar { output, values } if (*output as usize) < self.outputs => values.len(),
            Leaves::Scalar { output, .. } => return Err(format!("its output {output} is not there")),
            Leaves::Vector { values } if values.len() % self.outputs == 0 => values.len() / self.outputs,
            Leaves::Vector { .. } => return Err("its leaves are cut short".to_owned()),
        };
        if tree.nodes.is_empty() {
            return Err("it has no nodes".to_owned());
        }
        let mut is_seen = vec![false; tree.nodes.len()];
        let mut open = vec![(0_usize, 0_usize)];
        while let Some((at, depth)) = open.pop() {
            let node = tree.nodes.get(at).ok_or_else(|| format!("node {at} is not there"))?;
            if std::mem::replace(&mut is_seen[at], true) {
                return Err(format!("node {at} has two parents"));
            }
            if depth > DEPTH_MAX {
                return Err(format!("it is more than {DEPTH_MAX} deep"));
            }
            let split = match node {
                Node::Leaf(leaf) if (*leaf as usize) < leaves => continue,
                Node::Leaf(leaf) => return Err(format!("leaf {leaf} of node {at} is not there")),
                Node::Split(split) => split,
            };
            if split.feature as usize >= self.features {
                return Err(format!("node {at} asks for feature {} of {}", split.feature, self.features));
            }
            match split.test {
                Test::Less(threshold) | Test::Equal(threshold) if threshold.is_nan() => {
                    return Err(format!("the threshold of node {at} is not a number"));
                }
                Test::In { start, words, .. }
                    if start as usize + words as usize > tree.sets.len() || words > WORDS_MAX =>
                {
                    return Err(format!("the categories of node {at} are not there"));
                }
                _ => {}
            }
            open.extend([(split.left as usize, depth + 1), (split.right as usize, depth + 1)]);
        }
        Ok(())
    }
}
