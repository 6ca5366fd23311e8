//! Some seeds of the simulation, other ones each time, and a proof that a seed is all that decides. `make soak` runs 10,000.

use std::sync::atomic::{AtomicU64, Ordering};

use engram_simulation::world;

/// How many worlds CI runs.
const SEEDS: u64 = 500;

fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a temporary folder")
}

fn first_seed() -> u64 {
    std::env::var("ENGRAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| rand::random::<u32>().into())
}

#[test]
fn no_seed_goes_wrong() {
    let first = first_seed();
    println!("ENGRAM_SEED={first}");
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + SEEDS {
                        return;
                    }
                    if let Err(violation) = world::run(seed, folder().path(), false) {
                        panic!("ENGRAM_SEED={seed}: {violation}");
                    }
                }
            });
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let first = first_seed();
    for seed in first..first + 10 {
        let run = || world::run(seed, folder().path(), false).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let (one, two) = (run(), run());
        assert_eq!(one, two, "ENGRAM_SEED={seed}");
        assert_ne!(one.hash, world::run(seed + 1_000, folder().path(), false).expect("it goes well").hash);
    }
}
