//! The inner loop takes no memory for each record: what a processor does with keys that are there (reading, changing,
//! emitting) and what the runtime does around it is counted by the allocator itself, over a service that runs as it
//! always does, commits included.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::{Cleanup, Log, NewRecord, ProducerOptions, TopicSpec};
use engram_pipeline::processor::{Context, Input, Output, ProcessError, Processor, Service};
use engram_pipeline::service::{self, Running};
use engram_pipeline::store::StoreSpec;
use engram_pipeline::worker::WorkerOptions;
use engram_schemas::registry::memory::MemoryRegistry;

const RECORDS: u64 = 300_000;
const KEYS: u64 = 1_000;
/// Until all keys are there and every buffer has its size.
const WARM_UP: u64 = 100_000;
/// Allocations of a record: buffers that grow now and then are allowed, one for each is not.
const PER_RECORD_MAX: f64 = 0.01;

/// Counts what a thread asks for.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no count any more.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: all is the system's allocator, which is asked for the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that are wanted.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the test learns from the worker's thread.
#[derive(Default)]
struct Seen {
    records: AtomicU64,
    /// While the processor had the record.
    inside: AtomicU64,
    /// From one record to the next of the same fetch and commit: the loop around the processor.
    between: AtomicU64,
    betweens: AtomicU64,
}

struct Counter {
    seen: Arc<Seen>,
    /// The count at the end of the last record, and its offset.
    last: Option<(u64, i64)>,
}

impl Processor for Counter {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let before = COUNT.get();
        let key = input.record.key.expect("a key");
        let known = context.store(0).get(key)?.is_some();
        let mut total = 0;
        context.store(0).update(key, |value| {
            total = value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)) + 1;
            value.clear();
            value.extend_from_slice(&total.to_be_bytes());
            true
        })?;
        context.emit(0, key, Some(&total.to_be_bytes()))?;
        let after = COUNT.get();
        if self.seen.records.fetch_add(1, Ordering::Relaxed) >= WARM_UP {
            assert!(known, "all keys are there");
            self.seen.inside.fetch_add(after - before, Ordering::Relaxed);
            // A fetch brings a thousand records.
            if let Some((end, offset)) = self.last
                && input.record.offset == offset + 1
                && input.record.offset % 1_000 != 0
            {
                self.seen.between.fetch_add(before - end, Ordering::Relaxed);
                self.seen.betweens.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.last = Some((COUNT.get(), input.record.offset));
        Ok(())
    }
}

#[test]
fn no_memory_is_taken_for_a_record() {
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory());
    let topic = |name: &str| TopicSpec {
        name: name.to_owned(),
        partitions: 1,
        cleanup: Cleanup::Keep,
        max_message_bytes: 1 << 20,
    };
    log.create_topics(&[topic("in"), topic("out")]).expect("created");
    let options = ProducerOptions { client_id: "test".to_owned(), transactional_id: None };
    let mut producer = log.producer(&options).expect("a producer");
    for number in 0..RECORDS {
        let key = (number * 7 % KEYS).to_be_bytes();
        let (key, value) = (Some(key.as_slice()), Some(b"some bytes of a value".as_slice()));
        let record = NewRecord { topic: "in", partition: 0, timestamp_ms: None, key, value, headers: &[] };
        producer.write(&record, false).expect("written");
    }
    producer.flush().expect("flushed");

    let seen: Arc<Seen> = Arc::default();
    let shared = Arc::clone(&seen);
    let service = Arc::new(Service {
        name: "counter",
        inputs: vec!["in".to_owned()],
        // With headers, as services write.
        outputs: vec![Output { topic: "out".to_owned(), event: Some("test.Count") }],
        topics: Vec::new(),
        stores: vec![StoreSpec::new("counts", |_, _| Default::default())],
        processor: Box::new(move |_| Ok(Box::new(Counter { seen: Arc::clone(&shared), last: None }))),
        errors: ErrorPolicy::default(),
    });
    service::prepare_topics(&*log, &service, 1).expect("topics");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let running = Running::start(
        &WorkerOptions::new(service, log, Arc::new(MemoryRegistry::default()), folder.path().to_owned()),
        1,
    )
    .expect("started");
    let started = Instant::now();
    while !running.is_idle(100) {
        assert!(started.elapsed() < Duration::from_secs(120) && !running.has_failed(), "{:?}", running.workers());
        std::thread::sleep(Duration::from_millis(10));
    }
    running.stop().expect("stopped");

    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let measured = of(&seen.records) - WARM_UP;
    assert!(measured >= RECORDS - WARM_UP && of(&seen.betweens) > measured / 2, "enough was measured");
    let inside = of(&seen.inside) as f64 / measured as f64;
    let between = of(&seen.between) as f64 / of(&seen.betweens) as f64;
    println!("{measured} records: {inside:.5} allocations inside of the processor, {between:.5} around it, for each");
    assert!(inside < PER_RECORD_MAX, "{inside} allocations for each record inside of the processor");
    assert!(between < PER_RECORD_MAX, "{between} allocations for each record around the processor");
}
