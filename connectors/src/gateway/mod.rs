//! The gateway: how people and programs take part over the network.
//!
//! ```text
//! editors   WebSocket, y-websocket's protocol --> session <-> room <--------- tail <-- document.sequenced, .rejects
//!                                                    `--> writer (--> spool) --> document.edits, presence.events
//! programs  HTTP: produce, documents and their history, memories, relations, sessions, a stream of any topic; openapi.json
//! ```
//!
//! `auth` says who a caller is and what they may do, `limits` how much of it.
//!
//! INVARIANT: log first. The gateway decides nothing about a document: what an editor sends is written to the log, and what
//! others are told is what came out of it.

pub mod auth;
pub mod limits;

mod awareness;
mod caller;
mod copy;
mod documents;
mod history;
mod openapi;
mod outbox;
mod produce;
mod reads;
mod room;
mod rooms;
mod session;
mod spool;
mod stream;
mod tail;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::{MethodRouter, get, post};
use engram_pipeline::clock::Clock;
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{Log, partitions_of};
use engram_schemas::Event;
use engram_schemas::codec::Encoder;
use engram_schemas::document::Edit;
use engram_schemas::presence::{SessionLeft, SessionSeen};
use engram_schemas::registry::Registry;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::http::AnswerStores;
use auth::{AuthError, Authenticator, Identity, RefusalLog};
use limits::{Connections, Limits, RateLimits};
use rooms::Rooms;
use spool::Spool;
use tail::Tail;
use writer::{Change, Fate, Outgoing, Writer};

pub(crate) use documents::ID_BYTES_MAX as DOCUMENT_ID_BYTES_MAX;
pub use documents::{DocumentAt, DocumentRefusal};
pub use history::{Blame, BlamedRange, Histories, Made, Undone};
pub use openapi::OPENAPI;
pub use rooms::Load;

pub const DOCUMENT_EDITS: &str = "document.edits";
pub const PRESENCE_EVENTS: &str = "presence.events";

/// Streams of topics at a time.
const STREAMS_MAX: usize = 64;

/// What a gateway is made from.
pub struct Options {
    pub log: Arc<dyn Log>,
    pub registry: Arc<dyn Registry>,
    pub clock: Clock,
    pub auth: auth::Config,
    pub limits: Limits,
    /// The file for edits while the log cannot be reached.
    pub spool: PathBuf,
    /// A document as it is, from wherever its task is.
    pub load: Load,
    /// A document as it is or was.
    pub document_at: DocumentAt,
    pub histories: Arc<dyn Histories>,
    /// Entries of the services' stores.
    pub stores: AnswerStores,
}

