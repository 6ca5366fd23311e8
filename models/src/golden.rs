//! A batch whose margins are known: what a device must give before it is trusted, and again after it has failed.
//!
//! Its values stand at a forest's own thresholds and beside them, where a wrong comparison shows; others are missing, zero or
//! anything. It is the same for the same model.

use arrow::array::Float32Array;

use crate::device::{Device as _, DeviceError, PlainDevice, Scorer, is_same};
use crate::forest::{Forest, Node, Test};
use crate::model::{Kind, Model};

/// Rows of the batch.
const ROWS: usize = 97;
/// Thresholds of a feature that are taken.
const THRESHOLDS_MAX: usize = 32;

pub struct Golden {
    columns: Vec<Float32Array>,
    margins: Vec<f64>,
}

impl Golden {
    pub fn new(model: &Model) -> Result<Self, DeviceError> {
        let columns = batch(model, ROWS);
        let margins = PlainDevice.load(model)?.score(&columns)?;
        Ok(Self { columns, margins })
    }

    /// Whether a scorer gives the margins. Errors: it gives none.
    pub fn is_passed(&self, scorer: &mut dyn Scorer) -> Result<bool, DeviceError> {
        Ok(is_same(&scorer.score(&self.columns)?, &self.margins))
    }
}

/// A batch of so many rows for a model.
pub fn batch(model: &Model, rows: usize) -> Vec<Float32Array> {
    let mut thresholds = vec![Vec::new(); model.features()];
    if let Kind::Forest(forest) = &model.kind {
        collect(forest, &mut thresholds);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    thresholds.iter().map(|thresholds| (0..rows).map(|_| Some(value(thresholds, &mut random))).collect()).collect()
}

fn collect(forest: &Forest, thresholds: &mut [Vec<f32>]) {
    for node in forest.trees.iter().flat_map(|tree| &tree.nodes) {
        if let Node::Split(split) = node {
            let of = &mut thresholds[split.feature as usize];
            if of.len() < THRESHOLDS_MAX {
                match split.test {
                    Test::Less(threshold) | Test::Equal(threshold) => of.push(threshold),
                    // Whether a value below 0 is category 0 is what devices may differ in.
                    Test::In { words, .. } => of.extend([words as f32 * 16.0, -0.5]),
                }
            }
        }
    }
}

fn value(thresholds: &[f32], random: &mut Random) -> f32 {
    let near = if thresholds.is_empty() { 1.0 } else { thresholds[random.below(thresholds.len())] };
    match random.below(10) {
        0 => f32::NAN,
        1 => 0.0,
        2 => -(random.below(100) as f32),
        3 => random.below(64) as f32,
        4 => near.next_down(),
        5 => near.next_up(),
        6 => near + (random.below(2001) as f32 - 1000.0) / 500.0,
        _ => near,
    }
}

/// Marsaglia's xorshift (2003): the batch must be the same in every process.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

#[cfg(test)]
mod tests {
    use super::Golden;
    use crate::device::{Device as _, PlainDevice};
    use crate::forest::{Category, Combine, Leaves, Missing, Node, Split, Test, Tree};
    use crate::link::{Link, Precision};
    use crate::{Forest, Kind, Model};

    fn model(category: Category) -> Model {
        let test = Test::In { start: 0, words: 1, category };
        let split = Split { feature: 0, test, missing: Missing::Nan, default_left: false, left: 1, right: 2 };
        let tree = Tree {
            nodes: vec![Node::Split(split), Node::Leaf(0), Node::Leaf(1)],
            leaves: Leaves::Scalar { output: 0, values: vec![1.0, 2.0] },
            sets: vec![0x5555_5555],
        };
        let forest = Forest {
            features: 1,
            trees: vec![tree],
            outputs: 1,
            base: vec![0.0],
            combine: Combine::BaseFirst,
            precision: Precision::Single,
            link: Link::Identity,
        };
        Model { kind: Kind::Forest(forest), format: "golden", names: Vec::new(), hash: String::new() }
    }

    #[test]
    fn a_device_that_makes_categories_another_way_does_not_pass() {
        let all = [Category::Floor, Category::Truncated, Category::Whole];
        for ours in all {
            let golden = Golden::new(&model(ours)).unwrap();
            for theirs in all {
                let mut scorer = PlainDevice.load(&model(theirs)).unwrap();
                assert_eq!(golden.is_passed(&mut *scorer).unwrap(), ours == theirs, "{ours:?} by {theirs:?}");
            }
        }
    }
}
