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
        let width = link.scores(outputs);
        let mut scores = vec![0.0; self.len() / outputs * width];
        let rows = scores.chunks_exact_mut(width);
        match self {
            Self::Single(margins) => {
                let mut row = vec![0.0; outputs];
                for (scores, margins) in rows.zip(margins.chunks_exact(outputs)) {
                    row.iter_mut().zip(margins).for_each(|(to, margin)| *to = f64::from(*margin));
                    link.apply(Precision::Single, &row, scores);
                }
            }
            Self::Double(margins) => {
                for (scores, row) in rows.zip(margins.chunks_exact(outputs)) {
                    link.apply(Precision::Double, row, scores);
                }
            }
        }
        scores
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
