//! Reading events by row and by column, beside a copy of the same bytes as the ceiling.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use engram_schemas::Event as _;
use engram_schemas::activity::Interaction;
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::columnar::BatchDecoder;
use engram_schemas::projection::{Field, Kind, Projection};
use engram_schemas::registry::Registry;
use engram_schemas::registry::memory::MemoryRegistry;
use engram_schemas::telemetry::Metric;
use engram_schemas::wire::FRAME_BYTES;

const EVENTS: usize = 10_000;

/// The ceiling: the same bytes, copied.
fn copy(group: &mut BenchmarkGroup<'_, WallTime>, values: &[Vec<u8>]) {
    group.bench_function("copy the bytes (ceiling)", |bencher| {
        let mut copy = Vec::new();
        bencher.iter(|| {
            copy.clear();
            values.iter().for_each(|value| copy.extend_from_slice(black_box(value)));
            copy.len()
        });
    });
}

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
    copy(&mut group, &values);
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

/// Five fields of a metric: two numbers, three texts, one of them a map's.
fn projection(criterion: &mut Criterion) {
    let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::default());
    let encoder = Encoder::<Metric>::register(&*registry, "telemetry.metrics").expect("the contract registers");
    let values: Vec<Vec<u8>> = (0..EVENTS)
        .map(|number| {
            let labels = [("zone", "eu-west-1a"), ("service", "gateway"), ("version", "1.4.2")];
            let event = Metric {
                time: 1_700_000_000_000 + number as i64,
                entity: format!("host-{:05}", number % 1_000),
                metric: "cpu.load.1m".to_owned(),
                value: number as f64 / 7.0,
                unit: "1".to_owned(),
                labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            };
            let mut value = Vec::new();
            encoder.encode(&event, &mut value).expect("encode");
            value
        })
        .collect();
    let mut group = criterion.benchmark_group("projection");
    group.throughput(Throughput::Bytes(values.iter().map(|value| value.len() as u64).sum()));
    copy(&mut group, &values);
    let number = |path: &str| Field { path: path.to_owned(), kind: Kind::Number };
    let text = |path: &str| Field { path: path.to_owned(), kind: Kind::Text };
    let all = [number("value"), number("time"), text("entity"), text("metric"), text("labels.zone")];
    for (name, fields) in [("one number", &all[..1]), ("two numbers and three texts", &all[..])] {
        group.bench_function(format!("project {name}"), |bencher| {
            let mut projection = Projection::new(registry.clone(), Metric::NAME, fields.to_vec());
            bencher.iter(|| {
                values.iter().for_each(|value| assert!(projection.push(black_box(value)).expect("push")));
                black_box(projection.finish())
            });
        });
    }
    group.bench_function("all columns, by arrow-avro", |bencher| {
        let mut batches = BatchDecoder::new::<Metric>(registry.clone(), EVENTS);
        bencher.iter(|| {
            values.iter().for_each(|value| batches.push(black_box(value)).expect("push"));
            black_box(batches.finish().expect("finish"))
        });
    });
    group.bench_function("all as values, by apache-avro", |bencher| {
        let schema = Schema::parse_str(Metric::SCHEMA).expect("it parses");
        let reader = GenericDatumReader::builder(&schema).build().expect("a reader");
        bencher.iter(|| {
            values.iter().for_each(|value| {
                black_box(reader.read_value(&mut &value[FRAME_BYTES..]).expect("read"));
            });
        });
    });
    group.finish();
}

criterion_group!(benches, codec, projection);
criterion_main!(benches);
