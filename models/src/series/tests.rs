//! What all detectors have in common.

use proptest::prelude::*;

use super::encoding::hash;
use super::*;

fn detectors() -> [Detector; 5] {
    [
        Settings::RobustZ { window: 7, warm_up: 3, deviation_min: 1e-3 },
        Settings::WeightedMean { alpha: 0.1, warm_up: 3, deviation_min: 1e-3 },
        Settings::HoltWinters { season: 5, alpha: 0.2, beta: 0.1, gamma: 0.3, warm_up: Some(9), deviation_min: 1e-3 },
        Settings::HalfSpaceTrees(HalfSpaceSettings {
            trees: 5,
            depth: 6,
            window: 8,
            shingle: 2,
            seed: 3,
            ..HalfSpaceSettings::default()
        }),
        Settings::RandomCutForest(RandomCutSettings {
            trees: 4,
            sample: 8,
            window: 9,
            shingle: 2,
            ..RandomCutSettings::default()
        }),
    ]
    .map(|settings| Detector::new(settings).expect("settings within their bounds"))
}

/// Values of all kinds; about half of them are no f32.
fn series() -> impl Strategy<Value = Vec<f64>> {
    let value = prop_oneof![
        4 => (-50..50_i8).prop_map(f64::from),
        4 => -1e3..1e3_f64,
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -0.0, 1e-310, -3e38]),
    ];
    prop::collection::vec(value, 0..60)
}

fn scores(detector: &Detector, state: &mut State, series: &[f64]) -> Vec<u64> {
    series.iter().map(|x| detector.score(state, 7, *x).to_bits()).collect()
}

/// The bytes with the check that they should have.
fn checked(mut bytes: Vec<u8>) -> Vec<u8> {
    let check = hash(&bytes).to_le_bytes();
    bytes.extend(check);
    bytes
}

proptest! {
    #[test]
    fn a_state_that_was_written_and_read_goes_on_alike(before in series(), after in series()) {
        for detector in detectors() {
            let mut state = detector.begin();
            scores(&detector, &mut state, &before);
            let bytes = state.encode();
            let mut read = detector.decode(&bytes).expect("what was written can be read");
            prop_assert_eq!(&read, &state);
            prop_assert_eq!(read.encode(), bytes);
            prop_assert_eq!(scores(&detector, &mut read, &after), scores(&detector, &mut state, &after));
        }
    }

    #[test]
    fn a_change_of_one_byte_is_noticed(before in series(), at in any::<prop::sample::Index>(), with in 1..=255_u8) {
        for detector in detectors() {
            let mut state = detector.begin();
            scores(&detector, &mut state, &before);
            let mut bytes = state.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            let damaged = SeriesError::Damaged("its bytes are not those that were written");
            prop_assert_eq!(detector.decode(&bytes), Err(damaged));
            let is_short = matches!(detector.decode(&bytes[..at]), Err(SeriesError::Damaged(_)));
            prop_assert!(is_short, "cut at {}", at);
        }
    }

    /// Whoever can write to the store can write the right check, too.
    #[test]
    fn no_bytes_panic(before in series(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        for detector in detectors() {
            let mut state = detector.begin();
            scores(&detector, &mut state, &before);
            let mut bytes = state.encode();
            bytes.truncate(bytes.len() - 4);
            for (at, with) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *with;
            }
            if let Ok(mut read) = detector.decode(&checked(bytes)) {
                scores(&detector, &mut read, &before);
            }
        }
    }

    #[test]
    fn what_is_no_number_is_scored_so_and_changes_nothing(series in series()) {
        for detector in detectors() {
            let (mut state, mut without) = (detector.begin(), detector.begin());
            for x in &series {
                let score = detector.score(&mut state, 7, *x);
                if x.abs() <= f64::from(f32::MAX) {
                    prop_assert_eq!(score.to_bits(), detector.score(&mut without, 7, *x).to_bits());
                } else {
                    prop_assert!(score.is_nan());
                }
                prop_assert_eq!(&state, &without);
            }
        }
    }

    #[test]
    fn scores_of_f32_are_the_kernels(series in prop::collection::vec(-1e3..1e3_f32, 0..60)) {
        let [robust_z, weighted_mean, holt_winters, ..] = detectors();
        let (Method::RobustZ(z), Method::WeightedMean(mean), Method::HoltWinters(winters)) =
            (&robust_z.method, &weighted_mean.method, &holt_winters.method) else { unreachable!("in that order") };
        let expected = [z.robust_z(&series), mean.weighted_mean(&series), winters.holt_winters(&series)];
        for (detector, expected) in [&robust_z, &weighted_mean, &holt_winters].into_iter().zip(expected) {
            let mut state = detector.begin();
            let scores: Vec<f64> = series.iter().map(|x| detector.score(&mut state, 7, *x)).collect();
            prop_assert_eq!(scores, expected);
        }
    }

    #[test]
    fn a_likelihood_grows_with_the_score(a in -1e9..1e9_f64, b in -1e9..1e9_f64) {
        let detector = Detector::fallback();
        let likelihood = [a, b].map(|score| detector.likelihood(score));
        prop_assert!(likelihood.iter().all(|likelihood| (0.0..=1.0).contains(likelihood)));
        prop_assert_eq!(a.abs() < b.abs(), likelihood[0] < likelihood[1]);
    }
}

