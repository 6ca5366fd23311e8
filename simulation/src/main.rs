//! `simulation simulate --seeds N`: runs N worlds, and says which of them went wrong and how.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand};
use engram_simulation::world;

/// Deterministic simulation of Engram's runtime.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one world for each seed; exit code 1 if any went wrong.
    Simulate {
        /// How many seeds.
        #[arg(long, default_value_t = 1_000, overrides_with = "seeds")]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Threads that run worlds.
        #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
        threads: usize,
        /// Print what happens, line by line.
        #[arg(long)]
        trace: bool,
        /// Where the stores lie meanwhile; best in memory.
        #[arg(long, default_value = "/dev/shm")]
        folder: PathBuf,
    },
}

/// A sign of life once in so many seeds.
const SEEDS_TOLD: u64 = 1_000;

fn main() -> ExitCode {
    let Command::Simulate { seeds, first, threads, trace, folder } = Arguments::parse().command;
    let folder = if folder.is_dir() { folder } else { std::env::temp_dir() };
    let started = Instant::now();
    let (next, records, commits, wrong) =
        (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first.saturating_add(seeds) {
                        return;
                    }
                    if seed > first && (seed - first).is_multiple_of(SEEDS_TOLD) {
                        println!("{} seeds begun after {:.0} s", seed - first, started.elapsed().as_secs_f64());
                    }
                    let outcome = tempfile::tempdir_in(&folder)
                        .map_err(|error| format!("no folder for its stores in {}: {error}", folder.display()))
                        .and_then(|folder| world::run(seed, folder.path(), trace));
                    match outcome {
                        Ok(report) => {
                            records.fetch_add(report.totals.records, Ordering::Relaxed);
                            commits.fetch_add(report.totals.commits, Ordering::Relaxed);
                            if seeds == 1 {
                                println!("seed {seed}: {report:?}");
                            }
                        }
                        Err(violation) => {
                            wrong.fetch_add(1, Ordering::Relaxed);
                            println!("seed {seed} went wrong: {violation}");
                        }
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner();
    println!(
        "{seeds} seeds from {first}: {wrong} went wrong; {} records in {} commits; {:.0} s",
        records.into_inner(),
        commits.into_inner(),
        started.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(wrong > 0))
}
