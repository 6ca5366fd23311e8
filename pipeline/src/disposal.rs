//! Carrying out a service's error policy for one task: a record that was not processed becomes a dead letter, goes to the
//! retry topic, or stops the service.
//!
//! INVARIANT: whatever becomes of the record is written into the transaction that steps over it, so that outputs, dead
//! letters and retries together are the inputs, each once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::dead_letter::{Cause, DeadLetters, RECORD_BYTES_MAX};
use crate::errors::{Action, ErrorPolicy};
use crate::log::{Header, LogError, RecordRef, TopicPartition};
use crate::poison::Verdict;
use crate::processor::{Context, Input, ProcessError, Processor};
use crate::retry::{self, Retries};

/// A record as the processor is to see it: a retried one stands for its original.
pub struct Arrival<'a> {
    /// Index of the input; `None` for what lies in the retry topic and was not sent there by this service.
    pub input: Option<usize>,
    pub place: &'a TopicPartition,
    pub record: RecordRef<'a>,
    /// How often it has come again: 0 for a record of its own input.
    pub attempt: u32,
}

impl Arrival<'_> {
    /// Why the processor need not even see it.
    pub fn fault(&self, policy: &ErrorPolicy) -> Option<Verdict> {
        // Coming again would not help.
        let action = policy.on_reject.not_retried();
        let size = self.record.size();
        if size > RECORD_BYTES_MAX {
            let detail = format!("{size} bytes are more than {RECORD_BYTES_MAX}");
            return Some(Verdict { cause: "too-large", detail, action });
        }
        if self.input.is_none() {
            let detail = "its headers do not tell the input that it was taken from".to_owned();
            return Some(Verdict { cause: "not-a-retry", detail, action });
        }
        None
    }
}

/// How processing a record went wrong.
pub enum Fault {
    /// The task is as it was before.
    Rejected {
        cause: &'static str,
        detail: String,
    },
    Unavailable(String),
    /// The task may be half changed.
    Broken {
        cause: &'static str,
        detail: String,
    },
    Other(ProcessError),
}

/// Lets the processor have a record.
pub fn process(processor: &mut dyn Processor, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
    // What is half changed after a panic is thrown away: state, outputs, and the processor itself.
    match catch_unwind(AssertUnwindSafe(|| processor.process(input, context))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(ProcessError::Reject { cause, detail })) => Err(Fault::Rejected { cause, detail }),
        Ok(Err(ProcessError::Retry(reason))) => Err(Fault::Unavailable(reason)),
        Ok(Err(ProcessError::Log(LogError::TooLarge(detail)))) => {
            Err(Fault::Broken { cause: "output-too-large", detail })
        }
        Ok(Err(error)) => Err(Fault::Other(error)),
        Err(panic) => Err(Fault::Broken { cause: "panic", detail: message(&*panic) }),
    }
}

/// As `process`, for the end of a commit, which is no record's.
pub fn before_commit(processor: &mut dyn Processor, context: &mut Context<'_>) -> Result<(), ProcessError> {
    catch_unwind(AssertUnwindSafe(|| processor.before_commit(context)))
        .unwrap_or_else(|panic| Err(ProcessError::Panicked(message(&*panic))))
}

/// Lets a processor have its timers. What goes wrong there is no record's, so that nothing could be passed over.
///
/// Errors: `Refused` after a panic, or when what it emits is too large.
pub fn in_timer<T>(service: &str, fire: impl FnOnce() -> Result<T, ProcessError>) -> Result<T, ProcessError> {
    let refused = |reason: String| {
        ProcessError::Refused(format!(
            "a timer of service {service} cannot be fired: {reason}; mend it and start again"
        ))
    };
    match catch_unwind(AssertUnwindSafe(fire)) {
        Ok(Err(ProcessError::Log(LogError::TooLarge(reason)))) => Err(refused(reason)),
        Ok(outcome) => outcome,
        Err(panic) => Err(refused(message(&*panic))),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").replace(['\n', '\r'], " ")
}

/// What carries out the policy of a task's service.
pub struct Disposal {
    pub service: &'static str,
    pub dead_letters: DeadLetters,
    pub retries: Retries,
}

impl Disposal {
    /// Does with a record what the verdict says. `headers` are those that the log has.
    ///
    /// Errors: `Refused` where the service is to stop.
    pub fn dispose(
        &mut self,
        policy: &ErrorPolicy,
        arrival: &Arrival<'_>,
        headers: Vec<Header>,
        verdict: Verdict,
    ) -> Result<(), ProcessError> {
        let &Arrival { place, record, attempt, .. } = arrival;
        let Verdict { cause, detail, action } = verdict;
        let headers = retry::own_headers(headers);
        match action {
            Action::Stop => Err(ProcessError::Refused(format!(
                "{place} offset {} could not be processed ({cause}): {detail}; mend what it needs and start again, or set \
                 [errors.{}] on_reject or on_unavailable to dead-letter",
                record.offset, self.service
            ))),
            Action::Retry if attempt < policy.attempts_max => {
                tracing::info!(%place, offset = record.offset, cause, detail, attempt = attempt + 1, "it comes again later");
                Ok(self.retries.send(policy, place, record, &headers, attempt + 1)?)
            }
            Action::Retry | Action::DeadLetter => {
                let again = match attempt {
                    0 => String::new(),
                    1 => "; it had come again once".to_owned(),
                    times => format!("; it had come again {times} times"),
                };
                let cause = Cause { code: cause, detail: &(detail + &again) };
                Ok(self.dead_letters.send(place, record, headers, &cause)?)
            }
        }
    }
}
