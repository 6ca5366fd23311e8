//! Engram's services: what each makes of the events that it reads.

pub mod activity;
pub mod collaboration;
pub mod passthrough;
pub mod scoring;
