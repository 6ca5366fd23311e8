//! Models that users bring: from a model's file to the scores of Arrow batches, on the CPU or a GPU, with the same result.
//!
//! ```text
//! a file -> format::read -> Model -> a Scorer of a device -> columns of f32 in, margins out -> Link -> scores
//!       '-> series::Detector, with a state for each series: a value in, its score out
//! ```
//!
//! INVARIANT: what a model gives is defined by its `Forest` or `Network` alone, by the reference evaluation beside each. Every
//! device gives the same margins, bit for bit.

pub mod breaker;
pub mod chooser;
pub mod clock;
pub mod cpu;
pub mod device;
pub mod error;
pub mod features;
pub mod file;
pub mod forest;
pub mod format;
pub mod golden;
pub mod gpu;
pub mod guard;
pub mod link;
pub mod model;
pub mod network;
pub mod series;
pub mod similarity;

pub use error::ModelError;
pub use file::ModelFile;
pub use forest::Forest;
pub use link::Link;
pub use model::{Kind, Model};
pub use network::Network;
