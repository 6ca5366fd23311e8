//! What a forest gives, written down as plainly as it can be: the definition that every device is compared with.

use super::{Category, Combine, Forest, Leaves, Missing, Node, Split, Test, Tree, ZERO_MAX};
use crate::link::Precision;

impl Forest {
    /// The margins of a row of `self.features` values, where NaN is what is missing.
    pub fn margins(&self, row: &[f32]) -> Vec<f64> {
        let add = |a: f64, b: f64| match self.precision {
            Precision::Single => f64::from(a as f32 + b as f32),
            Precision::Double => a + b,
        };
        let divide = |a: f64, b: f64| match self.precision {
            Precision::Single => f64::from(a as f32 / b as f32),
            Precision::Double => a / b,
        };
        let round = |sum: f64| if self.precision == Precision::Single { f64::from(sum as f32) } else { sum };
        let mut margins = match self.combine {
            Combine::BaseFirst => self.base.iter().copied().map(round).collect(),
            Combine::BaseLast { .. } => vec![0.0; self.outputs],
        };
        for tree in &self.trees {
            let leaf = tree.leaf(row);
            match &tree.leaves {
                Leaves::Scalar { output, values } => {
                    let margin = &mut margins[*output as usize];
                    *margin = add(*margin, values[leaf]);
                }
                Leaves::Vector { values } => {
                    for (margin, value) in margins.iter_mut().zip(&values[leaf * self.outputs..]) {
                        *margin = add(*margin, *value);
                    }
                }
            }
        }
        if let Combine::BaseLast { divisor } = self.combine {
            for (margin, base) in margins.iter_mut().zip(&self.base) {
                *margin = round(divide(*margin, divisor) + base);
            }
        }
        margins
    }
}

impl Tree {
    /// The leaf that a row comes to.
    pub fn leaf(&self, row: &[f32]) -> usize {
        let mut at = 0;
        loop {
            match &self.nodes[at] {
                Node::Leaf(leaf) => return *leaf as usize,
                Node::Split(split) => {
                    let left = split.goes_left(row[split.feature as usize], &self.sets);
                    at = if left { split.left } else { split.right } as usize;
                }
            }
        }
    }
}

impl Split {
    /// Where a value goes.
    pub fn goes_left(&self, value: f32, sets: &[u32]) -> bool {
        let value = match self.missing {
            Missing::Nan if value.is_nan() => return self.default_left,
            Missing::NanOrZero if value.is_nan() || value.abs() <= ZERO_MAX => return self.default_left,
            Missing::NanIsZero if value.is_nan() => 0.0,
            _ => value,
        };
        match self.test {
            Test::Less(threshold) => value < threshold,
            Test::Equal(threshold) => value == threshold,
            Test::In { start, words, category } => {
                let set = &sets[start as usize..][..words as usize];
                match category {
                    Category::Floor => is_member(value.floor(), set),
                    Category::Truncated => is_member(value.trunc(), set),
                    Category::Whole => value.trunc() == value && is_member(value, set),
                }
            }
        }
    }
}

/// Whether a whole number is in a set. NaN and infinities are in none.
fn is_member(category: f32, set: &[u32]) -> bool {
    category >= 0.0 && category < set.len() as f32 * 32.0 && {
        let category = category as usize;
        set[category / 32] >> (category % 32) & 1 == 1
    }
}
