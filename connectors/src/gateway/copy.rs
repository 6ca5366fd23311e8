//! The gateway's copy of a document, from which it answers editors what they lack. It takes only edits that have been
//! sequenced, which were found good.

use std::panic::{AssertUnwindSafe, catch_unwind};

use engram_schemas::yjs::protocol::read_state_vector;
use engram_schemas::yjs::{Coverage, Outline, Relation};
use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, Update};

/// A document as of an edit.
pub struct Copy {
    doc: Doc,
    coverage: Coverage,
    /// The number of the last edit in it.
    pub seq: i64,
}

impl Copy {
    pub fn empty() -> Self {
        let options = Options {
            offset_kind: OffsetKind::Utf16,
            cleanup_formatting: false,
            ..Options::with_client_id(ClientID::new(0))
        };
        Self { doc: Doc::with_options(options), coverage: Coverage::default(), seq: 0 }
    }

    /// Applies an update; false if it could not be, and then this copy must be dropped.
    pub fn apply(&mut self, update: &[u8], seq: i64) -> bool {
        let Ok(outline) = Outline::read(update) else { return false };
        let doc = &self.doc;
        let applied = catch_unwind(AssertUnwindSafe(|| {
            let update = Update::decode_v1(update).ok()?;
            doc.transact_mut().apply_update(update).ok()
        }));
        if !matches!(applied, Ok(Some(()))) {
            return false;
        }
        self.coverage.add(&outline);
        self.seq = seq;
        true
    }

    /// Whether all of an update is in it.
    pub fn has(&self, outline: &Outline<'_>) -> bool {
        self.coverage.relation(outline) == Relation::Known
    }

    /// What it has, as a state vector.
    pub fn state_vector(&self) -> Vec<u8> {
        self.doc.transact().state_vector().encode_v1()
    }

    /// What somebody with this state vector lacks, as an update; `None` if it is no state vector.
    pub fn lacking(&self, state_vector: &[u8]) -> Option<Vec<u8>> {
        read_state_vector(state_vector).ok()?;
        let encoded = catch_unwind(AssertUnwindSafe(|| {
            let state_vector = StateVector::decode_v1(state_vector).ok()?;
            Some(self.doc.transact().encode_diff_v1(&state_vector))
        }));
        encoded.ok()?
    }

    /// All of it, as an update.
    pub fn whole(&self) -> Vec<u8> {
        self.doc.transact().encode_diff_v1(&StateVector::default())
    }
}
