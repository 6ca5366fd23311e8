//! The service that is simulated: two inputs, two stores, state that depends on the order of everything a task has read, so
//! that whatever is lost, doubled or reordered shows.
//!
//! `apply` is its whole logic, on any `State`: the processor runs it on the stores, the oracle on maps.

use std::collections::BTreeMap;

use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::log::{Cleanup, TopicSpec};
use engram_pipeline::processor::{Context, Input, Output, ProcessError, Processor, Service, TaskSetup};
use engram_pipeline::store::{Order, StoreSpec};
use xxhash_rust::xxh3::xxh3_64;

pub const NAME: &str = "simulated";
pub const INPUTS: [&str; 2] = ["orders", "corrections"];
/// One record for each input.
pub const ANSWERS: &str = "answers";
/// One record for each key that a commit has changed.
pub const UPDATES: &str = "updates";

/// Entries of a key: how often, and the hash of its history.
pub const ENTRIES: usize = 0;
/// The same by (count, key): its entries come and go all the time.
pub const BY_COUNT: usize = 1;

/// The cause of the dead letters.
pub const REJECTED: &str = "malformed";

/// What a record asks for: its value's first byte; the rest is a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Count,
    Delete,
    /// Looks through the entries from its key on, up or down.
    Scan(Order),
    /// Asks for the time.
    Clock,
}

impl Op {
    pub fn from_value(value: Option<&[u8]>) -> Option<Self> {
        match value?.first()? {
            b'c' => Some(Self::Count),
            b'd' => Some(Self::Delete),
            b'u' => Some(Self::Scan(Order::Ascending)),
            b'v' => Some(Self::Scan(Order::Descending)),
            b't' => Some(Self::Clock),
            _ => None,
        }
    }
}

/// A look through a store: the first so many entries, `from <= key < to`.
pub struct Scan<'a> {
    store: usize,
    from: &'a [u8],
    to: &'a [u8],
    order: Order,
    entries_max: usize,
}

