//! Writing: records wait in the producer until they are flushed or committed.
//!
//! ```text
//!                    write       flush                               commit
//! transactional      buffer      offsets are reserved for them       one durable batch of all
//! not                buffer      one durable batch                   flush, then the positions
//! ```
//!
//! A producer beside the log sends its whole transaction at the commit, so it cannot learn offsets before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::TRANSACTION_BYTES_MAX;
use super::beside::Beside;
use super::buffer::{Buffer, Reserved};
use super::owner::{Owner, into_log_error};
use super::request::{Answer, Epoch, Request};
use super::state::Ticket;
use super::stored::payload_len;
use super::view::{self, Topic, View};
use crate::clock;
use crate::log::{CommitError, GroupPositions, LogError, NewRecord, Producer, TopicPartition};

/// A producer without transactions writes when it has gathered as many bytes.
const BUFFER_BYTES_MAX: usize = 8 << 20;

pub struct EmbeddedProducer {
    to: To,
    /// Topics that were written to before. Whether they are still there is seen when records get their offsets.
    topics: HashMap<String, Topic>,
    buffer: Buffer,
    /// What the open transaction has offsets for.
    runs: Vec<Reserved>,
    runs_bytes: usize,
    tracked: BTreeMap<TopicPartition, i64>,
    /// Why the open transaction can only be aborted.
    failed: Option<String>,
}

/// Where the records go; with a ticket or an epoch in transactions.
pub enum To {
    Owner(Arc<Owner>, Option<Ticket>),
    Beside(Arc<Beside>, Option<Epoch>),
}

impl EmbeddedProducer {
    pub fn new(to: To) -> Self {
        Self {
            to,
            topics: HashMap::new(),
            buffer: Buffer::default(),
            runs: Vec::new(),
            runs_bytes: 0,
            tracked: BTreeMap::new(),
            failed: None,
        }
    }

    fn is_transactional(&self) -> bool {
        matches!(self.to, To::Owner(_, Some(_)) | To::Beside(_, Some(_)))
    }

    fn now_ms(&self) -> i64 {
        match &self.to {
            To::Owner(owner, _) => owner.clock.now_ms(),
            To::Beside(..) => clock::now_ms(),
        }
    }

    fn topic(&mut self, record: &NewRecord<'_>) -> Result<Topic, LogError> {
        if let Some(topic) = self.topics.get(record.topic)
            && topic.place(record.topic, record.partition).is_ok()
        {
            return Ok(*topic);
        }
        let view: &dyn View = match &self.to {
            To::Owner(owner, _) => &**owner,
            To::Beside(beside, _) => &**beside,
        };
        let topic = view::existing(view, record.topic)?;
        topic.place(record.topic, record.partition)?;
        self.topics.insert(record.topic.to_owned(), topic);
        Ok(topic)
    }

    /// Gives offsets to the transaction's records.
    fn reserve(&mut self) -> Result<(), LogError> {
        let To::Owner(owner, Some(ticket)) = &self.to else { return Ok(()) };
        if let Some(reason) = &self.failed {
            return Err(LogError::failed("the transaction can only be aborted", reason.clone()));
        }
        let buffer = std::mem::take(&mut self.buffer);
        let bytes = buffer.bytes();
        let runs = owner.reserve(ticket, buffer).inspect_err(|error| self.failed = Some(error.to_string()))?;
        self.runs_bytes += bytes;
        track(&mut self.tracked, &runs);
        self.runs.extend(runs);
        Ok(())
    }

    /// Writes what a producer without transactions has gathered.
    fn send(&mut self) -> Result<(), CommitError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        match &self.to {
            To::Owner(owner, _) => track(&mut self.tracked, &owner.write(None, Vec::new(), buffer, None)?),
            To::Beside(beside, _) => {
                let answer = beside.commit(Request::Write { epoch: None, buffer }).map_err(unanswered)?;
                self.tracked.extend(answer.tracked);
            }
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.buffer = Buffer::default();
        self.runs.clear();
        self.runs_bytes = 0;
        self.tracked.clear();
        self.failed = None;
    }

    fn commit_transaction(&mut self, positions: Option<GroupPositions<'_>>) -> Result<(), CommitError> {
        if let Some(reason) = self.failed.clone() {
            self.abort()?;
            return Err(CommitError::Aborted(reason));
        }
        let (runs, buffer) = (std::mem::take(&mut self.runs), std::mem::take(&mut self.buffer));
        self.forget();
        match &self.to {
            To::Owner(owner, ticket) => drop(owner.write(ticket.as_ref(), runs, buffer, positions)?),
            To::Beside(beside, epoch) => {
                no_positions(positions)?;
                drop(beside.commit(Request::Write { epoch: epoch.clone(), buffer }).map_err(unanswered)?);
            }
        }
        Ok(())
    }
}

