//! How the Numenta Anomaly Benchmark scores a detector.
//!
//! Lavin and Ahmad, "Evaluating real-time anomaly detection algorithms: the Numenta Anomaly Benchmark", ICMLA 2015
//! (arXiv 1510.03336), and `nab/sweeper.py` at v1.1. A detection is a row whose score reaches a threshold. The first of a
//! window counts, the more the earlier it is; a window without one costs; each outside costs, the more the longer ago the
//! last window was. Rows of the probationary period count for nothing. One threshold serves all series: of all that there are,
//! that with the greatest sum.

use crate::corpus::Series;

/// Weights of an application profile, as in NAB's `config/profiles.json`.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    pub name: &'static str,
    pub true_positive: f64,
    pub false_positive: f64,
    pub false_negative: f64,
}

pub const PROFILES: [Profile; 3] = [
    Profile { name: "standard", true_positive: 1.0, false_positive: 0.11, false_negative: 1.0 },
    Profile { name: "reward_low_FP", true_positive: 1.0, false_positive: 0.22, false_negative: 1.0 },
    Profile { name: "reward_low_FN", true_positive: 1.0, false_positive: 0.11, false_negative: 2.0 },
];

/// What a threshold gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    pub threshold: f64,
    pub score: f64,
    /// Rows.
    pub true_positives: usize,
    pub false_positives: usize,
    pub true_negatives: usize,
    pub false_negatives: usize,
}

/// 2 / (1 + e^(5 p)) - 1, and -1 far behind a window: p is -1 at a window's first row, 0 behind its last.
pub fn scaled_sigmoid(position: f64) -> f64 {
    if position > 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * position).exp()) - 1.0 }
}

/// Rows at the beginning that count for nothing: 15 %, and at most of 5000.
pub fn probationary(rows: usize) -> usize {
    (0.15 * rows as f64).floor().min(0.15 * 5000.0) as usize
}

/// A row that counts.
struct Row {
    score: f64,
    /// What a detection here is worth.
    worth: f64,
    /// Which of all windows it is in.
    window: Option<usize>,
}

/// The outcome of each threshold: above all scores, then of each score, descending. `scores` has those of each series.
pub fn sweep(series: &[&Series], scores: &[&[f64]], profile: &Profile) -> Vec<Outcome> {
    let mut rows = Vec::new();
    let mut windows = 0;
    for (series, scores) in series.iter().zip(scores) {
        assert_eq!(series.values.len(), scores.len(), "{}: a score for each row", series.name);
        add_rows(series, scores, windows, profile, &mut rows);
        windows += series.windows.len();
    }
    rows.sort_by(|a, b| b.score.total_cmp(&a.score));
    // What is detected in a window that has no row left to count costs nothing and earns nothing.
    let mut best: Vec<f64> = vec![0.0; windows];
    rows.iter().filter_map(|row| row.window).for_each(|window| best[window] = -profile.false_negative);
    let inside = rows.iter().filter(|row| row.window.is_some()).count();
    let mut outcome = Outcome {
        threshold: f64::INFINITY,
        score: best.iter().sum(),
        true_positives: 0,
        false_positives: 0,
        true_negatives: rows.len() - inside,
        false_negatives: inside,
    };
    let mut outcomes = vec![outcome];
    let mut outside = 0.0;
    for of_one in rows.chunk_by(|a, b| a.score == b.score) {
        for row in of_one {
            if let Some(window) = row.window {
                best[window] = best[window].max(row.worth);
                outcome.true_positives += 1;
                outcome.false_negatives -= 1;
            } else {
                outside += row.worth;
                outcome.false_positives += 1;
                outcome.true_negatives -= 1;
            }
        }
        outcome.threshold = of_one[0].score;
        outcome.score = outside + best.iter().sum::<f64>();
        outcomes.push(outcome);
    }
    outcomes
}

fn add_rows(series: &Series, scores: &[f64], windows_before: usize, profile: &Profile, rows: &mut Vec<Row>) {
    let skipped = probationary(scores.len());
    for (at, score) in scores.iter().enumerate().skip(skipped) {
        let within = series.windows.iter().position(|(first, last)| (*first..=*last).contains(&at));
        let worth = if let Some(window) = within {
            let (first, last) = series.windows[window];
            let position = -((last + 1 - at) as f64) / (last + 1 - first) as f64;
            profile.true_positive * scaled_sigmoid(position) / scaled_sigmoid(-1.0)
        } else {
            let before = series.windows.iter().rev().find(|(_, last)| *last < at);
            let position = before.map_or(f64::INFINITY, |(first, last)| (at - last) as f64 / (last - first) as f64);
            profile.false_positive * scaled_sigmoid(position)
        };
        rows.push(Row { score: *score, worth, window: within.map(|window| windows_before + window) });
    }
}

