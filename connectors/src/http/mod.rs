//! The HTTP interface of a running Engram: the schema registry (Confluent's REST API), metrics, health, what the services
//! are doing, and, for the embedded log, the way in which other commands write while this process owns it.
//!
//! The log and the registry block, so every request that reaches them runs on tokio's blocking threads; at most
//! `REQUESTS_MAX` at a time.

mod registry;
mod serve;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_schemas::document::DocumentState;
use engram_schemas::registry::Registry;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::gateway::{self, Gateway};

/// Where commands send what they write, in the embedded log's own encoding. Not for other programs: it wants the token
/// that only those can read who may read the data folder, in a header that no web page can send unasked.
pub const LOG_PATH: &str = "/internal/log";
pub const TOKEN_HEADER: &str = "x-engram-token";
/// In which the processes of one installation show each other their secret, where callers have to prove who they are.
pub const SECRET_HEADER: &str = "x-engram-secret";
/// Where `engram snapshot create` asks for snapshots of a service: its name is the body. With the same token.
pub const SNAPSHOT_PATH: &str = "/internal/snapshots";
/// A document of this process's own tasks, by its key: what the gateway of another process asks for.
pub const DOCUMENT_PATH: &str = "/internal/document";
/// What the services of this process are doing, as JSON.
pub const SERVICES_PATH: &str = "/v1/services";

/// The stores of the services that run here and elsewhere: `/v1/stores/SERVICE/STORE?key=..&limit=..`.
pub const STORES_PATH: &str = "/v1/stores";
/// Entries of an answer, unless asked for another number.
const LIMIT: usize = 100;

/// Requests that may be at work at a time; others wait.
const REQUESTS_MAX: usize = 32;
/// Requests to the log whose bodies may be in memory at a time.
const BODIES_MAX: usize = 2;
/// Largest request: a transaction of the embedded log, with its bound and some room.
const BODY_BYTES_MAX: usize = 320 << 20;

/// What is asked of a store.
#[derive(Debug, Clone)]
pub struct StoreQuery {
    pub service: String,
    pub store: String,
    /// The key as JSON, or the text of one of its fields; all entries without it.
    pub key: Option<String>,
    pub limit: usize,
    /// Of this process's own tasks only: asked by another process, which asks all of them.
    pub local: bool,
}

#[derive(Deserialize)]
struct StoreParameters {
    key: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    local: bool,
}

/// Why a store's entries cannot be told.
pub enum StoreRefusal {
    /// There is no such service or store.
    NotFound(String),
    /// Some partition has no owner that answers, at present.
    Unavailable(String),
}

pub type AnswerStores = Arc<dyn Fn(&StoreQuery) -> Result<Value, StoreRefusal> + Send + Sync>;

/// Takes snapshots of the named service's tasks and says what was taken, or why not.
pub type TakeSnapshots = Arc<dyn Fn(&str) -> Result<Value, String> + Send + Sync>;

/// What the server serves.
#[derive(Clone)]
pub struct Served {
    pub registry: Arc<dyn Registry>,
    /// The embedded log, if this process owns it.
    pub log: Option<Arc<EmbeddedLog>>,
    /// What `LOG_PATH` and `SNAPSHOT_PATH` want.
    pub token: String,
    /// Metrics in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The services, as `SERVICES_PATH` shows them.
    pub services: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Entries of stores, for `STORES_PATH`.
    pub stores: AnswerStores,
    /// Takes snapshots of a service's tasks, as `SNAPSHOT_PATH` answers it.
    pub snapshot: TakeSnapshots,
    /// Whether all services are at work.
    pub healthy: Arc<dyn Fn() -> bool + Send + Sync>,
    /// A document of this process's own tasks, for the gateways of others.
    pub document: LoadDocument,
    pub peers: Peers,
}

/// Which other processes may ask this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// All that reach it.
    Anybody,
    /// Those that know the secret.
    WithSecret(String),
    Nobody,
}

impl Peers {
    fn admit(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Anybody => true,
            Self::WithSecret(secret) => {
                headers.get(SECRET_HEADER).is_some_and(|shown| shown.as_bytes() == secret.as_bytes())
            }
            Self::Nobody => false,
        }
    }
}

/// Loads a document by its key, if its task is here; `None` inside if it has no edit yet.
pub type LoadDocument = Arc<dyn Fn(&str) -> Result<Option<DocumentState>, String> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct App {
    served: Served,
    requests: Arc<Semaphore>,
    /// Those of other processes. Apart, so that two processes that ask one another never wait for each other.
    of_others: Arc<Semaphore>,
    /// Those whose large bodies are in memory.
    bodies: Arc<Semaphore>,
}

impl App {
    /// Runs what blocks on a thread where it may.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Served) -> T + Send + 'static,
    ) -> Result<T, Response> {
        self.blocking_within(&self.requests, work).await
    }

    async fn blocking_within<T: Send + 'static>(
        &self,
        requests: &Semaphore,
        work: impl FnOnce(&Served) -> T + Send + 'static,
    ) -> Result<T, Response> {
        let unavailable = || (StatusCode::SERVICE_UNAVAILABLE, "the server is stopping").into_response();
        let _permit = requests.acquire().await.map_err(|_| unavailable())?;
        let served = self.served.clone();
        tokio::task::spawn_blocking(move || work(&served)).await.map_err(|_| unavailable())
    }
}

