//! The gateway's way into the log: one thread with one producer, so that what one connection sends keeps its order.
//!
//! ```text
//! sessions, requests --bounded queue--> writer --as many as wait, one flush--> log
//!                                         `-- while the log cannot be reached: edits --> spool --later, in order--> log
//! ```
//!
//! An edit that was written twice, because it was not known whether it had been, becomes part of its document once.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engram_pipeline::log::{Log, LogError, NewRecord, Producer, ProducerOptions};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;

use super::spool::{Spool, Spooled};

/// Records that may wait.
const WAITING_MAX: usize = 4_096;
/// Records and bytes of one flush.
const BATCH_RECORDS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Between two tries to reach the log.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// Meanwhile, between two looks for edits to spool.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A record on its way.
pub struct Outgoing {
    pub topic: Arc<str>,
    pub partition: i32,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub headers: Vec<(&'static str, Vec<u8>)>,
    pub fate: Fate,
}

/// What becomes of a record that cannot be written at present.
pub enum Fate {
    /// It is an edit, which goes into the spool.
    Spool,
    /// It is left out: there will be another.
    Drop,
    /// Its sender is told, and decides.
    Tell(oneshot::Sender<Result<(), String>>),
}

/// The writing thread.
pub struct Writer {
    queue: Sender<Outgoing>,
    thread: JoinHandle<()>,
}

/// Called when the log can be reached again, or not any more.
pub type OnChange = Arc<dyn Fn(Change) + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Unreachable,
    /// Everything that was spooled is in the log; `lost` edits could not be spooled and have to be asked for.
    Reachable {
        lost: u64,
    },
    /// The spool is full.
    Full,
}

impl Writer {
    pub fn start(log: Arc<dyn Log>, spool: Spool, on_change: OnChange) -> std::io::Result<Self> {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let work =
            Work { log, producer: None, spool, is_unreachable: false, tried: Instant::now(), lost: 0, on_change };
        let thread = std::thread::Builder::new().name("gateway-writer".to_owned()).spawn(move || work.run(waiting))?;
        Ok(Self { queue, thread })
    }

    /// A handle to put records into the queue. The thread ends once all handles are gone.
    pub fn queue(&self) -> Sender<Outgoing> {
        self.queue.clone()
    }

    /// Waits until what is in the queue is written or spooled.
    pub fn stop(self) {
        drop(self.queue);
        if self.thread.join().is_err() {
            tracing::error!("the gateway's writer has panicked");
        }
    }
}

struct Work {
    log: Arc<dyn Log>,
    producer: Option<Box<dyn Producer>>,
    spool: Spool,
    /// The log cannot be reached: edits are spooled.
    is_unreachable: bool,
    /// When it was last tried.
    tried: Instant,
    /// Edits that could not even be spooled since the log was lost.
    lost: u64,
    on_change: OnChange,
}

