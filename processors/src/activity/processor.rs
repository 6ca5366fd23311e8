//! The activity processor: checks an event, counts it, and closes what its time has made final.

use std::collections::HashSet;

use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::processor::{Context, Input, ProcessError, Processor, TaskSetup};
use engram_schemas::Event as _;
use engram_schemas::activity::{Interaction, Session, WindowCount, WindowDelta};
use engram_schemas::codec::{Decoder, EncodeError, Encoder};
use engram_schemas::registry::RegistryError;
use indexmap::IndexMap;

use super::config::{ActivityConfig, Dimension, SourceConfig};
use super::windows::{self, Counted, Step, WindowKey, push_source, split_source};
use super::{REPARTITION, SESSIONS, WINDOWS, at, sessions};

/// Sessions are looked through for those that are over, this many times a gap of event time.
const SESSION_SWEEPS_PER_GAP: i64 = 6;

pub struct ActivityProcessor {
    config: ActivityConfig,
    decoder: Decoder,
    windows: Encoder<WindowCount>,
    sessions: Encoder<Session>,
    deltas: Encoder<WindowDelta>,
    partitions: i32,
    /// What this commit has gathered for step 2: (source, dimension, window start, key).
    gathered: IndexMap<(usize, Dimension, i64, String), Counted>,
    /// Sessions that this commit has closed: their keys leave the store, but their final record stands.
    closed_sessions: HashSet<Vec<u8>>,
    key: Vec<u8>,
    buffer: Vec<u8>,
}

impl ActivityProcessor {
    pub fn new(config: ActivityConfig, setup: &TaskSetup) -> Result<Self, ProcessError> {
        let registry = &*setup.registry;
        let retry = |error: RegistryError| ProcessError::Retry(error.to_string());
        Ok(Self {
            config,
            decoder: Decoder::new(setup.registry.clone()),
            windows: Encoder::register(registry, WINDOWS).map_err(retry)?,
            sessions: Encoder::register(registry, SESSIONS).map_err(retry)?,
            deltas: Encoder::register(registry, REPARTITION).map_err(retry)?,
            partitions: setup.partitions,
            gathered: IndexMap::new(),
            closed_sessions: HashSet::new(),
            key: Vec::new(),
            buffer: Vec::new(),
        })
    }

    fn event(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let value = input.record.value.ok_or_else(|| ProcessError::reject("null-value", "an event cannot be null"))?;
        let event: Interaction = self.decoder.decode(value)?;
        let source = self.config.source(&event.source).clone();
        check(&event, input, &source, self.config.future_ms_max)?;
        let own = partition_for(event.user.as_bytes(), self.partitions);
        if own != input.partition.partition {
            metrics::counter!("engram_passed_on_records_total", "service" => super::NAME).increment(1);
            return context.emit_to(at::OUT_PASSED_ON, own, event.user.as_bytes(), Some(value));
        }

        let stream_time = self.advance(context, Step::Users, &source, event.time)?;
        let start = windows::window_start(event.time, source.size_ms);
        if is_late(&source, Step::Users, start, stream_time) {
            late(Step::Users);
            return Ok(());
        }
        for at in 0..self.config.dimensions.len() {
            let dimension = self.config.dimensions[at];
            let key = match dimension {
                Dimension::User => {
                    let key =
                        WindowKey { step: Step::Users, source: &source.source, start, dimension, key: &event.user };
                    key.write(&mut self.key);
                    windows::add(context.store(at::WINDOW_STORE), &self.key, &Counted::one(event.time))?;
                    continue;
                }
                Dimension::Target => match &event.target {
                    Some(target) => target.clone(),
                    None => continue,
                },
                Dimension::Type => event.kind.clone(),
            };
            let source_index = self.config.sources.iter().position(|config| *config == source).expect("from there");
            let one = Counted::one(event.time);
            self.gathered
                .entry((source_index, dimension, start, key))
                .and_modify(|counted| counted.merge(&one))
                .or_insert(one);
        }
        if self.config.sessions {
            let gap_ms = self.config.session_gap_ms;
            sessions::add(context, at::SESSION_STORE, &source.source, &event.user, event.time, gap_ms)?;
        }
        Ok(())
    }

