//! What a worker knows about the records that stop it. An error that names its record is simple; this is for the others: a
//! processor that panics leaves its state half changed, and a commit that fails does not say which of its records it was.
//!
//! ```text
//! panic on a record -------------------------------------------------> verdict
//! `Retry` on a record, `in_place_max` times in a row ----------------> verdict
//! commit fails, again and again -> records are committed one by one -> one fails alone, again and again -> verdict
//! ```
//!
//! Each time the worker goes back to its last commit. When a record with a verdict comes again it is not processed, but goes
//! the way of the error policy.
//!
//! A verdict lasts as long as the worker's thread: after a restart of the process it is found out anew. A record that ends
//! the process itself (an abort, a stack overflow) cannot be found out like this.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{Clock, Moment};
use crate::errors::{Action, ErrorPolicy};
use crate::log::TopicPartition;

/// Commits that fail in a row before records are committed one by one.
const FAILURES_MAX: u32 = 3;
/// Commits of a record alone that fail in a row before it is held for the cause,
const ALONE_MAX: u32 = 5;
/// and how long it must have gone on: a log that is in trouble gets so much time to come round.
const TROUBLE_MIN: Duration = Duration::from_secs(30);
/// Records known at a time. Forgetting them only costs finding them out again.
const KNOWN_MAX: usize = 1_000;

/// Why a record is not processed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Stable, for machines.
    pub cause: &'static str,
    /// For people.
    pub detail: String,
    /// By the error policy.
    pub action: Action,
}

#[derive(Default)]
struct Known {
    tries: u32,
    verdict: Option<Verdict>,
}

/// The worker's knowledge; it outlives the worker's restarts.
#[derive(Default)]
pub struct Poison {
    known: BTreeMap<(TopicPartition, i64), Known>,
    /// Commits that failed since the last that did not, and when the first did.
    failures: u32,
    since: Option<Moment>,
    /// Records that are still to be committed one by one.
    careful: i64,
    /// The one record that was processed since the last commit, while that is so.
    alone: Option<(TopicPartition, i64)>,
    /// There is a verdict since this was asked last.
    has_condemned: bool,
}

impl Poison {
    /// Why this record must not be processed. Called for every record.
    #[inline]
    pub fn verdict(&self, place: &TopicPartition, offset: i64) -> Option<&Verdict> {
        if self.known.is_empty() {
            return None;
        }
        self.known.get(&(place.clone(), offset)).and_then(|known| known.verdict.as_ref())
    }

    pub fn condemn(&mut self, place: &TopicPartition, offset: i64, verdict: Verdict) {
        tracing::warn!(%place, offset, cause = verdict.cause, detail = verdict.detail, "this record is not processed again");
        self.known(place, offset).verdict = Some(verdict);
        self.has_condemned = true;
    }

    /// For a replay: what was known of this record then.
    pub fn was_condemned(&mut self, place: &TopicPartition, offset: i64, cause: &'static str, action: Action) {
        let detail = "as it was then".to_owned();
        self.known(place, offset).verdict = Some(Verdict { cause, detail, action });
    }

    /// Whether a record was condemned since the last call: what held the worker up will not do so again.
    pub fn take_condemned(&mut self) -> bool {
        std::mem::take(&mut self.has_condemned)
    }

    /// This record could not be processed for now. After enough tries the policy says what becomes of it, unless it waits.
    pub fn unavailable(&mut self, place: &TopicPartition, offset: i64, reason: &str, policy: &ErrorPolicy) {
        let known = self.known(place, offset);
        known.tries = known.tries.saturating_add(1);
        if known.tries >= policy.in_place_max
            && let Some(action) = policy.on_unavailable
        {
            self.condemn(place, offset, Verdict { cause: "unavailable", detail: reason.to_owned(), action });
        }
    }

    /// Records are processed and committed one by one.
    pub fn is_careful(&self) -> bool {
        self.careful > 0
    }

    /// This record was taken, whatever came of it.
    pub fn taken(&mut self, place: &TopicPartition, offset: i64) {
        if self.is_careful() {
            self.alone = Some((place.clone(), offset));
        }
    }

    /// A commit of `records` records has succeeded.
    pub fn committed(&mut self, records: i64) {
        (self.failures, self.since, self.alone) = (0, None, None);
        self.careful = (self.careful - records).max(0);
    }

