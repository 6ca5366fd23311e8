//! The activity processor: checks an event, counts it, and closes what its time has made final.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::processor::{Context, Input, ProcessError, Processor, TaskSetup};
use engram_schemas::Event as _;
use engram_schemas::activity::{Interaction, Session, TaskClock, WindowCount, WindowDelta};
use engram_schemas::codec::{Decoder, EncodeError, Encoder};
use engram_schemas::event::TIME_MS;
use engram_schemas::registry::RegistryError;
use indexmap::IndexMap;

use super::clock::{Clock, Tasks, Told};
use super::config::{ActivityConfig, Dimension, SourceConfig};
use super::windows::{self, Counted, Step, WindowKey, push_source};
use super::{REPARTITION, SESSIONS, WINDOWS, at, sessions};

/// Sessions are looked through for those that are over, this many times a gap of event time.
const SESSION_SWEEPS_PER_GAP: i64 = 6;
/// A task tells the others its event time this many times a grace,
const TOLD_PER_GRACE: i64 = 2;
/// but not more often than once in so much of it.
const TOLD_MS_MIN: i64 = 1_000;

pub struct ActivityProcessor {
    config: Arc<ActivityConfig>,
    decoder: Decoder,
    windows: Encoder<WindowCount>,
    sessions: Encoder<Session>,
    deltas: Encoder<WindowDelta>,
    clocks: Encoder<TaskClock>,
    partitions: i32,
    tasks: Tasks,
    /// Sources whose clock has moved in this commit.
    moved: BTreeSet<String>,
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
        let (own, count) = (setup.partition.max(0) as usize, setup.partitions.max(1) as usize);
        let tasks = Tasks { own, count, idle_ms: config.idle_ms };
        let retry = |error: RegistryError| ProcessError::Retry(error.to_string());
        Ok(Self {
            config: Arc::new(config),
            decoder: Decoder::new(setup.registry.clone()),
            windows: Encoder::register(registry, WINDOWS).map_err(retry)?,
            sessions: Encoder::register(registry, SESSIONS).map_err(retry)?,
            deltas: Encoder::register(registry, REPARTITION).map_err(retry)?,
            clocks: Encoder::register(registry, REPARTITION).map_err(retry)?,
            partitions: setup.partitions,
            tasks,
            moved: BTreeSet::new(),
            gathered: IndexMap::new(),
            closed_sessions: HashSet::new(),
            key: Vec::new(),
            buffer: Vec::new(),
        })
    }

    fn event(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let value = input.record.value.ok_or_else(|| ProcessError::reject("null-value", "an event cannot be null"))?;
        let event: Interaction = self.decoder.decode(value)?;
        let config = Arc::clone(&self.config);
        let source = config.source(&event.source);
        check(&event, input, source, config.future_ms_max)?;
        let start = windows::window_start(event.time, source.size_ms);
        if !TIME_MS.contains(&start) {
            let detail = format!("event time {} is in a window that begins before the year 1", event.time);
            return Err(ProcessError::reject("time-out-of-range", detail));
        }
        if input.source == at::EVENTS {
            self.advance_own(context, source, event.time)?;
            let own = partition_for(event.user.as_bytes(), self.partitions);
            if own != input.partition.partition {
                metrics::counter!("engram_passed_on_records_total", "service" => super::NAME).increment(1);
                return context.pass_on(at::OUT_PASSED_ON, own, input);
            }
        }
        if self.is_late(context, source, Step::Users, start)? {
            return Ok(());
        }
        for &dimension in &config.dimensions {
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
            let source_index = config.sources.iter().position(|known| std::ptr::eq(known, source)).expect("from there");
            let one = Counted::one(event.time);
            self.gathered
                .entry((source_index, dimension, start, key))
                .and_modify(|counted| counted.merge(&one))
                .or_insert(one);
        }
        if config.sessions {
            let gap_ms = config.session_gap_ms;
            sessions::add(context, at::SESSION_STORE, &source.source, &event.user, event.time, gap_ms)?;
        }
        Ok(())
    }

    /// What another task has sent: what it has gathered, an event that belongs here, or how far it is.
    fn repartitioned(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let value = input.record.value.ok_or_else(|| ProcessError::reject("null-value", "a delta cannot be null"))?;
        match self.decoder.type_name(value)? {
            Some(Interaction::NAME) => self.event(input, context),
            Some(TaskClock::NAME) => self.heard(input, context),
            _ => self.delta(value, context),
        }
    }

    fn delta(&mut self, value: &[u8], context: &mut Context<'_>) -> Result<(), ProcessError> {
        let delta: WindowDelta = self.decoder.decode(value)?;
        let dimension = Dimension::from_name(&delta.dimension)
            .ok_or_else(|| ProcessError::reject("unknown-dimension", format!("no dimension {}", delta.dimension)))?;
        if delta.count < 1 || delta.first_ts > delta.last_ts {
            let detail = format!("{} events from {} to {}", delta.count, delta.first_ts, delta.last_ts);
            return Err(ProcessError::reject("wrong-delta", detail));
        }
        let config = Arc::clone(&self.config);
        let source = config.source(&delta.source);
        if self.is_late(context, source, Step::Gathered, delta.window_start)? {
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

    fn heard(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let value = input.record.value.expect("its type was read");
        let clock: TaskClock = self.decoder.decode(value)?;
        let task = usize::try_from(clock.task).ok().filter(|task| *task < self.tasks.count);
        let task =
            task.ok_or_else(|| ProcessError::reject("wrong-task", format!("there is no task {}", clock.task)))?;
        let config = Arc::clone(&self.config);
        let source = config.source(&clock.source);
        let told = Told { stream_time: clock.stream_time.unwrap_or(i64::MIN), users: clock.users.unwrap_or(i64::MIN) };
        let (tasks, when) = (self.tasks, input.record.timestamp_ms);
        self.move_clock(context, source, |clock| clock.hear(tasks, task, told, when))
    }

    /// This task has read an event of that time.
    fn advance_own(&mut self, context: &mut Context<'_>, source: &SourceConfig, time: i64) -> Result<(), ProcessError> {
        context.stream_time(time);
        if source.grace_ms.is_none() {
            return Ok(());
        }
        clock_key(&mut self.key, &source.source);
        let stored = context.store(at::CLOCK_STORE).get(&self.key)?;
        if stored.and_then(Clock::stream_time_of).is_some_and(|before| before >= time) {
            return Ok(());
        }
        let tasks = self.tasks;
        self.move_clock(context, source, |clock| clock.read(tasks, time))
    }

    /// Moves the clock of a source on, and closes what is over.
    fn move_clock(
        &mut self,
        context: &mut Context<'_>,
        source: &SourceConfig,
        change: impl FnOnce(&mut Clock),
    ) -> Result<(), ProcessError> {
        let mut clock = self.clock(context, &source.source)?;
        let before = [Step::Users, Step::Gathered].map(|step| clock.watermark(step));
        change(&mut clock);
        self.store_clock(context, &source.source, &mut clock)?;
        self.moved.insert(source.source.clone());
        for (step, before) in [Step::Users, Step::Gathered].into_iter().zip(before) {
            if let Some(now) = clock.watermark(step).filter(|now| Some(*now) != before) {
                self.close_windows(context, step, source, before, now)?;
                if step == Step::Users && self.config.sessions {
                    self.close_sessions(context, source, before, now)?;
                }
            }
        }
        Ok(())
    }

    fn clock(&mut self, context: &mut Context<'_>, source: &str) -> Result<Clock, ProcessError> {
        clock_key(&mut self.key, source);
        let stored = context.store(at::CLOCK_STORE).get(&self.key)?;
        Ok(stored.map_or_else(|| Clock::new(self.tasks), |bytes| Clock::from_bytes(bytes, self.tasks)))
    }

    fn store_clock(&mut self, context: &mut Context<'_>, source: &str, clock: &mut Clock) -> Result<(), ProcessError> {
        clock_key(&mut self.key, source);
        clock.to_bytes(&mut self.buffer);
        Ok(context.store(at::CLOCK_STORE).put(&self.key, &self.buffer)?)
    }

    /// Whether a window is closed already; what comes for it then is counted as late, and for nothing else.
    fn is_late(
        &mut self,
        context: &mut Context<'_>,
        source: &SourceConfig,
        step: Step,
        start: i64,
    ) -> Result<bool, ProcessError> {
        if source.grace_ms.is_none() {
            return Ok(false);
        }
        clock_key(&mut self.key, &source.source);
        let stored = context.store(at::CLOCK_STORE).get(&self.key)?;
        let Some(watermark) = stored.and_then(|bytes| Clock::watermark_of(bytes, step)) else { return Ok(false) };
        let number = start.div_euclid(source.size_ms);
        let is_late = windows::last_closed(source, watermark).is_some_and(|closed| number <= closed);
        if is_late {
            let step = (step as u8).to_string();
            metrics::counter!("engram_late_records_total", "service" => super::NAME, "step" => step).increment(1);
        }
        Ok(is_late)
    }

    fn close_windows(
        &mut self,
        context: &mut Context<'_>,
        step: Step,
        source: &SourceConfig,
        before: Option<i64>,
        now: i64,
    ) -> Result<(), ProcessError> {
        let closed = windows::last_closed(source, now);
        let Some(last) = closed.filter(|_| before.and_then(|before| windows::last_closed(source, before)) != closed)
        else {
            return Ok(());
        };
        let last = last.saturating_mul(source.size_ms);
        for (key, value) in windows::close(context, at::WINDOW_STORE, step, &source.source, last)? {
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
        before: Option<i64>,
        now: i64,
    ) -> Result<(), ProcessError> {
        let (Some(grace_ms), gap_ms) = (source.grace_ms, self.config.session_gap_ms) else { return Ok(()) };
        let sweep_ms = (gap_ms / SESSION_SWEEPS_PER_GAP).max(1);
        if before.is_some_and(|before| before.div_euclid(sweep_ms) == now.div_euclid(sweep_ms)) {
            return Ok(());
        }
        // A session may grow until an event within its gap would be late.
        let ended = now.saturating_sub(gap_ms).saturating_sub(grace_ms).saturating_sub(source.size_ms);
        for (key, value) in sessions::close(context, at::SESSION_STORE, &source.source, ended)? {
            if let Some(event) = sessions::to_event(&key, &value, true) {
                self.sessions.encode(&event, &mut self.buffer).map_err(unwritable)?;
                let record_key = sessions::record_key(&event.user, event.session_start, &event.source);
                context.emit(at::OUT_SESSIONS, record_key.as_bytes(), Some(&self.buffer))?;
            }
            self.closed_sessions.insert(key);
        }
        Ok(())
    }

    /// Tells all tasks how far this one is: after all that it has sent them.
    fn tell_clocks(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        for name in std::mem::take(&mut self.moved) {
            let grace_ms = self.config.source(&name).grace_ms.unwrap_or(0);
            let mut clock = self.clock(context, &name)?;
            let Some(told) = clock.tell((grace_ms / TOLD_PER_GRACE).max(TOLD_MS_MIN)) else { continue };
            self.store_clock(context, &name, &mut clock)?;
            let known = |time: i64| (time != i64::MIN).then_some(time);
            let event = TaskClock {
                source: name,
                task: self.tasks.own as i32,
                stream_time: known(told.stream_time),
                users: known(told.users),
            };
            self.clocks.encode(&event, &mut self.buffer).map_err(unwritable)?;
            for partition in 0..self.partitions {
                context.emit_to(at::OUT_CLOCK, partition, event.source.as_bytes(), Some(&self.buffer))?;
            }
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
        self.tell_clocks(context)?;
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
                        let key = sessions::record_key(merged.user, merged.start, merged.source);
                        out.emit(at::OUT_SESSIONS, key.as_bytes(), None)
                    }
                    _ => Ok(()),
                };
            };
            let Some(event) = sessions::to_event(key, value, false) else { return Ok(()) };
            encoder.encode(&event, buffer).map_err(unwritable)?;
            let key = sessions::record_key(&event.user, event.session_start, &event.source);
            out.emit(at::OUT_SESSIONS, key.as_bytes(), Some(buffer))
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
        self.moved.clear();
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

fn clock_key(bytes: &mut Vec<u8>, source: &str) {
    bytes.clear();
    push_source(bytes, source);
}

fn unwritable(error: EncodeError) -> ProcessError {
    ProcessError::reject("unwritable", error.to_string())
}