    /// What another task has sent: what it has gathered, or an event that belongs here.
    fn repartitioned(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let value = input.record.value.ok_or_else(|| ProcessError::reject("null-value", "a delta cannot be null"))?;
        if self.decoder.type_name(value)? == Some(Interaction::NAME) {
            return self.event(input, context);
        }
        let delta: WindowDelta = self.decoder.decode(value)?;
        let dimension = Dimension::from_name(&delta.dimension)
            .ok_or_else(|| ProcessError::reject("unknown-dimension", format!("no dimension {}", delta.dimension)))?;
        let source = self.config.source(&delta.source).clone();
        let stream_time = self.advance(context, Step::Gathered, &source, delta.last_ts)?;
        if is_late(&source, Step::Gathered, delta.window_start, stream_time) {
            late(Step::Gathered);
            return Ok(());
        }
        let key = WindowKey {
            step: Step::Gathered,
            source: &source.source,
            start: delta.window_start,
            dimension,
            key: &delta.key,
        };
        key.write(&mut self.key);
        let counted = Counted { count: delta.count, first: delta.first_ts, last: delta.last_ts };
        Ok(windows::add(context.store(at::WINDOW_STORE), &self.key, &counted)?)
    }

    /// Moves a step's event time on and closes what is over. Returns the event time reached.
    fn advance(
        &mut self,
        context: &mut Context<'_>,
        step: Step,
        source: &SourceConfig,
        time: i64,
    ) -> Result<i64, ProcessError> {
        context.stream_time(time);
        if source.grace_ms.is_none() {
            return Ok(time);
        }
        clock_key(&mut self.key, step, &source.source);
        let clock = context.store(at::CLOCK_STORE);
        let before = clock.get(&self.key)?.and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
        if before.is_some_and(|before| before >= time) {
            return Ok(before.unwrap_or(time));
        }
        clock.put(&self.key, &time.to_be_bytes())?;
        let before = before.unwrap_or(time);
        self.close_windows(context, step, source, before, time)?;
        if step == Step::Users && self.config.sessions {
            self.close_sessions(context, source, before, time)?;
        }
        Ok(time)
    }

    fn close_windows(
        &mut self,
        context: &mut Context<'_>,
        step: Step,
        source: &SourceConfig,
        before: i64,
        now: i64,
    ) -> Result<(), ProcessError> {
        let bound = |time| windows::closed_before(source, step, time).map(|bound| bound.div_euclid(source.size_ms));
        // Windows begin at multiples of their size: only when the bound passes one is there something to close.
        let (Some(old), Some(new)) = (bound(before - 1), bound(now)) else { return Ok(()) };
        if old == new {
            return Ok(());
        }
        let closed_before = windows::closed_before(source, step, now).expect("checked above");
        for (key, value) in windows::close(context, at::WINDOW_STORE, step, &source.source, closed_before)? {
            if let Some(event) = windows::to_event(&key, &value, |_| source.size_ms, true) {
                self.windows.encode(&event, &mut self.buffer).map_err(unwritable)?;
                context.emit(at::OUT_WINDOWS, windows::record_key(&event).as_bytes(), Some(&self.buffer))?;
            }
        }
        Ok(())
    }

    fn close_sessions(
        &mut self,
        context: &mut Context<'_>,
        source: &SourceConfig,
        before: i64,
        now: i64,
    ) -> Result<(), ProcessError> {
        let (Some(grace_ms), gap_ms) = (source.grace_ms, self.config.session_gap_ms) else { return Ok(()) };
        let sweep_ms = (gap_ms / SESSION_SWEEPS_PER_GAP).max(1);
        if before.div_euclid(sweep_ms) == now.div_euclid(sweep_ms) {
            return Ok(());
        }
        // A session may grow until an event within its gap would be late.
        let ended = now.saturating_sub(gap_ms).saturating_sub(grace_ms).saturating_sub(source.size_ms);
        for (key, value) in sessions::close(context, at::SESSION_STORE, &source.source, ended)? {
            if let Some(event) = sessions::to_event(&key, &value, true) {
                self.sessions.encode(&event, &mut self.buffer).map_err(unwritable)?;
                let record_key = sessions::record_key(&event.user, event.session_start);
                context.emit(at::OUT_SESSIONS, record_key.as_bytes(), Some(&self.buffer))?;
            }
            self.closed_sessions.insert(key);
        }
        Ok(())
    }

