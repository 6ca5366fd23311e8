//! `engram dead-letters replay`: records go back to the topics that they came from, with their keys and headers, into their
//! own partitions.
//!
//! INVARIANT: a record and the mark that it was sent are one transaction, and the marks are read under the transactional id
//! with which the records are sent. So of two replays at a time one is fenced, and nothing is sent twice unless asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use engram_connectors::events::{self, Encoded, JsonEncoder, Of};
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{NewRecord, Producer, ProducerOptions};
use engram_schemas::dead_letter::DeadLetter;
use serde_json::json;

use super::letters::Letters;
use super::marks::{self, Marker, Marks};
use crate::cli::{Global, Replay};
use crate::commands::stop_flag;
use crate::output::{self, Usage};
use crate::values::{Place, rfc3339};
use crate::wire::{Access, Connection};

/// On a record that was sent back: the place of its letter.
const HEADER: &str = "dead-letter";
const TRANSACTIONAL_ID: &str = "engram-dead-letters-replay";
/// A transaction ends after so many records,
const COMMIT_RECORDS: u64 = 1_000;
/// or so many bytes.
const COMMIT_BYTES: usize = 32 << 20;
/// Longest mended value, as JSON.
const VALUE_BYTES_MAX: u64 = 16 << 20;
/// Letters that cannot be sent back are named one by one, so many.
const REPORTED_MAX: u64 = 20;

pub fn run(global: &Global, args: &Replay) -> anyhow::Result<()> {
    let places: BTreeSet<Place> = args.places.iter().copied().collect();
    if args.value.is_some() && places.len() > 1 {
        return Err(Usage("--value mends one letter: give one place".to_owned()).into());
    }
    if !args.all && is_filtered(args) {
        return Err(Usage("filters go with --all, not with places".to_owned()).into());
    }
    let mended = args.value.as_deref().map(read_value).transpose()?;
    let connection = Connection::open(global, Access::Write)?;
    let mut letters = Letters::open(&connection)?.context("there are no dead letters")?;
    let stop = stop_flag()?;
    let mut sender = Sender::open(&connection)?;
    if args.all {
        let (mut skipped, mut refused) = (0_u64, 0_u64);
        letters.each(&args.filter, &stop, |place, letter| {
            if !args.again && sender.marks.contains_key(&place) {
                skipped += 1;
                return Ok(());
            }
            match sender.check(place, &letter) {
                Ok(()) => sender.send(place, &letter, None),
                Err(reason) => {
                    refused += 1;
                    if refused <= REPORTED_MAX {
                        output::say(format_args!("engram: {reason}"));
                    }
                    Ok(())
                }
            }
        })?;
        sender.commit()?;
        sender.tell(global, skipped)?;
        anyhow::ensure!(refused == 0, "{refused} dead letters could not be sent back");
        return Ok(());
    }
    // All are looked at before the first is sent.
    let mut found = Vec::new();
    for place in places {
        let letter = letters.get(place)?;
        if let Some(mark) = sender.marks.get(&place).filter(|_| !args.again) {
            anyhow::bail!(
                "dead letter {place} was sent back to {} at {}: give --again to send it once more",
                mark.topic,
                rfc3339(mark.time)
            );
        }
        if mended.is_none() {
            sender.check(place, &letter).map_err(anyhow::Error::msg)?;
        }
        found.push((place, letter));
    }
    for (place, letter) in &found {
        let mended = mended.as_deref().map(|json| mend(&connection, args, letter, json)).transpose()?;
        sender.send(*place, letter, mended.as_ref())?;
    }
    sender.commit()?;
    sender.tell(global, 0)
}

fn is_filtered(args: &Replay) -> bool {
    use crate::values::Start;
    let filter = &args.filter;
    filter.service.is_some() || filter.cause.is_some() || filter.from != Start::Beginning || filter.to != Start::End
}

fn read_value(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut json = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(VALUE_BYTES_MAX + 1).read_to_end(&mut json)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(VALUE_BYTES_MAX + 1).read_to_end(&mut json))
    };
    read.with_context(|| format!("cannot read the mended value from {}", path.display()))?;
    anyhow::ensure!(json.len() as u64 <= VALUE_BYTES_MAX, "the mended value is longer than {VALUE_BYTES_MAX} bytes");
    Ok(json)
}

/// The mended event, by the type that its letter's headers name, or the one that its topic takes.
fn mend(connection: &Connection, args: &Replay, letter: &DeadLetter, json: &[u8]) -> anyhow::Result<Encoded> {
    let of_header = letter.headers.iter().rev().find(|header| header.key == "ce_type");
    let of_header = of_header.and_then(|header| std::str::from_utf8(header.value.as_deref()?).ok());
    let subject = match args.event_type.as_deref() {
        Some(name) => events::subject(Of::AnyTopic, &letter.topic, Some(name))?,
        None => events::subject(Of::AnyTopic, &letter.topic, None).or_else(|error| {
            of_header.map_or(Err(error), |name| events::subject(Of::AnyTopic, &letter.topic, Some(name)))
        })?,
    };
    let mut encoder = JsonEncoder::new(&connection.registry, subject)?;
    encoder.encode(json).map_err(|reason| anyhow::anyhow!("the mended value cannot be sent: {reason}"))
}

