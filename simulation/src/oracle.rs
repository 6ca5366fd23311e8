//! What must have come out: recomputed from the inputs and the manifests alone, with no code of the runtime but the log.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engram_pipeline::clock::Clock;
use engram_pipeline::log::{Log, TopicPartition};
use engram_pipeline::manifest::LastCommit;
use engram_pipeline::store::{Budget, Files, prefix};
use engram_pipeline::{changelog, dead_letter, manifest};
use engram_schemas::codec::Decoder;
use engram_schemas::dead_letter::DeadLetter;
use engram_schemas::manifest::Manifest;
use engram_schemas::registry::Registry;
use xxhash_rust::xxh3::Xxh3;

use crate::service::{ANSWERS, ENTRIES, INPUTS, InMaps, NAME, REJECTED, UPDATES, apply};

/// A record as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    offset: i64,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a run comes to, for the trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub records: u64,
    pub commits: u64,
    pub rejected: u64,
}

pub struct Oracle {
    log: Arc<dyn Log>,
    decoder: Decoder,
}

impl Oracle {
    pub fn new(log: Arc<dyn Log>, registry: Arc<dyn Registry>) -> Self {
        Self { log, decoder: Decoder::new(registry) }
    }

    /// Checks one task: outputs, digests, changelog, stores and positions. `stores` are the folders in which the task may
    /// lie.
    ///
    /// Errors: the first thing that is not as it must be.
    pub fn check(&mut self, partition: i32, stores: &[&Path]) -> Result<Totals, String> {
        let inputs = INPUTS.map(|topic| self.read(topic, partition));
        let (answers, updates) = (self.read(ANSWERS, partition), self.read(UPDATES, partition));
        let all_changes = self.read(&changelog::topic(NAME), partition);
        let mut letters = self.letters(partition)?;
        let (mut answers, mut updates, mut changes) = (answers.iter(), updates.iter(), all_changes.iter());
        let mut state = InMaps::default();
        let mut last = LastCommit::default();
        let mut history = vec![Committed { last, stores: Default::default(), changelog_end: 0 }];
        let mut positions = [0_usize; 2];
        let mut totals = Totals::default();
        for stored in self.read(&manifest::topic(NAME), partition) {
            let bytes = stored.value.ok_or("a manifest without a value")?;
            let manifest: Manifest = self.decoder.decode(&bytes).map_err(|error| error.to_string())?;
            let at = format!("commit {} of task {partition}", manifest.sequence);
            same(&at, "sequence", &manifest.sequence, &(last.sequence + 1))?;
            same(&at, "previous digest", &manifest.previous_digest.as_slice(), &last.digest.as_slice())?;
            let mut digest = Xxh3::new();
            digest.update(&last.digest);
            state.wall_clock = manifest.wall_clock.iter().copied().collect();
            let mut emit = |output: u32, actual: Option<&Stored>, key: &[u8], value: Option<&[u8]>| {
                let wanted = (key, value);
                same(
                    &at,
                    "output",
                    &actual.map(|record| (record.key.as_slice(), record.value.as_deref())),
                    &Some(wanted),
                )?;
                digest.update(&output.to_be_bytes());
                digest.update(&partition.to_be_bytes());
                digest_bytes(&mut digest, Some(key));
                digest_bytes(&mut digest, value);
                Ok::<(), String>(())
            };
            for run in &manifest.interleaving {
                let source = run.input as usize;
                for _ in 0..run.count {
                    let record = inputs[source].get(positions[source]).ok_or("more was taken than there is")?;
                    let range = &manifest.inputs[source];
                    if !(range.from..range.to).contains(&record.offset) {
                        return Err(format!("{at}: {}/{} is not in {range:?}", INPUTS[source], record.offset));
                    }
                    positions[source] += 1;
                    totals.records += 1;
                    match apply(&mut state, source, record.offset, &record.key, record.value.as_deref()) {
                        Ok(answer) => emit(0, answers.next(), &record.key, Some(&answer))?,
                        Err(_) => {
                            totals.rejected += 1;
                            let place = (INPUTS[source].to_owned(), record.offset);
                            let letter = letters.remove(&place).ok_or(format!("{at}: no dead letter for {place:?}"))?;
                            same(&at, "cause", &letter.cause.as_str(), &REJECTED)?;
                        }
                    }
                }
            }
            for (source, range) in manifest.inputs.iter().enumerate() {
                let next = inputs[source].get(positions[source]);
                if next.is_some_and(|record| record.offset < range.to) {
                    return Err(format!("{at}: {range:?} has records that were not taken"));
                }
            }
            for key in &state.changed[ENTRIES] {
                emit(1, updates.next(), key, state.stores[ENTRIES].get(key).map(Vec::as_slice))?;
            }
            for (store, changed) in state.changed.iter_mut().enumerate() {
                changed.sort_unstable();
                for key in changed.drain(..) {
                    let value = state.stores[store].get(&key).map(Vec::as_slice);
                    let full = [&[prefix(store)], key.as_slice()].concat();
                    digest_bytes(&mut digest, Some(&full));
                    digest_bytes(&mut digest, value);
                    let actual = changes.next().ok_or(format!("{at}: the changelog ends early"))?;
                    same(&at, "change", &(actual.key.as_slice(), actual.value.as_deref()), &(full.as_slice(), value))?;
                }
            }
            last = LastCommit { sequence: manifest.sequence, digest: digest.digest128().to_be_bytes(), ..last };
            same(&at, "digest", &manifest.digest.as_slice(), &last.digest.as_slice())?;
            let actual = changes.next().ok_or(format!("{at}: the changelog ends early"))?;
            same(&at, "last commit", &actual.value.as_deref(), &Some(last.to_bytes().as_slice()))?;
            let changelog_end = manifest.changelog[0].end;
            same(&at, "end of the changelog", &changelog_end, &(actual.offset + 1))?;
            history.push(Committed { last, stores: state.stores.clone(), changelog_end });
            totals.commits += 1;
        }
        let at = format!("task {partition}");
        same(&at, "outputs too many", &(answers.next(), updates.next(), changes.next()), &(None, None, None))?;
        same(&at, "dead letters too many", &letters.len(), &0)?;
        self.check_positions(partition, &inputs, positions)?;
        let folders = stores.iter().map(|folder| folder.join(partition.to_string())).filter(|path| path.exists());
        let newest = folders
            .map(|path| check_files(&path, &history, &all_changes))
            .try_fold(0, |newest, index| Ok::<_, String>(newest.max(index?)))?;
        same(&at, "commit of its newest store", &newest, &(history.len() - 1))?;
        Ok(totals)
    }

