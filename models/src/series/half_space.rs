//! Streaming half-space trees: how empty the part of space is in which the last few values lie, beside how empty such parts were
//! lately.
//!
//! Tan, Ting and Liu, "Fast anomaly detection for streaming data", IJCAI 2011. A point is the last `shingle` values. Each tree
//! halves a box around the unit cube, `depth` times, each time in a dimension that is drawn; no data is needed to make it. What
//! is learnt is how many of a window's points lie in each part (mass). A point descends to the first part that has at most a
//! tenth of a window's, and there its density is mass times 2^level; the window's own are counted meanwhile and take over at
//! its end. Of the trees' mean density d, in units of a box that is evenly filled, 1 / (1 + d) is how empty it is there: 1 where
//! nothing was, 1/2 where points are as if evenly spread, less where they crowd.
//!
//! Two things are not the paper's. It takes values to lie between 0 and 1, of which a stream knows nothing: unless the settings
//! give a range, the least and the greatest value of the window that counts become 0 and 1, and what lies beyond falls into the
//! outer parts of the box. And it sets a threshold for one stream, where here one serves many, some of which are always sparse:
//! the score is by how many deviations a point's emptiness is above its exponentially weighted mean (`weighted_mean`), and 0
//! below it.
//!
//! INVARIANT: the trees follow from the seed alone, so a state is the values of two windows, and masses are made from them.
//! A tree's masses are its points' paths, ascending: a part is a range of them.

use crate::series::encoding::{Reader, Writer};
use crate::series::error::SeriesError;
use crate::series::parameters::Parameters;
use crate::series::settings::HalfSpaceSettings;
use crate::series::weighted_mean::WeightedMean;
use crate::series::windows::Windows;

/// Values that a point may have.
pub(crate) const SHINGLE_MAX: usize = 16;
/// Halvings on a path, which has a bit for each.
pub(crate) const DEPTH_MAX: u32 = 24;

/// Points whose emptiness is learnt before one is scored.
const POINTS_MIN: usize = 32;
/// Deviations of an emptiness, which is from 0 to 1, that count as nothing.
const EMPTINESS_MIN: f64 = 1e-3;

/// Where a tree's box begins and ends, in each dimension.
type Box = [(f64, f64); SHINGLE_MAX];

/// The trees.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HalfSpace {
    pub(crate) window: usize,
    depth: u32,
    shingle: usize,
    seed: u64,
    range: Option<(f64, f64)>,
    boxes: Vec<Box>,
    /// Of the emptiness.
    usual: Parameters,
}

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Masses {
    windows: Windows,
    /// For each tree, the paths of the reference's points.
    paths: Vec<Vec<u32>>,
    /// The reference's least value, and 1 / how far the greatest is from it.
    low: f64,
    scale: f64,
    emptiness: WeightedMean,
}

impl HalfSpace {
    pub(crate) fn new(settings: &HalfSpaceSettings) -> Self {
        let HalfSpaceSettings { trees, depth, window, shingle, seed, range, alpha } = *settings;
        let tree_box = |tree: usize| {
            std::array::from_fn(|dimension| {
                let drawn = random(seed, tree as u64, u64::MAX - dimension as u64);
                // 53 bits make a double between 0 and 1.
                let centre = (drawn >> 11) as f64 / (1_u64 << 53) as f64;
                let reach = 2.0 * centre.max(1.0 - centre);
                (centre - reach, centre + reach)
            })
        };
        let usual =
            Parameters { window: 0, warm_up: POINTS_MIN, alpha, beta: 0.0, gamma: 0.0, deviation_min: EMPTINESS_MIN };
        Self { window, depth, shingle, seed, range, boxes: (0..trees).map(tree_box).collect(), usual }
    }

    pub(crate) fn state_bytes(&self) -> usize {
        256 + 16 * self.window + self.boxes.len() * (24 + 4 * self.window)
    }

    /// The score of `x`, which is no NaN.
    pub(crate) fn step(&self, masses: &mut Masses, x: f64) -> f64 {
        let mut score = 0.0;
        if !masses.windows.reference.is_empty() {
            let emptiness = self.emptiness(masses, x);
            score = masses.emptiness.step(&self.usual, emptiness).max(0.0);
        }
        if masses.windows.push(x, self.window) {
            self.count(masses);
        }
        score
    }

