//! One editor's connection, from its upgrade to its end.
//!
//! ```text
//! frame -> messages: step 1    -> what the editor lacks
//!                    step 2,   -> may it edit? is it new? -> the log. It comes back, as to all others, once it is
//!                    update       part of the document: that is its acknowledgement
//!                    awareness -> the room
//! ```
//!
//! INVARIANT: whether somebody may read a document is decided before the upgrade. After it a session ends only by what its
//! editor does, by time, or with the gateway.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket};
use engram_schemas::Event;
use engram_schemas::document::{Edit, document_key};
use engram_schemas::presence::{SessionLeft, SessionSeen};
use engram_schemas::yjs::protocol::{self, Message};
use engram_schemas::yjs::{Outline, Reader};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::Gateway;
use super::auth::{Action, Identity, Refusal};
use super::limits::{Connection, MessageLimits};
use super::outbox::{Outbox, Outgoing, outbox};
use super::room::Room;
use super::writer::Fate;

/// How often it is told that a session is still there, and its connection is looked at.
const BEAT: Duration = Duration::from_secs(30);
/// How long nothing may come from an editor: stock ones show themselves every 15 s, and all answer pings.
const SILENCE_MAX: Duration = Duration::from_secs(75);
/// How long one frame may take to go out.
const SEND_MAX: Duration = Duration::from_secs(20);
/// How long a message may be kept waiting because too many came before it.
const THROTTLE_MAX: Duration = Duration::from_secs(30);
/// Times that an editor tries to get into a document that is being closed.
const JOINS_MAX: usize = 5;

/// Close codes. Stock editors come back after all but those of 4400 to 4499, which are like HTTP's 400 to 499: to send the
/// same again would end the same.
mod code {
    pub const GOING_AWAY: u16 = 1001;
    pub const TRY_AGAIN: u16 = 1013;
    pub const MALFORMED: u16 = 4400;
    pub const EXPIRED: u16 = 4401;
    pub const TOO_LARGE: u16 = 4413;
}

/// Why a session ends.
struct End {
    code: u16,
    /// For the editor.
    text: String,
    /// In `SessionLeft`.
    reason: &'static str,
}

impl End {
    fn new(code: u16, reason: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), reason }
    }
}

/// A session.
pub struct Session {
    gateway: Arc<Gateway>,
    identity: Identity,
    document: String,
    key: String,
    /// Its name in events.
    name: String,
    connection: u64,
    room: Arc<Room>,
    outbox: Outbox,
    edits: u64,
    limits: MessageLimits,
    /// Counted as long as it lasts.
    _counted: Connection,
}

/// Runs a session until it ends.
pub async fn run(
    gateway: Arc<Gateway>,
    mut socket: WebSocket,
    identity: Identity,
    document: String,
    counted: Connection,
) {
    let (outbox, mut outgoing) = outbox();
    let key = document_key(&identity.tenant, &document);
    let (name, connection) = (gateway.session_name(), gateway.next_connection());
    let Some(room) = enter(&gateway, &key, connection, &name, &outbox).await else {
        return close(&mut socket, &End::new(code::TRY_AGAIN, "refused", "the document cannot be opened: try again"))
            .await;
    };
    let limits = MessageLimits::new(&gateway.limits, &gateway.clock);
    let mut session = Session {
        gateway,
        identity,
        document,
        key,
        name,
        connection,
        room,
        outbox,
        edits: 0,
        limits,
        _counted: counted,
    };
    metrics::gauge!("engram_gateway_sessions").increment(1);
    session.seen().await;
    let end = session.serve(&mut socket, &mut outgoing).await;
    session.gateway.rooms.leave(&session.key, &session.room, connection);
    session.left(end.reason).await;
    metrics::gauge!("engram_gateway_sessions").decrement(1);
    tracing::debug!(document = session.key, session = session.name, reason = end.reason, "a session has ended");
    close(&mut socket, &end).await;
}