/// Sends records back, and marks their letters.
struct Sender {
    producer: Box<dyn Producer>,
    marker: Marker,
    marks: Marks,
    /// Partitions by topic.
    topics: BTreeMap<String, i32>,
    /// What the open transaction has.
    open: BTreeMap<String, u64>,
    open_bytes: usize,
    /// What was committed.
    sent: BTreeMap<String, u64>,
}

impl Sender {
    fn open(connection: &Connection) -> anyhow::Result<Self> {
        let marker = Marker::new(connection)?;
        let options = ProducerOptions {
            client_id: TRANSACTIONAL_ID.to_owned(),
            transactional_id: Some(TRANSACTIONAL_ID.to_owned()),
        };
        let producer = connection.log.producer(&options)?;
        // Only now: whoever has sent before us is done, or fenced.
        let marks = marks::read(connection)?;
        let topics = connection.log.topics()?.into_iter().map(|topic| (topic.name, topic.partitions)).collect();
        let (open, sent) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { producer, marker, marks, topics, open, open_bytes: 0, sent })
    }

    /// Whether the record can go back as it is; the error says why not.
    fn check(&self, place: Place, letter: &DeadLetter) -> Result<(), String> {
        let DeadLetter { topic, partition, offset, .. } = letter;
        if !self.topics.contains_key(topic) {
            return Err(format!("dead letter {place} cannot be sent back: there is no topic {topic} any more"));
        }
        if !letter.whole {
            return Err(format!(
                "dead letter {place} does not have its record, which was too large: it is at offset {offset} of \
                 {topic}/{partition}; write a smaller one, or send a mended value with --value"
            ));
        }
        Ok(())
    }

    fn send(&mut self, place: Place, letter: &DeadLetter, mended: Option<&Encoded>) -> anyhow::Result<()> {
        let partitions = *self.topics.get(&letter.topic).with_context(|| {
            format!("dead letter {place} cannot be sent back: there is no topic {} any more", letter.topic)
        })?;
        let key = mended.map(|event| event.key.as_bytes()).or(letter.key.as_deref());
        let value = mended.map(|event| event.value.as_slice()).or(letter.value.as_deref());
        // Where it was, unless it has another key now, or the topic fewer partitions.
        let partition = match key {
            Some(key) if letter.key.as_deref() != Some(key) || letter.partition >= partitions => {
                partition_for(key, partitions)
            }
            _ => letter.partition % partitions,
        };
        let place_text = place.to_string();
        let kept = letter.headers.iter().filter(|header| header.key != HEADER);
        let mut headers: Vec<(&str, Option<&[u8]>)> =
            kept.map(|header| (header.key.as_str(), header.value.as_deref())).collect();
        headers.push((HEADER, Some(place_text.as_bytes())));
        let record = NewRecord { topic: &letter.topic, partition, timestamp_ms: None, key, value, headers: &headers };
        self.producer.write(&record, false).with_context(|| format!("cannot send dead letter {place} back"))?;
        self.marker.write(&mut *self.producer, place, &letter.topic, partition, mended.is_some())?;
        *self.open.entry(letter.topic.clone()).or_default() += 1;
        self.open_bytes += key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        if self.open_bytes >= COMMIT_BYTES || self.open.values().sum::<u64>() >= COMMIT_RECORDS {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        self.producer.commit(None).with_context(|| {
            format!("{} records were sent back before this; 'engram dead-letters list' shows which", self.total())
        })?;
        for (topic, count) in std::mem::take(&mut self.open) {
            *self.sent.entry(topic).or_default() += count;
        }
        self.open_bytes = 0;
        Ok(())
    }

    fn total(&self) -> u64 {
        self.sent.values().sum()
    }

    fn tell(&self, global: &Global, skipped: u64) -> anyhow::Result<()> {
        if global.json {
            return Ok(output::json(&json!({"replayed": self.total(), "skipped": skipped, "topics": self.sent}))?);
        }
        let by_topic: Vec<String> = self.sent.iter().map(|(topic, count)| format!("{topic} {count}")).collect();
        let before = if skipped > 0 { format!("; {skipped} had been before") } else { String::new() };
        let topics = if by_topic.is_empty() { String::new() } else { format!(": {}", by_topic.join(", ")) };
        println!("{} records sent back{topics}{before}", self.total());
        Ok(())
    }
}
