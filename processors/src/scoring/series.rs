//! The states of detectors: in the store, and for a while in memory, where a state is that does not have to be read.

use std::collections::HashMap;

use engram_models::series::{Detector, State};
use engram_pipeline::processor::ProcessError;
use engram_pipeline::store::Store;

/// Beyond so much memory the states are forgotten: to read one is dearer than to score by it, and some take a MiB.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// The states that one detector has used, by their keys.
#[derive(Default)]
pub struct SeriesStates {
    kept: HashMap<Vec<u8>, Kept>,
    /// Keys of those that the store does not have as they are, in the order in which they came, so that they are written in one
    /// order.
    changed: Vec<Vec<u8>>,
}

struct Kept {
    state: State,
    is_changed: bool,
}

impl SeriesStates {
    /// A series' state, to score by. One that is damaged, or of a detector with other settings, begins anew.
    pub fn get(&mut self, key: &[u8], detector: &Detector, store: &mut Store) -> Result<&mut State, ProcessError> {
        if !self.kept.contains_key(key) {
            let known = store.get(key)?.and_then(|bytes| detector.decode(bytes).ok());
            let state = known.unwrap_or_else(|| detector.begin());
            self.kept.insert(key.to_vec(), Kept { state, is_changed: false });
        }
        let kept = self.kept.get_mut(key).expect("inserted above");
        if !kept.is_changed {
            kept.is_changed = true;
            self.changed.push(key.to_vec());
        }
        Ok(&mut kept.state)
    }

    /// Puts what has changed into the store.
    pub fn write(&mut self, detector: &Detector, store: &mut Store) -> Result<(), ProcessError> {
        for key in self.changed.drain(..) {
            let kept = self.kept.get_mut(&key).expect("only `write` forgets");
            store.put(&key, &kept.state.encode())?;
            kept.is_changed = false;
        }
        if self.kept.len() * detector.state_bytes() > KEPT_BYTES_MAX {
            self.kept.clear();
        }
        Ok(())
    }
}