#[test]
fn the_bytes_of_version_1() {
    let detector = &detectors()[0];
    let mut state = detector.begin();
    for (time_ms, x) in [(1, 2.0_f32), (258, 0.5)] {
        detector.score(&mut state, time_ms, x);
    }
    let mut expected = vec![1, 1];
    expected.extend(detector.settings.to_le_bytes());
    expected.extend([2, 1, 0, 0, 0, 0, 0, 0]);
    expected.extend([4, 2, 0, 0, 0, 0, 64, 0, 0, 0, 63]);
    assert_eq!(state.encode(), checked(expected));
    // Settings are told apart by it for as long as version 1 is read.
    assert_eq!(
        detectors().map(|detector| detector.settings),
        [3_618_387_875, 3_525_320_071, 2_241_887_715, 2_198_210_825, 2_886_460_905]
    );
}

#[test]
fn bytes_of_others_are_refused() {
    let all = detectors();
    for (at, detector) in all.iter().enumerate() {
        let bytes = detector.begin().encode();
        for (other_at, other) in all.iter().enumerate() {
            let is_own = at == other_at;
            assert_eq!(other.decode(&bytes).is_ok(), is_own, "{other:?}");
        }
    }
    let other_window = Detector::new(Settings::RobustZ { window: 8, warm_up: 3, deviation_min: 1e-3 }).expect("good");
    assert_eq!(other_window.decode(&all[0].begin().encode()), Err(SeriesError::OtherDetector));
    // A state does not depend on when it is warm.
    let other_warm_up = Detector::new(Settings::RobustZ { window: 7, warm_up: 1, deviation_min: 1e-3 }).expect("good");
    assert!(other_warm_up.decode(&all[0].begin().encode()).is_ok());
    let mut bytes = all[0].begin().encode();
    bytes.truncate(bytes.len() - 4);
    bytes[0] = 2;
    assert_eq!(all[0].decode(&checked(bytes)), Err(SeriesError::Version(2)));
    assert_eq!(all[0].decode(&[]), Err(SeriesError::Damaged("it is too short")));
}

#[test]
fn settings_are_checked() {
    let text = |settings| Detector::new(settings).expect_err("out of bounds").to_string();
    let cases = [
        (
            Settings::RobustZ { window: 0, warm_up: 0, deviation_min: 1.0 },
            "the detector cannot be used: window is 0, and must be from 1 to 4096",
        ),
        (
            Settings::RobustZ { window: 5, warm_up: 6, deviation_min: 1.0 },
            "the detector cannot be used: warm_up is 6, and must be from 0 to 5",
        ),
        (
            Settings::RobustZ { window: 5, warm_up: 5, deviation_min: 0.0 },
            "the detector cannot be used: deviation_min is 0, and must be a finite number above 0",
        ),
        (
            Settings::WeightedMean { alpha: f64::NAN, warm_up: 5, deviation_min: 1.0 },
            "the detector cannot be used: alpha is NaN, and must be above 0 and below 1",
        ),
        (
            Settings::HoltWinters {
                season: 2,
                alpha: 0.5,
                beta: 0.5,
                gamma: 1.0,
                warm_up: Some(5),
                deviation_min: 1.0,
            },
            "the detector cannot be used: gamma is 1, and must be above 0 and below 1",
        ),
        (
            Settings::HalfSpaceTrees(HalfSpaceSettings {
                trees: 5,
                depth: 25,
                window: 9,
                shingle: 1,
                seed: 0,
                ..HalfSpaceSettings::default()
            }),
            "the detector cannot be used: depth is 25, and must be from 1 to 24",
        ),
        (
            Settings::HalfSpaceTrees(HalfSpaceSettings {
                trees: 5,
                depth: 5,
                window: 9,
                shingle: 10,
                seed: 0,
                ..HalfSpaceSettings::default()
            }),
            "the detector cannot be used: shingle is 10, and must be from 1 to 9",
        ),
        (
            Settings::HalfSpaceTrees(HalfSpaceSettings {
                trees: 5,
                depth: 5,
                window: 9,
                shingle: 1,
                seed: 0,
                range: Some((1.0, 1.0)),
                ..HalfSpaceSettings::default()
            }),
            "the detector cannot be used: range is 1 to 1, and must be finite and ascend",
        ),
    ];
    for (settings, expected) in cases {
        assert_eq!(text(settings), expected);
    }
}