/// The document's room, with this editor in it.
async fn enter(
    gateway: &Arc<Gateway>,
    key: &str,
    connection: u64,
    session: &str,
    outbox: &Outbox,
) -> Option<Arc<Room>> {
    for _ in 0..JOINS_MAX {
        let room = gateway.rooms.open(key).await.ok()?;
        if gateway.rooms.join(key, &room, connection, session, outbox.clone()) {
            return Some(room);
        }
    }
    None
}

async fn close(socket: &mut WebSocket, end: &End) {
    let frame = CloseFrame { code: end.code, reason: end.text.as_str().into() };
    let _ = timeout(SEND_MAX, socket.send(Frame::Close(Some(frame)))).await;
}

impl Session {
    async fn serve(&mut self, socket: &mut WebSocket, outgoing: &mut Outgoing) -> End {
        let lost = || End::new(code::GOING_AWAY, "lost", "the connection was lost");
        let slow = || End::new(code::TRY_AGAIN, "slow", "updates come faster than you take them: connect again");
        let mut stopping = self.gateway.stopping.subscribe();
        let stopped = async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        tokio::pin!(stopped);
        let expiry = sleep(self.time_left());
        tokio::pin!(expiry);
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.tick().await;
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => {
                    return End::new(code::GOING_AWAY, "stopped", "the gateway stops: connect again");
                }
                () = &mut expiry => {
                    // A long time is waited for in parts.
                    if !self.identity.is_expired(self.gateway.clock.now_ms()) {
                        expiry.as_mut().reset(Instant::now() + self.time_left());
                        continue;
                    }
                    return End::new(code::EXPIRED, "expired", Refusal::expired().to_string());
                }
                _ = beat.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return lost();
                    }
                    self.seen().await;
                    if !sent(socket, Frame::Ping(Bytes::new())).await {
                        return lost();
                    }
                }
                frame = outgoing.next() => {
                    let Some(frame) = frame else { return slow() };
                    if !sent(socket, Frame::Binary(frame)).await {
                        return slow();
                    }
                }
                received = socket.recv() => {
                    heard = Instant::now();
                    match received {
                        Some(Ok(Frame::Binary(bytes))) => {
                            if let Err(end) = self.frame(&bytes).await {
                                return end;
                            }
                        }
                        Some(Ok(Frame::Text(_))) => {
                            return End::new(code::MALFORMED, "refused", "messages are binary, as y-websocket sends them");
                        }
                        Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                        Some(Ok(Frame::Close(_))) => return End::new(code::GOING_AWAY, "closed", ""),
                        Some(Err(error)) if is_too_large(&error) => {
                            let max = self.gateway.limits.message_bytes_max;
                            return End::new(code::TOO_LARGE, "refused", format!("a message has at most {max} bytes"));
                        }
                        Some(Err(error)) => {
                            tracing::debug!(%error, session = self.name, "a connection has failed");
                            return lost();
                        }
                        None => return lost(),
                    }
                }
            }
        }
    }

    /// Until the token expires, but not more than a day.
    fn time_left(&self) -> Duration {
        let left_ms = self.identity.expires_at_ms.map_or(i64::MAX, |end_ms| end_ms - self.gateway.clock.now_ms());
        Duration::from_millis(left_ms.clamp(0, 86_400_000) as u64)
    }

    async fn frame(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.throttle(bytes.len()).await?;
        let malformed =
            |what: &str| End::new(code::MALFORMED, "refused", format!("{what}: update the editor's libraries"));
        let mut reader = Reader::new(bytes);
        loop {
            let message = Message::read(&mut reader).map_err(|_| malformed("this is no message of y-websocket"))?;
            match message {
                None => return Ok(()),
                Some(Message::Step1(state_vector)) => {
                    let lacking =
                        self.room.lacking(state_vector).ok_or_else(|| malformed("this is no state vector"))?;
                    self.outbox.put(protocol::step2(&lacking).into());
                }
                Some(Message::Step2(update)) => self.edit(update, "sync").await?,
                Some(Message::Update(update)) => self.edit(update, "").await?,
                Some(Message::Awareness(update)) => self.awareness(update)?,
                Some(Message::QueryAwareness) => {
                    if let Some(all) = self.room.all_awareness() {
                        self.outbox.put(protocol::awareness(&all).into());
                    }
                }
                // An answer to what we have said: nothing is to be done.
                Some(Message::Authentication) => {}
            }
        }
    }

    /// Lets a message wait that comes too soon after others.
    async fn throttle(&self, bytes: usize) -> Result<(), End> {
        let mut waited = Duration::ZERO;
        while let Err(refusal) = self.limits.check(bytes) {
            let wait = match &refusal {
                Refusal::TooMany { retry_after, .. } => *retry_after,
                _ => Duration::MAX,
            };
            waited = waited.saturating_add(wait);
            if waited > THROTTLE_MAX {
                return Err(End::new(code::TRY_AGAIN, "refused", refusal.to_string()));
            }
            sleep(wait.max(Duration::from_millis(1))).await;
        }
        Ok(())
    }

    async fn edit(&mut self, update: &[u8], purpose: &str) -> Result<(), End> {
        let malformed = |_| End::new(code::MALFORMED, "refused", "this is no update of Yjs, version 1");
        let outline = Outline::read(update).map_err(malformed)?;
        if outline.is_empty() {
            return Ok(());
        }
        if self.room.has(&outline) {
            // It is part of the document already, so this is all that its acknowledgement waits for.
            if purpose.is_empty() {
                self.outbox.put(protocol::update(update).into());
            }
            return Ok(());
        }
        if let Err(refusal) = self.identity.require(&self.document, Action::Edit) {
            self.outbox.put(protocol::permission_denied(&refusal.to_string()).into());
            metrics::counter!("engram_gateway_edits_refused_total").increment(1);
            return Ok(());
        }
        self.edits += 1;
        let edit = Edit {
            id: format!("{}-{}", self.name, self.edits),
            time: self.gateway.clock.now_ms(),
            document: self.key.clone(),
            actor: self.identity.actor.clone(),
            session: self.name.clone(),
            update: update.to_vec(),
            source: String::new(),
            purpose: purpose.to_owned(),
        };
        let id = edit.id.clone();
        self.room.sent(self.connection, &id, update);
        let value = self.gateway.encoders.edit(&edit);
        self.gateway.write(Edit::NAME, &self.key, &id, value, &self.identity, Fate::Spool).await;
        Ok(())
    }

    fn awareness(&self, update: &[u8]) -> Result<(), End> {
        let refused = |text: String| End::new(code::MALFORMED, "refused", text);
        let max = self.gateway.limits.awareness_bytes_max as usize;
        if update.len() > max {
            return Err(refused(format!("awareness of {} bytes: {max} are allowed", update.len())));
        }
        let user = (!self.gateway.authenticator.is_open()).then_some(&self.identity);
        let taken = self.room.awareness(self.connection, user, update);
        taken.map_err(|error| refused(format!("this is no awareness: {error}")))
    }

    /// Tells that the session is there.
    async fn seen(&self) {
        let seen = SessionSeen {
            document: self.key.clone(),
            time: self.gateway.clock.now_ms(),
            session: self.name.clone(),
            actor: self.identity.actor.clone(),
            role: self.identity.role_for(&self.document).map_or("", super::auth::Role::name).to_owned(),
            state: self.room.shown_by(self.connection),
        };
        let value = self.gateway.encoders.seen(&seen);
        self.gateway.write(SessionSeen::NAME, &self.key, &self.name, value, &self.identity, Fate::Drop).await;
    }

    async fn left(&self, reason: &str) {
        let left = SessionLeft {
            document: self.key.clone(),
            time: self.gateway.clock.now_ms(),
            session: self.name.clone(),
            actor: self.identity.actor.clone(),
            reason: reason.to_owned(),
        };
        let value = self.gateway.encoders.left(&left);
        self.gateway.write(SessionLeft::NAME, &self.key, &self.name, value, &self.identity, Fate::Drop).await;
    }
}

async fn sent(socket: &mut WebSocket, frame: Frame) -> bool {
    matches!(timeout(SEND_MAX, socket.send(frame)).await, Ok(Ok(())))
}

fn is_too_large(error: &axum::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<tungstenite::Error>());
    matches!(cause, Some(tungstenite::Error::Capacity(_)))
}
