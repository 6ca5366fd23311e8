//! Reading the topic of dead letters, one by place or all that a filter lets through.

use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use engram_pipeline::dead_letter::TOPIC;
use engram_pipeline::log::{Log, TopicInfo, TopicPartition};
use engram_schemas::codec::{DecodeError, Decoder};
use engram_schemas::dead_letter::DeadLetter;

use crate::cli::LetterFilter;
use crate::reading::{self, Span};
use crate::values::Place;
use crate::wire::Connection;

/// The topic of dead letters, with what reads it.
pub struct Letters<'a> {
    log: &'a dyn Log,
    topic: TopicInfo,
    decoder: Decoder,
}

impl<'a> Letters<'a> {
    /// `None`: no record was ever a dead letter, so there is no topic.
    pub fn open(connection: &'a Connection) -> anyhow::Result<Option<Self>> {
        let topic = connection.log.topics()?.into_iter().find(|topic| topic.name == TOPIC);
        let decoder = Decoder::new(connection.registry.clone());
        Ok(topic.map(|topic| Self { log: &*connection.log, topic, decoder }))
    }

    /// The letter at a place.
    pub fn get(&mut self, place: Place) -> anyhow::Result<DeadLetter> {
        let missing = || format!("there is no dead letter at {place}; 'engram dead-letters list' shows what there is");
        let partition = TopicPartition::new(TOPIC, place.partition);
        anyhow::ensure!(place.partition < self.topic.partitions, missing());
        let range = self.log.offsets(std::slice::from_ref(&partition))?[0];
        anyhow::ensure!((range.first..range.stable).contains(&place.offset), missing());
        let span = Span { partition, from: place.offset, to: place.offset + 1 };
        let mut value = None;
        reading::read(self.log, &[span], &AtomicBool::new(false), |found| {
            if let Some((_, record)) = found {
                value = record.value.map(<[u8]>::to_vec);
            }
            Ok(())
        })?;
        let value = value.with_context(missing)?;
        self.decoder.decode(&value).with_context(|| format!("what is at {place} of {TOPIC} is no dead letter"))
    }

    /// Visits the letters that the filter lets through, each partition's in order. Returns how many records were no letters:
    /// others may write to the topic, too.
    pub fn each(
        &mut self,
        filter: &LetterFilter,
        stop: &AtomicBool,
        mut visit: impl FnMut(Place, DeadLetter) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let spans = reading::spans(self.log, &self.topic, filter.from, Some(filter.to))?;
        let (log, decoder) = (self.log, &mut self.decoder);
        let mut others = 0;
        reading::read(log, &spans, stop, |found| {
            let Some((partition, record)) = found else { return Ok(()) };
            let letter: DeadLetter = match decoder.decode(record.value.unwrap_or_default()) {
                Ok(letter) => letter,
                Err(DecodeError::Registry(error)) => return Err(error.into()),
                Err(_) => {
                    others += 1;
                    return Ok(());
                }
            };
            let is_wanted = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
            if !is_wanted(&filter.service, &letter.service) || !is_wanted(&filter.cause, &letter.cause) {
                return Ok(());
            }
            visit(Place { partition: partition.partition, offset: record.offset }, letter)
        })?;
        Ok(others)
    }
}
