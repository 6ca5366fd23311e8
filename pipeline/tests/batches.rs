//! Batches end where the manifest says: what made them end, and what stood in for a model, is not known when they are scored
//! again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use engram_pipeline::driver::Driver;
use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::processor::{Context, Input, Output, ProcessError, Processor, Service};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const INPUT: &str = "numbers";
const OUTPUT: &str = "scores";
const RECORDS: i64 = 1_000;
const COMMIT_RECORDS: usize = 70;
const MODELS: [&str; 2] = ["a", "b"];

/// What no log knows: how long a batch is waited for, and whether a model is there.
type Chance = Arc<Mutex<StdRng>>;

/// Scores a number by the sum of its batch; the second model takes every third only.
struct Batches {
    chance: Chance,
    rows: BTreeMap<&'static str, Vec<u64>>,
}

impl Batches {
    /// Ends what is to end: by the record where there is one, else by chance.
    fn settle(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        while let Some((model, rows)) = context.recorded_batch() {
            let found = MODELS.iter().find(|known| **known == model).expect("a model");
            if self.rows.get(found).map_or(0, Vec::len) as i64 != rows {
                return Ok(());
            }
            self.end(found, context)?;
        }
        for model in MODELS {
            if self.chance.lock().expect("no panic").random_bool(0.1) {
                self.end(model, context)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, model: &'static str, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let Some(rows) = self.rows.remove(model) else { return Ok(()) };
        let is_there = || self.chance.lock().expect("no panic").random_bool(0.3);
        let is_fallback = context.end_batch(model, "00ff", rows.len() as i64, is_there);
        let sum: u64 = rows.iter().sum();
        for row in rows {
            context.emit(0, model.as_bytes(), Some(format!("{row} of {sum}, {is_fallback}").as_bytes()))?;
        }
        Ok(())
    }
}

impl Processor for Batches {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let number = u64::from_be_bytes(input.record.value.expect("a value").try_into().expect("eight bytes"));
        for model in MODELS {
            if model == "a" || number.is_multiple_of(3) {
                self.rows.entry(model).or_default().push(number);
            }
        }
        self.settle(context)
    }

    fn before_commit(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        MODELS.into_iter().try_for_each(|model| self.end(model, context))
    }

    fn reset(&mut self) {
        self.rows.clear();
    }
}

fn service(seed: u64) -> Service {
    let chance: Chance = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
    Service {
        name: "batches",
        inputs: vec![INPUT.to_owned()],
        outputs: vec![Output { topic: OUTPUT.to_owned(), event: Some("Score") }],
        topics: Vec::new(),
        stores: Vec::new(),
        processor: Box::new(move |_| Ok(Box::new(Batches { chance: Arc::clone(&chance), rows: BTreeMap::new() }))),
        errors: ErrorPolicy::default(),
    }
}

#[test]
fn a_replay_ends_batches_where_they_ended_and_misses_the_models_that_were_missing() {
    let seed = std::env::var("ENGRAM_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("ENGRAM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut driver = Driver::new(service(seed), 1).expect("a driver");
    driver.commit_every(COMMIT_RECORDS);
    for time in 0..RECORDS {
        driver.write(INPUT, 0, None, Some(&random.random_range(0..1_000_u64).to_be_bytes()), time);
    }
    for _ in 0..RECORDS {
        driver.process().expect("processed");
        if random.random_bool(0.05) {
            driver.abort().expect("aborted");
        }
    }
    driver.commit().expect("committed");

    let batches: Vec<_> = driver.manifests(0).into_iter().flat_map(|manifest| manifest.batches).collect();
    let rows = |model: &str| batches.iter().filter(|batch| batch.model == model).map(|batch| batch.rows).sum::<i64>();
    assert_eq!(rows("a"), RECORDS, "each row is in one batch");
    assert!(batches.len() > 100 && batches.iter().any(|batch| batch.is_fallback), "{batches:?}");
    assert_eq!(driver.records(OUTPUT).len() as i64, rows("a") + rows("b"));

    let verified = driver.replay(Some(&Arc::new(service(seed + 1)))).expect("replayed");
    assert!(verified.difference.is_none(), "{verified:?}");
    assert_eq!((verified.records, verified.equal), (RECORDS as u64, verified.outputs));
}
