//! `/v1/blame`, `/v1/rollbacks`, `/v1/branches` and `/v1/merges`: a document's history, and the edits that are made of it.
//!
//! INVARIANT: such an edit takes the way of every other. What is answered is that it is in the log; what became of it is told
//! there, in `document.sequenced` or `document.rejects`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use engram_pipeline::log::partitioner::partition_for;
use engram_schemas::Event as _;
use engram_schemas::document::{Edit, document_key};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use super::auth::Action;
use super::caller::{Caller, Denied, in_turn};
use super::documents::DocumentRefusal;
use super::limits::depth_within;
use super::produce::{WRITE_MAX, read};
use super::writer::{Fate, Outgoing};
use super::{DOCUMENT_EDITS, Gateway};

/// Largest body: names and numbers.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Histories that are read at a time; each is read whole into memory.
pub const HISTORIES_MAX: usize = 2;

/// What can be made of documents' histories. Documents are given by their keys.
pub trait Histories: Send + Sync {
    fn blame(&self, key: &str) -> Result<Blame, DocumentRefusal>;
    /// `id` is that of the edit it will be. `None`: it would change nothing.
    fn rollback(&self, key: &str, undone: &Undone, id: &str) -> Result<Option<Made>, DocumentRefusal>;
    /// The first edit of `to`: the document as it is, or was at a time or a record's place.
    fn branch(&self, key: &str, to: &str, at: Option<&str>) -> Result<Made, DocumentRefusal>;
    /// `None`: it would change nothing.
    fn merge(&self, key: &str, from: &str) -> Result<Option<Made>, DocumentRefusal>;
}

/// Who wrote what of a document's texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    /// Of the document's last edit.
    pub seq: i64,
    pub ranges: Vec<BlamedRange>,
}

/// A part of a text that came by one edit; UTF-16 code units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlamedRange {
    pub root: String,
    pub from: u32,
    pub to: u32,
    pub text: String,
    pub actor: String,
    pub time: i64,
    pub seq: i64,
    /// PARTITION:OFFSET of the edit in `document.edits`.
    pub position: String,
}

/// Edits that are to be undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// Those of somebody, made at that time or later.
    Actor { actor: String, since_ms: Option<i64> },
    /// By their numbers, both included.
    Range { from_seq: i64, to_seq: i64 },
}

