//! What befalls one life of a worker: at which call of the log it crashes or is told of a failure.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engram_pipeline::clock::{ManualClock, Moment};
use engram_pipeline::log::{Log, LogError, ProducerOptions};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::trace::Trace;

/// A call of the log at which something can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A record is handed over: an output, a changelog record, a manifest.
    Write,
    Announce,
    Flush,
    Commit,
    Fetch,
    /// Reading a changelog at restore.
    Restore,
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before the call has done anything.
    Crash,
    /// The process dies when the call has done its work: of a commit, what follows a commit never runs.
    CrashAfter,
    /// The log says that it aborted the transaction.
    Aborted,
    /// The log does not say what came of it; it was committed.
    UnknownCommitted,
    /// The log does not say what came of it; it was not.
    UnknownAborted,
    /// The log cannot be reached.
    Unreachable,
}

impl Fault {
    pub const ALL: [Self; 6] =
        [Self::Crash, Self::CrashAfter, Self::Aborted, Self::UnknownCommitted, Self::UnknownAborted, Self::Unreachable];
}

impl Point {
    pub const ALL: [Self; 6] = [Self::Write, Self::Announce, Self::Flush, Self::Commit, Self::Fetch, Self::Restore];
}

/// How long the broker lets a transaction be open (`transaction.timeout.ms`).
const TRANSACTION_MS_MAX: i64 = 60_000;

/// How long a group waits for a member that it does not hear of (`session.timeout.ms`).
const SESSION_MS_MAX: i64 = 10_000;

/// What is left in the broker of a consumer or producer whose process died.
struct Ghost {
    died: Moment,
    ms_max: i64,
    _held: Box<dyn Any + Send>,
}

/// What all lives of a run share.
pub struct Shared {
    pub hand: ManualClock,
    pub trace: Trace,
    /// Consumers and producers of processes that died: the broker does not know it yet.
    ghosts: Mutex<Vec<Ghost>>,
    /// Open transactions by id, each with the time of its first record.
    open: Mutex<BTreeMap<String, Moment>>,
    /// What was done that must never be.
    violations: Mutex<Vec<String>>,
}

impl Shared {
    pub fn new(hand: ManualClock, trace: Trace) -> Arc<Self> {
        Arc::new(Self { hand, trace, ghosts: Mutex::default(), open: Mutex::default(), violations: Mutex::default() })
    }

    pub fn member_died(&self, held: Box<dyn Any + Send>) {
        self.died(held, SESSION_MS_MAX);
    }

    pub fn producer_died(&self, held: Box<dyn Any + Send>) {
        self.died(held, TRANSACTION_MS_MAX);
    }

    fn died(&self, held: Box<dyn Any + Send>, ms_max: i64) {
        let died = self.hand.clock().now();
        lock(&self.ghosts).push(Ghost { died, ms_max, _held: held });
    }

    pub fn bury_ghosts(&self) {
        lock(&self.ghosts).clear();
    }

    pub fn violation(&self, what: String) {
        lock(&self.violations).push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    pub fn opened(&self, id: &str) {
        lock(&self.open).entry(id.to_owned()).or_insert_with(|| self.hand.clock().now());
    }

    pub fn closed(&self, id: &str) {
        lock(&self.open).remove(id);
    }

    /// The broker gives up members that it has not heard of, and transactions that have been open too long; whoever had
    /// them is fenced.
    pub fn expire(&self, log: &dyn Log) -> Result<(), LogError> {
        let clock = self.hand.clock();
        let gone = |ghost: &mut Ghost| clock.since(ghost.died).as_millis() as i64 > ghost.ms_max;
        let buried: Vec<Ghost> = lock(&self.ghosts).extract_if(.., gone).collect();
        drop(buried);
        let old = |since: &Moment| clock.since(*since).as_millis() as i64 > TRANSACTION_MS_MAX;
        let expired: Vec<String> =
            lock(&self.open).iter().filter(|(_, since)| old(since)).map(|(id, _)| id.clone()).collect();
        for id in expired {
            self.trace.tell(format!("the broker gives up the transaction of {id}"));
            self.closed(&id);
            log.producer(&ProducerOptions { client_id: "broker".to_owned(), transactional_id: Some(id) })?;
        }
        Ok(())
    }
}

/// The fate of one life of a worker.
pub struct Fate {
    pub name: String,
    pub shared: Arc<Shared>,
    state: Mutex<State>,
}

struct State {
    random: StdRng,
    crashed: bool,
    /// What is to happen, and after how many more such calls.
    plan: Option<(Point, Fault, u32)>,
    calm: bool,
}

impl Fate {
    pub fn new(name: &str, seed: u64, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            shared: Arc::clone(shared),
            state: Mutex::new(State { random: StdRng::seed_from_u64(seed), crashed: false, plan: None, calm: false }),
        })
    }

    pub fn plan(&self, point: Point, fault: Fault, after: u32) {
        lock(&self.state).plan = Some((point, fault, after));
    }

    /// From now on nothing happens to it.
    pub fn calm(&self) {
        let mut state = lock(&self.state);
        state.plan = None;
        state.calm = true;
    }

    pub fn crash(&self) {
        lock(&self.state).crashed = true;
    }

    pub fn has_crashed(&self) -> bool {
        lock(&self.state).crashed
    }

    /// What happens at this call, if anything. After a crash nothing works any more.
    pub fn at(&self, point: Point) -> Result<Option<Fault>, LogError> {
        let mut state = lock(&self.state);
        if state.crashed {
            return Err(dead());
        }
        match &mut state.plan {
            Some((planned, fault, after)) if *planned == point => {
                if *after > 0 {
                    *after -= 1;
                    return Ok(None);
                }
                let fault = *fault;
                state.plan = None;
                self.shared.trace.tell(format!("{}: {fault:?} at {point:?}", self.name));
                match fault {
                    Fault::Crash => {
                        state.crashed = true;
                        Err(dead())
                    }
                    Fault::Unreachable => Err(LogError::Unreachable {
                        address: "the simulated log".to_owned(),
                        reason: "by fate".to_owned(),
                    }),
                    fault => Ok(Some(fault)),
                }
            }
            _ => Ok(None),
        }
    }

    /// How many records a fetch brings: often few, sometimes none, so that partitions overtake each other.
    pub fn fetch_records(&self, records_max: usize) -> usize {
        let mut state = lock(&self.state);
        if state.calm {
            return records_max;
        }
        match state.random.random_range(0..4) {
            0 => 0,
            1 => state.random.random_range(1..4),
            _ => state.random.random_range(1..30),
        }
    }
}

pub fn dead() -> LogError {
    LogError::failed("cannot go on", "this process has died")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
