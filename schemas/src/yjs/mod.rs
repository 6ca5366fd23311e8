//! What Yjs writes: the bytes that editors send and that `document.edits` carries, read without any CRDT.
//!
//! `lib0` are its numbers and strings, `update` the outline of an update (who inserted which clocks beside what, and what
//! is deleted), `canonical` the one way in which the service writes them, `coverage` what a document has of it, `protocol` the
//! messages between an editor and a server.
//!
//! INVARIANT: whatever bytes come, nothing here panics, recurses without bound or takes more memory than the bytes justify.
//! An update whose outline is fine is safe to be decoded.
//!
//! Source: lib0 0.2 (encoding.js), Yjs 13.6 (UpdateDecoder.js, ContentType.js, DeleteSet.js), y-protocols 1.0 (PROTOCOL.md).

pub mod canonical;
pub mod coverage;
pub mod lib0;
pub mod protocol;
pub mod update;

pub use canonical::canonical;
pub use coverage::{Coverage, Relation};
pub use lib0::{Malformed, Reader};
pub use update::Outline;
