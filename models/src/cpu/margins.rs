//! What a program gives: the margins of a batch, in the forest's precision.

use std::ops::{Add, Div};

use crate::link::{Link, Precision};

/// Margins of a batch, row by row: output `o` of row `r` is at `r * outputs + o`.
#[derive(Debug, Clone, PartialEq)]
pub enum Margins {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

/// A precision that is added in.
pub(super) trait Real: Copy + Send + Sync + Into<f64> + Add<Output = Self> + Div<Output = Self> {
    /// Rounded to it.
    fn round(value: f64) -> Self;

    /// The vector of that precision, emptied if it was of the other.
    fn of(margins: &mut Margins) -> &mut Vec<Self>;
}

impl Margins {
    pub fn len(&self) -> usize {
        match self {
            Self::Single(margins) => margins.len(),
            Self::Double(margins) => margins.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scores of a batch whose rows have so many margins: row by row, `link.scores(outputs)` of each.
    pub fn scores(&self, outputs: usize, link: Link) -> Vec<f64> {
        let precision = match self {
            Self::Single(_) => Precision::Single,
            Self::Double(_) => Precision::Double,
        };
        link.apply_to_rows(precision, outputs, &self.to_f64())
    }

    /// The same numbers in f64, which has them all.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::Single(margins) => margins.iter().copied().map(f64::from).collect(),
            Self::Double(margins) => margins.clone(),
        }
    }
}

impl Default for Margins {
    fn default() -> Self {
        Self::Single(Vec::new())
    }
}

impl Real for f32 {
    fn round(value: f64) -> Self {
        value as f32
    }

    fn of(margins: &mut Margins) -> &mut Vec<Self> {
        if let Margins::Double(_) = margins {
            *margins = Margins::Single(Vec::new());
        }
        let Margins::Single(margins) = margins else { unreachable!("it was made single") };
        margins
    }
}

impl Real for f64 {
    fn round(value: f64) -> Self {
        value
    }

    fn of(margins: &mut Margins) -> &mut Vec<Self> {
        if let Margins::Single(_) = margins {
            *margins = Margins::Double(Vec::new());
        }
        let Margins::Double(margins) = margins else { unreachable!("it was made double") };
        margins
    }
}
