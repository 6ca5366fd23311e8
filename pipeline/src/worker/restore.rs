//! Bringing the files of several tasks up to date at once, before the tasks are opened on them.
//!
//! INVARIANT: the group is served meanwhile, and what it wants is not kept waiting: a restore is broken off, and what it has
//! done so far stays on disk.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::WorkerOptions;
use crate::changelog::{self, Restored};
use crate::log::TopicPartition;
use crate::processor::ProcessError;
use crate::store::{Files, StoreError};

/// Tasks that are restored at a time.
const TASKS_AT_ONCE: usize = 4;
/// How often the worker looks after its group meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Restores the files of these tasks. `go_on` is asked again and again on this thread; once it says no, all is broken off and
/// the result is `None`.
pub fn restore_all(
    options: &WorkerOptions,
    tasks: &[i32],
    mut go_on: impl FnMut() -> Result<bool, ProcessError>,
) -> Result<Option<Vec<Restored>>, ProcessError> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let restored: Mutex<Vec<(usize, Restored)>> = Mutex::default();
    let work = || -> Result<(), StoreError> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(&task) = tasks.get(index) else { return Ok(()) };
            let found = restore(options, task, &stop);
            if found.is_err() {
                // One cannot be had: the others are not needed.
                stop.store(true, Ordering::Relaxed);
            }
            restored.lock().unwrap_or_else(PoisonError::into_inner).push((index, found?));
        }
    };
    let (asked, outcome) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..TASKS_AT_ONCE.min(tasks.len())).map(|_| scope.spawn(work)).collect();
        let mut asked = Ok(true);
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(LOOK);
            if matches!(asked, Ok(true)) {
                asked = go_on();
                if !matches!(asked, Ok(true)) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
        let joined = threads.into_iter().map(|thread| thread.join().expect("a restore does not panic"));
        (asked, joined.fold(Ok(()), Result::and))
    });
    if !asked? {
        return Ok(None);
    }
    outcome?;
    let mut restored = restored.into_inner().unwrap_or_else(PoisonError::into_inner);
    restored.sort_by_key(|(index, _)| *index);
    Ok(Some(restored.into_iter().map(|(_, restored)| restored).collect()))
}

fn restore(options: &WorkerOptions, task: i32, stop: &AtomicBool) -> Result<Restored, StoreError> {
    let files = Files::open(&options.stores.join(task.to_string()), &options.budget, &options.clock)?;
    let changelog = TopicPartition::new(changelog::topic(options.service.name), task);
    changelog::restore(&*options.log, &changelog, &files, &options.clock, stop)
}
