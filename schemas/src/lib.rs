//! The contract: what the events are, how they are written, and who may change them. Everything else depends on this
//! crate, and it on nothing else of Engram.
//!
//! In the order in which a record meets it: `registry` knows the schemas, `codec` reads and writes events one by one,
//! `columnar` reads them into Arrow batches. The `.avsc` files in `schemas/avsc` are the source of truth; the structs of
//! the modules below `event` are checked against them by `tests/contract.rs`.

pub mod compatibility;
pub mod registry;
pub mod wire;

pub mod codec;
pub mod columnar;
pub mod json;
pub mod projection;

pub mod event;
pub mod yjs;

pub mod activity;
pub mod dead_letter;
pub mod document;
pub mod graph;
pub mod manifest;
pub mod memory;
pub mod operations;
pub mod presence;
pub mod scoring;
pub mod telemetry;

mod bounds;
mod intern;

use std::fmt;

pub use event::{CONTRACT, Event, Invalid, Subject, subject};

/// The id of a schema in its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaId(pub u32);

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