/// The best of all thresholds' scores, as NAB shows it: 0 is that of a detector that finds nothing, 100 that of one that finds
/// each window at its first row and nothing else.
pub fn normalized(series: &[&Series], scores: &[&[f64]], profile: &Profile) -> f64 {
    let best = sweep(series, scores, profile).iter().map(|outcome| outcome.score).fold(f64::NEG_INFINITY, f64::max);
    normalize(best, series, profile)
}

/// A sum of scores, as NAB shows it.
pub fn normalize(score: f64, series: &[&Series], profile: &Profile) -> f64 {
    let windows = series.iter().map(|series| series.windows.len()).sum::<usize>() as f64;
    let null = -profile.false_negative * windows;
    100.0 * (score - null) / (profile.true_positive * windows - null)
}

/// Facts of NAB's documentation and tests.
mod tests {
    use super::*;

    fn series(rows: usize, windows: &[(usize, usize)]) -> Series {
        Series {
            name: "made".to_owned(),
            times_ms: (0..rows as i64).collect(),
            values: vec![0.0; rows],
            windows: windows.to_vec(),
        }
    }

    const ONE: Profile = Profile { name: "ones", true_positive: 1.0, false_positive: 1.0, false_negative: 1.0 };

    #[test]
    fn the_sigmoid_is_that_of_the_documentation() {
        for (position, expected) in [(-1.0, 0.98661), (-0.5, 0.84828), (0.0, 0.0), (1.0, -0.98661), (3.1, -1.0)] {
            assert!((scaled_sigmoid(position) - expected).abs() < 5e-6, "{position}");
        }
    }

    #[test]
    fn the_probationary_period_is_15_percent_of_at_most_5000_rows() {
        assert_eq!([100, 4032, 5000, 22_695].map(probationary), [15, 604, 750, 750]);
    }

    #[test]
    fn a_window_is_worth_most_at_its_first_row_and_counts_once() {
        let series = series(1000, &[(500, 599)]);
        let score = |detected: &[usize]| {
            let mut scores = vec![0.0; 1000];
            detected.iter().for_each(|at| scores[*at] = 1.0);
            sweep(&[&series], &[&scores], &ONE)[1]
        };
        assert_eq!(score(&[500]).score, 1.0);
        assert_eq!(score(&[500, 599]).score, 1.0);
        assert!(score(&[550]).score < 1.0);
        // The sigmoid crosses 0 between the last row and the next one; the missed window is the 1.
        assert!((score(&[599]).score + score(&[600]).score + 1.0).abs() < 1e-3);
        // Far from any window, or before the first one.
        assert_eq!(score(&[999]).score, -2.0);
        assert_eq!(score(&[499]).score, -2.0);
        // Of the probationary period, and so no row.
        assert_eq!(score(&[149]).score, score(&[]).score);
    }

    #[test]
    fn a_threshold_has_the_rows_that_reach_it() {
        // Windows at 20 .. 22 and 25 .. 26, rows from 3 on count.
        let series = series(28, &[(20, 22), (25, 26)]);
        let mut scores = [0.0; 28];
        (scores[21], scores[22], scores[25], scores[27]) = (0.2, 0.3, 0.5, 0.5);
        scores[1] = 0.9;
        let counts = |outcome: &Outcome| {
            let Outcome { true_positives, false_positives, true_negatives, false_negatives, .. } = *outcome;
            (outcome.threshold, true_positives, true_negatives, false_positives, false_negatives)
        };
        let outcomes = sweep(&[&series], &[&scores], &ONE);
        let expected = [(0.5, 1, 18, 1, 4), (0.3, 2, 18, 1, 3), (0.2, 3, 18, 1, 2), (0.0, 5, 0, 19, 0)];
        assert_eq!(counts(&outcomes[0]), (f64::INFINITY, 0, 19, 0, 5));
        assert_eq!(outcomes[1..].iter().map(counts).collect::<Vec<_>>(), expected);
        assert_eq!(outcomes[0].score, -2.0);
        let after = scaled_sigmoid(1.0);
        assert_eq!(outcomes[1].score, 1.0 + after - 1.0);
        // An earlier row of the first window takes the place of the later one.
        let of = |position: f64| scaled_sigmoid(position) / scaled_sigmoid(-1.0);
        assert!((outcomes[2].score - (1.0 + after + of(-1.0 / 3.0))).abs() < 1e-12);
        assert!((outcomes[3].score - (1.0 + after + of(-2.0 / 3.0))).abs() < 1e-12);
    }
}
