//! The retry topic of a service: records that are to come again, each with its origin and the time before which it is not
//! taken. It is one more input of the service; the processor sees the record as if it came from its origin.
//!
//! Waiting costs nothing but order: what follows a retried record in its partition, of its key too, is processed before it.
//! Within a partition of the retry topic records are taken in their order, so that one may come later than its time, by the
//! longest delay at most.
//!
//! INVARIANT: a record is written here in the transaction that steps over it, and stepped over here in the transaction that
//! carries what came of it. So it is processed once, like any other.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::clock::Clock;
use crate::errors::ErrorPolicy;
use crate::log::{Header, LogError, NewRecord, RecordRef, TopicPartition};
use crate::outbox::SharedOutbox;

/// The name of a service's retry topic.
pub fn topic(service: &str) -> String {
    format!("engram-{service}-retry")
}

const TOPIC: &str = "engram_retry_topic";
const PARTITION: &str = "engram_retry_partition";
const OFFSET: &str = "engram_retry_offset";
const TIMESTAMP: &str = "engram_retry_timestamp";
const ATTEMPT: &str = "engram_retry_attempt";
const NOT_BEFORE: &str = "engram_retry_not_before";
const OWN: [&str; 6] = [TOPIC, PARTITION, OFFSET, TIMESTAMP, ATTEMPT, NOT_BEFORE];

/// Where a retried record comes from, and when it is due: what the headers of the retry topic say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub place: TopicPartition,
    pub offset: i64,
    pub timestamp_ms: i64,
    /// How many times it has been sent here: 1 for the first.
    pub attempt: u32,
    pub not_before_ms: i64,
}

impl Origin {
    /// `None`: these are not the headers of a retried record.
    pub fn read(headers: &[Header]) -> Option<Self> {
        let text = |name: &str| {
            let header = headers.iter().rev().find(|header| header.key == name)?;
            std::str::from_utf8(header.value.as_deref()?).ok()
        };
        Some(Self {
            place: TopicPartition::new(text(TOPIC)?, text(PARTITION)?.parse().ok()?),
            offset: text(OFFSET)?.parse().ok()?,
            timestamp_ms: text(TIMESTAMP)?.parse().ok()?,
            attempt: text(ATTEMPT)?.parse().ok()?,
            not_before_ms: text(NOT_BEFORE)?.parse().ok()?,
        })
    }

    fn headers(&self) -> [(&'static str, String); 6] {
        [
            (TOPIC, self.place.topic.to_string()),
            (PARTITION, self.place.partition.to_string()),
            (OFFSET, self.offset.to_string()),
            (TIMESTAMP, self.timestamp_ms.to_string()),
            (ATTEMPT, self.attempt.to_string()),
            (NOT_BEFORE, self.not_before_ms.to_string()),
        ]
    }
}

/// A record's own headers, without those of the retry topic.
pub fn own_headers(mut headers: Vec<Header>) -> Vec<Header> {
    headers.retain(|header| !OWN.contains(&header.key.as_str()));
    headers
}

/// How long a record waits before it is taken the `attempt`-th time: twice as long as before, up to the bound, less up to
/// half of it. What is taken off is made of the record's place, so that records which failed together do not all come back
/// together, and a replay sees the same.
pub fn delay_ms(policy: &ErrorPolicy, place: &TopicPartition, offset: i64, attempt: u32) -> i64 {
    let doubled = 1_i64.checked_shl(attempt.saturating_sub(1)).filter(|factor| *factor > 0).unwrap_or(i64::MAX);
    let whole = policy.backoff_ms.saturating_mul(doubled).min(policy.backoff_ms_max).max(1);
    let seed = offset.cast_unsigned() ^ u64::from(attempt) << 48 ^ u64::from(place.partition.cast_unsigned()) << 32;
    let hash = xxh3_64_with_seed(place.topic.as_bytes(), seed);
    whole - (hash % (whole.cast_unsigned() / 2 + 1)).cast_signed()
}

/// A task's part of the retry topic.
pub struct Retries {
    outbox: SharedOutbox,
    clock: Clock,
    service: &'static str,
    topic: String,
    partition: i32,
    /// The head of its queue, as last looked at, by offset.
    head: Option<(i64, Option<Arc<Origin>>)>,
}

impl Retries {
    pub fn new(outbox: SharedOutbox, clock: Clock, service: &'static str, partition: i32) -> Self {
        Self { outbox, clock, service, topic: topic(service), partition, head: None }
    }