/// Why a gateway cannot run.
#[derive(Debug, Error)]
pub enum GatewayError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("the gateway cannot use the log")]
    Log(#[from] engram_pipeline::log::LogError),
    #[error("the gateway cannot register its schemas")]
    Registry(#[from] engram_schemas::registry::RegistryError),
    #[error("the gateway cannot open its spool {path}")]
    Spool { path: PathBuf, source: std::io::Error },
    #[error("the gateway cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// A gateway that is running.
pub struct Gateway {
    authenticator: Authenticator,
    limits: Limits,
    rates: RateLimits,
    connections: Connections,
    refusals: RefusalLog,
    clock: Clock,
    log: Arc<dyn Log>,
    registry: Arc<dyn Registry>,
    rooms: Arc<Rooms>,
    document_at: DocumentAt,
    histories: Arc<dyn Histories>,
    stores: AnswerStores,
    /// Permits for what takes long. They go with the work, and not with a client that may go before it.
    reading_histories: Arc<tokio::sync::Semaphore>,
    reading_stores: Arc<tokio::sync::Semaphore>,
    encoders: Encoders,
    queue: mpsc::Sender<Outgoing>,
    /// Of the topics that it writes and reads.
    partitions: BTreeMap<String, i32>,
    next_connection: AtomicU64,
    streams: Arc<tokio::sync::Semaphore>,
    stopping: watch::Sender<bool>,
    produced: produce::Produced,
}

/// Its threads.
pub struct Threads {
    writer: Writer,
    tail: Tail,
}

/// Events as bytes.
struct Encoders {
    edits: Encoder<Edit>,
    seen: Encoder<SessionSeen>,
    left: Encoder<SessionLeft>,
}

impl Encoders {
    fn edit(&self, edit: &Edit) -> Vec<u8> {
        encode(&self.edits, edit)
    }

    fn seen(&self, seen: &SessionSeen) -> Vec<u8> {
        encode(&self.seen, seen)
    }

    fn left(&self, left: &SessionLeft) -> Vec<u8> {
        encode(&self.left, left)
    }
}

fn encode<E: Event>(encoder: &Encoder<E>, event: &E) -> Vec<u8> {
    let mut value = Vec::new();
    encoder.encode(event, &mut value).expect("the gateway's own events are whole");
    value
}

impl Gateway {
    /// Starts the gateway's threads. The topics must be there.
    pub fn start(options: Options, runtime: Handle) -> Result<(Arc<Self>, Threads), GatewayError> {
        let Options { log, registry, clock, auth, limits, spool, load, document_at, histories, stores } = options;
        let authenticator = Authenticator::new(&auth, clock.clone())?;
        let rooms = Rooms::new(load, runtime);
        let tail = Tail::start(Arc::clone(&log), Arc::clone(&registry), Arc::clone(&rooms))?;
        let spool = Spool::open(&spool, u64::from(limits.spool_bytes_max))
            .map_err(|source| GatewayError::Spool { path: spool, source })?;
        let told = Arc::clone(&rooms);
        let on_change = Arc::new(move |change| tell(&told, change));
        let writer = Writer::start(Arc::clone(&log), spool, on_change).map_err(GatewayError::Thread)?;
        let topics = log.topics()?;
        let gateway = Self {
            encoders: Encoders {
                edits: Encoder::register(&*registry, DOCUMENT_EDITS)?,
                seen: Encoder::register(&*registry, PRESENCE_EVENTS)?,
                left: Encoder::register(&*registry, PRESENCE_EVENTS)?,
            },
            rates: RateLimits::new(&limits, clock.clone()),
            connections: Connections::new(&limits),
            refusals: RefusalLog::new(clock.clone()),
            partitions: [DOCUMENT_EDITS, PRESENCE_EVENTS]
                .map(|name| (name.to_owned(), partitions_of(&topics, name)))
                .into(),
            queue: writer.queue(),
            next_connection: AtomicU64::new(1),
            streams: Arc::new(tokio::sync::Semaphore::new(STREAMS_MAX)),
            stopping: watch::Sender::new(false),
            produced: produce::Produced::default(),
            authenticator,
            limits,
            clock,
            log,
            registry,
            rooms,
            document_at,
            histories,
            stores,
            reading_histories: Arc::new(tokio::sync::Semaphore::new(history::HISTORIES_MAX)),
            reading_stores: Arc::new(tokio::sync::Semaphore::new(reads::QUESTIONS_MAX)),
        };
        Ok((Arc::new(gateway), Threads { writer, tail }))
    }

    /// Nobody is asked who they are.
    pub fn is_open(&self) -> bool {
        self.authenticator.is_open()
    }

    /// Ends all sessions and streams.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    fn next_connection(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// A name that no other session has.
    fn session_name(&self) -> String {
        format!("{:032x}", rand::random::<u128>())
    }

    /// Puts a record into the writer's queue, and waits while that is full.
    async fn write(&self, kind: &str, key: &str, id: &str, value: Vec<u8>, who: &Identity, fate: Fate) {
        let topic = if kind == Edit::NAME { DOCUMENT_EDITS } else { PRESENCE_EVENTS };
        let partitions = self.partitions.get(topic).copied().unwrap_or(1).max(1);
        let outgoing = Outgoing {
            topic: topic.into(),
            partition: partition_for(key.as_bytes(), partitions),
            key: key.as_bytes().to_vec(),
            value,
            headers: self.headers(kind, id, who),
            fate,
        };
        if self.queue.send(outgoing).await.is_err() {
            tracing::error!(topic, "the gateway's writer has ended");
        }
    }

    /// CloudEvents' Kafka binding, and who it was.
    fn headers(&self, kind: &str, id: &str, who: &Identity) -> Vec<(&'static str, Vec<u8>)> {
        let text = |text: &str| text.as_bytes().to_vec();
        vec![
            ("ce_specversion", text("1.0")),
            ("ce_id", text(id)),
            ("ce_type", text(kind)),
            ("ce_source", text("engram/gateway")),
            ("tenant", text(&who.tenant)),
            ("actor", text(&who.actor)),
        ]
    }
}

impl Threads {
    /// Ends them, once the last session is over and the gateway is dropped.
    pub fn stop(self) {
        self.tail.stop();
        self.writer.stop();
    }
}

/// Tells the editors how their edits fare.
fn tell(rooms: &Rooms, change: Change) {
    match change {
        Change::Unreachable => rooms.tell_everybody(
            "the log cannot be reached: your edits are kept on the gateway's disk and are delivered when it is back",
        ),
        Change::Full => {
            rooms.tell_everybody("the log cannot be reached, and no more edits can be kept: keep your editor open");
        }
        Change::Reachable { lost } => {
            if lost > 0 {
                rooms.ask_all_again();
            }
            rooms.tell_everybody("the log can be reached again: your edits are delivered");
        }
    }
}

/// The paths of the gateway, with their methods and what answers them.
fn paths() -> Vec<(&'static str, &'static str, MethodRouter<Arc<Gateway>>)> {
    vec![
        ("GET", "/v1/documents/{*id}", get(documents::document)),
        ("GET", "/v1/blame/{*id}", get(history::blame)),
        ("POST", "/v1/rollbacks/{*id}", post(history::rollback)),
        ("POST", "/v1/branches/{*id}", post(history::branch)),
        ("POST", "/v1/merges/{*id}", post(history::merge)),
        ("GET", "/v1/sessions/{*id}", get(reads::sessions)),
        ("GET", "/v1/memories/{workspace}", get(reads::memories)),
        ("GET", "/v1/memories/{workspace}/{*memory}", get(reads::memory)),
        ("GET", "/v1/graph/{workspace}", get(reads::graph)),
        ("POST", "/v1/topics/{topic}", post(produce::produce)),
        ("GET", "/v1/topics/{topic}/stream", get(stream::stream)),
        ("GET", "/v1/openapi.json", get(openapi::openapi)),
    ]
}

pub fn routes(gateway: Arc<Gateway>) -> Router {
    let router = paths().into_iter().fold(Router::new(), |router, (_, path, answer)| router.route(path, answer));
    router.with_state(gateway)
}
