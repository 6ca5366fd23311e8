//! A model that is to take the place of the one in service: it is made ready by a thread, while that one goes on scoring.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

use super::ScoringConfig;
use super::active::{Active, Scorer};

const OTHERWISE: &str = "the one before it goes on scoring";

pub struct Next {
    pub active: Active,
    /// What a thread is making ready.
    loading: Option<Receiver<Result<Scorer, String>>>,
}

impl Next {
    pub fn new(active: Active) -> Self {
        Self { active, loading: None }
    }

    /// Whether it is ready. If nothing is done about that, a thread begins, unless it was in vain a short while ago.
    pub fn is_ready(&mut self, config: &ScoringConfig) -> bool {
        let Some(loading) = &self.loading else {
            if !self.active.is_loaded() && self.active.may_load(config) {
                self.begin(config);
            }
            return self.active.is_loaded();
        };
        match loading.try_recv() {
            Err(TryRecvError::Empty) => return false,
            Ok(outcome) => self.active.loaded(outcome, OTHERWISE, config),
            Err(TryRecvError::Disconnected) => {
                self.active.loaded(Err("reading it has panicked".to_owned()), OTHERWISE, config);
            }
        }
        self.loading = None;
        self.active.is_loaded()
    }

    fn begin(&mut self, config: &ScoringConfig) {
        let (done, loading) = sync_channel(1);
        let (spec, config_of_thread) = (self.active.spec.clone(), config.clone());
        let load = move || {
            // Nobody waits for it any more if another model came in between.
            let _ = done.send(Scorer::load(&spec, &config_of_thread));
        };
        match thread::Builder::new().name("engram-model".to_owned()).spawn(load) {
            Ok(_) => self.loading = Some(loading),
            Err(error) => {
                self.active.loaded(Err(format!("no thread can be had for it: {error}")), OTHERWISE, config);
            }
        }
    }
}
