//! The way back from a branch, or into one: what one document has and another lacks.

use engram_schemas::yjs::{Coverage, Outline, Relation};
use yrs::{ReadTxn, Transact};

use super::super::replica::{ApplyError, Replica};
use super::HistoryError;

/// What `from` has and `into` lacks, as an update; `None` if that is nothing. Both are whole documents as updates, and one is
/// a branch of the other: what both have of a client is the same.
pub fn merge(into: &[u8], from: &[u8]) -> Result<Option<Vec<u8>>, HistoryError> {
    let (target, branch) = (load(into)?, load(from)?);
    let has = target.doc().transact().state_vector();
    let update = branch.doc().transact().encode_diff_v1(&has);
    let mut coverage = Coverage::default();
    coverage.add(&outline(into)?);
    match coverage.relation(&outline(&update)?) {
        Relation::New => Ok(Some(update)),
        Relation::Known => Ok(None),
        Relation::Missing(_) => Err(HistoryError::Unfit),
    }
}

fn load(state: &[u8]) -> Result<Replica, HistoryError> {
    let mut replica = Replica::default();
    replica.apply(state).map_err(HistoryError::State)?;
    Ok(replica)
}

fn outline(state: &[u8]) -> Result<Outline<'_>, HistoryError> {
    Outline::read(state).map_err(|_| HistoryError::State(ApplyError::Undecodable))
}