#[test]
fn a_forest_that_is_grown_anew_scores_alike_and_finds_what_stands_out() {
    let detector = Detector::new(Settings::RandomCutForest(RandomCutSettings::default())).expect("the defaults");
    let (mut state, mut highest, mut scored) = (detector.begin(), (0, 0.0), 0);
    for at in 0..900 {
        let wave = (f64::from(at) * 0.3).sin() * 10.0 + f64::from(at * 7_919 % 13) / 20.0;
        let x = if at == 800 { 25.0 } else { wave };
        // Each window has a place where the state is written and read.
        if at % 97 == 0 {
            state = detector.decode(&state.encode()).expect("what was written can be read");
        }
        let mut other = detector.decode(&state.encode()).expect("what was written can be read");
        let score = detector.score(&mut state, 7, x);
        if at % 41 == 0 {
            assert_eq!(detector.score(&mut other, 7, x).to_bits(), score.to_bits(), "at {at}");
        }
        scored += u32::from(score > 0.0);
        if score > highest.1 {
            highest = (at, score);
        }
    }
    assert!(highest.0 == 800 && scored > 100, "{highest:?}, {scored}");
    // One value over and over is no anomaly.
    let mut state = detector.begin();
    assert!((0..900).all(|_| detector.score(&mut state, 7, 3.0) < 1.0));
    assert!(detector.score(&mut state, 7, 4.0) > 3.0);
}

#[test]
fn settings_are_read_by_name() {
    let text = r#"{"method": "weighted-mean", "alpha": 0.05, "warm_up": 9, "deviation_min": 0.1}"#;
    let settings: Settings = serde_json::from_str(text).expect("settings");
    assert_eq!(settings, Settings::WeightedMean { alpha: 0.05, warm_up: 9, deviation_min: 0.1 });
    let text = r#"{"method": "half-space-trees", "shingle": 4}"#;
    let settings: Settings = serde_json::from_str(text).expect("settings");
    let expected = HalfSpaceSettings { shingle: 4, ..HalfSpaceSettings::default() };
    assert_eq!(settings, Settings::HalfSpaceTrees(expected));
    let text = r#"{"method": "random-cut-forest", "sample": 64}"#;
    let settings: Settings = serde_json::from_str(text).expect("settings");
    let expected = RandomCutSettings { sample: 64, ..RandomCutSettings::default() };
    assert_eq!(settings, Settings::RandomCutForest(expected));
    let unknown = serde_json::from_str::<Settings>(r#"{"method": "oracle"}"#).expect_err("unknown").to_string();
    assert!(unknown.contains("robust-z"), "{unknown}");
}

#[test]
fn flags_follow_the_likelihood() {
    let detector = Detector::fallback();
    assert_eq!(detector.likelihood(-3.0), 0.5);
    assert_eq!(detector.likelihood(f64::INFINITY), 1.0);
    assert!(detector.is_anomaly(3.0, 0.5) && !detector.is_anomaly(2.9, 0.5) && !detector.is_anomaly(f64::NAN, 0.0));
}

#[test]
fn warming_up_is_scored_0() {
    for (detector, warm_up) in detectors().iter().zip([3, 3, 9, 40]) {
        let mut state = detector.begin();
        let scores: Vec<f64> =
            (0..80).map(|at| detector.score(&mut state, at, (at * at % 11 + at / 50 * 99) as f64)).collect();
        assert!(scores[..warm_up].iter().all(|score| *score == 0.0), "{scores:?}");
        assert!(scores[warm_up..warm_up + 12].iter().any(|score| *score != 0.0), "{scores:?}");
        assert_eq!(state.time_ms(), 79);
    }
}
