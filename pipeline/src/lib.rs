//! Engram's runtime, in the order in which a record meets it: the log's consumer hands it to a worker's task, the task
//! orders it and runs the processor on it, state and outputs are collected, and one transaction commits them all.

pub mod log;

pub mod clock;
pub mod directory;
pub mod registry;
pub mod replay;
pub mod service;
pub mod snapshot;

pub mod changelog;
pub mod collector;
pub mod committer;
pub mod dead_letter;
pub mod disposal;
pub mod driver;
pub mod errors;
pub mod manifest;
pub mod operators;
pub mod outbox;
pub mod poison;
pub mod processor;
pub mod progress;
pub mod queue;
pub mod restore;
pub mod retry;
pub mod standby;
pub mod status;
pub mod store;
pub mod task;
pub mod timers;
pub mod worker;
