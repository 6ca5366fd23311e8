//! The manifest of a commit: what a task read, in which order, and what came of it. It is written in the commit's own
//! transaction, so there is exactly one for every commit that happened.
//!
//! The digest is rolling (xxh3-128 over the previous digest, each output and each state change), so equal digests mean
//! equal histories, not just equal last steps.

use engram_schemas::manifest::{ChangelogEnd, Firing, InputRange, Manifest, Run, SetAside};

use crate::collector::Collected;
use crate::queue::RecordQueue;

/// The name of a service's manifest topic.
pub fn topic(service: &str) -> String {
    format!("engram-{service}-manifests")
}

/// Where a task stands in its history: kept in its store and changelog, under the key `0x00 "commit"`.
///
/// ```text
/// 0..8    sequence of the last commit, i64, big endian; 0 before the first
/// 8..24   its digest
/// 24..32  the task's stream time, i64, big endian; left out by programs that did not keep it
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCommit {
    pub sequence: i64,
    pub digest: [u8; 16],
    /// `i64::MIN` if no event time was told yet.
    pub stream_time: i64,
}

impl Default for LastCommit {
    fn default() -> Self {
        Self { sequence: 0, digest: [0; 16], stream_time: i64::MIN }
    }
}

impl LastCommit {
    pub const KEY: &[u8] = b"\0commit";

    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..24].copy_from_slice(&self.digest);
        bytes[24..].copy_from_slice(&self.stream_time.to_be_bytes());
        bytes
    }

    /// `None` if these are not bytes that `to_bytes` gives, or has given.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (sequence, rest) = bytes.split_first_chunk::<8>()?;
        let (digest, rest) = rest.split_first_chunk::<16>()?;
        let stream_time = match rest {
            [] => i64::MIN,
            rest => i64::from_be_bytes(rest.try_into().ok()?),
        };
        Some(Self { sequence: i64::from_be_bytes(*sequence), digest: *digest, stream_time })
    }
}

/// What a task took from its inputs since the last commit.
#[derive(Default)]
pub struct Taken {
    from: Vec<i64>,
    runs: Vec<Run>,
    set_aside: Vec<SetAside>,
    records: i64,
}

impl Taken {
    pub fn begin(&mut self, queues: &[RecordQueue]) {
        self.from.clear();
        self.from.extend(queues.iter().map(RecordQueue::position));
        self.runs.clear();
        self.set_aside.clear();
        self.records = 0;
    }

    /// The record that is taken next does not reach the processor, for what the worker knows of it.
    pub fn set_aside(&mut self, cause: &str) {
        self.set_aside.push(SetAside { after: self.records, cause: cause.to_owned() });
    }

    /// One record was taken from the `input`-th queue.
    pub fn take(&mut self, input: usize) {
        self.records += 1;
        match self.runs.last_mut() {
            Some(run) if run.input == input as i32 => run.count += 1,
            _ => self.runs.push(Run { input: input as i32, count: 1 }),
        }
    }

    pub fn records(&self) -> i64 {
        self.records
    }

    /// Some position moved, by records or past control records.
    pub fn moved(&self, queues: &[RecordQueue]) -> bool {
        self.from.iter().zip(queues).any(|(from, queue)| *from != queue.position())
    }
}

/// All that a manifest says besides what the task has collected.
pub struct About<'a> {
    pub service: &'a str,
    pub partition: i32,
    pub changelog: &'a str,
    pub state_changes: i64,
    pub previous: LastCommit,
    pub this: LastCommit,
    pub schema_ids: &'a [i32],
    pub firings: &'a [Firing],
}

/// Puts the manifest of a commit together, but for the end of the changelog: 0 until that is known.
pub fn manifest(about: &About<'_>, taken: &mut Taken, queues: &[RecordQueue], collected: Collected) -> Manifest {
    let inputs = queues.iter().zip(&taken.from).map(|(queue, &from)| InputRange {
        topic: queue.partition.topic.to_string(),
        partition: queue.partition.partition,
        from,
        to: queue.position(),
    });
    Manifest {
        service: about.service.to_owned(),
        partition: about.partition,
        sequence: about.this.sequence,
        inputs: inputs.collect(),
        interleaving: std::mem::take(&mut taken.runs),
        set_aside: std::mem::take(&mut taken.set_aside),
        changelog: vec![ChangelogEnd { topic: about.changelog.to_owned(), partition: about.partition, end: 0 }],
        wall_clock: collected.wall_clock,
        firings: about.firings.to_vec(),
        batches: collected.batches,
        seed: collected.seed,
        schema_ids: about.schema_ids.to_vec(),
        build: concat!("engram ", env!("CARGO_PKG_VERSION")).to_owned(),
        stream_time: (collected.stream_time > i64::MIN).then_some(collected.stream_time),
        outputs: collected.outputs,
        state_changes: about.state_changes,
        digest: about.this.digest.to_vec(),
        previous_digest: about.previous.digest.to_vec(),
    }
}
