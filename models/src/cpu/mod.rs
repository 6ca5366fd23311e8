//! The CPU's way from columns to margins: of forests, and in network.rs of networks.
//!
//! ```text
//! Forest -> Program::new: each tree gets the form that suits it
//!     sweep   up to 256 leaves: all decisions for a block of rows, a byte a row      (ranks.rs, sweep.rs)
//!     walk    any depth, numeric splits: from node to node, rows interleaved          (walk.rs)
//!     plain   anything else: the reference's own steps
//! Columns -> by blocks of rows: ranks and values as the forms want them -> by trees: leaves -> sums -> Margins
//! ```
//!
//! INVARIANT: margins are those of `Forest::margins`, bit for bit (a NaN is any NaN): a form only finds the leaf of each row, and
//! leaves are added in the order of the trees, in the forest's precision. So they are the same for any number of threads and
//! any batch that a row comes in.

mod columns;
mod margins;
mod network;
mod plan;
mod ranks;
mod search;
mod sweep;
#[cfg(test)]
mod tests;
mod walk;

pub use columns::{Column, Columns};
pub use margins::Margins;
pub use network::NetworkProgram;

use crate::forest::Forest;
use crate::link::{Link, Precision};
use margins::Real;
use plan::Plan;

/// Rows that are taken through all trees together. Their lanes stay in the caches of a core.
const BLOCK: usize = 512;

/// A forest made ready for the CPU: immutable, for any number of threads at a time.
pub struct Program {
    features: usize,
    outputs: usize,
    link: Link,
    plan: Precise,
}

enum Precise {
    Single(Plan<f32>),
    Double(Plan<f64>),
}

impl Program {
    /// Of a forest that `Forest::check` has passed.
    pub fn new(forest: &Forest) -> Self {
        let plan = match forest.precision {
            Precision::Single => Precise::Single(Plan::new(forest)),
            Precision::Double => Precise::Double(Plan::new(forest)),
        };
        Self { features: forest.features, outputs: forest.outputs, link: forest.link, plan }
    }

    /// Margins of a row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The margins of a batch. What `out` held is gone; its memory is used again.
    /// Panics if there are fewer columns than the forest has features.
    pub fn margins(&self, columns: &Columns<'_>, out: &mut Margins) {
        self.margins_by(1, columns, out);
    }

    /// The same, by so many threads at most: each takes a range of rows.
    pub fn margins_by(&self, threads: usize, columns: &Columns<'_>, out: &mut Margins) {
        assert!(columns.width() >= self.features, "{} columns of {}", columns.width(), self.features);
        match &self.plan {
            Precise::Single(plan) => self.run(plan, threads, columns, out),
            Precise::Double(plan) => self.run(plan, threads, columns, out),
        }
    }

    /// The scores of a batch, row by row: the margins through the forest's link.
    pub fn scores(&self, threads: usize, columns: &Columns<'_>) -> Vec<f64> {
        let mut margins = Margins::default();
        self.margins_by(threads, columns, &mut margins);
        margins.scores(self.outputs, self.link)
    }

    fn run<R: Real>(&self, plan: &Plan<R>, threads: usize, columns: &Columns<'_>, out: &mut Margins) {
        let out = R::of(out);
        out.clear();
        out.resize(columns.rows() * self.outputs, R::round(0.0));
        // Whole blocks, so that no thread has a short one but the last.
        let share = columns.rows().div_ceil(threads.max(1)).next_multiple_of(BLOCK).max(BLOCK);
        if columns.rows() <= share {
            return plan.run(columns, 0, out);
        }
        std::thread::scope(|scope| {
            for (number, out) in out.chunks_mut(share * self.outputs).enumerate() {
                scope.spawn(move || plan.run(columns, number * share, out));
            }
        });
    }
}
