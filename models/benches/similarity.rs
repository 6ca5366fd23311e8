//! Cosine search of one core beside its ceiling: the same bytes merely added up, in the same run.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engram_models::similarity::{LANES, Vectors, lengths};

const DIMENSIONS: usize = 384;
/// 307 MB: beyond the caches.
const ROWS: usize = 200_000;

fn similarity(criterion: &mut Criterion) {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as f32 / u32::MAX as f32 - 0.5
    };
    let values: Vec<f32> = (0..ROWS * DIMENSIONS).map(|_| next()).collect();
    let query: Vec<f32> = (0..DIMENSIONS).map(|_| next()).collect();
    let lengths = lengths(&values, DIMENSIONS);
    let vectors = Vectors::new(&values, DIMENSIONS, &lengths).expect("the shapes fit");

    let mut group = criterion.benchmark_group("similarity");
    group.sample_size(20).throughput(Throughput::Bytes((values.len() * size_of::<f32>()) as u64));
    group.bench_function("ceiling: sum of the matrix", |bencher| bencher.iter(|| sum(black_box(&values))));
    group.bench_function("nearest 10", |bencher| bencher.iter(|| vectors.nearest(black_box(&query), 10)));
    group.finish();
}

fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    for chunk in values.as_chunks::<LANES>().0 {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().sum()
}

criterion_group!(benches, similarity);
criterion_main!(benches);
