//! Detectors on the Numenta Anomaly Benchmark, by its own scoring: see `docs/scoring-detectors.md`.
//!
//! `cargo test -p engram-models --release --test nab -- --nocapture` prints the table.

mod corpus;
mod published;
mod scoring;

use corpus::Series;
use engram_models::series::{Detector, HalfSpaceSettings, RandomCutSettings, Settings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use scoring::{PROFILES, normalized, probationary};

/// Of random detectors.
const SEEDS: u64 = 10;

/// Detectors for a series, in the order of the table.
///
/// NAB tells its detectors each series' least and greatest value (`nab/detectors/base.py`); only the row that says so is told.
/// The others see of a series what came before, and for the deviation that counts as none the probationary period.
fn detectors(series: &Series) -> [(&'static str, Settings); 6] {
    let (low, high) = range(&series.values);
    let (early_low, early_high) = range(&series.values[..probationary(series.values.len())]);
    // Of a constant period: none.
    let part = |of: f64| ((early_high - early_low) * of).max(1e-9);
    let trees = HalfSpaceSettings::default();
    [
        ("robust z", Settings::RobustZ { window: 256, warm_up: 32, deviation_min: part(0.1) }),
        ("weighted mean", Settings::WeightedMean { alpha: 0.03, warm_up: 32, deviation_min: part(0.01) }),
        ("Holt-Winters", {
            let (alpha, beta, gamma) = (0.03, 0.001, 0.2);
            Settings::HoltWinters { season: 288, alpha, beta, gamma, warm_up: Some(576), deviation_min: part(0.01) }
        }),
        ("half-space trees", Settings::HalfSpaceTrees(trees)),
        (
            "half-space trees, told the range",
            Settings::HalfSpaceTrees(HalfSpaceSettings { range: (low < high).then_some((low, high)), ..trees }),
        ),
        ("random cut forest", Settings::RandomCutForest(RandomCutSettings::default())),
    ]
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)))
}

/// Likelihoods of a series' values.
fn likelihoods(detector: &Detector, series: &Series) -> Vec<f64> {
    let mut state = detector.begin();
    let score = |(time_ms, value): (&i64, &f64)| detector.likelihood(detector.score(&mut state, *time_ms, *value));
    series.times_ms.iter().zip(&series.values).map(score).collect()
}

/// Scores of what a detector gave for each series, by profile.
fn row(all: &[Series], scores: &[Vec<f64>]) -> [f64; 3] {
    let series: Vec<&Series> = all.iter().collect();
    let scores: Vec<&[f64]> = scores.iter().map(Vec::as_slice).collect();
    PROFILES.map(|profile| normalized(&series, &scores, &profile))
}

fn print(name: &str, row: [f64; 3]) {
    println!("{name:<34}{:>9.1}{:>15.1}{:>15.1}", row[0], row[1], row[2]);
}

#[test]
fn detectors_find_more_than_chance() {
    let Some(all) = corpus::read() else { return };
    for series in &all {
        let is_scored = series.windows.iter().all(|(first, _)| *first >= probationary(series.values.len()));
        assert!(is_scored, "{} has a window in the probationary period", series.name);
    }
    published::check(&all);
    let [standard, low_fp, low_fn] = PROFILES.map(|profile| profile.name);
    println!("{} of NAB's 58 series\n{:<34}{standard:>9}{low_fp:>15}{low_fn:>15}", all.len(), "");

    let of_all = |scores: &dyn Fn(&Series) -> Vec<f64>| row(&all, &all.iter().map(scores).collect::<Vec<_>>());
    let perfect = of_all(&|series| {
        let mut scores = vec![0.0; series.values.len()];
        series.windows.iter().for_each(|(first, _)| scores[*first] = 1.0);
        scores
    });
    print("perfect", perfect);
    assert!(perfect.iter().all(|score| (score - 100.0).abs() < 1e-9), "{perfect:?}");

    let mut found = Vec::new();
    for at in 0..detectors(&all[0]).len() {
        let name = detectors(&all[0])[at].0;
        let row = of_all(&|series| {
            let detector = Detector::new(detectors(series)[at].1).expect("settings within their bounds");
            likelihoods(&detector, series)
        });
        print(name, row);
        found.push((name, row));
    }
    print("NAB's windowed Gaussian", of_all(&|series| published::windowed_gaussian(&series.values)));

    let mut chance = [0.0; 3];
    for seed in 0..SEEDS {
        let random = std::cell::RefCell::new(StdRng::seed_from_u64(seed));
        let one = of_all(&|series| series.values.iter().map(|_| random.borrow_mut().random()).collect());
        chance.iter_mut().zip(one).for_each(|(sum, score)| *sum += score / SEEDS as f64);
    }
    print("random, mean of 10 seeds", chance);
    let null = of_all(&|series| vec![0.5; series.values.len()]);
    print("null", null);
    assert_eq!(null, [0.0; 3]);
    for (name, row) in found {
        assert!(row[0] > chance[0] + 5.0, "{name}: {row:?} beside {chance:?} of chance");
        assert!(row.iter().all(|score| (0.0..100.0).contains(score)), "{name}: {row:?}");
    }
}
