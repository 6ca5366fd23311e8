//! How activity is cut into windows and sessions.

use std::collections::BTreeSet;

/// Half an hour without an event ends a session.
pub const SESSION_GAP_MS: i64 = 30 * 60 * 1_000;
const MINUTE_MS: i64 = 60 * 1_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

/// By what events are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    User,
    Target,
    Type,
}

impl Dimension {
    pub const ALL: [Self; 3] = [Self::User, Self::Target, Self::Type];

    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Target => "target",
            Self::Type => "type",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dimension| dimension.name() == name)
    }
}

/// Windows of one source's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceConfig {
    /// The events' `source`; empty for all sources that are not named.
    pub source: String,
    /// Length of a window; windows begin at multiples of it since the epoch, UTC.
    pub size_ms: i64,
    /// How much later than its window's end an event may come and still count, by event time as all tasks have read it.
    /// `None`: for ever, so windows and sessions are never final.
    pub grace_ms: Option<i64>,
}

/// Where events go that come when their window is closed. They are counted either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LateEvents {
    /// Nowhere.
    Drop,
    /// Into the topic `activity.late`, as they came.
    Topic,
}

impl LateEvents {
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "drop" => Some(Self::Drop),
            "topic" => Some(Self::Topic),
            _ => None,
        }
    }
}

/// The activity service's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityConfig {
    /// The default source (empty name) and those that differ from it.
    pub sources: Vec<SourceConfig>,
    pub dimensions: Vec<Dimension>,
    pub session_gap_ms: i64,
    /// Whether sessions are kept at all.
    pub sessions: bool,
    /// How long a task whose events do not come on may hold the windows of all others open, see `clock`.
    pub idle_ms: i64,
    pub late: LateEvents,
    /// How far an event's time may lie after the time at which it was written to the log. Later ones are dead letters:
    /// one clock that is years ahead would close everybody's windows. Sources whose windows never close have no limit.
    pub future_ms_max: i64,
}

impl Default for ActivityConfig {
    /// One minute and one minute of grace; one day for the git source, and no end of grace: a repository can gain commits
    /// with any author time (rebases, merged branches, wrong clocks), and its counts must stay those of `git log`.
    fn default() -> Self {
        Self {
            sources: vec![
                SourceConfig { source: String::new(), size_ms: MINUTE_MS, grace_ms: Some(MINUTE_MS) },
                SourceConfig { source: "git".to_owned(), size_ms: DAY_MS, grace_ms: None },
            ],
            dimensions: Dimension::ALL.to_vec(),
            session_gap_ms: SESSION_GAP_MS,
            sessions: true,
            idle_ms: 5 * MINUTE_MS,
            late: LateEvents::Drop,
            future_ms_max: 5 * MINUTE_MS,
        }
    }
}

impl ActivityConfig {
    /// The configuration for events of this source.
    pub fn source(&self, source: &str) -> &SourceConfig {
        let named = self.sources.iter().find(|config| config.source == source);
        named.or_else(|| self.sources.iter().find(|config| config.source.is_empty())).expect("checked by `check`")
    }

    /// What may not change while there is state, as text: (name, value).
    pub fn lasting(&self) -> Vec<(String, String)> {
        let mut settings = vec![("session gap".to_owned(), format!("{} ms", self.session_gap_ms))];
        settings.extend(self.sources.iter().map(|source| {
            let name = if source.source.is_empty() { "default" } else { &source.source };
            (format!("window of source {name}"), format!("{} ms", source.size_ms))
        }));
        settings
    }

    /// Refuses what cannot work, naming the field.
    pub fn check(&self) -> Result<(), String> {
        if !self.sources.iter().any(|config| config.source.is_empty()) {
            return Err("activity: there is no default source".to_owned());
        }
        for config in &self.sources {
            let name = if config.source.is_empty() { "default" } else { &config.source };
            if config.size_ms <= 0 {
                return Err(format!("activity: the window of source {name} must be longer than 0 ms"));
            }
            if config.grace_ms.is_some_and(|grace_ms| grace_ms < 0) {
                return Err(format!("activity: the grace of source {name} must not be negative"));
            }
            if config.source.len() > usize::from(u8::MAX) {
                return Err(format!("activity: the name of source {name} is longer than 255 bytes"));
            }
        }
        let distinct: BTreeSet<Dimension> = self.dimensions.iter().copied().collect();
        if distinct.len() < self.dimensions.len() {
            return Err("activity: a dimension is named twice, which would count its events twice".to_owned());
        }
        if self.idle_ms < 0 || self.future_ms_max < 0 {
            return Err("activity: idle and future_max must not be negative".to_owned());
        }
        if self.session_gap_ms <= 0 {
            return Err("activity: the session gap must be longer than 0 ms".to_owned());
        }
        Ok(())
    }
}
