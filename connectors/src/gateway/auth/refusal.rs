//! Why a caller is turned away: what they are told, and what the log is told.
//!
//! INVARIANT: the text for the caller is fixed but for a number of seconds, so nothing internal can get into it. It fits into
//! the reason of a WebSocket's close frame (123 bytes, RFC 6455 section 5.5).

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engram_pipeline::clock::Clock;
use thiserror::Error;

use super::role::{Action, Role};
use crate::gateway::limits::{Bucket, bucket};

/// Refusals that are logged in a second, so that a flood of requests is none of the log; all are counted.
const LINES_PER_SECOND_MAX: NonZeroU32 = NonZeroU32::new(20).expect("not 0");

/// Displayed, it tells the caller what to do. The reason is for the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// 401: nobody that is known.
    #[error("{advice}")]
    Unauthenticated { advice: &'static str, reason: String },
    /// 403: somebody that may not do this.
    #[error("{advice}")]
    Forbidden { advice: &'static str, reason: String },
    /// 429: too much of something; `what` is plural.
    #[error("too many {what}: try again in {} s", seconds(*.retry_after))]
    TooMany { what: &'static str, retry_after: Duration },
}

impl Refusal {
    pub(super) fn missing() -> Self {
        let advice = "send a token, as in the header 'Authorization: Bearer TOKEN'";
        Self::Unauthenticated { advice, reason: "no token".to_owned() }
    }

    /// The token is not, or not known to be, from who may give them out.
    pub(super) fn rejected(reason: impl Into<String>) -> Self {
        let advice = "the token is not accepted: get one from whoever runs this service";
        Self::Unauthenticated { advice, reason: reason.into() }
    }

    pub(super) fn early(reason: impl Into<String>) -> Self {
        Self::Unauthenticated { advice: "the token is not valid yet: try again later", reason: reason.into() }
    }

    /// The token's time is over; also why a session ends.
    pub fn expired() -> Self {
        let advice = "the token has expired: get a new one and connect again";
        Self::Unauthenticated { advice, reason: "the token has expired".to_owned() }
    }

    pub(super) fn forbidden(role: Option<Role>, action: Action) -> Self {
        let advice = match action.role() {
            Role::Viewer => "not allowed: ask for the role viewer",
            Role::Collaborator => "not allowed: ask for the role collaborator",
            Role::Editor => "not allowed: ask for the role editor",
            Role::Owner => "not allowed: ask for the role owner",
        };
        let role = role.map_or("no role", Role::name);
        Self::Forbidden { advice, reason: format!("{action:?} with {role}") }
    }

    pub(super) fn other_tenant(own: &str) -> Self {
        let advice = "not allowed: the token is for another tenant";
        Self::Forbidden { advice, reason: format!("another tenant than {own}") }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Unauthenticated { .. } => 401,
            Self::Forbidden { .. } => 403,
            Self::TooMany { .. } => 429,
        }
    }

    /// What the log is told; not for the caller.
    pub fn reason(&self) -> &str {
        match self {
            Self::Unauthenticated { reason, .. } | Self::Forbidden { reason, .. } => reason,
            Self::TooMany { what, .. } => what,
        }
    }

    /// For the header `Retry-After`: seconds, at least 1.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::TooMany { retry_after, .. } => Some(seconds(*retry_after)),
            _ => None,
        }
    }
}

fn seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1_000).clamp(1, u128::from(u32::MAX)) as u64
}

/// Where refusals are logged and counted (`engram_gateway_refused_total`), once each, by whoever answers them.
pub struct RefusalLog {
    lines: Bucket,
    /// Since the last line.
    left_out: AtomicU64,
}

impl RefusalLog {
    pub fn new(clock: Clock) -> Self {
        Self { lines: bucket(LINES_PER_SECOND_MAX, LINES_PER_SECOND_MAX, clock), left_out: AtomicU64::new(0) }
    }

    /// Whether it became a line of its own.
    pub fn write(&self, refusal: &Refusal, actor: Option<&str>, address: IpAddr) -> bool {
        let status = refusal.status();
        metrics::counter!("engram_gateway_refused_total", "status" => status.to_string()).increment(1);
        if self.lines.check().is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        // As `Debug` writes them: what comes from outside has no line ends then.
        let (actor, reason) = (actor.unwrap_or_default(), refusal.reason());
        tracing::warn!(status, ?actor, %address, ?reason, left_out, "refused");
        true
    }
}

#[cfg(test)]
mod tests {
    use engram_pipeline::clock::ManualClock;

    use super::*;

    fn all() -> Vec<Refusal> {
        let mut all = vec![
            Refusal::missing(),
            Refusal::rejected("internal"),
            Refusal::early("internal"),
            Refusal::expired(),
            Refusal::other_tenant("internal"),
            Refusal::TooMany { what: "requests from this address", retry_after: Duration::from_millis(1_001) },
        ];
        all.extend(
            [Action::Read, Action::Edit, Action::Produce, Action::Administer]
                .map(|action| Refusal::forbidden(None, action)),
        );
        all
    }

    #[test]
    fn callers_are_told_what_to_do_in_one_short_line_and_nothing_internal() {
        for refusal in all() {
            let text = refusal.to_string();
            assert!(text.len() <= 123 && !text.contains('\n'), "{text}");
            assert!(!text.contains("internal"), "{text}");
            assert!(text.contains("send") || text.contains(": "), "{text}");
        }
    }

    #[test]
    fn a_wait_is_in_whole_seconds_and_never_none() {
        for (ms, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2)] {
            let refusal = Refusal::TooMany { what: "requests", retry_after: Duration::from_millis(ms) };
            assert_eq!(refusal.retry_after_s(), Some(seconds));
            assert_eq!(refusal.to_string(), format!("too many requests: try again in {seconds} s"));
        }
    }

    #[test]
    fn a_flood_is_counted_and_not_logged_line_by_line() {
        let hand = ManualClock::new(0);
        let log = RefusalLog::new(hand.clock());
        let write = || log.write(&Refusal::missing(), None, IpAddr::from([127, 0, 0, 1]));
        let lines = (0..1_000).filter(|_| write()).count();
        assert_eq!(lines, LINES_PER_SECOND_MAX.get() as usize);
        assert_eq!(log.left_out.load(Ordering::Relaxed), 980);
        hand.advance(Duration::from_secs(1));
        assert!(write());
        assert_eq!(log.left_out.load(Ordering::Relaxed), 0);
    }
}
