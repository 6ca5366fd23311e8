//! Documents against Yjs itself: histories that it has made, its updates damaged, and real editing sessions, through the
//! collaboration service as it runs.
//!
//! `ENGRAM_SOAK=1` is the long form: docs/testing.md.

mod bed;
mod histories;
mod mutated_updates;
mod mutation;
mod node;
mod random_histories;
mod regressions;
mod traces;

/// So many in CI, so many in the long form.
fn count(short: usize, long: usize) -> usize {
    if std::env::var_os("ENGRAM_SOAK").is_some() { long } else { short }
}

/// The seed of a test's random choices: `ENGRAM_SEED`, or a new one. It is printed.
fn seed() -> u64 {
    let given = std::env::var("ENGRAM_SEED").ok().map(|seed| seed.parse().expect("ENGRAM_SEED is a number"));
    let seed = given.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("ENGRAM_SEED={seed}");
    seed
}
