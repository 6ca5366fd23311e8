//! How much a caller may ask for: the table `[gateway]` of the configuration, and what holds callers to it.
//!
//! ```text
//! connection   Connections::open        how many at a time: in all, from one address, of one user
//! request      RateLimits::address      before the token is looked at
//!              RateLimits::user         after
//! body         Limits, depth_within     bytes, then nesting, before it is parsed
//! message      MessageLimits::check     messages and bytes a second, for each connection
//! ```
//!
//! INVARIANT: whatever callers send, what is remembered of them is bounded (`rates::KEYS_MAX`, `connections_max`).

mod bucket;
mod connections;
mod depth;
mod messages;
mod rates;

use serde::Deserialize;
use thiserror::Error;

pub(crate) use bucket::{Bucket, bucket};
pub use connections::{Connection, Connections};
pub use depth::depth_within;
pub use messages::MessageLimits;
pub use rates::RateLimits;

/// Of requests and messages a second, and of bursts of them.
const RATE_MAX: u32 = 1_000_000;
/// Of bytes a second: a nanosecond for each is as fine as they are counted.
const BYTE_RATE_MAX: u32 = 100_000_000;
const BYTES_MAX: u32 = 256 << 20;
const SPOOL_BYTES_MAX: u32 = 1 << 30;
const CONNECTIONS_MAX: u32 = 1_000_000;
/// `serde_json` goes no deeper than 128, whatever is set here.
const DEPTH_MAX: u32 = 100;

/// See docs/configuration.md.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Of one user, over all of their connections; a burst is what may come at once.
    pub user_requests_per_second: u32,
    pub user_requests_burst: u32,
    /// From one address, whoever sends them; those without a valid token included.
    pub address_requests_per_second: u32,
    pub address_requests_burst: u32,
    /// On one WebSocket.
    pub messages_per_second: u32,
    pub messages_burst: u32,
    pub bytes_per_second: u32,
    pub bytes_burst: u32,
    /// At a time: in all, of one user, from one address.
    pub connections_max: u32,
    pub connections_per_user_max: u32,
    pub connections_per_address_max: u32,
    /// Of a request's body.
    pub body_bytes_max: u32,
    /// Lists and objects within each other.
    pub json_depth_max: u32,
    /// Of a message on a WebSocket.
    pub message_bytes_max: u32,
    /// Of what somebody tells about their presence.
    pub awareness_bytes_max: u32,
    /// Of edits that wait on the disk while the log cannot be reached.
    pub spool_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            user_requests_per_second: 100,
            user_requests_burst: 500,
            address_requests_per_second: 500,
            address_requests_burst: 2_000,
            messages_per_second: 200,
            messages_burst: 1_000,
            bytes_per_second: 1 << 20,
            bytes_burst: 8 << 20,
            connections_max: 10_000,
            connections_per_user_max: 100,
            connections_per_address_max: 1_000,
            body_bytes_max: 4 << 20,
            json_depth_max: 32,
            message_bytes_max: 1 << 20,
            awareness_bytes_max: 16 << 10,
            spool_bytes_max: 64 << 20,
        }
    }
}

/// A limit that cannot be.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum LimitsError {
    #[error("gateway.{field} is {value}: it must be 1 to {max}")]
    Bound { field: &'static str, value: u32, max: u32 },
    #[error("gateway.{less} is more than gateway.{more}: it could never be used up")]
    Order { less: &'static str, more: &'static str },
}

impl Limits {
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), LimitsError> {
        for (field, value, max) in [
            ("user_requests_per_second", self.user_requests_per_second, RATE_MAX),
            ("user_requests_burst", self.user_requests_burst, RATE_MAX),
            ("address_requests_per_second", self.address_requests_per_second, RATE_MAX),
            ("address_requests_burst", self.address_requests_burst, RATE_MAX),
            ("messages_per_second", self.messages_per_second, RATE_MAX),
            ("messages_burst", self.messages_burst, RATE_MAX),
            ("bytes_per_second", self.bytes_per_second, BYTE_RATE_MAX),
            ("bytes_burst", self.bytes_burst, BYTES_MAX),
            ("connections_max", self.connections_max, CONNECTIONS_MAX),
            ("connections_per_user_max", self.connections_per_user_max, CONNECTIONS_MAX),
            ("connections_per_address_max", self.connections_per_address_max, CONNECTIONS_MAX),
            ("body_bytes_max", self.body_bytes_max, BYTES_MAX),
            ("json_depth_max", self.json_depth_max, DEPTH_MAX),
            ("message_bytes_max", self.message_bytes_max, BYTES_MAX),
            ("awareness_bytes_max", self.awareness_bytes_max, BYTES_MAX),
            ("spool_bytes_max", self.spool_bytes_max, SPOOL_BYTES_MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Err(LimitsError::Bound { field, value, max });
            }
        }
        for (less, less_value, more, more_value) in [
            ("message_bytes_max", self.message_bytes_max, "bytes_burst", self.bytes_burst),
            ("awareness_bytes_max", self.awareness_bytes_max, "message_bytes_max", self.message_bytes_max),
        ] {
            if less_value > more_value {
                return Err(LimitsError::Order { less, more });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_be() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn bounds_are_checked_by_name() {
        for (limits, said) in [
            (
                Limits { user_requests_per_second: 0, ..Limits::default() },
                "gateway.user_requests_per_second is 0: it must be 1 to 1000000",
            ),
            (
                Limits { bytes_per_second: 100_000_001, ..Limits::default() },
                "gateway.bytes_per_second is 100000001: it must be 1 to 100000000",
            ),
            (Limits { json_depth_max: 101, ..Limits::default() }, "gateway.json_depth_max is 101: it must be 1 to 100"),
            (
                Limits { message_bytes_max: 9 << 20, ..Limits::default() },
                "gateway.message_bytes_max is more than gateway.bytes_burst: it could never be used up",
            ),
            (
                Limits { awareness_bytes_max: 2 << 20, ..Limits::default() },
                "gateway.awareness_bytes_max is more than gateway.message_bytes_max: it could never be used up",
            ),
        ] {
            assert_eq!(limits.check().expect_err(said).to_string(), said);
        }
    }
}
