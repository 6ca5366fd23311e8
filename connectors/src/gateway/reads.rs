//! `/v1/memories`, `/v1/graph` and `/v1/sessions`: what the collaboration service keeps, for a caller's own tenant.
//!
//! INVARIANT: a question names its workspace or document by a whole key, made with the caller's tenant: no entry of another
//! tenant's matches it.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use engram_schemas::document::document_key;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Gateway;
use super::auth::Action;
use super::caller::{Caller, Denied, in_turn};
use super::documents::check_id;
use crate::http::{StoreQuery, StoreRefusal};

const SERVICE: &str = "collaboration";
/// Entries of an answer, and how many may be asked for.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1_000;
/// Questions to the stores at a time; each goes through a store until it has found enough.
pub const QUESTIONS_MAX: usize = 8;

#[derive(Deserialize)]
pub(super) struct Parameters {
    limit: Option<usize>,
    /// Only relations of this memory.
    node: Option<String>,
}

pub(super) async fn memories(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(workspace): Path<String>,
    Query(Parameters { limit, .. }): Query<Parameters>,
) -> Result<Response, Denied> {
    let key = gateway.workspace(&caller, &workspace)?;
    let (entries, more) = gateway.entries("memories", json!({"workspace": key}), bounded(limit)?).await?;
    if entries.is_empty() {
        return Err(Denied::new(StatusCode::NOT_FOUND, "there is no such workspace, or no memory in it"));
    }
    let memories: Vec<Value> = entries.into_iter().map(|(key, memory)| with("memory", &key, memory)).collect();
    Ok(axum::Json(json!({"workspace": workspace, "memories": memories, "more": more})).into_response())
}

pub(super) async fn memory(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path((workspace, memory)): Path<(String, String)>,
) -> Result<Response, Denied> {
    let key = gateway.workspace(&caller, &workspace)?;
    let (entries, _) = gateway.entries("memories", json!({"workspace": key, "memory": memory}), 1).await?;
    let found = entries.into_iter().next();
    let (key, value) = found.ok_or_else(|| Denied::new(StatusCode::NOT_FOUND, "there is no such memory"))?;
    let mut shown = with("memory", &key, value);
    shown["workspace"] = workspace.into();
    Ok(axum::Json(shown).into_response())
}

pub(super) async fn graph(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(workspace): Path<String>,
    Query(Parameters { limit, node }): Query<Parameters>,
) -> Result<Response, Denied> {
    let key = gateway.workspace(&caller, &workspace)?;
    let limit = bounded(limit)?;
    let questions = match node {
        None => vec![json!({"workspace": key})],
        Some(node) => vec![json!({"workspace": key, "from": node}), json!({"workspace": key, "to": node})],
    };
    let (mut found, mut more) = (Vec::new(), false);
    for question in questions {
        let (entries, rest) = gateway.entries("relations", question, limit).await?;
        more |= rest;
        // One that goes from a node to itself is found twice.
        let fresh: Vec<_> =
            entries.into_iter().filter(|(key, _)| !found.iter().any(|(known, _)| known == key)).collect();
        found.extend(fresh);
    }
    if found.is_empty() {
        return Err(Denied::new(StatusCode::NOT_FOUND, "there is no such workspace or node, or no relation of it"));
    }
    more |= found.len() > limit;
    found.truncate(limit);
    let relations: Vec<Value> = found
        .into_iter()
        .map(|(key, relation)| {
            ["to", "type", "from"].iter().fold(relation, |relation, field| with(field, &key, relation))
        })
        .collect();
    Ok(axum::Json(json!({"workspace": workspace, "relations": relations, "more": more})).into_response())
}

pub(super) async fn sessions(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
    Query(Parameters { limit, .. }): Query<Parameters>,
) -> Result<Response, Denied> {
    gateway.require(&caller, &id, Action::Read)?;
    let key = document_key(&caller.identity.tenant, &id);
    let (entries, more) = gateway.entries("presence", json!([key]), bounded(limit)?).await?;
    let sessions: Vec<Value> = entries
        .into_iter()
        .map(|(_, session)| {
            let state = session["state"].as_str().and_then(|state| serde_json::from_str::<Value>(state).ok());
            json!({
                "session": session["session"], "actor": session["actor"], "role": session["role"],
                "joined": session["joined"], "seen": session["seen"], "state": state.unwrap_or_default()
            })
        })
        .collect();
    Ok(axum::Json(json!({"id": id, "sessions": sessions, "more": more})).into_response())
}

fn bounded(limit: Option<usize>) -> Result<usize, Denied> {
    match limit.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(Denied::new(StatusCode::BAD_REQUEST, format!("limit is 1 to {LIMIT_MAX}"))),
    }
}

/// An entry with a field of its key before its own.
fn with(field: &str, key: &Value, entry: Value) -> Value {
    let mut shown = json!({field: key[field]});
    if let (Value::Object(shown), Value::Object(entry)) = (&mut shown, entry) {
        shown.extend(entry);
    }
    shown
}

impl Gateway {
    /// A workspace's key, for who may read in its tenant.
    fn workspace(&self, caller: &Caller, workspace: &str) -> Result<String, Denied> {
        check_id(workspace)?;
        self.require_in_tenant(caller, Action::Read)?;
        Ok(document_key(&caller.identity.tenant, workspace))
    }

    /// Entries whose keys have these fields: key and value as they are shown, and whether there may be more.
    async fn entries(&self, store: &str, key: Value, limit: usize) -> Result<(Vec<(Value, Value)>, bool), Denied> {
        let has = move |found: &Value, wanted: &Value| match wanted {
            Value::Object(fields) => fields.iter().all(|(name, field)| found[name] == *field),
            wanted => found[0] == wanted[0],
        };
        let query = StoreQuery {
            service: SERVICE.to_owned(),
            store: store.to_owned(),
            key: Some(key.to_string()),
            limit,
            local: false,
        };
        let stores = Arc::clone(&self.stores);
        let answer = in_turn(&self.reading_stores, move || stores(&query)).await?;
        let mut answer = answer.map_err(|refusal| {
            let (StoreRefusal::NotFound(reason) | StoreRefusal::Unavailable(reason)) = refusal;
            tracing::warn!(reason, store, "a store cannot be read");
            Denied::unavailable("this cannot be told at present: try again")
        })?;
        let more = answer["more"] == true;
        let entries = answer["entries"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let entries = entries.into_iter().map(|mut entry| (entry["key"].take(), entry["value"].take()));
        // Said again here, as it keeps tenants apart.
        Ok((entries.filter(|(found, _)| has(found, &key)).collect(), more))
    }
}