    fn emptiness(&self, masses: &Masses, x: f64) -> f64 {
        let mut point = [0.0; SHINGLE_MAX];
        let before = masses.windows.latest.iter().rev().chain(masses.windows.reference.iter().rev());
        for (slot, value) in point[..self.shingle].iter_mut().rev().zip(std::iter::once(&x).chain(before)) {
            *slot = (value - masses.low) * masses.scale;
        }
        let mass_enough = self.window / 10;
        let mut sum = 0.0;
        for (tree, paths) in masses.paths.iter().enumerate() {
            let mut descent = Descent::new(self, tree);
            let mut part = paths.as_slice();
            while descent.level < self.depth && part.len() > mass_enough {
                let is_upper = descent.halve(&point);
                let bit = self.depth - descent.level;
                let lower = part.partition_point(|path| path >> bit & 1 == 0);
                part = if is_upper { &part[lower..] } else { &part[..lower] };
            }
            sum += part.len() as f64 * f64::from(1_u32 << descent.level);
        }
        let points = self.window + 1 - self.shingle;
        1.0 / (1.0 + sum / (points * self.boxes.len()) as f64)
    }

    /// Makes scale and masses of the reference's values.
    fn count(&self, masses: &mut Masses) {
        let values = masses.windows.reference.iter().copied();
        let of_window =
            || (values.clone().fold(f64::INFINITY, f64::min), values.clone().fold(f64::NEG_INFINITY, f64::max));
        let (low, high) = self.range.unwrap_or_else(of_window);
        masses.low = low;
        // A constant window: 1 is 1.
        masses.scale = if high > low { 1.0 / (high - low) } else { 1.0 };
        let scaled: Vec<f64> = masses.windows.reference.iter().map(|value| (value - low) * masses.scale).collect();
        let mut point = [0.0; SHINGLE_MAX];
        masses.paths.resize(self.boxes.len(), Vec::new());
        for (tree, paths) in masses.paths.iter_mut().enumerate() {
            paths.clear();
            for values in scaled.windows(self.shingle) {
                point[..self.shingle].copy_from_slice(values);
                let mut descent = Descent::new(self, tree);
                while descent.level < self.depth {
                    descent.halve(&point);
                }
                paths.push(descent.path);
            }
            paths.sort_unstable();
        }
    }

    pub(crate) fn encode(masses: &Masses, writer: &mut Writer) {
        masses.windows.encode(writer);
        masses.emptiness.encode(writer);
    }

    /// Counts the reference's masses anew.
    pub(crate) fn decode(&self, reader: &mut Reader<'_>) -> Result<Masses, SeriesError> {
        let windows = Windows::decode(reader, self.window)?;
        let emptiness = WeightedMean::decode(reader)?;
        let mut masses = Masses { windows, emptiness, ..Masses::default() };
        if !masses.windows.reference.is_empty() {
            self.count(&mut masses);
        }
        Ok(masses)
    }
}

/// A point's way down a tree.
struct Descent<'a> {
    trees: &'a HalfSpace,
    tree: u64,
    part: Box,
    /// A bit for each level: whether the upper half was taken.
    path: u32,
    level: u32,
}

impl<'a> Descent<'a> {
    fn new(trees: &'a HalfSpace, tree: usize) -> Self {
        Self { trees, tree: tree as u64, part: trees.boxes[tree], path: 0, level: 0 }
    }

    /// Whether the point lies in the upper half.
    fn halve(&mut self, point: &[f64; SHINGLE_MAX]) -> bool {
        // The root is 1, the halves of n are 2 n and 2 n + 1.
        let node = 1_u64 << self.level | u64::from(self.path);
        let drawn = random(self.trees.seed, self.tree, node) >> 32;
        let dimension = ((drawn * self.trees.shingle as u64) >> 32) as usize;
        let (low, high) = &mut self.part[dimension];
        let middle = (*low + *high) * 0.5;
        let is_upper = point[dimension] >= middle;
        if is_upper {
            *low = middle
        } else {
            *high = middle
        }
        self.path = self.path << 1 | u32::from(is_upper);
        self.level += 1;
        is_upper
    }
}

