//! A model as it was read from its file.

use crate::error::ModelError;
use crate::file;
use crate::forest::Forest;
use crate::format;
use crate::link::{Link, Precision};
use crate::network::Network;

/// What computes the margins.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Forest(Forest),
    Network(Network),
}

/// A model: its name is the hash of its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub kind: Kind,
    /// The format that its file has, as it is shown: "xgboost", "lightgbm", "treelite", "onnx".
    pub format: &'static str,
    /// The columns that it wants, by name; empty if it only counts them.
    pub names: Vec<String>,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub hash: String,
}

impl Model {
    /// Reads a model of any format. Errors: see `ModelError`; there is no input on which it panics, and no allocation that
    /// is not bounded by the size of the file.
    pub fn read(file: &[u8]) -> Result<Self, ModelError> {
        let format::Parsed { kind, format, names } = format::read(file)?;
        Ok(Self { kind, format, names, hash: file::hash(file) })
    }

    /// The definition by which its margins are computed, with its version: every device follows it. It changes when any model's
    /// margins do.
    pub fn kernel(&self) -> &'static str {
        match &self.kind {
            Kind::Forest(_) => "forest-1",
            Kind::Network(_) => "network-1",
        }
    }

    /// Columns of its input.
    pub fn features(&self) -> usize {
        match &self.kind {
            Kind::Forest(forest) => forest.features,
            Kind::Network(network) => network.inputs,
        }
    }

    /// Margins of a row.
    pub fn margins(&self) -> usize {
        match &self.kind {
            Kind::Forest(forest) => forest.outputs,
            Kind::Network(network) => network.outputs(),
        }
    }

    /// Of its margins and scores.
    pub fn precision(&self) -> Precision {
        match &self.kind {
            Kind::Forest(forest) => forest.precision,
            Kind::Network(_) => Precision::Single,
        }
    }

    pub fn link(&self) -> Link {
        match &self.kind {
            Kind::Forest(forest) => forest.link,
            Kind::Network(network) => network.link,
        }
    }

    /// Scores of a row.
    pub fn scores_width(&self) -> usize {
        self.link().scores(self.margins())
    }

    /// The scores of a batch's margins, row by row.
    pub fn scores(&self, margins: &[f64]) -> Vec<f64> {
        self.link().apply_to_rows(self.precision(), self.margins(), margins)
    }
}
