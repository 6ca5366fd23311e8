//! Reading events by row and by column, beside a copy of the same bytes as the ceiling.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engram_schemas::activity::Interaction;
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::columnar::BatchDecoder;
use engram_schemas::registry::Registry;
use engram_schemas::registry::memory::MemoryRegistry;

const EVENTS: usize = 10_000;

fn codec(criterion: &mut Criterion) {
    let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::default());
    let encoder = Encoder::<Interaction>::register(&*registry, "activity.events").expect("the contract registers");
    let events: Vec<Interaction> = (0..EVENTS)
        .map(|number| Interaction {
            id: format!("event-{number:08}"),
            time: 1_700_000_000_000 + number as i64,
            user: format!("user-{:05}", number % 1_000),
            kind: "document.open".to_owned(),
            target: Some(format!("documents/{:06}", number % 5_000)),
            source: "bench".to_owned(),
            value: None,
            attributes: BTreeMap::new(),
        })
        .collect();
    let values: Vec<Vec<u8>> = events
        .iter()
        .map(|event| {
            let mut value = Vec::new();
            encoder.encode(event, &mut value).expect("encode");
            value
        })
        .collect();
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("copy the bytes (ceiling)", |bencher| {
        let mut copy = Vec::new();
        bencher.iter(|| {
            copy.clear();
            values.iter().for_each(|value| copy.extend_from_slice(black_box(value)));
            copy.len()
        });
    });
    group.bench_function("encode by row", |bencher| {
        let mut value = Vec::new();
        bencher.iter(|| events.iter().for_each(|event| encoder.encode(black_box(event), &mut value).expect("encode")));
    });
    group.bench_function("decode by row", |bencher| {
        let mut decoder = Decoder::new(registry.clone());
        bencher.iter(|| {
            values.iter().for_each(|value| {
                black_box(decoder.decode::<Interaction>(value).expect("decode"));
            });
        });
    });
    group.bench_function("decode by column", |bencher| {
        let mut batches = BatchDecoder::new::<Interaction>(registry.clone(), EVENTS);
        bencher.iter(|| {
            values.iter().for_each(|value| batches.push(value).expect("push"));
            black_box(batches.finish().expect("finish"))
        });
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
