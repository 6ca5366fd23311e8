//! The operators against brute-force oracles: whatever order the records come in, and wherever commits, aborts and restarts
//! fall, what comes out is what a recomputation from the list of records gives, and so is what stays in the stores.
//!
//! Aborts and restarts make no difference to an oracle: it never hears of them.

mod foreign_key;
mod harness;
mod sessions;
mod sliding;
mod stream_join;
mod tables;
mod timers;
mod ttl;
mod windows;
