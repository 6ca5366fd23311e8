//! Detectors on the Numenta Anomaly Benchmark, by its own scoring: see `docs/scoring-detectors.md`.
//!
//! `cargo test -p engram-models --release --test nab -- --nocapture` prints the table.

mod corpus;
mod published;
mod scoring;

use corpus::Series;
use engram_models::series::{Detector, Settings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use scoring::{PROFILES, normalized};

/// Likelihoods of each series' values.
fn likelihoods(detector: &Detector, all: &[Series]) -> Vec<Vec<f64>> {
    let of = |series: &Series| {
        let mut state = detector.begin();
        let score = |(time, value): (&i64, &f64)| detector.likelihood(detector.score(&mut state, *time, *value));
        series.times_ms.iter().zip(&series.values).map(score).collect()
    };
    all.iter().map(of).collect()
}

/// By profile.
fn row(all: &[Series], scores: &[Vec<f64>]) -> [f64; 3] {
    let series: Vec<&Series> = all.iter().collect();
    let scores: Vec<&[f64]> = scores.iter().map(Vec::as_slice).collect();
    PROFILES.map(|profile| normalized(&series, &scores, &profile))
}

fn detectors(low: f64, high: f64, plow: f64, phigh: f64) -> Vec<(String, Settings)> {
    let mut v = vec![];
    for (r, range) in [("full", high - low), ("prob", phigh - plow)] { for f in [0.003, 0.01, 0.03, 0.1, 0.3] {
    let m = (range * f).max(1e-9);
    for w in [64, 256, 1024, 4096] { v.push((format!("z {r} {f} {w}"), Settings::RobustZ { window: w, warm_up: 32, deviation_min: m })); }
    for a in [0.1, 0.03, 0.01] { v.push((format!("ewma {r} {f} {a}"), Settings::WeightedMean { alpha: a, warm_up: 32, deviation_min: m })); }
    for a in [0.03, 0.01] { v.push((format!("hw {r} {f} {a}"), Settings::HoltWinters { season: 288, alpha: a, beta: 0.001, gamma: 0.2, warm_up: 576, deviation_min: m })); }
    } }
    for s in [1, 2, 4] { for w in [250, 1000] { for d in [8, 15] { v.push((format!("hst {s} {w} {d}"), Settings::HalfSpaceTrees { trees: 25, depth: d, window: w, shingle: s, seed: 1, range: Some((low, high)) })); } } }
    v
}

#[test]
fn detectors_find_more_than_chance() {
    let Some(all) = corpus::read() else { return };
    published::check(&all);
    let zeros: Vec<Vec<f64>> = all.iter().map(|series| vec![0.0; series.values.len()]).collect();
    println!("{:?}", row(&all, &zeros));
    for seed in 0..3 {
        let random = &mut StdRng::seed_from_u64(seed);
        let chance: Vec<Vec<f64>> = all.iter().map(|series| series.values.iter().map(|_| random.random::<f64>()).collect()).collect();
        println!("{:?}", row(&all, &chance));
    }
    println!("gauss {:?}", row(&all, &all.iter().map(|series| published::windowed_gaussian(&series.values)).collect::<Vec<_>>()));
    let ranges: Vec<_> = all.iter().map(|series| { let f = |v: &[f64]| (v.iter().copied().fold(f64::INFINITY, f64::min), v.iter().copied().fold(f64::NEG_INFINITY, f64::max)); (f(&series.values), f(&series.values[..scoring::probationary(series.values.len())])) }).collect();
    let n = detectors(0.0, 1.0, 0.0, 1.0).len();
    for i in 0..n {
        let mut out = vec![]; let mut name = String::new();
        for (s, ((l, h), (pl, ph))) in all.iter().zip(&ranges) {
            let (nm, settings) = detectors(*l, *h, *pl, *ph)[i].clone(); name = nm;
            out.extend(likelihoods(&Detector::new(settings).expect("good"), std::slice::from_ref(s)));
        }
        println!("{name} {:.1?}", row(&all, &out));
    }
}
