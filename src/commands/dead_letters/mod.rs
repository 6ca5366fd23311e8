//! `engram dead-letters`: the records that the services could not process, and the way back for those that were mended.
//!
//! ```text
//! letters    reads and filters the topic `dead-letters`
//! list, show what people see of them
//! replay     sends records back
//! marks      the topic `dead-letters.replays`: which letters were sent back
//! ```

mod letters;
mod list;
mod marks;
mod replay;
mod show;

pub use marks::TOPIC as MARKS;

use crate::cli::{DeadLetters, Global};

pub fn run(global: &Global, command: &DeadLetters) -> anyhow::Result<()> {
    match command {
        DeadLetters::List { filter, limit } => list::run(global, filter, *limit),
        DeadLetters::Show { place } => show::run(global, *place),
        DeadLetters::Replay(args) => replay::run(global, args),
    }
}
