//! What processors are built from.

mod foreign_key;
mod keyed;
mod late;
mod sessions;
mod sliding;
mod stream_join;
mod table_join;
mod ttl;
mod value;
mod versioned;
mod windows;

pub use foreign_key::{ForeignJoined, ForeignKeyJoin, ForeignKeyOptions, topic as foreign_key_topic};
pub use keyed::Keyed;
pub use late::Late;
pub use sessions::{SessionAggregate, SessionFold};
pub use sliding::SlidingAggregate;
pub use stream_join::{JoinKind, Joined, StreamJoin, StreamJoinOptions};
pub use table_join::{Table, TableJoin, TableJoinKind};
pub use ttl::{EXPIRED_MAX, TtlStore};
pub use value::ValueStore;
pub use versioned::{Version, VersionedStore};
pub use windows::{
    CLOSED_MAX, EmitStrategy, OVERLAP_MAX, TimeWindows, Window, WindowOptions, Windowed, WindowedAggregate,
};
