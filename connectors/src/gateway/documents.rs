//! `/v1/documents/{id}`: for an editor, the document itself (WebSocket); for a program, what it shows, now or at a moment of
//! its past.

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engram_schemas::document::{DocumentState, document_key};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Gateway;
use super::auth::Action;
use super::caller::{Caller, Denied};
use super::session;

/// Longest id of a document, bytes.
pub(crate) const ID_BYTES_MAX: usize = 512;
/// A connection reads into so much; what is larger comes in parts.
const READ_BYTES: usize = 4 << 10;

/// A document by its key, as it is (`None`) or was at a time or a record's place.
pub type DocumentAt = Arc<dyn Fn(&str, Option<&str>) -> Result<DocumentState, DocumentRefusal> + Send + Sync>;

/// Why a document is not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentRefusal {
    /// There is none, or was none at that moment.
    NotFound(String),
    /// What was asked for cannot be.
    Wrong(String),
    /// It does not go with what there is.
    Conflict(String),
    /// It is more than is taken at a time.
    TooLarge(String),
    /// Not at present.
    Unavailable(String),
}

impl From<DocumentRefusal> for Denied {
    fn from(refusal: DocumentRefusal) -> Self {
        match refusal {
            DocumentRefusal::NotFound(message) => Self::new(StatusCode::NOT_FOUND, message),
            DocumentRefusal::Wrong(message) => Self::new(StatusCode::BAD_REQUEST, message),
            DocumentRefusal::Conflict(message) => Self::new(StatusCode::CONFLICT, message),
            DocumentRefusal::TooLarge(message) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, message),
            DocumentRefusal::Unavailable(message) => Self::unavailable(message),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Parameters {
    at: Option<String>,
}

pub(super) async fn document(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(id): Path<String>,
    Query(Parameters { at }): Query<Parameters>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Denied> {
    gateway.require(&caller, &id, Action::Read)?;
    match upgrade {
        Ok(upgrade) => connect(gateway, caller, id, upgrade).await,
        Err(_) if headers.get(header::UPGRADE).is_some() => {
            Err(Denied::new(StatusCode::UPGRADE_REQUIRED, "this is no upgrade to a WebSocket of version 13"))
        }
        Err(_) => show(gateway, &caller, id, at).await,
    }
}

pub(super) fn check_id(id: &str) -> Result<(), Denied> {
    if id.is_empty() || id.len() > ID_BYTES_MAX || id.chars().any(char::is_control) {
        let message = "a document's id has 1 to 512 bytes and no control characters";
        return Err(Denied::new(StatusCode::BAD_REQUEST, message));
    }
    Ok(())
}

/// INVARIANT: whatever can be refused is refused here, by a status. After the upgrade an editor would try again and again.
async fn connect(
    gateway: Arc<Gateway>,
    caller: Caller,
    id: String,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Denied> {
    let who = (!gateway.is_open()).then_some(&caller.identity);
    let counted = gateway.connections.open(who, caller.address.ip());
    let counted = counted.map_err(|refusal| gateway.refuse_caller(&refusal, &caller))?;
    let key = document_key(&caller.identity.tenant, &id);
    if let Err(reason) = gateway.rooms.open(&key).await {
        tracing::warn!(key, reason, "a document cannot be opened");
        return Err(Denied::unavailable("the document cannot be opened at present: try again"));
    }
    let message_bytes_max = gateway.limits.message_bytes_max as usize;
    let mut upgrade = upgrade
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_message_size(message_bytes_max)
        .max_frame_size(message_bytes_max);
    if let Some(subprotocol) = caller.subprotocol {
        upgrade.set_selected_protocol(HeaderValue::from_static(subprotocol));
    }
    let identity = caller.identity;
    Ok(upgrade.on_upgrade(move |socket| session::run(gateway, socket, identity, id, counted)))
}

async fn show(gateway: Arc<Gateway>, caller: &Caller, id: String, at: Option<String>) -> Result<Response, Denied> {
    let key = document_key(&caller.identity.tenant, &id);
    let document_at = Arc::clone(&gateway.document_at);
    let state = tokio::task::spawn_blocking(move || document_at(&key, at.as_deref())).await;
    match state {
        Ok(Ok(state)) => {
            let roots: Map<String, Value> = serde_json::from_str(&state.roots).unwrap_or_default();
            let position = format!("{}:{}", state.partition, state.offset);
            Ok(axum::Json(json!({
                "id": id, "position": position, "seq": state.seq, "time": state.time, "hash": state.hash, "roots": roots
            }))
            .into_response())
        }
        Ok(Err(refusal)) => Err(refusal.into()),
        Err(_) => Err(Denied::unavailable("the server is stopping")),
    }
}
