//! A task's buffered input of one partition: fetched batches, and the position of what comes next.

use std::collections::VecDeque;

use crate::log::{Batch, Fetched, Header, RecordRef, TopicPartition};

/// The records of one input partition that have been fetched but not processed.
pub struct RecordQueue {
    pub partition: TopicPartition,
    /// With their bytes.
    batches: VecDeque<(Box<dyn Batch>, usize)>,
    /// Index of the head record in the first batch.
    head: usize,
    buffered: usize,
    buffered_bytes: usize,
    /// The next offset to process.
    position: i64,
    /// The end of the partition as last seen, once everything before it has been processed.
    end: Option<i64>,
    at_end: bool,
}

impl RecordQueue {
    pub fn new(partition: TopicPartition, position: i64) -> Self {
        Self {
            partition,
            batches: VecDeque::new(),
            head: 0,
            buffered: 0,
            buffered_bytes: 0,
            position,
            end: None,
            at_end: false,
        }
    }

    pub fn add(&mut self, fetched: Fetched) {
        if let Some(batch) = fetched.records {
            let bytes = batch.bytes();
            self.buffered += batch.len();
            self.buffered_bytes += bytes;
            self.batches.push_back((batch, bytes));
            self.end = None;
            self.at_end = false;
        }
        if fetched.end.is_some() {
            self.end = fetched.end;
        }
        self.settle();
    }

    pub fn buffered(&self) -> usize {
        self.buffered
    }

    /// Bytes of the batches held, those of their records included that were processed.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// The next record, if one is buffered.
    pub fn head(&self) -> Option<RecordRef<'_>> {
        self.batches.front().map(|(batch, _)| batch.record(self.head))
    }

    pub fn head_headers(&self) -> Vec<Header> {
        self.batches.front().map(|(batch, _)| batch.headers(self.head)).unwrap_or_default()
    }

    /// Steps over the head record.
    pub fn pop(&mut self) {
        let Some((batch, bytes)) = self.batches.front() else { return };
        self.position = batch.record(self.head).offset + 1;
        self.head += 1;
        self.buffered -= 1;
        if self.head == batch.len() {
            self.buffered_bytes -= bytes;
            self.batches.pop_front();
            self.head = 0;
            self.settle();
        }
    }

    /// The position to commit: after the last record processed, and past the control records that follow it.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// All that the partition has was processed.
    pub fn is_at_end(&self) -> bool {
        self.at_end
    }

    fn settle(&mut self) {
        if self.batches.is_empty()
            && let Some(end) = self.end.take()
        {
            self.position = self.position.max(end);
            self.at_end = true;
        }
    }
}
