//! A document in memory: a replica of yrs that can be thrown away.
//!
//! INVARIANT: it is a scratch copy. What a document is stands in the stores; whatever goes wrong here, the replica is dropped
//! and made anew from them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use engram_schemas::yjs::canonical;
use thiserror::Error;
use yrs::updates::decoder::Decode;
use yrs::{Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, TransactionMut, Update};

use super::projection::{self, RootKind};

/// Why an update could not be applied. The replica must be dropped.
#[derive(Debug, Error)]
pub enum ApplyError {
    #[error("the update cannot be decoded")]
    Undecodable,
    #[error("the update does not fit the document")]
    Unfit,
    #[error("what the update builds on is not there")]
    Incomplete,
    #[error("applying the update has failed")]
    Panicked,
}

/// A document's replica.
pub struct Replica {
    doc: Doc,
}

impl Default for Replica {
    fn default() -> Self {
        // The client is never used: nothing is inserted here.
        Self { doc: Doc::with_options(options(0)) }
    }
}

/// How every replica counts and behaves.
pub(super) fn options(client: u64) -> Options {
    Options {
        offset_kind: OffsetKind::Utf16,
        // Otherwise it would delete formats on its own account.
        cleanup_formatting: false,
        ..Options::with_client_id(yrs::block::ClientID::new(client))
    }
}

impl Replica {
    /// Applies an update whose outline was read and whose causes are there.
    pub fn apply(&mut self, update: &[u8]) -> Result<(), ApplyError> {
        apply(update, self.doc.transact_mut())
    }

    pub(super) fn doc(&self) -> &Doc {
        &self.doc
    }

    /// The whole document as one update: the same bytes whenever it is made of the same updates.
    pub fn state(&self) -> Vec<u8> {
        let state = self.doc.transact().encode_state_as_update_v1(&StateVector::default());
        canonical(&state).unwrap_or(state)
    }

    /// What it shows: each root by its name. `kinds` are what is known of the roots.
    pub fn roots(&self, kinds: &BTreeMap<String, RootKind>) -> serde_json::Map<String, serde_json::Value> {
        projection::roots(&self.doc.transact(), kinds)
    }
}

/// Applies an update in a transaction of its own.
pub(super) fn apply(update: &[u8], mut transaction: TransactionMut<'_>) -> Result<(), ApplyError> {
    let decoded = catch_unwind(|| Update::decode_v1(update)).map_err(|_| ApplyError::Panicked)?;
    let decoded = decoded.map_err(|_| ApplyError::Undecodable)?;
    let applied = catch_unwind(AssertUnwindSafe(|| {
        let applied = transaction.apply_update(decoded);
        transaction.commit();
        applied
    }));
    match applied {
        Ok(Ok(())) if transaction.has_missing_updates() => Err(ApplyError::Incomplete),
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(ApplyError::Unfit),
        Err(_) => {
            // SUBTLE: its end would commit what the panic has left half done, and might panic again.
            std::mem::forget(transaction);
            Err(ApplyError::Panicked)
        }
    }
}
