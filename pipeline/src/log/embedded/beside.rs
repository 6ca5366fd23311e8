//! The log as a process sees it that does not own it: it reads the owner's files, and sends the owner what it writes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::files::Files;
use super::owner::into_log_error;
use super::request::{Answer, Request, decode_answer};
use super::view::{self, Ends, Place, Topic, View};
use super::{Forward, keys};
use crate::log::{CommitError, LogError};

/// How often the owner's files are looked at while waiting.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

pub struct Beside {
    files: Files,
    forward: Arc<dyn Forward>,
}

impl Beside {
    pub fn open(dir: &Path, forward: Arc<dyn Forward>) -> Result<Self, LogError> {
        Ok(Self { files: Files::open_beside(dir)?, forward })
    }

    pub fn call(&self, request: Request) -> Result<Answer, LogError> {
        self.commit(request).map_err(into_log_error)
    }

    /// Like `call`; an answer that did not come leaves the outcome unknown.
    pub fn commit(&self, request: Request) -> Result<Answer, CommitError> {
        decode_answer(&self.forward.forward(&request.encode())?)
    }
}

impl View for Beside {
    fn files(&self) -> &Files {
        &self.files
    }

    fn topics(&self) -> Result<Vec<(String, Topic)>, LogError> {
        self.files.catch_up()?;
        view::stored_topics(&self.files)
    }

    fn topic(&self, name: &str) -> Result<Option<Topic>, LogError> {
        self.files.catch_up()?;
        let Some(bytes) = self.files.get(&keys::topic(name))? else { return Ok(None) };
        let topic = Topic::decode(&bytes);
        topic.map(Some).ok_or_else(|| self.files.corrupt("a topic's description is not readable"))
    }

    fn ends(&self, place: Place) -> Result<Ends, LogError> {
        self.files.catch_up()?;
        view::stored_ends(&self.files, place)
    }

    fn version(&self) -> u64 {
        0
    }

    fn wait(&self, _version: u64, deadline: Instant) {
        std::thread::sleep(LOOK_INTERVAL.min(deadline.saturating_duration_since(Instant::now())));
    }
}
