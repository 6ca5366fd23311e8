//! Who is at which document: `presence.events` -> `presence.current`.
//!
//! A gateway tells now and then that a session is still there. One of which nothing more is heard, because its gateway has
//! died, ends by the clock.

use engram_pipeline::processor::{Context, Input, ProcessError, TaskSetup};
use engram_pipeline::store::codec::{self, Json};
use engram_pipeline::store::{Place, StoreSpec};
use engram_pipeline::timers::TimerClock;
use engram_schemas::Event;
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::presence::{Presence, SessionLeft, SessionSeen};
use serde_json::Value;

use super::at;
use super::documents::unwritable;

/// The timer that ends a session.
pub const EXPIRY: u16 = 2;
/// How long a session lasts of which nothing is heard.
pub const SESSION_MS_MAX: i64 = 90_000;

/// Document and session.
type Key = (String, String);

/// The sessions of a task.
pub struct Presences {
    decoder: Decoder,
    presences: Encoder<Presence>,
    buffer: Vec<u8>,
}

pub fn store() -> StoreSpec {
    let describe = |key: &[u8], value: &[u8]| codec::describe::<Key, Json<Presence>>(key, value);
    StoreSpec { locate, ..StoreSpec::new("presence", describe) }
}

fn locate(key: &Value) -> Option<Place> {
    let (document, session) = (key[0].as_str()?.to_owned(), key[1].as_str()?.to_owned());
    let routed_by = document.as_bytes().to_vec();
    Some(Place { key: codec::to_bytes(&(document, session)), routed_by })
}

impl Presences {
    pub fn new(setup: &TaskSetup) -> Result<Self, ProcessError> {
        let presences = Encoder::register(&*setup.registry, super::PRESENCE_CURRENT);
        Ok(Self {
            decoder: Decoder::new(setup.registry.clone()),
            presences: presences.map_err(|error| ProcessError::Retry(error.to_string()))?,
            buffer: Vec::new(),
        })
    }

    pub fn event(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let value = input.record.value.ok_or_else(|| ProcessError::reject("null-value", "an event has a value"))?;
        let kind = self.decoder.type_name(value)?.map(str::to_owned);
        match kind.as_deref() {
            Some(SessionLeft::NAME) => {
                let left: SessionLeft = self.decoder.decode(value)?;
                check_key(input, &left.document)?;
                self.end(&(left.document, left.session), context)
            }
            _ => {
                let seen: SessionSeen = self.decoder.decode(value)?;
                check_key(input, &seen.document)?;
                self.seen(seen, context)
            }
        }
    }

    fn seen(&mut self, seen: SessionSeen, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let key = codec::to_bytes(&(seen.document.clone(), seen.session.clone()));
        let due = context.wall_clock_ms() + SESSION_MS_MAX;
        context.schedule(TimerClock::WallClock, EXPIRY, &key, due)?;
        let store = context.store(at::PRESENCE_STORE);
        let known = store.get(&key)?.and_then(codec::read_whole::<Json<Presence>>);
        let presence = Presence {
            joined: known.map_or(seen.time, |Json(known)| known.joined),
            seen: seen.time,
            document: seen.document,
            session: seen.session,
            actor: seen.actor,
            role: seen.role,
            state: seen.state,
        };
        Ok(store.put(&key, &codec::to_bytes(&Json(presence)))?)
    }

    fn end(&mut self, key: &Key, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let key = codec::to_bytes(key);
        context.cancel(TimerClock::WallClock, EXPIRY, &key)?;
        Ok(context.store(at::PRESENCE_STORE).delete(&key)?)
    }

    /// Ends a session of which nothing was heard.
    pub fn expire(&mut self, key: &[u8], context: &mut Context<'_>) -> Result<(), ProcessError> {
        Ok(context.store(at::PRESENCE_STORE).delete(key)?)
    }

    pub fn before_commit(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let (presences, buffer) = (&self.presences, &mut self.buffer);
        context.for_each_change(at::PRESENCE_STORE, |key, value, out| {
            let Some((document, session)) = codec::read_whole::<Key>(key) else { return Ok(()) };
            let record_key = format!("{document}/{session}");
            let Some(Json(presence)) = value.and_then(codec::read_whole::<Json<Presence>>) else {
                return out.emit(at::OUT_PRESENCE, record_key.as_bytes(), None);
            };
            presences.encode(&presence, buffer).map_err(unwritable)?;
            out.emit(at::OUT_PRESENCE, record_key.as_bytes(), Some(buffer))
        })
    }

    pub fn schema_ids(&self) -> Vec<u32> {
        self.decoder.ids_seen()
    }
}

fn check_key(input: &Input<'_>, document: &str) -> Result<(), ProcessError> {
    if input.record.key == Some(document.as_bytes()) {
        return Ok(());
    }
    Err(ProcessError::reject("wrong-key", "the key is not the event's document"))
}