/// What an edit is to carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub update: Vec<u8>,
    pub purpose: &'static str,
    pub source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackBody {
    actor: Option<String>,
    since: Option<String>,
    from_seq: Option<i64>,
    to_seq: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BranchBody {
    to: String,
    at: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MergeBody {
    from: String,
}

pub(super) async fn blame(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Denied> {
    gateway.require(&caller, &id, Action::Read)?;
    let key = document_key(&caller.identity.tenant, &id);
    let Blame { seq, ranges } = gateway.ask(move |histories| histories.blame(&key)).await?;
    Ok(axum::Json(json!({"id": id, "seq": seq, "ranges": ranges})).into_response())
}

pub(super) async fn rollback(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Denied> {
    gateway.require(&caller, &id, Action::Administer)?;
    let undone = undone(gateway.body(body).await?)?;
    let (key, edit) = (document_key(&caller.identity.tenant, &id), gateway.edit_id());
    let known_as = edit.clone();
    let made = gateway.ask(move |histories| histories.rollback(&key, &undone, &known_as)).await?;
    gateway.write_made(&caller, id, edit, made).await
}

pub(super) async fn branch(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Denied> {
    gateway.require(&caller, &id, Action::Read)?;
    let BranchBody { to, at } = gateway.body(body).await?;
    gateway.require(&caller, &to, Action::Administer)?;
    let tenant = &caller.identity.tenant;
    let (key, new) = (document_key(tenant, &id), document_key(tenant, &to));
    let made = gateway.ask(move |histories| histories.branch(&key, &new, at.as_deref())).await?;
    let edit = gateway.edit_id();
    gateway.write_made(&caller, to, edit, Some(made)).await
}

pub(super) async fn merge(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Denied> {
    gateway.require(&caller, &id, Action::Administer)?;
    let MergeBody { from } = gateway.body(body).await?;
    gateway.require(&caller, &from, Action::Read)?;
    let tenant = &caller.identity.tenant;
    let (key, from) = (document_key(tenant, &id), document_key(tenant, &from));
    let made = gateway.ask(move |histories| histories.merge(&key, &from)).await?;
    let edit = gateway.edit_id();
    gateway.write_made(&caller, id, edit, made).await
}

fn undone(body: RollbackBody) -> Result<Undone, Denied> {
    let wrong = |message: &str| Denied::new(StatusCode::BAD_REQUEST, message);
    match body {
        RollbackBody { actor: Some(actor), since, from_seq: None, to_seq: None } if !actor.is_empty() => {
            let time = since.map(|since| since.parse::<jiff::Timestamp>()).transpose();
            let time = time.map_err(|_| wrong("since is a time such as 2026-01-31T12:00:00Z"))?;
            Ok(Undone::Actor { actor, since_ms: time.map(jiff::Timestamp::as_millisecond) })
        }
        RollbackBody { actor: None, since: None, from_seq: Some(from_seq), to_seq: Some(to_seq) }
            if 1 <= from_seq && from_seq <= to_seq =>
        {
            Ok(Undone::Range { from_seq, to_seq })
        }
        _ => Err(wrong("give an actor, and since when if you like, or from_seq and to_seq, of which the first is 1")),
    }
}

impl Gateway {
    async fn body<B: DeserializeOwned>(&self, body: Body) -> Result<B, Denied> {
        let body = read(body, BODY_BYTES_MAX.min(self.limits.body_bytes_max as usize)).await?;
        let wrong = |message: String| Denied::new(StatusCode::BAD_REQUEST, message);
        let depth_max = self.limits.json_depth_max as usize;
        if !depth_within(&body, depth_max) {
            return Err(wrong(format!("JSON is nested more than {depth_max} deep")));
        }
        serde_json::from_slice(&body).map_err(|error| wrong(format!("the body is not what is wanted: {error}")))
    }

    /// Asks for something of a history, where that may block; few at a time.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Histories) -> Result<T, DocumentRefusal> + Send + 'static,
    ) -> Result<T, Denied> {
        let histories = Arc::clone(&self.histories);
        Ok(in_turn(&self.reading_histories, move || question(&*histories)).await??)
    }

    fn edit_id(&self) -> String {
        format!("gateway-{}", self.session_name())
    }

    /// Writes an edit of a document, and answers once it is in the log.
    async fn write_made(
        &self,
        caller: &Caller,
        document: String,
        id: String,
        made: Option<Made>,
    ) -> Result<Response, Denied> {
        let Some(Made { update, purpose, source }) = made else {
            return Ok(axum::Json(json!({"id": document, "changed": false})).into_response());
        };
        let key = document_key(&caller.identity.tenant, &document);
        let bytes = update.len();
        let edit = Edit {
            id: id.clone(),
            time: self.clock.now_ms(),
            document: key.clone(),
            actor: caller.identity.actor.clone(),
            session: String::new(),
            update,
            source,
            purpose: purpose.to_owned(),
        };
        let partitions = self.partitions.get(DOCUMENT_EDITS).copied().unwrap_or(1).max(1);
        let outgoing = Outgoing {
            topic: DOCUMENT_EDITS.into(),
            partition: partition_for(key.as_bytes(), partitions),
            value: self.encoders.edit(&edit),
            headers: self.headers(Edit::NAME, &id, &caller.identity),
            key: key.into_bytes(),
            fate: Fate::Drop,
        };
        let unknown = "the log does not answer: it is not known whether the edit was written";
        let delivered = timeout(WRITE_MAX, self.deliver(vec![outgoing])).await;
        delivered.map_err(|_| Denied::unavailable(unknown))?.map_err(Denied::unavailable)?;
        let answer = json!({"id": document, "changed": true, "edit": id, "bytes": bytes});
        Ok(axum::Json(answer).into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_undone_is_somebodys_or_a_range() {
        let read = |text: &str| undone(serde_json::from_str(text).expect("a body")).ok();
        let ada = |since_ms| Some(Undone::Actor { actor: "ada".to_owned(), since_ms });
        for (body, expected) in [
            (r#"{"actor":"ada"}"#, ada(None)),
            (r#"{"actor":"ada","since":"1970-01-01T00:00:01Z"}"#, ada(Some(1_000))),
            (r#"{"actor":"ada","since":"yesterday"}"#, None),
            (r#"{"actor":""}"#, None),
            (r#"{"since":"1970-01-01T00:00:01Z"}"#, None),
            (r#"{"from_seq":1,"to_seq":1}"#, Some(Undone::Range { from_seq: 1, to_seq: 1 })),
            (r#"{"from_seq":0,"to_seq":1}"#, None),
            (r#"{"from_seq":2,"to_seq":1}"#, None),
            (r#"{"from_seq":2}"#, None),
            (r#"{"actor":"ada","from_seq":1,"to_seq":1}"#, None),
            ("{}", None),
        ] {
            assert_eq!(read(body), expected, "{body}");
        }
        assert!(serde_json::from_str::<RollbackBody>(r#"{"actor":"ada","until":1}"#).is_err());
    }
}
