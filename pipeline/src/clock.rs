//! The one place that reads the wall clock. Processors never come here: theirs is the context's, which records it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch, UTC; 0 if the machine's clock stands before it.
#[expect(clippy::disallowed_methods, reason = "everything else asks this function")]
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as i64)
}