/// SplitMix64's finalizer (Steele, Lea and Flood, 2014) of what is drawn for a node of a tree.
fn random(seed: u64, tree: u64, node: u64) -> u64 {
    let mut z = seed ^ tree.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ node.wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn trees(depth: u32, window: usize, shingle: usize, seed: u64) -> HalfSpace {
        HalfSpace::new(&HalfSpaceSettings { depth, window, shingle, seed, ..HalfSpaceSettings::default() })
    }

    fn wave(at: usize) -> f64 {
        (at as f64 / 7.0).sin()
    }

    /// As the paper has it: a mass for each node, counted on the way down.
    fn plain(trees: &HalfSpace, reference: &[f64], point: &[f64]) -> f64 {
        let low = reference.iter().copied().fold(f64::INFINITY, f64::min);
        let scale = 1.0 / (reference.iter().copied().fold(f64::NEG_INFINITY, f64::max) - low);
        let as_point = |values: &[f64]| {
            let mut point = [0.0; SHINGLE_MAX];
            point.iter_mut().zip(values).for_each(|(slot, value)| *slot = (value - low) * scale);
            point
        };
        let mut sum = 0.0;
        for tree in 0..trees.boxes.len() {
            let mut masses: HashMap<(u32, u32), usize> = HashMap::new();
            for values in reference.windows(trees.shingle) {
                let mut descent = Descent::new(trees, tree);
                *masses.entry((0, 0)).or_default() += 1;
                while descent.level < trees.depth {
                    descent.halve(&as_point(values));
                    *masses.entry((descent.level, descent.path)).or_default() += 1;
                }
            }
            let mut descent = Descent::new(trees, tree);
            let mass = |descent: &Descent<'_>| masses.get(&(descent.level, descent.path)).copied().unwrap_or(0);
            while descent.level < trees.depth && mass(&descent) > trees.window / 10 {
                descent.halve(&as_point(point));
            }
            sum += mass(&descent) as f64 * 2_f64.powi(descent.level as i32);
        }
        1.0 / (1.0 + sum / ((reference.len() + 1 - trees.shingle) * trees.boxes.len()) as f64)
    }

    #[test]
    fn ranges_of_paths_are_the_masses_of_nodes() {
        for (depth, shingle) in [(1, 1), (4, 1), (8, 3), (15, 4)] {
            let trees = trees(depth, 60, shingle, 7);
            let mut masses = Masses::default();
            let series: Vec<f64> = (0..60).map(wave).collect();
            series.iter().for_each(|x| assert_eq!(trees.step(&mut masses, *x), 0.0));
            let mut seen = series.clone();
            for x in [0.3, 5.0, -0.2, f64::from(f32::MAX), wave(64)] {
                seen.push(x);
                let point = &seen[seen.len() - shingle..];
                let expected = plain(&trees, &series, point);
                assert_eq!(trees.emptiness(&masses, x), expected, "depth {depth}, {shingle}, {x}");
                trees.step(&mut masses, x);
            }
        }
    }

    #[test]
    fn what_never_was_is_scored_above_what_was() {
        let trees = trees(15, 100, 2, 1);
        let mut masses = Masses::default();
        (0..290).for_each(|at| _ = trees.step(&mut masses, wave(at)));
        assert!(trees.emptiness(&masses, wave(290)) < 0.5 && trees.emptiness(&masses, 3.0) > 0.8);
        let usual = trees.step(&mut masses, wave(290));
        let unusual = trees.step(&mut masses, 3.0);
        assert!(usual < 3.0 && unusual > 3.0, "{usual}, {unusual}");
    }

    #[test]
    fn another_seed_makes_other_trees() {
        let score = |seed| {
            let trees = trees(15, 100, 2, seed);
            let mut masses = Masses::default();
            (0..150).map(|at| trees.step(&mut masses, wave(at))).collect::<Vec<f64>>()
        };
        assert_eq!(score(1), score(1));
        assert_ne!(score(1), score(2));
    }
}
