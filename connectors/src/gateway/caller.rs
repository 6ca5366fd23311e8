//! From a request to who sends it, and the answers to those who may not.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::Gateway;
use super::auth::{Action, Identity, Refusal, presented};
use super::documents::check_id;

/// Who sends a request.
pub struct Caller {
    pub identity: Identity,
    pub address: SocketAddr,
    /// What the answer to a WebSocket's upgrade has to select.
    pub subprotocol: Option<&'static str>,
}

/// An answer to who is turned away, or has asked for what cannot be: what to do, and nothing internal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    status: StatusCode,
    message: String,
    retry_after_s: Option<u64>,
    /// What is wrong with each of several things.
    errors: Vec<Value>,
}

impl Denied {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after_s: None, errors: Vec::new() }
    }

    /// Later, perhaps.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after_s: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    pub fn with_errors(self, errors: Vec<Value>) -> Self {
        Self { errors, ..self }
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let mut body = json!({"error_code": self.status.as_u16(), "message": self.message});
        if !self.errors.is_empty() {
            body["errors"] = self.errors.into();
        }
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// SUBTLE: of a handler's parameters this is the first after the state: nothing else of a request is looked at before.
impl FromRequestParts<Arc<Gateway>> for Caller {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Denied> {
        let ConnectInfo(address) = parts.extensions.get().expect("the server tells who has connected");
        gateway.admit(&parts.headers, &parts.uri, *address)
    }
}

impl Gateway {
    /// Who sends a request, if they may send any. Before anything else of it is looked at.
    fn admit(&self, headers: &HeaderMap, uri: &Uri, address: SocketAddr) -> Result<Caller, Denied> {
        let refuse = |refusal: Refusal| self.refuse(&refusal, None, address);
        self.rates.address(address.ip()).map_err(refuse)?;
        if self.authenticator.is_open() && !is_local(headers) {
            let message = "without authentication only pages and programs of this machine are served";
            return Err(Denied::new(StatusCode::FORBIDDEN, message));
        }
        let presented = presented(headers, uri.query());
        // It may have to fetch keys.
        let identity = tokio::task::block_in_place(|| self.authenticator.authenticate(presented.token.as_deref()));
        let identity = identity.map_err(refuse)?;
        if !self.authenticator.is_open() {
            self.rates.user(&identity).map_err(refuse)?;
        }
        Ok(Caller { identity, address, subprotocol: presented.subprotocol })
    }

    /// That the caller may do this with the document of that id.
    pub(super) fn require(&self, caller: &Caller, id: &str, action: Action) -> Result<(), Denied> {
        check_id(id)?;
        caller.identity.require(id, action).map_err(|refusal| self.refuse_caller(&refusal, caller))
    }

    /// That the caller may do this with all of their tenant.
    pub(super) fn require_in_tenant(&self, caller: &Caller, action: Action) -> Result<(), Denied> {
        caller.identity.require_in_tenant(action).map_err(|refusal| self.refuse_caller(&refusal, caller))
    }

    /// For what everybody may see: only how often they ask is looked at.
    pub(super) fn admit_unknown(&self, address: SocketAddr) -> Result<(), Denied> {
        self.rates.address(address.ip()).map_err(|refusal| self.refuse(&refusal, None, address))
    }

    /// The answer to who is turned away; logged and counted.
    fn refuse(&self, refusal: &Refusal, actor: Option<&str>, address: SocketAddr) -> Denied {
        self.refusals.write(refusal, actor, address.ip());
        let status = StatusCode::from_u16(refusal.status()).expect("a refusal has an HTTP status");
        Denied { retry_after_s: refusal.retry_after_s(), ..Denied::new(status, refusal.to_string()) }
    }

    pub(super) fn refuse_caller(&self, refusal: &Refusal, caller: &Caller) -> Denied {
        self.refuse(refusal, Some(&caller.identity.actor), caller.address)
    }
}

/// Does for a request what may block, when its turn has come.
pub(super) async fn in_turn<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Denied> {
    let stopping = || Denied::unavailable("the server is stopping");
    let turn = Arc::clone(turns).acquire_owned().await.map_err(|_| stopping())?;
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    done.await.map_err(|_| stopping())
}

/// Whether a request comes from this machine's own pages, or from no page at all: a browser says which page it is, and by
/// which name it has found the server.
///
/// SUBTLE: any page in a browser on this machine reaches a loopback address. Without a token nothing else keeps it out.
fn is_local(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    let origin_host = |origin: &str| origin.split_once("://").map(|(_, host)| host.to_owned());
    let is_loopback = |host: &str| {
        let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        matches!(name.map_or(host, |(name, _)| name), "localhost" | "127.0.0.1" | "[::1]")
    };
    text(header::ORIGIN).is_none_or(|origin| origin_host(origin).is_some_and(|host| is_loopback(&host)))
        && text(header::HOST).is_none_or(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_elsewhere_are_told_from_those_of_this_machine() {
        for (name, value, expected) in [
            ("origin", "http://localhost:3000", true),
            ("origin", "http://127.0.0.1", true),
            ("origin", "http://[::1]:80", true),
            ("origin", "https://evil.example", false),
            ("origin", "http://localhost.evil.example", false),
            ("origin", "null", false),
            ("host", "127.0.0.1:8099", true),
            ("host", "rebound.example:8099", false),
            ("accept", "text/html", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(is_local(&headers), expected, "{name}: {value}");
        }
    }
}
