//! The gateway's way out of the log: one thread that reads what was committed to `document.sequenced` and `document.rejects`
//! from now on, and hands it to the rooms.
//!
//! INVARIANT: it has begun before the first document is loaded, so that no edit falls between a document as it was loaded
//! and those that are told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use engram_pipeline::log::{Consumer, Log, LogError, TopicPartition};
use engram_schemas::codec::Decoder;
use engram_schemas::document::{EditRejected, SequencedEdit};
use engram_schemas::registry::Registry;

use super::rooms::Rooms;

pub const SEQUENCED: &str = "document.sequenced";
pub const REJECTS: &str = "document.rejects";

const WAIT: Duration = Duration::from_millis(100);
const FETCH_RECORDS_MAX: usize = 1_000;
/// Between two tries to reach the log.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// The reading thread.
pub struct Tail {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Tail {
    /// Errors: the log cannot be reached, or the topics are not there.
    pub fn start(log: Arc<dyn Log>, registry: Arc<dyn Registry>, rooms: Arc<Rooms>) -> Result<Self, LogError> {
        let stop = Arc::<AtomicBool>::default();
        let positions = ends(&*log)?;
        let mut work = Work {
            reader: None,
            log,
            decoder: Decoder::new(registry),
            rooms,
            order: positions.iter().map(|(place, _)| place.clone()).collect(),
            positions: positions.into_iter().collect(),
        };
        work.connect()?;
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("gateway-tail".to_owned())
            .spawn(move || work.run(&stopped))
            .map_err(|error| LogError::failed("cannot read the log", error.to_string()))?;
        Ok(Self { stop, thread })
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the gateway's reader has panicked");
        }
    }
}

/// Where the topics' partitions end.
fn ends(log: &dyn Log) -> Result<Vec<(TopicPartition, i64)>, LogError> {
    let topics = log.topics()?;
    let partitions: Vec<TopicPartition> = [SEQUENCED, REJECTS]
        .iter()
        .flat_map(|name| {
            let count = engram_pipeline::log::partitions_of(&topics, name);
            (0..count).map(move |partition| TopicPartition::new(*name, partition))
        })
        .collect();
    let ends = log.offsets(&partitions)?;
    Ok(partitions.into_iter().zip(ends).map(|(place, range)| (place, range.stable)).collect())
}

struct Work {
    log: Arc<dyn Log>,
    reader: Option<Box<dyn Consumer>>,
    decoder: Decoder,
    rooms: Arc<Rooms>,
    order: Vec<TopicPartition>,
    positions: HashMap<TopicPartition, i64>,
}

impl Work {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = self.step() {
                tracing::warn!(%error, "the log cannot be read: trying again");
                self.reader = None;
                std::thread::sleep(TRY_EVERY);
            }
        }
    }

    fn connect(&mut self) -> Result<(), LogError> {
        let mut reader = self.log.reader()?;
        let from: Vec<(TopicPartition, i64)> =
            self.order.iter().map(|place| (place.clone(), self.positions[place])).collect();
        reader.assign(&from)?;
        self.reader = Some(reader);
        Ok(())
    }

    fn step(&mut self) -> Result<(), LogError> {
        if self.reader.is_none() {
            self.connect()?;
        }
        let reader = self.reader.as_mut().expect("made above");
        let mut is_idle = true;
        for (index, place) in self.order.iter().enumerate() {
            let fetched = reader.fetch(index, FETCH_RECORDS_MAX)?;
            let position = self.positions.get_mut(place).expect("each has one");
            if let Some(batch) = fetched.records {
                is_idle = false;
                for at in 0..batch.len() {
                    let record = batch.record(at);
                    if let Some(value) = record.value {
                        hand_over(&mut self.decoder, &self.rooms, &place.topic, value);
                    }
                    *position = record.offset + 1;
                }
            }
            *position = (*position).max(fetched.end.unwrap_or(0));
        }
        if is_idle {
            reader.wait(WAIT)?;
        }
        Ok(())
    }
}

fn hand_over(decoder: &mut Decoder, rooms: &Arc<Rooms>, topic: &str, value: &[u8]) {
    let outcome = if topic == SEQUENCED {
        decoder.decode::<SequencedEdit>(value).map(|edit| rooms.sequenced(edit))
    } else {
        decoder.decode::<EditRejected>(value).map(|rejected| rooms.rejected(&rejected))
    };
    if let Err(error) = outcome {
        tracing::error!(%error, topic, "a record cannot be read");
    }
}