    /// Everything was taken, and the group says so.
    fn check_positions(&self, partition: i32, inputs: &[Vec<Stored>; 2], taken: [usize; 2]) -> Result<(), String> {
        let places = INPUTS.map(|topic| TopicPartition::new(topic, partition));
        let committed = self.log.committed(NAME, &places).map_err(|error| error.to_string())?;
        for (source, place) in places.iter().enumerate() {
            same(&place.to_string(), "records taken", &taken[source], &inputs[source].len())?;
            let last = inputs[source].last().map_or(0, |record| record.offset + 1);
            let committed = committed[source].unwrap_or(0);
            if committed < last {
                return Err(format!("{place}: {committed} is committed, but {last} was taken"));
            }
        }
        Ok(())
    }

    fn read(&self, topic: &str, partition: i32) -> Vec<Stored> {
        let place = TopicPartition::new(topic, partition);
        let end = self.log.offsets(std::slice::from_ref(&place)).expect("the log answers")[0].stable;
        let mut reader = self.log.reader().expect("the log answers");
        reader.assign(&[(place, 0)]).expect("the log answers");
        let (mut records, mut position) = (Vec::new(), 0);
        while position < end {
            let fetched = reader.fetch(0, 10_000).expect("the log answers");
            position = fetched.end.unwrap_or(position);
            if let Some(batch) = fetched.records {
                for index in 0..batch.len() {
                    let record = batch.record(index);
                    position = position.max(record.offset + 1);
                    records.push(Stored {
                        offset: record.offset,
                        key: record.key.unwrap_or_default().to_vec(),
                        value: record.value.map(<[u8]>::to_vec),
                    });
                }
            }
        }
        records
    }

    fn letters(&mut self, partition: i32) -> Result<BTreeMap<(String, i64), DeadLetter>, String> {
        let mut letters = BTreeMap::new();
        for stored in self.read(dead_letter::TOPIC, partition) {
            let bytes = stored.value.ok_or("a dead letter without a value")?;
            let letter: DeadLetter = self.decoder.decode(&bytes).map_err(|error| error.to_string())?;
            let place = (letter.topic.clone(), letter.offset);
            if letters.insert(place.clone(), letter).is_some() {
                return Err(format!("two dead letters for {place:?} of task {partition}"));
            }
        }
        Ok(letters)
    }
}

/// A task after one of its commits.
struct Committed {
    last: LastCommit,
    stores: [Entries; 2],
    changelog_end: i64,
}

/// Checks that a folder holds the task as of one of its commits and stands there in the changelog; answers which. A folder
/// may be one of a process that had the task before.
fn check_files(path: &Path, history: &[Committed], changes: &[Stored]) -> Result<usize, String> {
    let at = path.display();
    let files = Files::open(path, &Budget::new(1 << 20), &Clock::default()).map_err(|error| error.to_string())?;
    let position = files.position().map_err(|error| error.to_string())?;
    let stored = files.get(LastCommit::KEY).map_err(|error| error.to_string())?;
    let stored = stored.and_then(|bytes| LastCommit::from_bytes(&bytes)).unwrap_or_default();
    let index = history
        .iter()
        .position(|committed| committed.last == stored)
        .ok_or_else(|| format!("{at} holds commit {} that never was", stored.sequence))?;
    let committed = &history[index];
    // Past holes at the end, perhaps, but not past a record.
    let next = changes.iter().map(|record| record.offset).find(|offset| *offset >= committed.changelog_end);
    if position < committed.changelog_end || next.is_some_and(|next| position > next) {
        let end = committed.changelog_end;
        return Err(format!("{at} stands at {position} of its changelog, its last commit ends at {end}"));
    }
    for (store, expected) in committed.stores.iter().enumerate() {
        let entries: Result<Entries, _> = files
            .all(prefix(store))
            .map(|entry| entry.map(|(key, value)| (key[1..].to_vec(), value.to_vec())))
            .collect();
        same(&at.to_string(), "store", &entries.map_err(|error| error.to_string())?, expected)?;
    }
    Ok(index)
}

fn same<T: PartialEq + std::fmt::Debug>(at: &str, what: &str, actual: &T, expected: &T) -> Result<(), String> {
    if actual == expected {
        return Ok(());
    }
    Err(format!("{at}: {what} is {actual:?}, must be {expected:?}"))
}

/// As the contract says (`docs/exactly-once.md`): null, empty and absent bytes are told apart.
fn digest_bytes(digest: &mut Xxh3, bytes: Option<&[u8]>) {
    digest.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
    digest.update(bytes.unwrap_or_default());
}