    /// The origin of the head of the retry topic's queue; its headers are read once. `None`: it has none.
    pub fn origin(&mut self, offset: i64, headers: impl FnOnce() -> Vec<Header>) -> Option<Arc<Origin>> {
        if self.head.as_ref().is_none_or(|(known, _)| *known != offset) {
            self.head = Some((offset, Origin::read(&headers()).map(Arc::new)));
        }
        self.head.as_ref().and_then(|(_, origin)| origin.clone())
    }

    /// What is not due is left where it is; what has no origin is taken, and found out.
    pub fn is_due(&mut self, offset: i64, headers: impl FnOnce() -> Vec<Header>) -> bool {
        let origin = self.origin(offset, headers);
        origin.is_none_or(|origin| origin.not_before_ms <= self.clock.now_ms())
    }

    /// Sends a record to come again for the `attempt`-th time. `headers` are its own.
    pub fn send(
        &mut self,
        policy: &ErrorPolicy,
        place: &TopicPartition,
        record: RecordRef<'_>,
        headers: &[Header],
        attempt: u32,
    ) -> Result<(), LogError> {
        let delay_ms = delay_ms(policy, place, record.offset, attempt);
        let origin = Origin {
            place: place.clone(),
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            attempt,
            not_before_ms: self.clock.now_ms().saturating_add(delay_ms),
        };
        metrics::counter!("engram_retries_total", "service" => self.service).increment(1);
        let own = origin.headers();
        let mut all: Vec<(&str, Option<&[u8]>)> =
            headers.iter().map(|header| (header.key.as_str(), header.value.as_deref())).collect();
        all.extend(own.iter().map(|(name, value)| (*name, Some(value.as_bytes()))));
        let record = NewRecord {
            topic: &self.topic,
            partition: self.partition,
            timestamp_ms: Some(origin.not_before_ms),
            key: record.key,
            value: record.value,
            headers: &all,
        };
        self.outbox.borrow_mut().write(&record, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            place: TopicPartition::new("events", 3),
            offset: 17,
            timestamp_ms: -5,
            attempt: 2,
            not_before_ms: 1_700_000_000_000,
        }
    }

    fn header(key: &str, value: &str) -> Header {
        Header { key: key.to_owned(), value: Some(value.as_bytes().to_vec()) }
    }

    #[test]
    fn an_origin_is_read_as_it_was_written_among_the_records_own_headers() {
        let mut headers = vec![header("a", "1"), Header { key: "n".to_owned(), value: None }];
        let own = headers.clone();
        headers.extend(origin().headers().iter().map(|(name, value)| header(name, value)));
        assert_eq!(Origin::read(&headers), Some(origin()));
        assert_eq!(own_headers(headers.clone()), own);
        for missing in OWN {
            let rest: Vec<_> = headers.iter().filter(|header| header.key != missing).cloned().collect();
            assert_eq!(Origin::read(&rest), None, "{missing}");
        }
        headers.push(header(OFFSET, "x"));
        assert_eq!(Origin::read(&headers), None);
    }

    #[test]
    fn delays_double_up_to_the_bound_and_are_always_the_same() {
        let policy = ErrorPolicy { backoff_ms: 100, backoff_ms_max: 1_000, ..ErrorPolicy::default() };
        let place = TopicPartition::new("events", 3);
        for (attempt, whole) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000), (64, 1_000), (u32::MAX, 1_000)] {
            let delays: Vec<i64> = (0..200).map(|offset| delay_ms(&policy, &place, offset, attempt)).collect();
            assert!(delays.iter().all(|delay| (whole / 2..=whole).contains(delay)), "{attempt}: {delays:?}");
            assert!(delays.iter().any(|delay| *delay != delays[0]), "they do not all come back together");
            assert_eq!(delays[7], delay_ms(&policy, &place, 7, attempt));
        }
    }
}
