//! What is kept of a series: the times and the numbers of its last rows, as many as features look at. As bytes, little-endian:
//!
//! ```text
//! version: u8 = 1 | layout: u32 | times of the rows, ms, the oldest row first: i64 each
//! | for each input of the layout: its numbers, in the same order: f64 each | check: u32
//! ```
//!
//! INVARIANT: rows stay in the order in which they came, and only the oldest are forgotten, so that a history is a series' last
//! rows without a gap. `layout` is a hash of what is kept; `check` is FNV-1a of all before it, which no change of one byte
//! leaves as it is.

use std::collections::VecDeque;

use crate::features::feature::Kind;
use crate::features::{HISTORY_ROWS_MAX, Input, index_or_push};
use crate::series::hash;

const VERSION: u8 = 1;
const HEADER: usize = 1 + 4;

/// What histories keep.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Layout {
    /// Those that features look back at, by their index.
    pub(super) inputs: Vec<usize>,
    /// Rows before the present one that lags and rows look at.
    rows: usize,
    /// The longest window; 0 if there is none.
    window_ms: i64,
    hash: u32,
}

impl Layout {
    /// Makes room for what a feature looks at. Returns the index of the input among those that are kept.
    pub(super) fn add(&mut self, input: usize, kind: &Kind) -> usize {
        match kind {
            Kind::Lag(rows) => self.rows = self.rows.max(*rows),
            Kind::Rows(_, rows) => self.rows = self.rows.max(rows - 1),
            Kind::Window(_, window_ms) => self.window_ms = self.window_ms.max(*window_ms),
            Kind::Value | Kind::OneHot(_) | Kind::Categories(_) => {}
        }
        index_or_push(&mut self.inputs, input)
    }

    /// After the last feature. A history that was kept for fewer rows would make aggregates of fewer than they say.
    pub(super) fn seal(&mut self, inputs: &[Input]) {
        let mut bytes = [(self.rows as u64).to_le_bytes(), self.window_ms.to_le_bytes()].concat();
        for input in &self.inputs {
            let path = &inputs[*input].path;
            bytes.extend((path.len() as u64).to_le_bytes());
            bytes.extend(path.as_bytes());
        }
        self.hash = hash(&bytes);
    }
}

/// The rows of a series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct History {
    times: VecDeque<i64>,
    /// For each input of the layout.
    numbers: Vec<VecDeque<f64>>,
}

impl History {
    pub(super) fn new(layout: &Layout) -> Self {
        Self { times: VecDeque::new(), numbers: vec![VecDeque::new(); layout.inputs.len()] }
    }

    /// The present row.
    pub(super) fn push(&mut self, time_ms: i64, numbers: impl Iterator<Item = f64>) {
        self.times.push_back(time_ms);
        self.numbers.iter_mut().zip(numbers).for_each(|(kept, number)| kept.push_back(number));
    }

    /// The number of so many rows ago.
    pub(super) fn lag(&self, input: usize, rows: usize) -> f64 {
        let numbers = &self.numbers[input];
        numbers.len().checked_sub(rows + 1).map_or(f64::NAN, |row| numbers[row])
    }

    /// Of the last rows, the oldest first.
    pub(super) fn last(&self, input: usize, rows: usize) -> impl Iterator<Item = f64> + Clone {
        let numbers = &self.numbers[input];
        numbers.range(numbers.len().saturating_sub(rows)..).copied()
    }

    /// Of the rows of a window that ends at the present row, the newest first: whether a row counts depends on those since.
    pub(super) fn window(&self, input: usize, window_ms: i64) -> impl Iterator<Item = f64> + Clone {
        let time_ms = self.times.back().copied().unwrap_or(i64::MIN);
        let mut latest_ms = time_ms;
        let rows = self.times.iter().zip(&self.numbers[input]).rev().take(HISTORY_ROWS_MAX);
        rows.filter_map(move |(row_ms, number)| {
            latest_ms = latest_ms.max(*row_ms);
            // Times may be as far apart as an i64 cannot hold.
            (*row_ms <= time_ms && latest_ms.saturating_sub(*row_ms) < window_ms).then_some(*number)
        })
    }

    /// Forgets the oldest rows that no feature will look at. SUBTLE: the times that decide are the oldest row's and the present
    /// one's, not the latest's: after one row from the far future, windows fill again with the rows that follow it.
    pub(super) fn forget(&mut self, layout: &Layout) {
        while let (Some(oldest_ms), Some(time_ms)) = (self.times.front(), self.times.back()) {
            let is_in_window = layout.window_ms > 0 && time_ms.saturating_sub(*oldest_ms) < layout.window_ms;
            if self.times.len() <= layout.rows || is_in_window && self.times.len() <= HISTORY_ROWS_MAX {
                return;
            }
            self.times.pop_front();
            self.numbers.iter_mut().for_each(|numbers| _ = numbers.pop_front());
        }
    }

    /// Bytes that `decode` reads.
    pub(super) fn encode(&self, layout: &Layout) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + 8 * self.times.len() * (1 + self.numbers.len()) + 4);
        bytes.push(VERSION);
        bytes.extend(layout.hash.to_le_bytes());
        self.times.iter().for_each(|time_ms| bytes.extend(time_ms.to_le_bytes()));
        self.numbers.iter().flatten().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend(hash(&bytes).to_le_bytes());
        bytes
    }

    /// None: the bytes are damaged, of another version, or of another layout.
    pub(super) fn decode(bytes: &[u8], layout: &Layout) -> Option<Self> {
        let (body, check) = bytes.split_last_chunk::<4>()?;
        let (header, words) = body.split_first_chunk::<HEADER>()?;
        let (words, left) = words.as_chunks::<8>();
        let row = 1 + layout.inputs.len();
        let rows = words.len() / row;
        let is_whole = hash(body) == u32::from_le_bytes(*check) && left.is_empty() && words.len() == rows * row;
        let is_ours = header[0] == VERSION && header[1..] == layout.hash.to_le_bytes() && rows <= HISTORY_ROWS_MAX;
        if !is_whole || !is_ours {
            return None;
        }
        let (times, numbers) = words.split_at(rows);
        let numbers = (0..layout.inputs.len()).map(|input| &numbers[input * rows..][..rows]);
        Some(Self {
            times: times.iter().map(|time_ms| i64::from_le_bytes(*time_ms)).collect(),
            numbers: numbers.map(|input| input.iter().map(|number| f64::from_le_bytes(*number)).collect()).collect(),
        })
    }
}
