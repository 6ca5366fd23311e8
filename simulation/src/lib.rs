//! Deterministic simulation of the runtime: real workers, tasks, stores and the embedded log in one thread, under one seed that
//! decides the time, who runs next and what fails. What comes out is compared with a recomputation from the inputs.
//!
//! ```text
//! seed -> world (who runs, how late it is, who crashes) -> workers -> faulty log -> embedded log, in memory
//!              |                                             `-> stores on disk, set back at a crash to what was flushed
//!              `-> trace (a hash: the same seed gives the same run)
//! log  -> oracle (outputs, stores, digests, positions from inputs and manifests alone)
//! ```
//!
//! INVARIANT: nothing here asks the machine for time or randomness.

pub mod fate;
pub mod faulty;
pub mod oracle;
pub mod process;
pub mod service;
pub mod trace;
pub mod world;