    /// A commit of `records` records has failed, and not because the log could not be reached. `certain`: by something that
    /// a record has brought about, so that it will fail again. False: so it will, and no record can be held for it.
    pub fn commit_failed(&mut self, records: i64, certain: bool, reason: &str, action: Action, clock: &Clock) -> bool {
        self.failures = self.failures.saturating_add(1);
        let since = *self.since.get_or_insert_with(|| clock.now());
        if !self.is_careful() {
            if certain || self.failures >= FAILURES_MAX {
                self.careful = records.max(1);
            }
            return true;
        }
        let Some((place, offset)) = self.alone.take() else { return !certain };
        let known = self.known(&place, offset);
        if known.verdict.take().is_some() {
            // Its dead letter cannot be committed either: it is not the record.
            known.tries = 0;
            return !certain;
        }
        known.tries += 1;
        if certain || (known.tries >= ALONE_MAX && clock.since(since) >= TROUBLE_MIN) {
            let detail = format!("no commit with it succeeds: {reason}");
            self.condemn(&place, offset, Verdict { cause: "commit-fails", detail, action });
        }
        true
    }

    fn known(&mut self, place: &TopicPartition, offset: i64) -> &mut Known {
        let key = (place.clone(), offset);
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&key) {
            self.known.clear();
        }
        self.known.entry(key).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn place() -> TopicPartition {
        TopicPartition::new("events", 0)
    }

    /// Processes and commits `records` records, of which the commits fail that hold the one at `poison`. Returns the commits
    /// that it took.
    fn drive(poison: &mut Poison, records: i64, bad: i64, certain: bool, clock: &ManualClock) -> usize {
        let (mut position, mut commits) = (0, 0);
        while position < records {
            let end = if poison.is_careful() { position + 1 } else { records };
            let mut holds_bad = false;
            for offset in position..end {
                holds_bad |= offset == bad && poison.verdict(&place(), offset).is_none();
                poison.taken(&place(), offset);
            }
            commits += 1;
            clock.advance(Duration::from_secs(1));
            if holds_bad {
                poison.commit_failed(end - position, certain, "too large", Action::DeadLetter, &clock.clock());
            } else {
                poison.committed(end - position);
                position = end;
            }
            assert!(commits < 1_000, "it gets on");
        }
        commits
    }

    #[test]
    fn a_record_that_no_commit_succeeds_with_is_found_among_many() {
        for certain in [true, false] {
            let (mut poison, clock) = (Poison::default(), ManualClock::new(0));
            drive(&mut poison, 100, 63, certain, &clock);
            let verdict = poison.verdict(&place(), 63).expect("it was found");
            assert_eq!((verdict.cause, verdict.action), ("commit-fails", Action::DeadLetter));
            assert!((0..100).all(|offset| offset == 63 || poison.verdict(&place(), offset).is_none()));
            assert!(!poison.is_careful(), "the others go fast again");
        }
    }

    #[test]
    fn trouble_that_passes_condemns_nobody() {
        let (mut poison, clock) = (Poison::default(), ManualClock::new(0));
        for _ in 0..20 {
            poison.taken(&place(), 0);
            poison.commit_failed(1, false, "no coordinator", Action::DeadLetter, &clock.clock());
            clock.advance(Duration::from_secs(1));
        }
        poison.committed(1);
        assert!(poison.verdict(&place(), 0).is_none() && !poison.is_careful());
    }

    #[test]
    fn a_record_whose_letter_fails_too_is_acquitted() {
        let (mut poison, clock) = (Poison::default(), ManualClock::new(0));
        poison.commit_failed(1, true, "x", Action::DeadLetter, &clock.clock());
        poison.taken(&place(), 0);
        poison.commit_failed(1, true, "x", Action::DeadLetter, &clock.clock());
        assert!(poison.verdict(&place(), 0).is_some());
        poison.taken(&place(), 0);
        assert!(!poison.commit_failed(1, true, "x", Action::DeadLetter, &clock.clock()), "it will fail for ever");
        assert!(poison.verdict(&place(), 0).is_none());
    }

    #[test]
    fn what_is_known_is_bounded() {
        let policy = ErrorPolicy { on_unavailable: Some(Action::Retry), in_place_max: 2, ..ErrorPolicy::default() };
        let mut poison = Poison::default();
        for offset in 0..3 * KNOWN_MAX as i64 {
            poison.unavailable(&place(), offset, "no registry", &policy);
            assert!(poison.verdict(&place(), offset).is_none() && poison.known.len() <= KNOWN_MAX);
        }
        let last = 3 * KNOWN_MAX as i64 - 1;
        poison.unavailable(&place(), last, "no registry", &policy);
        assert_eq!(poison.verdict(&place(), last).map(|verdict| verdict.action), Some(Action::Retry));
    }
}
