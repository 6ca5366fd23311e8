//! What happened in a run, as a hash; line by line where somebody wants to read it.

use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

/// The story of one run. Cheap to clone: all parts of a world tell the same one.
#[derive(Clone)]
pub struct Trace {
    print: bool,
    hash: Arc<Mutex<(Xxh3, u64)>>,
}

impl Trace {
    pub fn new(print: bool) -> Self {
        Self { print, hash: Arc::new(Mutex::new((Xxh3::new(), 0))) }
    }

    pub fn tell(&self, line: impl AsRef<str>) {
        let line = line.as_ref();
        if self.print {
            println!("{line}");
        }
        let mut hash = self.hash.lock().unwrap_or_else(PoisonError::into_inner);
        hash.0.update(line.as_bytes());
        hash.0.update(b"\n");
        hash.1 += 1;
    }

    /// The hash of everything told so far, and how many lines that were.
    pub fn hash(&self) -> (u64, u64) {
        let hash = self.hash.lock().unwrap_or_else(PoisonError::into_inner);
        (hash.0.digest(), hash.1)
    }
}
