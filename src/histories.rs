//! Documents' histories from the log, for the gateway and the command line, and the edits that are made of them.
//!
//! A history is read from the beginning of its partition of `document.sequenced`, past the edits of all other documents there:
//! it takes as long as that partition is large.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engram_connectors::gateway::{self, Blame, BlamedRange, DocumentRefusal, Made, Undone};
use engram_pipeline::changelog::read_batches;
use engram_pipeline::log::TopicPartition;
use engram_pipeline::log::partitioner::partition_for;
use engram_processors::collaboration::documents::history::{
    BRANCH, History, HistoryError, MERGE, ROLLBACK, Rollback, Selection, merge,
};
use engram_processors::collaboration::{DOCUMENT_SEQUENCED, NAME};
use engram_schemas::codec::Decoder;
use engram_schemas::document::{DocumentState, SequencedEdit};

use crate::documents::{as_of, no_document, unavailable};
use crate::queries;
use crate::wire::Connection;

/// Edits of a document whose history can be looked at, and bytes of their updates.
const EDITS_MAX: usize = 200_000;
const BYTES_MAX: usize = 64 << 20;

/// Where histories are read.
pub struct Histories {
    pub connection: Arc<Connection>,
    /// Set when this process is to stop.
    pub stop: Arc<AtomicBool>,
}

/// Why reading breaks off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Log(#[from] engram_pipeline::log::LogError),
    #[error(transparent)]
    Decode(#[from] engram_schemas::codec::DecodeError),
    #[error("stopped")]
    Stopped,
    #[error(
        "the document has more than {EDITS_MAX} edits, or more than {BYTES_MAX} bytes of them: too many to look at"
    )]
    TooLong,
    /// What was wanted was found.
    #[error("found")]
    Found,
}

impl Histories {
    /// A document's edits until now.
    pub fn read(&self, key: &str) -> Result<History, DocumentRefusal> {
        let mut edits: Vec<SequencedEdit> = Vec::new();
        let mut bytes = 0;
        let read = self.visit(key, |edit| {
            bytes += edit.update.len();
            edits.push(edit);
            if edits.len() > EDITS_MAX || bytes > BYTES_MAX { Err(Broken::TooLong) } else { Ok(()) }
        });
        match read {
            Ok(()) if edits.is_empty() => Err(no_document()),
            Ok(()) => History::new(edits).map_err(|error| failed(key, error)),
            Err(Broken::TooLong) => Err(DocumentRefusal::TooLarge(Broken::TooLong.to_string())),
            Err(error) => Err(unavailable(key, &error.into())),
        }
    }

    /// Its first edit; `None` if it has none.
    fn first(&self, key: &str) -> Result<Option<SequencedEdit>, DocumentRefusal> {
        let mut first = None;
        let read = self.visit(key, |edit| {
            first = Some(edit);
            Err(Broken::Found)
        });
        match read {
            Ok(()) | Err(Broken::Found) => Ok(first),
            Err(error) => Err(unavailable(key, &error.into())),
        }
    }

    fn visit(&self, key: &str, mut visit: impl FnMut(SequencedEdit) -> Result<(), Broken>) -> Result<(), Broken> {
        let log = &*self.connection.log;
        let tasks = queries::partitions(&log.topics()?, NAME);
        if tasks == 0 {
            return Ok(());
        }
        let partition = TopicPartition::new(DOCUMENT_SEQUENCED, partition_for(key.as_bytes(), tasks));
        let range = log.offsets(std::slice::from_ref(&partition))?[0];
        let mut decoder = Decoder::new(Arc::clone(&self.connection.registry));
        read_batches(log, &partition, range.first, range.stable, |batch, at| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Broken::Stopped);
            }
            let record = batch.record(at);
            match record.value {
                Some(value) if record.key == Some(key.as_bytes()) => visit(decoder.decode(value)?),
                _ => Ok(()),
            }
        })?;
        Ok(())
    }

    /// A document as it is, or was.
    pub fn state(&self, key: &str, at: Option<&str>) -> Result<DocumentState, DocumentRefusal> {
        match at {
            Some(at) => as_of(&self.connection, key, at, &self.stop),
            None => self.read(key)?.state().map_err(|error| failed(key, error))?.ok_or_else(no_document),
        }
    }

    fn made(&self, update: Vec<u8>, purpose: &'static str, source: String) -> Result<Made, DocumentRefusal> {
        let bytes_max = self.connection.config.collaboration.update_bytes_max;
        if update.len() > bytes_max {
            let reason = format!("the edit would have {} bytes, {bytes_max} are allowed", update.len());
            return Err(DocumentRefusal::TooLarge(reason));
        }
        Ok(Made { update, purpose, source })
    }

    /// Whether a document has begun as a branch of another.
    fn is_branch(&self, key: &str, of: &str) -> Result<bool, DocumentRefusal> {
        Ok(self.first(key)?.is_some_and(|first| first.purpose == BRANCH && first.source == of))
    }
}

impl gateway::Histories for Histories {
    fn blame(&self, key: &str) -> Result<Blame, DocumentRefusal> {
        let history = self.read(key)?;
        let blamed = history.blame().map_err(|error| failed(key, error))?;
        let range = |part: engram_processors::collaboration::documents::history::Blamed<'_>| BlamedRange {
            actor: part.edit.actor.clone(),
            time: part.edit.time,
            seq: part.edit.seq,
            position: format!("{}:{}", part.edit.partition, part.edit.offset),
            root: part.root,
            from: part.from,
            to: part.to,
            text: part.text,
        };
        Ok(Blame { seq: history.edits().len() as i64, ranges: blamed.into_iter().map(range).collect() })
    }

    fn rollback(&self, key: &str, undone: &Undone, id: &str) -> Result<Option<Made>, DocumentRefusal> {
        let selection = match undone.clone() {
            Undone::Actor { actor, since_ms } => Selection::Actor { actor, since: since_ms },
            Undone::Range { from_seq, to_seq } => Selection::Range { from_seq, to_seq },
        };
        let made = self.read(key)?.rollback(&selection, id).map_err(|error| failed(key, error))?;
        made.map(|Rollback { update, source }| self.made(update, ROLLBACK, source)).transpose()
    }

    /// SUBTLE: two that branch into one name at the same moment both find it free. The new document has what both have then.
    fn branch(&self, key: &str, to: &str, at: Option<&str>) -> Result<Made, DocumentRefusal> {
        if self.first(to)?.is_some() {
            return Err(DocumentRefusal::Conflict("there is a document of the new name already".to_owned()));
        }
        self.made(self.state(key, at)?.state, BRANCH, key.to_owned())
    }

    fn merge(&self, key: &str, from: &str) -> Result<Option<Made>, DocumentRefusal> {
        let (into, branch) = (self.state(key, None)?, self.state(from, None)?);
        if !self.is_branch(from, key)? && !self.is_branch(key, from)? {
            return Err(DocumentRefusal::Conflict("neither of the two is a branch of the other".to_owned()));
        }
        let update = merge(&into.state, &branch.state).map_err(|error| failed(key, error))?;
        update.map(|update| self.made(update, MERGE, from.to_owned())).transpose()
    }
}

/// That nothing can be made of a history is no passing trouble.
fn failed(key: &str, error: HistoryError) -> DocumentRefusal {
    tracing::warn!(error = engram_pipeline::worker::chain(&error), key, "nothing can be made of a history");
    DocumentRefusal::Conflict(format!("it cannot be made of the document's history: {error}"))
}