/// A server that is running.
pub struct Server {
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Takes no more requests, and waits for those at work.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

/// An address that is listened on, before anything is served there.
pub struct Bound {
    listener: TcpListener,
    pub address: SocketAddr,
}

/// Listens on `address`; port 0 takes a free one.
///
/// Errors: the address is in use or not this machine's.
pub async fn bind(address: SocketAddr) -> std::io::Result<Bound> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok(Bound { listener, address })
}

/// Starts serving, the gateway too where there is one.
pub fn serve(bound: Bound, served: Served, gateway: Option<Arc<Gateway>>) -> Server {
    let Bound { listener, address } = bound;
    let app = App {
        served,
        requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
        of_others: Arc::new(Semaphore::new(REQUESTS_MAX)),
        bodies: Arc::new(Semaphore::new(BODIES_MAX)),
    };
    let mut router = router(app);
    if let Some(gateway) = gateway {
        router = router.merge(gateway::routes(gateway));
    }
    let (stop, stopped) = watch::channel(false);
    #[expect(clippy::disallowed_methods, reason = "the one task of the server, ended by its handle")]
    let task = tokio::spawn(serve::serve(listener, router, stopped));
    Server { address, stop, task }
}

fn router(app: App) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .route(SERVICES_PATH, get(services))
        .route("/v1/stores/{service}/{store}", get(stores).layer(from_fn_with_state(app.clone(), admit_process)))
        .route(
            LOG_PATH,
            post(log).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).layer(from_fn_with_state(app.clone(), admit)),
        )
        .route(DOCUMENT_PATH, get(document).layer(from_fn_with_state(app.clone(), admit_process)))
        .route(SNAPSHOT_PATH, post(snapshot).layer(from_fn_with_state(app.clone(), admit)))
        .merge(registry::routes())
        .fallback(async || {
            (StatusCode::NOT_FOUND, axum::Json(json!({"error_code": 404, "message": "HTTP 404 Not Found"})))
        })
        .with_state(app)
}

async fn health(State(app): State<App>) -> Response {
    if (app.served.healthy)() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "a service is not getting on; see /v1/services\n").into_response()
    }
}

async fn metrics(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], (app.served.metrics)()).into_response()
}

async fn services(State(app): State<App>) -> Response {
    axum::Json((app.served.services)()).into_response()
}

async fn stores(
    State(app): State<App>,
    Path((service, store)): Path<(String, String)>,
    Query(asked): Query<StoreParameters>,
) -> Response {
    let StoreParameters { key, limit, local } = asked;
    let query = StoreQuery { service, store, key, limit: limit.unwrap_or(LIMIT), local };
    let requests = if local { &app.of_others } else { &app.requests };
    let refusal = |status: StatusCode, message: String| {
        (status, axum::Json(json!({"error_code": status.as_u16(), "message": message}))).into_response()
    };
    match app.blocking_within(requests, move |served| (served.stores)(&query)).await {
        Ok(Ok(answer)) => axum::Json(answer).into_response(),
        Ok(Err(StoreRefusal::NotFound(message))) => refusal(StatusCode::NOT_FOUND, message),
        Ok(Err(StoreRefusal::Unavailable(message))) => refusal(StatusCode::SERVICE_UNAVAILABLE, message),
        Err(response) => response,
    }
}

/// Lets few requests at a time in, and only those with the token, before their bodies are read.
async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    let token = request.headers().get(TOKEN_HEADER);
    if token.is_none_or(|token| token.as_bytes() != app.served.token.as_bytes()) {
        return (StatusCode::FORBIDDEN, "not for other programs\n").into_response();
    }
    let Ok(_permit) = app.bodies.acquire().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the server is stopping\n").into_response();
    };
    next.run(request).await
}

/// Lets in what may be told to another process, and not to everybody.
async fn admit_process(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.served.peers.admit(request.headers()) {
        return next.run(request).await;
    }
    let message = "for other processes of this installation: give all of them the same http.secret_file";
    (StatusCode::FORBIDDEN, axum::Json(json!({"error_code": 403, "message": message}))).into_response()
}

#[derive(Deserialize)]
struct DocumentParameters {
    key: String,
}

async fn document(State(app): State<App>, Query(DocumentParameters { key }): Query<DocumentParameters>) -> Response {
    match app.blocking_within(&app.of_others, move |served| (served.document)(&key)).await {
        Ok(Ok(state)) => axum::Json(state).into_response(),
        Ok(Err(reason)) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
        Err(response) => response,
    }
}

async fn log(State(app): State<App>, body: Bytes) -> Response {
    let answer = app.blocking(move |served| served.log.as_ref().map(|log| log.serve(&body))).await;
    match answer {
        Ok(Some(answer)) => ([(header::CONTENT_TYPE, "application/octet-stream")], answer).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, "this process does not own an embedded log\n").into_response(),
        Err(response) => response,
    }
}

async fn snapshot(State(app): State<App>, service: String) -> Response {
    match app.blocking(move |served| (served.snapshot)(&service)).await {
        Ok(Ok(taken)) => axum::Json(taken).into_response(),
        Ok(Err(reason)) => (StatusCode::CONFLICT, reason).into_response(),
        Err(response) => response,
    }
}
