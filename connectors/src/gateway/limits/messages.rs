//! What comes on one WebSocket: messages and bytes a second.

use engram_pipeline::clock::Clock;

use super::Limits;
use super::bucket::{Bucket, at_least_one, bucket, wait};
use crate::gateway::auth::Refusal;

/// One connection's. A user has no more than `connections_per_user_max` of them.
pub struct MessageLimits {
    messages: Bucket,
    bytes: Bucket,
}

impl MessageLimits {
    pub fn new(limits: &Limits, clock: &Clock) -> Self {
        let of = |per_second, burst| bucket(at_least_one(per_second), at_least_one(burst), clock.clone());
        Self {
            messages: of(limits.messages_per_second, limits.messages_burst),
            bytes: of(limits.bytes_per_second, limits.bytes_burst),
        }
    }

    /// For every message, of so many bytes. A message that was refused has used up nothing of the bytes.
    ///
    /// # Errors
    /// [`Refusal::TooMany`]: close the connection, or read no more of it for so long and let the message count then.
    pub fn check(&self, bytes: usize) -> Result<(), Refusal> {
        let messages = |until| Refusal::TooMany { what: "messages", retry_after: wait(&until, self.messages.clock()) };
        let too_many_bytes = |retry_after| Refusal::TooMany { what: "bytes", retry_after };
        self.messages.check().map_err(messages)?;
        let bytes = at_least_one(u32::try_from(bytes).unwrap_or(u32::MAX));
        match self.bytes.check_n(bytes) {
            Ok(outcome) => outcome.map_err(|until| too_many_bytes(wait(&until, self.bytes.clock()))),
            // More than `bytes_burst`, so never; such a message is larger than `message_bytes_max`.
            Err(_) => Err(too_many_bytes(std::time::Duration::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engram_pipeline::clock::ManualClock;

    use super::*;

    #[test]
    fn messages_and_bytes_are_counted_apart() {
        let hand = ManualClock::new(0);
        let limits = Limits { messages_per_second: 10, messages_burst: 4, ..Limits::default() };
        let limits = Limits { bytes_per_second: 1_000, bytes_burst: 1_500, ..limits };
        let connection = MessageLimits::new(&limits, &hand.clock());
        let refused = |bytes| match connection.check(bytes) {
            Err(Refusal::TooMany { what, retry_after }) => Some((what, retry_after.as_millis())),
            _ => None,
        };
        assert_eq!(refused(1_000), None);
        assert_eq!(refused(1_000), Some(("bytes", 500)));
        assert_eq!(refused(500), None);
        assert_eq!(refused(0), Some(("bytes", 1)));
        assert_eq!(refused(0), Some(("messages", 100)));
        hand.advance(Duration::from_secs(10));
        assert_eq!((0..9).filter(|_| refused(1).is_none()).count(), 4);
        hand.advance(Duration::from_secs(10));
        assert!(matches!(refused(1_501), Some(("bytes", _))));
    }
}
