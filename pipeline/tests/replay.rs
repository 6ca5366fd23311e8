//! `verify` finds what is not as it was, and where it first is not: a flipped byte in an output, a record written twice, a changed
//! constant in a processor, a clock read behind the context's back.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engram_pipeline::driver::Driver;
use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::log::TopicPartition;
use engram_pipeline::processor::{Context, Input, Output, ProcessError, Processor, Service};
use engram_pipeline::replay::{Difference, Differs};
use engram_pipeline::store::{StoreSpec, prefix};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const INPUT: &str = "numbers";
const OUTPUT: &str = "totals";
const RECORDS: i64 = 1_000;
const COMMIT_RECORDS: usize = 70;
const KEYS: u64 = 10;

/// How a processor adds numbers up.
#[derive(Debug, Clone, Copy)]
enum Adds {
    AsTheyAre,
    /// From this record on one more for each.
    OneMoreFrom(i64),
    /// The same, told to nobody but its store.
    SilentlyOneMoreFrom(i64),
    /// For this record, what the machine's clock says.
    TheClockAt(i64),
}

struct Sums(Adds);

#[expect(clippy::disallowed_methods, reason = "it does what no processor may")]
fn forbidden_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

impl Processor for Sums {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let (record, key) = (&input.record, input.record.key.expect("a key"));
        let number = number(record.value.expect("a value"));
        let (more, silently) = match self.0 {
            Adds::OneMoreFrom(first) if record.offset >= first => (1, 0),
            Adds::SilentlyOneMoreFrom(first) if record.offset >= first => (0, 1),
            Adds::TheClockAt(offset) if record.offset == offset => (forbidden_clock(), 0),
            _ => (0, 0),
        };
        let total = context.store(0).get(key)?.map_or(0, self::number).wrapping_add(number + more);
        context.store(0).put(key, &(total + silently).to_be_bytes())?;
        // Also asks the clock that is recorded, which must tell the same again.
        let told = [total.to_be_bytes(), context.wall_clock_ms().to_be_bytes()].concat();
        context.emit(0, key, Some(&told))
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().expect("eight bytes"))
}

fn service(adds: Adds) -> Service {
    Service {
        name: "sums",
        inputs: vec![INPUT.to_owned()],
        outputs: vec![Output { topic: OUTPUT.to_owned(), event: Some("Total") }],
        topics: Vec::new(),
        stores: vec![StoreSpec::new("sums", |_, _| Default::default())],
        processor: Box::new(move |_| Ok(Box::new(Sums(adds)))),
        errors: ErrorPolicy::default(),
    }
}

/// A history of one task, and a place in its input, at random.
fn history(adds: impl Fn(i64) -> Adds) -> (Driver, i64, StdRng) {
    let seed = std::env::var("ENGRAM_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("ENGRAM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = random.random_range(0..RECORDS);
    let mut driver = Driver::new(service(adds(place)), 1).expect("a driver");
    driver.commit_every(COMMIT_RECORDS);
    for time in 0..RECORDS {
        let (key, value) = (random.random_range(0..KEYS), random.random_range(0..1_000_u64));
        driver.advance_wall_clock(Duration::from_millis(random.random_range(0..3))).expect("advanced");
        driver.pipe(INPUT, 0, &key.to_be_bytes(), &value.to_be_bytes(), time).expect("piped");
    }
    driver.run().expect("run");
    (driver, place, random)
}

fn difference(driver: &Driver, with: Option<Adds>) -> Difference {
    let with = with.map(|adds| Arc::new(service(adds)));
    driver.replay(with.as_ref()).expect("replayed").difference.expect("there is a difference")
}

/// The output is of this record, which is in that commit.
fn assert_is_at(found: &Difference, offset: i64) {
    let Differs::Output { place: Some((partition, at)), recorded: Some(recorded), remade: Some(remade) } = &found.what
    else {
        panic!("{found:?}");
    };
    assert_eq!((&*partition.topic, *at), (OUTPUT, offset), "each input has one output");
    assert_eq!(found.sequence, offset / COMMIT_RECORDS as i64 + 1);
    assert_ne!(recorded.value, remade.value);
}

#[test]
fn what_was_committed_comes_out_again() {
    let (driver, ..) = history(|_| Adds::AsTheyAre);
    let verified = driver.replay(None).expect("replayed");
    assert!(verified.difference.is_none(), "{verified:?}");
    assert_eq!((verified.records, verified.outputs, verified.equal), (1_000, 1_000, 1_000));
    assert_eq!((verified.commits, verified.gone, verified.unnamed), (15, 0, 0));
}

#[test]
fn a_flipped_bit_in_an_output_is_found() {
    let (driver, place, mut random) = history(|_| Adds::AsTheyAre);
    let (byte, bit) = (random.random_range(0..16), random.random_range(0..8));
    driver.log().damage(&TopicPartition::new(OUTPUT, 0), place, |record| {
        record.value.as_mut().expect("a value")[byte] ^= 1 << bit;
    });
    let found = difference(&driver, None);
    assert_is_at(&found, place);
    assert!(!found.is_random);
}

#[test]
fn an_output_that_was_written_twice_is_found() {
    let (driver, place, _) = history(|_| Adds::AsTheyAre);
    let copy = driver.records(OUTPUT).swap_remove(usize::try_from(place).expect("a number"));
    driver.log().append(OUTPUT, copy);
    let found = difference(&driver, None);
    let Differs::Output { place: Some((_, at)), .. } = &found.what else { panic!("{found:?}") };
    assert_eq!((*at, found.sequence), (RECORDS, place / COMMIT_RECORDS as i64 + 1));
}

#[test]
fn a_changed_constant_is_found_at_its_first_record() {
    let (driver, place, _) = history(|_| Adds::AsTheyAre);
    let found = difference(&driver, Some(Adds::OneMoreFrom(place)));
    assert_is_at(&found, place);
    assert!(!found.is_random);
}

#[test]
fn a_change_that_only_the_store_knows_of_is_found() {
    let (driver, place, _) = history(|_| Adds::AsTheyAre);
    let found = difference(&driver, Some(Adds::SilentlyOneMoreFrom(place)));
    // The next record of the key in the same commit tells of it; otherwise nothing but the store does.
    match &found.what {
        Differs::Output { place: Some((_, at)), .. } => assert!(*at > place, "{found:?}"),
        Differs::State { key, recorded: Some(Some(then)), remade: Some(Some(now)) } => {
            assert_eq!(key[0], prefix(0));
            assert!(number(now) > number(then), "{found:?}");
        }
        _ => panic!("{found:?}"),
    }
    assert_eq!(found.sequence, place / COMMIT_RECORDS as i64 + 1);
}

#[test]
fn a_clock_read_behind_the_contexts_back_is_found_and_named() {
    let (driver, place, _) = history(Adds::TheClockAt);
    let found = difference(&driver, None);
    assert_is_at(&found, place);
    assert!(found.is_random, "{found:?}");
}