    fn emit_gathered(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        for ((source, dimension, start, key), counted) in self.gathered.drain(..) {
            let record_key = format!("{}:{key}", dimension.name());
            let delta = WindowDelta {
                source: self.config.sources[source].source.clone(),
                dimension: dimension.name().to_owned(),
                key,
                window_start: start,
                count: counted.count,
                first_ts: counted.first,
                last_ts: counted.last,
            };
            self.deltas.encode(&delta, &mut self.buffer).map_err(unwritable)?;
            let partition = partition_for(record_key.as_bytes(), self.partitions);
            context.emit_to(at::OUT_REPARTITION, partition, record_key.as_bytes(), Some(&self.buffer))?;
        }
        Ok(())
    }
}

impl Processor for ActivityProcessor {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        match input.source {
            at::EVENTS => self.event(input, context),
            at::REPARTITION => self.repartitioned(input, context),
            other => unreachable!("the service has no input {other}"),
        }
    }

    fn before_commit(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        self.emit_gathered(context)?;
        let (config, buffer) = (&self.config, &mut self.buffer);
        let encoder = &self.windows;
        context.for_each_change(at::WINDOW_STORE, |key, value, out| {
            // A deleted window has been closed, and its final record is out.
            let Some(value) = value else { return Ok(()) };
            let size_of = |source: &str| config.source(source).size_ms;
            let Some(event) = windows::to_event(key, value, size_of, false) else { return Ok(()) };
            encoder.encode(&event, buffer).map_err(unwritable)?;
            out.emit(at::OUT_WINDOWS, windows::record_key(&event).as_bytes(), Some(buffer))
        })?;
        let (encoder, closed) = (&self.sessions, &self.closed_sessions);
        context.for_each_change(at::SESSION_STORE, |key, value, out| {
            let Some(value) = value else {
                // Closed, or merged into an earlier one: then a tombstone takes its last update back.
                return match sessions::SessionKey::read(key) {
                    Some(merged) if !closed.contains(key) => {
                        let key = sessions::record_key(merged.user, merged.start);
                        out.emit(at::OUT_SESSIONS, key.as_bytes(), None)
                    }
                    _ => Ok(()),
                };
            };
            let Some(event) = sessions::to_event(key, value, false) else { return Ok(()) };
            encoder.encode(&event, buffer).map_err(unwritable)?;
            out.emit(at::OUT_SESSIONS, sessions::record_key(&event.user, event.session_start).as_bytes(), Some(buffer))
        })?;
        self.closed_sessions.clear();
        Ok(())
    }

    fn schema_ids(&self) -> Vec<u32> {
        self.decoder.ids_seen()
    }

    fn reset(&mut self) {
        self.gathered.clear();
        self.closed_sessions.clear();
    }
}

/// What the schema cannot say of an event.
fn check(
    event: &Interaction,
    input: &Input<'_>,
    source: &SourceConfig,
    future_ms_max: i64,
) -> Result<(), ProcessError> {
    let key = input.record.key.ok_or_else(|| ProcessError::reject("null-key", "the key must be the event's user"))?;
    if key != event.user.as_bytes() {
        let detail = "the key is not the event's user, so its user's events would be spread over partitions";
        return Err(ProcessError::reject("wrong-key", detail));
    }
    let latest = input.record.timestamp_ms.saturating_add(future_ms_max);
    if source.grace_ms.is_some() && event.time > latest {
        let detail = format!("event time {} is more than {future_ms_max} ms after it was written", event.time);
        return Err(ProcessError::reject("future-time", detail));
    }
    Ok(())
}

fn is_late(source: &SourceConfig, step: Step, start: i64, stream_time: i64) -> bool {
    windows::closed_before(source, step, stream_time).is_some_and(|before| start < before)
}

fn late(step: Step) {
    metrics::counter!("engram_late_records_total", "service" => super::NAME, "step" => (step as u8).to_string())
        .increment(1);
}

fn clock_key(bytes: &mut Vec<u8>, step: Step, source: &str) {
    bytes.clear();
    bytes.push(step as u8);
    push_source(bytes, source);
}

/// Step and source of an entry of the clock store.
pub fn read_clock_key(bytes: &[u8]) -> Option<(u8, &str)> {
    let (&step, rest) = bytes.split_first()?;
    let (source, rest) = split_source(rest)?;
    rest.is_empty().then_some((step, source))
}

fn unwritable(error: EncodeError) -> ProcessError {
    ProcessError::reject("unwritable", error.to_string())
}
