//! Event time moves on: the task's clock, what it closes, and what the other tasks are told of it.

use engram_pipeline::processor::{Context, ProcessError};
use engram_schemas::activity::TaskClock;

use super::clock::Clock;
use super::config::SourceConfig;
use super::processor::{ActivityProcessor, unwritable};
use super::windows::{self, Step, push_source};
use super::{at, sessions};

/// Sessions are looked through for those that are over, this many times a gap of event time.
const SESSION_SWEEPS_PER_GAP: i64 = 6;
/// A task tells the others its event time this many times a grace,
const TOLD_PER_GRACE: i64 = 2;
/// but not more often than once in so much of it.
const TOLD_MS_MIN: i64 = 1_000;

impl ActivityProcessor {
    /// This task has read an event of that time.
    pub(super) fn advance_own(
        &mut self,
        context: &mut Context<'_>,
        source: &SourceConfig,
        time: i64,
    ) -> Result<(), ProcessError> {
        context.advance_stream_time(time);
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
    pub(super) fn move_clock(
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

    /// Whether a window is closed already: what comes for it then is late.
    pub(super) fn is_late(
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
        Ok(windows::last_closed(source, watermark).is_some_and(|closed| number <= closed))
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
        // Nothing begins before what was closed last: that was late. The first time anything may, as the grace may be another
        // than when the state was made.
        let closed_before = self.closed_windows.insert((step, source.source.clone()), last).unwrap_or(i64::MIN);
        for (key, value) in windows::close(context, at::WINDOW_STORE, step, &source.source, (closed_before, last))? {
            if let Some(event) = windows::to_event(&key, &value, |_| source.size_ms, true) {
                context.made_of_entry(at::WINDOW_STORE, || key.clone());
                self.windows.encode(&event, &mut self.buffer).map_err(unwritable)?;
                context.emit(at::OUT_WINDOWS, windows::record_key(&event).as_bytes(), Some(&self.buffer))?;
            }
        }
        context.made_of_itself();
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
                context.made_of_entry(at::SESSION_STORE, || key.clone());
                self.sessions.encode(&event, &mut self.buffer).map_err(unwritable)?;
                let record_key = sessions::record_key(&event.user, event.session_start, &event.source);
                context.emit(at::OUT_SESSIONS, record_key.as_bytes(), Some(&self.buffer))?;
            }
            self.closed_sessions.insert(key);
        }
        context.made_of_itself();
        Ok(())
    }

    /// Tells all tasks how far this one is: after all that it has sent them.
    pub(super) fn tell_clocks(&mut self, context: &mut Context<'_>) -> Result<(), ProcessError> {
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
            context.made_of_entry(at::CLOCK_STORE, || {
                let mut key = Vec::new();
                clock_key(&mut key, &event.source);
                key
            });
            for partition in 0..self.partitions {
                context.emit_to(at::OUT_CLOCK, partition, event.source.as_bytes(), Some(&self.buffer))?;
            }
        }
        Ok(())
    }
}

fn clock_key(bytes: &mut Vec<u8>, source: &str) {
    bytes.clear();
    push_source(bytes, source);
}