impl Producer for EmbeddedProducer {
    fn write(&mut self, record: &NewRecord<'_>, tracked: bool) -> Result<(), LogError> {
        if let To::Owner(_, Some(ticket)) = &self.to {
            ticket.check()?;
        }
        if tracked && matches!(self.to, To::Beside(_, Some(_))) {
            let reason = "a transaction written beside the log learns its offsets only once it is committed";
            return Err(LogError::Refused(format!("{reason}: stop the process that owns the log, and write anew")));
        }
        let topic = self.topic(record)?;
        let bytes = payload_len(record);
        if bytes > topic.max_message_bytes {
            return Err(LogError::TooLarge(format!(
                "a record of {bytes} bytes is too large for topic {}, which takes {} at most: make it smaller",
                record.topic, topic.max_message_bytes
            )));
        }
        let gathered = self.runs_bytes + self.buffer.bytes() + bytes;
        if !self.is_transactional() && gathered > BUFFER_BYTES_MAX {
            self.send().map_err(into_log_error)?;
        } else if gathered > TRANSACTION_BYTES_MAX {
            return Err(LogError::Refused(format!(
                "a transaction of more than {TRANSACTION_BYTES_MAX} bytes is too large: commit more often"
            )));
        }
        let timestamp_ms = record.timestamp_ms.filter(|time| *time != 0).or_else(|| Some(self.now_ms()));
        self.buffer.push(&NewRecord { timestamp_ms, ..*record }, tracked);
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        if self.is_transactional() {
            self.reserve()?;
        } else {
            self.send().map_err(into_log_error)?;
        }
        Ok(std::mem::take(&mut self.tracked).into_iter().collect())
    }

    fn commit(&mut self, positions: Option<GroupPositions<'_>>) -> Result<(), CommitError> {
        if self.is_transactional() {
            return self.commit_transaction(positions);
        }
        self.send()?;
        match &self.to {
            To::Owner(owner, _) if positions.is_some() => {
                drop(owner.write(None, Vec::new(), Buffer::default(), positions)?);
            }
            To::Owner(..) => {}
            To::Beside(..) => no_positions(positions)?,
        }
        Ok(())
    }

    fn abort(&mut self) -> Result<(), LogError> {
        if !self.is_transactional() {
            return Ok(());
        }
        if let To::Owner(owner, Some(ticket)) = &self.to {
            owner.abort(ticket, &self.runs);
        }
        self.forget();
        Ok(())
    }
}

impl Drop for EmbeddedProducer {
    fn drop(&mut self) {
        let _ = self.abort();
    }
}

/// Executes what a process beside the log has sent.
pub fn execute(owner: &Owner, request: Request) -> Result<Answer, CommitError> {
    match request {
        Request::CreateTopics(topics) => owner.create_topics(&topics)?,
        Request::DeleteTopics(names) => owner.delete_topics(&names.iter().map(String::as_str).collect::<Vec<_>>())?,
        Request::DeleteGroup(name) => owner.delete_group(&name)?,
        Request::Fence(id) => return Ok(Answer { epoch: owner.fence(&id)?.epoch, tracked: Vec::new() }),
        Request::Write { epoch, buffer } => {
            let ticket = epoch.map(|(id, epoch)| owner.ticket(&id, epoch)).transpose()?;
            let mut tracked = BTreeMap::new();
            track(&mut tracked, &owner.write(ticket.as_ref(), Vec::new(), buffer, None)?);
            return Ok(Answer { epoch: 0, tracked: tracked.into_iter().collect() });
        }
    }
    Ok(Answer::default())
}

fn track(tracked: &mut BTreeMap<TopicPartition, i64>, runs: &[Reserved]) {
    tracked.extend(runs.iter().filter_map(|run| run.tracked_end().map(|end| (run.partition.clone(), end))));
}

/// The owner may have got a write that it did not answer.
fn unanswered(error: CommitError) -> CommitError {
    match error {
        CommitError::Log(LogError::Unreachable { address, reason }) => {
            CommitError::Unknown(format!("{address}: {reason}"))
        }
        error => error,
    }
}

fn no_positions(positions: Option<GroupPositions<'_>>) -> Result<(), LogError> {
    match positions {
        None => Ok(()),
        Some(positions) => Err(LogError::Refused(format!(
            "positions of group {} are committed only by the process that owns the log",
            positions.group
        ))),
    }
}
