//! The activity processor: checks an event, counts it, and closes what its time has made final.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::operators::Late;
use engram_pipeline::processor::{Context, Input, ProcessError, Processor, TaskSetup};
use engram_schemas::Event as _;
use engram_schemas::activity::{Interaction, Session, TaskClock, WindowCount, WindowDelta};
use engram_schemas::codec::{Decoder, EncodeError, Encoder};
use engram_schemas::event::TIME_MS;
use engram_schemas::registry::RegistryError;
use indexmap::IndexMap;

use super::clock::{Tasks, Told};
use super::config::{ActivityConfig, Dimension, LateEvents, SourceConfig};
use super::windows::{self, Counted, Step, WindowKey};
use super::{REPARTITION, SESSIONS, WINDOWS, at, sessions};

pub struct ActivityProcessor {
    pub(super) config: Arc<ActivityConfig>,
    decoder: Decoder,
    pub(super) windows: Encoder<WindowCount>,
    pub(super) sessions: Encoder<Session>,
    deltas: Encoder<WindowDelta>,
    pub(super) clocks: Encoder<TaskClock>,
    pub(super) partitions: i32,
    pub(super) tasks: Tasks,
    /// Against those that the state was made with.
    settings_are_checked: bool,
    /// Sources whose clock has moved in this commit.
    pub(super) moved: BTreeSet<String>,
    /// What this commit has gathered for step 2: (source, dimension, window start, key).
    gathered: IndexMap<(usize, Dimension, i64, String), Counted>,
    /// Where the last window begins that was closed, by step and source.
    pub(super) closed_windows: HashMap<(Step, String), i64>,
    /// Sessions that this commit has closed: their keys leave the store, but their final record stands.
    pub(super) closed_sessions: HashSet<Vec<u8>>,
    latest: sessions::Latest,
    pub(super) key: Vec<u8>,
    pub(super) buffer: Vec<u8>,
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
            settings_are_checked: false,
            moved: BTreeSet::new(),
            gathered: IndexMap::new(),
            closed_windows: HashMap::new(),
            closed_sessions: HashSet::new(),
            latest: sessions::Latest::default(),
            key: Vec::new(),
            buffer: Vec::new(),
        })
    }

    /// State of windows of one length would be counted apart from those of another, under the same keys.
    fn check_settings(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let store = context.store(at::SETTINGS_STORE);
        for (name, value) in self.config.lasting() {
            match store.get(name.as_bytes())? {
                Some(before) if before != value.as_bytes() => {
                    let before = String::from_utf8_lossy(before);
                    return Err(ProcessError::Refused(format!(
                        "the {name} was {before} and is to be {value}: run 'engram reset {} --yes' first, or set it back",
                        super::NAME
                    )));
                }
                Some(_) => {}
                None => store.put(name.as_bytes(), value.as_bytes())?,
            }
        }
        self.settings_are_checked = true;
        Ok(())
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
            let late = match config.late {
                LateEvents::Drop => Late::Drop,
                LateEvents::Topic => Late::Topic(at::OUT_LATE),
            };
            return late.send("users", input, context);
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
            context.contributes(|| gathered_key(&source.source, dimension, start, &key));
            let source_index = config.sources.iter().position(|known| std::ptr::eq(known, source)).expect("from there");
            let one = Counted::one(event.time);
            self.gathered
                .entry((source_index, dimension, start, key))
                .and_modify(|counted| counted.merge(&one))
                .or_insert(one);
        }
        if config.sessions {
            let (store, gap_ms) = (context.store(at::SESSION_STORE), config.session_gap_ms);
            sessions::add(store, &mut self.latest, &source.source, &event.user, event.time, gap_ms)?;
        }
        Ok(())
    }

    /// What another task has sent: what it has gathered, an event that belongs here, or how far it is.
    fn repartitioned(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        let value = input.record.value.ok_or_else(|| ProcessError::reject("null-value", "a delta cannot be null"))?;
        match self.decoder.type_name(value)? {
            Some(Interaction::NAME) => self.event(input, context),
            Some(TaskClock::NAME) => self.heard(input, context),
            _ => self.delta(input, value, context),
        }
    }

    fn delta(&mut self, input: &Input<'_>, value: &[u8], context: &mut Context<'_>) -> Result<(), ProcessError> {
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
            // No event of anyone's, but a part of a count.
            return Late::Drop.send("gathered", input, context);
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

    fn emit_gathered(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
        for ((source, dimension, start, key), counted) in self.gathered.drain(..) {
            let record_key = windows::repartition_key(dimension, &key);
            context.made_of(|| gathered_key(&self.config.sources[source].source, dimension, start, &key));
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
        if !self.settings_are_checked {
            self.check_settings(context)?;
        }
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
        self.closed_windows.clear();
        self.closed_sessions.clear();
        self.latest.clear();
        self.moved.clear();
        self.settings_are_checked = false;
    }
}

/// Names what is gathered, for a replay that traces what goes into it.
fn gathered_key(source: &str, dimension: Dimension, start: i64, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    WindowKey { step: Step::Gathered, source, start, dimension, key }.write(&mut bytes);
    bytes
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

pub(super) fn unwritable(error: EncodeError) -> ProcessError {
    ProcessError::reject("unwritable", error.to_string())
}
