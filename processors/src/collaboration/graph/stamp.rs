//! Who wrote what last, and what the author of an event had seen of it.
//!
//! Versions count the events of a workspace that were taken, over both topics. So they grow for ever, whatever becomes of
//! a memory or a relation in between, and a removal that comes late never takes away what was made anew.

use std::collections::BTreeMap;

use engram_pipeline::store::codec::Codec;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::event::Head;

/// An event that is being applied.
#[derive(Debug, Clone)]
pub struct Taken {
    pub head: Head,
    pub version: i64,
    /// TOPIC/PARTITION/OFFSET.
    pub place: String,
}

impl Taken {
    pub fn stamp(&self) -> Stamp {
        Stamp { version: self.version, actor: self.head.actor.clone(), place: self.place.clone() }
    }

    /// The event's author had not seen what carries this stamp. Everybody has seen what they did themselves, but those
    /// without a name may be several.
    pub fn has_not_seen(&self, stamp: &Stamp) -> bool {
        let is_own = stamp.actor == self.head.actor && !stamp.actor.is_empty();
        self.head.observed.is_some_and(|observed| stamp.version > observed) && !is_own
    }
}

/// The event by which something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    pub version: i64,
    pub actor: String,
    pub place: String,
}

impl Codec for Stamp {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.version.write(bytes);
        self.actor.write(bytes);
        self.place.write(bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { version: i64::read(bytes)?, actor: String::read(bytes)?, place: String::read(bytes)? })
    }

    fn describe(&self) -> Value {
        self.version.describe()
    }
}

/// The additions to a set of one element (a tag, or the memory or relation itself) that no removal has seen: the last by
/// each actor, for whoever has seen an addition has seen those of the same actor before it. Empty: it is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Additions(BTreeMap<String, Stamp>);

/// Actors whose additions are kept of one element; of more, those who added it longest ago are forgotten.
const ADDERS_MAX: usize = 8;

impl Additions {
    pub fn add(&mut self, taken: &Taken) {
        self.0.insert(taken.head.actor.clone(), taken.stamp());
        if self.0.len() > ADDERS_MAX {
            let first = self.0.values().min_by_key(|stamp| stamp.version).expect("there are some").actor.clone();
            self.0.remove(&first);
        }
    }

    /// A removal takes those away that its author had seen. The last of the others, if there is one: then the element
    /// is still there.
    pub fn remove(&mut self, taken: &Taken) -> Option<Stamp> {
        self.0.retain(|_, stamp| taken.has_not_seen(stamp));
        self.0.values().max_by_key(|stamp| stamp.version).cloned()
    }

    /// The last addition that the event's author had not seen.
    pub fn last_unseen(&self, taken: &Taken) -> Option<&Stamp> {
        self.0.values().filter(|stamp| taken.has_not_seen(stamp)).max_by_key(|stamp| stamp.version)
    }
}

impl Codec for Additions {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.0.write(bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Codec::read(bytes).map(Self)
    }

    /// The version of the last.
    fn describe(&self) -> Value {
        self.0.values().map(|stamp| stamp.version).max().into()
    }
}

/// A property of which the last value in log order stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Register<T> {
    pub value: T,
    pub stamp: Stamp,
}

impl<T: Codec> Codec for Register<T> {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.value.write(bytes);
        self.stamp.write(bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { value: T::read(bytes)?, stamp: Stamp::read(bytes)? })
    }

    fn describe(&self) -> Value {
        self.value.describe()
    }
}

/// Events whose ids are remembered, of each memory and relation.
const RECENT_MAX: usize = 8;

/// What a memory or a relation has been through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Of the last event about it.
    pub version: i64,
    /// When and by whom it was made, and changed last. ms since the epoch, UTC.
    pub created: (i64, String),
    pub updated: (i64, String),
    /// Hashes of the ids of the last events, 8 bytes each: an event that is delivered again is known by them.
    recent: Vec<u8>,
}

impl History {
    /// It is made by this event.
    pub fn new(taken: &Taken) -> Self {
        let made = (taken.head.time, taken.head.actor.clone());
        Self { version: 0, created: made.clone(), updated: made, recent: Vec::new() }
    }

    /// The same, made anew.
    pub fn begin_again(&mut self, taken: &Taken) {
        self.created = (taken.head.time, taken.head.actor.clone());
    }

    /// Whether one of the last events had this id.
    pub fn has_taken(&self, id: &str) -> bool {
        let (hashes, _) = self.recent.as_chunks::<8>();
        hashes.contains(&xxh3_64(id.as_bytes()).to_be_bytes())
    }

    /// This event was taken, and had an effect or not.
    pub fn note(&mut self, taken: &Taken, has_effect: bool) {
        self.version = taken.version;
        if has_effect {
            self.updated = (taken.head.time, taken.head.actor.clone());
        }
        if self.recent.len() >= 8 * RECENT_MAX {
            self.recent.drain(..8);
        }
        self.recent.extend_from_slice(&xxh3_64(taken.head.id.as_bytes()).to_be_bytes());
    }
}

impl Codec for History {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.version.write(bytes);
        self.created.write(bytes);
        self.updated.write(bytes);
        self.recent.write(bytes);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            version: i64::read(bytes)?,
            created: Codec::read(bytes)?,
            updated: Codec::read(bytes)?,
            recent: Vec::read(bytes)?,
        })
    }

    fn describe(&self) -> Value {
        let ((created, created_by), (updated, updated_by)) = (&self.created, &self.updated);
        serde_json::json!({
            "version": self.version, "created": created, "created_by": created_by, "updated": updated,
            "updated_by": updated_by,
        })
    }
}
