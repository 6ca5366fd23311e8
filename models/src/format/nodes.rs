//! From the nodes that a file lists to a tree's nodes, for every format.

use crate::error::ModelError;
use crate::forest::{Missing, Node, Split, Test};

/// Words of the category sets of a model, together: a set is as long as its largest category, not as its text in the file.
pub const SET_WORDS_MAX: usize = 1 << 24;
/// Categories are below it: f32 tells no larger ones apart.
pub const CATEGORIES_MAX: u32 = 1 << 24;

/// The nodes that can be reached from node 0, breadth first, where `read` gives what the file says of one of its `count`
/// nodes, with children by the file's numbers. The others are never looked at.
pub fn breadth_first(count: usize, mut read: impl FnMut(usize) -> Result<Node, String>) -> Result<Vec<Node>, String> {
    if count == 0 {
        return Err("it has no nodes".to_owned());
    }
    let mut is_seen = vec![false; count];
    is_seen[0] = true;
    let mut numbers = vec![0];
    let mut nodes = Vec::new();
    while let Some(number) = numbers.get(nodes.len()) {
        let mut node = read(*number)?;
        if let Node::Split(split) = &mut node {
            for child in [&mut split.left, &mut split.right] {
                let number = *child as usize;
                match is_seen.get_mut(number) {
                    None => return Err(format!("node {number} is not there")),
                    Some(true) => return Err(format!("node {number} has two parents")),
                    Some(is_seen) => *is_seen = true,
                }
                *child = numbers.len() as u32;
                numbers.push(number);
            }
        }
        nodes.push(node);
    }
    Ok(nodes)
}

/// Where a split's rows go.
#[derive(Clone, Copy)]
pub struct Branches {
    pub feature: u32,
    pub missing: Missing,
    pub default_left: bool,
    pub left: u32,
    pub right: u32,
}

impl Branches {
    /// If the test holds, to the left.
    pub fn split(self, test: Test) -> Node {
        let Self { feature, missing, default_left, left, right } = self;
        Node::Split(Split { feature, test, missing, default_left, left, right })
    }

    /// If the test holds, to the right.
    pub fn split_unless(self, test: Test) -> Node {
        let Self { default_left, left, right, .. } = self;
        Self { default_left: !default_left, left: right, right: left, ..self }.split(test)
    }

    /// If x <= threshold, to the left. No f32 is above infinity, where `Test::less_or_equal` has no answer.
    pub fn split_less_or_equal(self, threshold: f64) -> Node {
        if threshold == f64::INFINITY {
            return self.split_unless(Test::Less(f32::NEG_INFINITY));
        }
        self.split(Test::less_or_equal(threshold))
    }

    /// If x > threshold, to the left.
    pub fn split_greater(self, threshold: f64) -> Node {
        let Self { default_left, left, right, .. } = self;
        Self { default_left: !default_left, left: right, right: left, ..self }.split_less_or_equal(threshold)
    }
}

/// Appends a set of these categories to `sets` and gives its place. `words_left` is what the model may still take up.
pub fn add_set(
    categories: impl Iterator<Item = Option<u32>> + Clone,
    sets: &mut Vec<u32>,
    words_left: &mut usize,
) -> Result<(u32, u32), SetError> {
    let mut words = 0;
    for category in categories.clone() {
        let category = category.filter(|category| *category < CATEGORIES_MAX).ok_or(SetError::Category)?;
        words = words.max(category / 32 + 1);
    }
    *words_left = words_left.checked_sub(words as usize).ok_or(SetError::TooLarge)?;
    let start = sets.len();
    sets.resize(start + words as usize, 0);
    for category in categories.flatten() {
        sets[start + category as usize / 32] |= 1 << (category % 32);
    }
    Ok((u32::try_from(start).map_err(|_| SetError::TooLarge)?, words))
}

/// Why a set of categories is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetError {
    /// A category is not a number from 0 to below `CATEGORIES_MAX`.
    Category,
    /// The sets of the model take more than `SET_WORDS_MAX`.
    TooLarge,
}

impl From<SetError> for String {
    fn from(error: SetError) -> Self {
        match error {
            SetError::Category => format!("a category is not a whole number from 0 to {}", CATEGORIES_MAX - 1),
            SetError::TooLarge => format!("its category sets take more than {SET_WORDS_MAX} words"),
        }
    }
}

/// A whole number of a file that gives numbers as f64.
pub fn whole(number: f64) -> Option<u32> {
    let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    is_whole.then_some(number as u32)
}

/// What is wrong with a tree, by its number.
pub fn of_tree(format: &'static str, number: usize) -> impl FnOnce(String) -> ModelError {
    move |reason| ModelError::Malformed { format, reason: format!("tree {number}: {reason}") }
}
