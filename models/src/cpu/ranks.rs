//! Values as ranks among a forest's thresholds: a byte each, since a tree only asks on which side of a threshold a value is.
//!
//! An axis is what is asked of one feature: its thresholds, sorted. A value's rank is the number of thresholds at or below it,
//! so that `x < thresholds[i]` is `rank <= i`. A block holds lanes, rows of bytes that decisions read:
//!
//! ```text
//! lane of an axis, its chunk c of 255 thresholds, and a side:  rank - 255 c, between 0 and 255; missing: 0 or 255, by the side
//! lane of any other test:                                      0 if the row goes left, otherwise 255
//! ```
//!
//! INVARIANT: a row goes right at a decision exactly if its byte of the decision's lane is above the decision's cut. Missing
//! values have no rule of their own: they are ranked below or above all cuts.

use std::collections::HashMap;

use super::BLOCK;
use super::columns::Columns;
use super::search::Search;
use crate::forest::{Missing, Split, Test, ZERO_MAX};

/// Thresholds of a lane: cuts are 0..=254.
const CHUNK: usize = 255;

/// Collects what the trees ask.
#[derive(Default)]
pub(super) struct RanksBuilder {
    axes: HashMap<(u32, Missing), Vec<f32>>,
    flags: usize,
}

/// What the trees ask of a row, and the lanes that answer.
pub(super) struct Ranks {
    axes: Vec<Axis>,
    numbers: HashMap<(u32, Missing), usize>,
    flags: Vec<(Split, Vec<u32>)>,
    lanes: usize,
    lanes_bound: usize,
}

struct Axis {
    feature: u32,
    missing: Missing,
    thresholds: Vec<f32>,
    search: Search,
    /// Lanes: the chunk, whether what is missing goes left, the lane's number.
    lanes: Vec<(usize, bool, usize)>,
}

/// The lanes of a block of rows: lane by lane, `BLOCK` bytes each, offset by 128 so that signed bytes have their order.
pub(super) struct Lanes {
    bytes: Vec<[i8; BLOCK]>,
    values: [f32; BLOCK],
    ranks: [u32; BLOCK],
}

impl RanksBuilder {
    /// Notes a split that will be asked for.
    pub fn add(&mut self, split: &Split) {
        match split.test {
            Test::Less(threshold) => self.axes.entry((split.feature, split.missing)).or_default().push(threshold),
            Test::Equal(_) | Test::In { .. } => self.flags += 1,
        }
    }

    pub fn finish(self) -> Ranks {
        let mut axes: Vec<_> = self.axes.into_iter().collect();
        axes.sort_by_key(|((feature, missing), _)| (*feature, *missing as u8));
        let mut ranks =
            Ranks { axes: Vec::new(), numbers: HashMap::new(), flags: Vec::new(), lanes: 0, lanes_bound: self.flags };
        for ((feature, missing), mut thresholds) in axes {
            thresholds.sort_by(f32::total_cmp);
            // Zeros of both signs are one threshold.
            thresholds.dedup_by(|a, b| a == b);
            ranks.lanes_bound += 2 * thresholds.len().div_ceil(CHUNK);
            let search = Search::new(&thresholds);
            ranks.numbers.insert((feature, missing), ranks.axes.len());
            ranks.axes.push(Axis { feature, missing, thresholds, search, lanes: Vec::new() });
        }
        ranks
    }
}

impl Ranks {
    /// The lane and the cut of a split that was noted.
    pub fn decision(&mut self, split: &Split, sets: &[u32]) -> (usize, i8) {
        let Test::Less(threshold) = split.test else { return (self.flag(split, sets), i8::MIN) };
        let axis = &mut self.axes[self.numbers[&(split.feature, split.missing)]];
        let at = axis.thresholds.partition_point(|other| *other < threshold);
        let (chunk, cut) = (at / CHUNK, at % CHUNK);
        let wanted = (chunk, split.default_left);
        let lane = axis.lanes.iter().find(|(chunk, left, _)| (*chunk, *left) == wanted).map(|(_, _, lane)| *lane);
        let lane = lane.unwrap_or_else(|| {
            axis.lanes.push((chunk, split.default_left, self.lanes));
            self.lanes += 1;
            self.lanes - 1
        });
        (lane, signed(cut as u32))
    }

    /// A lane of a split's own.
    fn flag(&mut self, split: &Split, sets: &[u32]) -> usize {
        let (test, sets) = match split.test {
            Test::In { start, words, category } => {
                (Test::In { start: 0, words, category }, sets[start as usize..][..words as usize].to_vec())
            }
            test => (test, Vec::new()),
        };
        self.flags.push((Split { test, left: self.lanes as u32, ..*split }, sets));
        self.lanes += 1;
        self.lanes - 1
    }

    /// No more lanes than these will be asked for.
    pub fn lanes_bound(&self) -> usize {
        self.lanes_bound
    }

    /// Ranks the rows from `start` on, at most a block of them. Bytes beyond them are of no meaning.
    pub fn fill(&self, columns: &Columns<'_>, start: usize, rows: usize, to: &mut Lanes) {
        let Lanes { bytes, values, ranks } = to;
        let values = &mut values[..rows];
        for axis in &self.axes {
            columns.column(axis.feature).copy(start, values);
            match axis.missing {
                Missing::Nan => {}
                Missing::NanOrZero => replace(values, |value| if value.abs() <= ZERO_MAX { f32::NAN } else { value }),
                Missing::NanIsZero => replace(values, |value| if value.is_nan() { 0.0 } else { value }),
            }
            axis.search.ranks(values, &mut ranks[..rows]);
            for (chunk, missing_left, lane) in &axis.lanes {
                let below = (chunk * CHUNK) as u32;
                let missing = signed(if *missing_left { 0 } else { CHUNK as u32 });
                for ((byte, rank), value) in bytes[*lane].iter_mut().zip(&*ranks).zip(&*values) {
                    let rank = rank.saturating_sub(below).min(CHUNK as u32);
                    *byte = if value.is_nan() { missing } else { signed(rank) };
                }
            }
        }
        for (split, sets) in &self.flags {
            columns.column(split.feature).copy(start, values);
            for (byte, value) in bytes[split.left as usize].iter_mut().zip(&*values) {
                *byte = if split.goes_left(*value, sets) { i8::MIN } else { i8::MAX };
            }
        }
    }
}

impl Lanes {
    pub fn new(ranks: &Ranks) -> Self {
        Self { bytes: vec![[0; BLOCK]; ranks.lanes], values: [0.0; BLOCK], ranks: [0; BLOCK] }
    }

    pub fn bytes(&self) -> &[[i8; BLOCK]] {
        &self.bytes
    }
}

fn replace(values: &mut [f32], by: impl Fn(f32) -> f32) {
    values.iter_mut().for_each(|value| *value = by(*value));
}

/// 0..=255 as a signed byte, in the same order.
fn signed(rank: u32) -> i8 {
    (rank as u8 ^ 0x80) as i8
}
