//! NAB's own results: the scoring here must give them.
//!
//! `results/windowedGaussian/windowedGaussian_standard_scores.csv` of https://github.com/numenta/NAB at commit 487c0f97: of each
//! series the score and the rows that are true and false positives, true and false negatives. The detector is small enough to
//! be made again: a value's score is 1 less the part of the window's normal distribution that is beyond it, and the threshold
//! was 1.
//!
//! SUBTLE: two details are inferred, since all 24 series agree with them and with no other: scores were written with 12 digits,
//! so that a part of 5e-13 is none, and only values above the mean were scored so.

use crate::corpus::Series;
use crate::scoring::{Outcome, PROFILES, sweep};

/// Name; score; TP, TN, FP, FN.
type Published = (&'static str, f64, [usize; 4]);

const WINDOWED_GAUSSIAN: [Published; 24] = [
    ("realAWSCloudwatch/ec2_cpu_utilization_24ae8d.csv", -1.266_678_759_349_383, [2, 3015, 11, 400]),
    ("realAWSCloudwatch/ec2_cpu_utilization_53ea38.csv", -0.141_423_196_116_685_08, [2, 3023, 3, 400]),
    ("realAWSCloudwatch/ec2_cpu_utilization_5f5533.csv", -2.0, [0, 3026, 0, 402]),
    ("realAWSCloudwatch/ec2_cpu_utilization_77c1ca.csv", -1.0, [0, 3025, 0, 403]),
    ("realAWSCloudwatch/ec2_cpu_utilization_825cc2.csv", -1.0, [0, 3085, 0, 343]),
    ("realAWSCloudwatch/ec2_cpu_utilization_ac20cd.csv", 0.860_671_824_269_702_2, [25, 3025, 0, 378]),
    ("realAWSCloudwatch/ec2_cpu_utilization_c6585a.csv", -1.32, [0, 3416, 12, 0]),
    ("realAWSCloudwatch/ec2_cpu_utilization_fe7f93.csv", 0.638_757_791_772_390_6, [6, 3022, 1, 399]),
    ("realAWSCloudwatch/ec2_disk_write_bytes_1ef3de.csv", -4.190_896_785_522_053, [9, 3500, 48, 464]),
    ("realAWSCloudwatch/ec2_disk_write_bytes_c0d644.csv", -1.095_998_530_315_556_4, [13, 3004, 19, 392]),
    ("realAWSCloudwatch/ec2_network_in_257a54.csv", 0.860_671_824_269_702_2, [4, 3025, 0, 399]),
    ("realAWSCloudwatch/ec2_network_in_5abac7.csv", -3.521_932_235_191_163_5, [19, 3497, 50, 455]),
    ("realAWSCloudwatch/elb_request_count_8c0756.csv", -0.138_449_197_924_402_25, [1, 3026, 0, 401]),
    ("realAWSCloudwatch/grok_asg_anomaly.csv", -1.247_930_964_293_478, [1, 3462, 1, 464]),
    ("realAWSCloudwatch/iio_us-east-1_i-a2eb1cd9_NetworkIn.csv", -2.0, [0, 931, 0, 126]),
    ("realAWSCloudwatch/rds_cpu_utilization_cc0c53.csv", -0.138_449_197_924_402_25, [50, 3026, 0, 352]),
    ("realAWSCloudwatch/rds_cpu_utilization_e47b3b.csv", -0.138_449_197_924_402_25, [2, 3026, 0, 400]),
    ("realKnownCause/ambient_temperature_system_failure.csv", -2.0, [0, 5791, 0, 726]),
    ("realKnownCause/cpu_utilization_asg_misconfiguration.csv", -1.11, [0, 15_800, 1, 1499]),
    ("realKnownCause/ec2_request_latency_system_failure.csv", -0.065_910_118_727_807_05, [3, 3082, 0, 343]),
    ("realKnownCause/machine_temperature_system_failure.csv", -4.0, [0, 19_677, 0, 2268]),
    ("realKnownCause/nyc_taxi.csv", -5.0, [0, 8535, 0, 1035]),
    ("realKnownCause/rogue_agent_key_hold.csv", -2.44, [0, 1406, 4, 190]),
    ("realKnownCause/rogue_agent_key_updown.csv", -1.396_490_895_501_411_7, [1, 4027, 8, 529]),
];

/// Of each series: 1 where NAB's windowed Gaussian gives 1, else 0.
pub fn windowed_gaussian(values: &[f64]) -> Vec<f64> {
    const WINDOW: usize = 6400;
    const STEP: usize = 100;
    // NAB's files have scores of 12 digits: 1 - tail is written as 1 where the tail is at most half of the last one.
    let is_certain = |deviations: f64| tail(deviations) <= 5e-13;
    let mut window: Vec<f64> = Vec::new();
    let mut waiting = Vec::new();
    let (mut mean, mut deviation) = (0.0, 1.0);
    let score = |x: &f64| {
        let score = if !window.is_empty() && is_certain((x - mean) / deviation) { 1.0 } else { 0.0 };
        if window.len() < WINDOW {
            window.push(*x);
        } else {
            waiting.push(*x);
            if waiting.len() < STEP {
                return score;
            }
            window.drain(..STEP);
            window.append(&mut waiting);
        }
        let count = window.len() as f64;
        mean = window.iter().sum::<f64>() / count;
        deviation = (window.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count).sqrt();
        if deviation == 0.0 {
            deviation = 0.000_001;
        }
        score
    };
    values.iter().map(score).collect()
}

/// Of the normal distribution beyond z, by Laplace's continued fraction, which is good for z above 3; else 1.
fn tail(z: f64) -> f64 {
    if z < 3.0 {
        return 1.0;
    }
    let fraction = (1..=200).rev().fold(z, |below, k| z + f64::from(k) / below);
    (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt() / fraction
}

/// Compares with what was published, for each series that is here.
pub fn check(all: &[Series]) {
    let mut compared = 0;
    for (name, score, counts) in WINDOWED_GAUSSIAN {
        let Some(series) = all.iter().find(|series| series.name == name) else { continue };
        let outcomes = sweep(&[series], &[&windowed_gaussian(&series.values)], &PROFILES[0]);
        // A series without a detection has no threshold of 1.
        let ours =
            outcomes.iter().rev().find(|outcome| outcome.threshold >= 1.0).expect("there is one above all scores");
        let Outcome { true_positives, true_negatives, false_positives, false_negatives, .. } = *ours;
        assert_eq!([true_positives, true_negatives, false_positives, false_negatives], counts, "{name}");
        assert!((ours.score - score).abs() < 1e-9, "{name}: {} and not {score}", ours.score);
        compared += 1;
    }
    println!("NAB's published scores of its windowed Gaussian, met on {compared} series");
}

#[test]
fn the_tail_is_the_normal_distributions() {
    for (z, expected) in [(4.0, 3.167_124_183_311_986e-5), (8.0, 6.220_960_574_271_785e-16)] {
        assert!((tail(z) / expected - 1.0).abs() < 1e-9, "{z}: {}", tail(z));
    }
}