impl Work {
    fn run(mut self, mut waiting: Receiver<Outgoing>) {
        // What a former life has left comes first.
        if !self.spool.is_empty() {
            self.lose();
        }
        loop {
            let first = if self.is_unreachable {
                if self.tried.elapsed() >= TRY_EVERY {
                    self.try_again();
                    self.tried = Instant::now();
                }
                match waiting.try_recv() {
                    Ok(first) => first,
                    Err(mpsc::error::TryRecvError::Empty) => {
                        if self.is_unreachable {
                            std::thread::sleep(LOOK_EVERY);
                        }
                        continue;
                    }
                    // What is in the spool stays there for the next life.
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
            } else {
                match waiting.blocking_recv() {
                    Some(first) => first,
                    None => return,
                }
            };
            let mut bytes = first.value.len();
            let mut batch = vec![first];
            while batch.len() < BATCH_RECORDS_MAX
                && bytes < BATCH_BYTES_MAX
                && let Ok(next) = waiting.try_recv()
            {
                bytes += next.value.len();
                batch.push(next);
            }
            self.write(batch);
        }
    }

    fn write(&mut self, batch: Vec<Outgoing>) {
        if !self.is_unreachable {
            let records = batch.iter().map(Outgoing::record);
            match write_all(&*self.log, &mut self.producer, records) {
                Ok(()) => {
                    for Outgoing { fate, .. } in batch {
                        if let Fate::Tell(told) = fate {
                            let _ = told.send(Ok(()));
                        }
                    }
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the log cannot be written: edits go into the spool");
                    self.lose();
                }
            }
        }
        let mut edits = Vec::new();
        for Outgoing { topic, partition, key, value, headers, fate } in batch {
            match fate {
                Fate::Spool => edits.push(Spooled {
                    topic: topic.to_string(),
                    partition,
                    key,
                    value,
                    headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
                }),
                Fate::Drop => {}
                Fate::Tell(told) => {
                    let _ = told.send(Err("the log cannot be reached: try again later".to_owned()));
                }
            }
        }
        let kept = self.spool.append(&edits).unwrap_or_else(|error| {
            tracing::error!(%error, "the spool cannot be written");
            0
        });
        if kept < edits.len() {
            if self.lost == 0 {
                (self.on_change)(Change::Full);
            }
            self.lost += (edits.len() - kept) as u64;
        }
    }

    /// The log cannot be reached.
    fn lose(&mut self) {
        self.producer = None;
        self.is_unreachable = true;
        (self.on_change)(Change::Unreachable);
    }

    /// Delivers what was spooled. What was delivered when the log is lost again is delivered once more, and known by then.
    fn try_again(&mut self) {
        let spooled = match self.spool.read() {
            Ok(spooled) => spooled,
            Err(error) => {
                tracing::error!(%error, "the spool cannot be read: what is in it stays there");
                return;
            }
        };
        let reached = if spooled.is_empty() {
            self.log.topics().map(drop)
        } else {
            write_all(&*self.log, &mut self.producer, spooled.iter().map(Spooled::record))
        };
        match reached.map(|()| self.spool.clear()) {
            Ok(Ok(())) => {
                tracing::info!(edits = spooled.len(), "the log can be written again");
                self.is_unreachable = false;
                let lost = std::mem::take(&mut self.lost);
                (self.on_change)(Change::Reachable { lost });
            }
            Ok(Err(error)) => tracing::error!(%error, "the spool cannot be emptied"),
            Err(error) => {
                tracing::debug!(%error, "the log cannot be written yet");
                self.producer = None;
            }
        }
    }
}

impl Outgoing {
    fn record(&self) -> Record<'_> {
        let headers = self.headers.iter().map(|(name, value)| (*name, Some(value.as_slice()))).collect();
        Record { topic: &self.topic, partition: self.partition, key: &self.key, value: &self.value, headers }
    }
}

/// A record with its headers at hand.
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

fn write_all<'a>(
    log: &dyn Log,
    producer: &mut Option<Box<dyn Producer>>,
    records: impl Iterator<Item = Record<'a>>,
) -> Result<(), LogError> {
    if producer.is_none() {
        let options = ProducerOptions { client_id: "engram-gateway".to_owned(), transactional_id: None };
        *producer = Some(log.producer(&options)?);
    }
    let producer = producer.as_mut().expect("made above");
    for record in records {
        let written = NewRecord {
            topic: record.topic,
            partition: record.partition,
            timestamp_ms: None,
            key: Some(record.key),
            value: Some(record.value),
            headers: &record.headers,
        };
        match producer.write(&written, false) {
            Ok(()) => {}
            // It would be refused again; the others are not to wait for it.
            Err(error @ (LogError::TooLarge(_) | LogError::Refused(_))) => {
                tracing::error!(%error, topic = record.topic, "a record is not taken by the log, and is left out");
            }
            Err(error) => return Err(error),
        }
    }
    producer.flush().map(drop)
}
