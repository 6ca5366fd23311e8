//! Updates of an editing session through the collaboration service, beside yrs alone on the same updates as the ceiling.
//!
//! `ENGRAM_UPDATES` names a file that `node tests/clients/yjs/trace.mjs --write-updates` has made.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use engram_pipeline::driver::Driver;
use engram_processors::collaboration::documents::DocumentsConfig;
use engram_processors::collaboration::{self, DOCUMENT_EDITS};
use engram_schemas::codec::Encoder;
use engram_schemas::document::Edit;
use engram_schemas::yjs::Outline;
use yrs::updates::decoder::Decode;
use yrs::{Doc, OffsetKind, Options, Transact, Update};

/// Records of a commit.
const COMMIT: usize = 1_000;

fn documents(criterion: &mut Criterion) {
    let Some(file) = std::env::var_os("ENGRAM_UPDATES") else {
        println!("skipped: ENGRAM_UPDATES names no file of updates");
        return;
    };
    let updates = read(&std::fs::read(file).expect("the file of updates"));
    let mut group = criterion.benchmark_group("documents");
    group.throughput(Throughput::Elements(updates.len() as u64)).sample_size(10);
    group.bench_function("yrs alone (ceiling)", |bencher| {
        bencher.iter(|| {
            let doc = Doc::with_options(Options { offset_kind: OffsetKind::Utf16, ..Options::default() });
            for update in &updates {
                let update = Update::decode_v1(update).expect("an update");
                doc.transact_mut().apply_update(update).expect("applied");
            }
            doc
        });
    });
    group.bench_function("outlines", |bencher| {
        bencher.iter(|| updates.iter().for_each(|update| drop(black_box(Outline::read(update).expect("an update")))));
    });
    group.bench_function("the service", |bencher| {
        bencher.iter_batched(|| written(&updates), serve, BatchSize::PerIteration);
    });
    group.finish();
}

/// A driver whose log has the updates.
fn written(updates: &[Vec<u8>]) -> Driver {
    let service = Arc::new(collaboration::service(DocumentsConfig::default()));
    let mut driver = Driver::of(service, 1).expect("the service starts");
    driver.commit_every(COMMIT);
    let edits = Encoder::<Edit>::register(&*driver.registry(), DOCUMENT_EDITS).expect("registered");
    let mut value = Vec::new();
    for (number, update) in updates.iter().enumerate() {
        let edit = Edit {
            id: number.to_string(),
            time: 1_700_000_000_000 + number as i64,
            document: "trace".to_owned(),
            actor: "somebody".to_owned(),
            session: String::new(),
            update: update.clone(),
            source: String::new(),
            purpose: String::new(),
        };
        edits.encode(&edit, &mut value).expect("an edit");
        driver.write(DOCUMENT_EDITS, 0, Some(b"trace"), Some(&value), edit.time);
    }
    driver
}

fn serve(mut driver: Driver) -> Driver {
    driver.process().expect("processed");
    driver.commit().expect("committed");
    driver
}

/// `agent u32 | length u32 | update`, again and again.
fn read(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut updates = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let [.., a, b, c, d] = *head;
        let (update, after) = after.split_at(u32::from_le_bytes([a, b, c, d]) as usize);
        updates.push(update.to_vec());
        rest = after;
    }
    updates
}

criterion_group!(benches, documents);
criterion_main!(benches);
