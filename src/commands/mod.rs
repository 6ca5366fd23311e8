//! The commands, one file each.

mod bench;
mod bisect;
mod consume;
mod dead_letters;
mod diff;
mod document;
mod fork;
mod ingest;
mod lag;
mod models;
mod produce;
mod replay;
mod reset;
mod schemas;
mod score;
mod services;
mod similar;
mod snapshot;
mod state;
mod step;
mod topics;
mod up;
mod why;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use dead_letters::MARKS as DEAD_LETTER_MARKS;

use crate::cli::{Cli, Command, Ingest};

pub fn run(cli: Cli) -> anyhow::Result<()> {
    let global = &cli.global;
    match cli.command {
        Command::Up(args) => up::run(global, &args),
        Command::Ingest(Ingest::Git(args)) => ingest::git(global, &args),
        Command::Produce(args) => produce::run(global, &args),
        Command::Consume(args) => consume::run(global, &args),
        Command::Topics => topics::run(global),
        Command::Schemas(command) => schemas::run(global, &command),
        Command::Services => services::run(global),
        Command::Lag => lag::run(global),
        Command::State(command) => state::run(global, &command),
        Command::Document(command) => document::run(global, &command),
        Command::Snapshot(command) => snapshot::run(global, &command),
        Command::DeadLetters(command) => dead_letters::run(global, &command),
        Command::Replay(args) => replay::run(global, &args),
        Command::Why(args) => why::run(global, &args),
        Command::Diff(args) => diff::run(global, &args),
        Command::Step(args) => step::run(global, &args),
        Command::Fork(args) => fork::run(global, &args),
        Command::Bisect(args) => bisect::run(global, &args),
        Command::Reset(args) => reset::run(global, &args),
        Command::Models(command) => models::run(global, &command),
        Command::Score(args) => score::run(global, &args),
        Command::Similar(args) => similar::run(global, &args),
        Command::Bench(args) => bench::run(global, &args),
    }
}

/// Locks what stays whole even if a thread has panicked while it held it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A flag that Ctrl-C and SIGTERM set: commands look at it between two steps and stop cleanly. A second signal ends the
/// process at once.
pub fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    debug_assert!(!stop.load(Ordering::Relaxed));
    Ok(stop)
}
