//! Values a second of each detector, one series after the other, beside a pass that only sums them: what memory alone allows.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engram_models::series::{Detector, HalfSpaceSettings, RandomCutSettings, Settings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const VALUES: usize = 10_000;
/// Of a state.
const READS: usize = 100;

fn series(criterion: &mut Criterion) {
    let random = &mut StdRng::seed_from_u64(1);
    let values: Vec<f32> = (0..VALUES).map(|at| (at as f32 / 40.0).sin() + 0.2 * random.random::<f32>()).collect();
    let mut group = criterion.benchmark_group("series");
    group.throughput(Throughput::Elements(VALUES as u64)).sample_size(20);
    group.bench_function("sum (ceiling)", |bencher| {
        bencher.iter(|| black_box(&values).iter().map(|x| f64::from(*x)).sum::<f64>());
    });
    for (name, settings) in detectors() {
        let detector = Detector::new(settings).expect("settings within their bounds");
        group.throughput(Throughput::Elements(VALUES as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut state = detector.begin();
                black_box(&values).iter().map(|x| detector.score(&mut state, 0, *x)).sum::<f64>()
            });
        });
        let mut state = detector.begin();
        values.iter().for_each(|x| _ = detector.score(&mut state, 0, *x));
        let bytes = state.encode();
        group.throughput(Throughput::Elements(READS as u64));
        group.bench_function(format!("{name}: read and write a state of {} bytes", bytes.len()), |bencher| {
            bencher.iter(|| {
                for _ in 0..READS {
                    black_box(detector.decode(black_box(&bytes)).expect("a state").encode());
                }
            });
        });
    }
    group.finish();
}

fn detectors() -> [(&'static str, Settings); 6] {
    [
        ("robust z, window 256", Settings::robust_z()),
        ("robust z, window 64", Settings::RobustZ { window: 64, warm_up: 32, deviation_min: 1e-6 }),
        ("weighted mean", Settings::WeightedMean { alpha: 0.03, warm_up: 32, deviation_min: 1e-6 }),
        (
            "Holt-Winters, season 288",
            Settings::HoltWinters {
                season: 288,
                alpha: 0.1,
                beta: 0.01,
                gamma: 0.2,
                warm_up: Some(576),
                deviation_min: 1e-6,
            },
        ),
        ("half-space trees", Settings::HalfSpaceTrees(HalfSpaceSettings::default())),
        ("random cut forest", Settings::RandomCutForest(RandomCutSettings::default())),
    ]
}

criterion_group!(benches, series);
criterion_main!(benches);