/// What the logic works on.
pub trait State {
    fn get(&mut self, store: usize, key: &[u8]) -> Result<Option<Vec<u8>>, ProcessError>;
    fn set(&mut self, store: usize, key: &[u8], value: Option<&[u8]>) -> Result<(), ProcessError>;
    fn scan(&mut self, scan: &Scan<'_>) -> Result<Vec<u8>, ProcessError>;
    fn wall_clock_ms(&mut self) -> Result<i64, ProcessError>;
}

/// Executes one record; returns the answer.
pub fn apply(
    state: &mut impl State,
    source: usize,
    offset: i64,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<Vec<u8>, ProcessError> {
    let Some(op) = Op::from_value(value) else {
        return Err(ProcessError::reject(REJECTED, "not an operation"));
    };
    let entry = state.get(ENTRIES, key)?;
    let (count, history) = entry.as_deref().map_or((0, 0), split);
    let seen = [&[source as u8], &offset.to_be_bytes()[..], value.unwrap_or_default()].concat();
    let history = xxh3_64(&[&history.to_be_bytes()[..], &seen].concat());
    let by_count = |count: u64| [&count.to_be_bytes()[..], key].concat();
    let mut answer = seen;
    match op {
        Op::Count | Op::Clock => {
            if op == Op::Clock {
                answer.extend(state.wall_clock_ms()?.to_be_bytes());
            }
            if count > 0 {
                state.set(BY_COUNT, &by_count(count), None)?;
            }
            let entry = [(count + 1).to_be_bytes(), history.to_be_bytes()].concat();
            state.set(ENTRIES, key, Some(&entry))?;
            state.set(BY_COUNT, &by_count(count + 1), Some(&history.to_be_bytes()))?;
            answer.extend(entry);
        }
        Op::Delete => {
            if count > 0 {
                state.set(BY_COUNT, &by_count(count), None)?;
            }
            state.set(ENTRIES, key, None)?;
        }
        Op::Scan(order) => {
            let entries = Scan { store: ENTRIES, from: key, to: &[0xff; 8], order, entries_max: 5 };
            answer.extend(state.scan(&entries)?);
            let by_count = Scan { store: BY_COUNT, from: &by_count(count), to: &[0xff; 17], order, entries_max: 3 };
            answer.extend(state.scan(&by_count)?);
        }
    }
    Ok(answer)
}

fn split(entry: &[u8]) -> (u64, u64) {
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_be_bytes);
    (number(&entry[..8]), number(&entry[8..]))
}

pub fn service() -> Service {
    let output = |topic: &str| Output { topic: topic.to_owned(), event: None };
    let topic = |name: &str| TopicSpec {
        name: name.to_owned(),
        partitions: 0,
        cleanup: Cleanup::Keep,
        max_message_bytes: 1 << 20,
    };
    let store = |name| StoreSpec::new(name, |key, value| (hex(key).into(), hex(value).into()));
    Service {
        name: NAME,
        inputs: INPUTS.map(str::to_owned).to_vec(),
        outputs: vec![output(ANSWERS), output(UPDATES)],
        topics: [INPUTS[0], INPUTS[1], ANSWERS, UPDATES].map(topic).to_vec(),
        stores: vec![store("entries"), store("by_count")],
        processor: Box::new(|_: &TaskSetup| Ok(Box::new(Simulated))),
        errors: ErrorPolicy::default(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Simulated;

impl Processor for Simulated {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let record = &input.record;
        let key = record.key.unwrap_or_default();
        let answer = apply(&mut InStores(context), input.source, record.offset, key, record.value)?;
        context.emit(0, key, Some(&answer))
    }

    fn before_commit(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        context.for_each_change(ENTRIES, |key, value, emitter| emitter.emit(1, key, value))
    }
}

struct InStores<'a, 'b>(&'a mut Context<'b>);

impl State for InStores<'_, '_> {
    fn get(&mut self, store: usize, key: &[u8]) -> Result<Option<Vec<u8>>, ProcessError> {
        Ok(self.0.store(store).get(key)?.map(<[u8]>::to_vec))
    }

    fn set(&mut self, store: usize, key: &[u8], value: Option<&[u8]>) -> Result<(), ProcessError> {
        match value {
            Some(value) => Ok(self.0.store(store).put(key, value)?),
            None => Ok(self.0.store(store).delete(key)?),
        }
    }

    fn scan(&mut self, scan: &Scan<'_>) -> Result<Vec<u8>, ProcessError> {
        let (mut found, mut entries) = (Vec::new(), 0);
        self.0.store(scan.store).range(scan.from, scan.to, scan.order, |key, value| {
            found.extend_from_slice(key);
            found.extend_from_slice(value);
            entries += 1;
            entries < scan.entries_max
        })?;
        Ok(found)
    }

    fn wall_clock_ms(&mut self) -> Result<i64, ProcessError> {
        Ok(self.0.wall_clock_ms())
    }
}

/// A task's state in the oracle.
#[derive(Default)]
pub struct InMaps {
    pub stores: [BTreeMap<Vec<u8>, Vec<u8>>; 2],
    /// Keys changed since the last commit, in the order in which they first were, with what they are now.
    pub changed: [Vec<Vec<u8>>; 2],
    /// What the manifest says that the clock told.
    pub wall_clock: std::collections::VecDeque<i64>,
}

impl State for InMaps {
    fn get(&mut self, store: usize, key: &[u8]) -> Result<Option<Vec<u8>>, ProcessError> {
        Ok(self.stores[store].get(key).cloned())
    }

    fn set(&mut self, store: usize, key: &[u8], value: Option<&[u8]>) -> Result<(), ProcessError> {
        let before = match value {
            Some(value) => self.stores[store].insert(key.to_vec(), value.to_vec()),
            None => self.stores[store].remove(key),
        };
        // Deleting what is not there changes nothing.
        if (before.is_some() || value.is_some()) && !self.changed[store].iter().any(|changed| changed == key) {
            self.changed[store].push(key.to_vec());
        }
        Ok(())
    }

    fn scan(&mut self, scan: &Scan<'_>) -> Result<Vec<u8>, ProcessError> {
        if scan.from >= scan.to {
            return Ok(Vec::new());
        }
        let inside = self.stores[scan.store].range(scan.from.to_vec()..scan.to.to_vec());
        let entries: Vec<_> = match scan.order {
            Order::Ascending => inside.take(scan.entries_max).collect(),
            Order::Descending => inside.rev().take(scan.entries_max).collect(),
        };
        Ok(entries.into_iter().flat_map(|(key, value)| [key.as_slice(), value.as_slice()].concat()).collect())
    }

    fn wall_clock_ms(&mut self) -> Result<i64, ProcessError> {
        self.wall_clock.pop_front().ok_or_else(|| ProcessError::Refused("the clock was not asked so often".to_owned()))
    }
}
