//! What an output was made of: which output of whom it is, by its headers, and which steps of its commit have gone into it.

use super::{EntryKey, Step};
use crate::collector::Origin;
use crate::log::Batch;

/// Which output a record is: `ce_source` names the service and the task, `ce_id` the commit and the number in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutputId {
    pub service: String,
    pub task: i32,
    pub sequence: i64,
    pub index: usize,
}

impl OutputId {
    /// `None`: it is no service's output.
    pub fn of(batch: &dyn Batch, at: usize) -> Option<Self> {
        let (mut source, mut id) = (None, None);
        batch.visit_headers(at, &mut |name, value| {
            let Some(text) = value.and_then(|value| std::str::from_utf8(value).ok()) else { return };
            match name {
                "ce_source" => source = source_of(text).map(|(service, task)| (service.to_owned(), task)),
                "ce_id" => id = id_of(text),
                _ => {}
            }
        });
        let ((service, task), (sequence, index)) = (source?, id?);
        Some(Self { service, task, sequence, index })
    }
}

/// Service and task of a `ce_source`.
pub(super) fn source_of(text: &str) -> Option<(&str, i32)> {
    let (service, task) = text.strip_prefix("engram/")?.rsplit_once('/')?;
    Some((service, task.parse().ok()?))
}

/// Commit and number in it of a `ce_id`.
pub(super) fn id_of(text: &str) -> Option<(i64, usize)> {
    let (sequence, index) = text.split_once('-')?;
    Some((sequence.parse().ok()?, index.parse().ok()?))
}

/// What an output of a commit was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeOf {
    /// The steps of the commit that have gone into it, in their order.
    pub steps: Vec<usize>,
    /// The entry of a store that it tells of, if it tells of one: then that entry's past has gone into it, too.
    pub entry: Option<EntryKey>,
}

/// What the commit's output with that number was made of; `None` if there is none.
pub fn made_of(steps: &[Step], index: usize) -> Option<MadeOf> {
    let (at, emitted) = steps.iter().enumerate().find_map(|(at, step)| {
        let emitted = step.outputs.iter().find(|emitted| emitted.index == index)?;
        Some((at, emitted))
    })?;
    let until = |has: &dyn Fn(&Step) -> bool| -> Vec<usize> { (0..=at).filter(|&step| has(&steps[step])).collect() };
    Some(match &emitted.origin {
        Origin::Step => MadeOf { steps: vec![at], entry: None },
        Origin::Entry(store, key) => {
            let changed = |step: &Step| step.changes.iter().any(|change| change.store == *store && change.key == *key);
            MadeOf { steps: until(&changed), entry: Some((*store, key.clone())) }
        }
        Origin::Contributions(key) => MadeOf { steps: until(&|step| step.contributed.contains(key)), entry: None },
    })
}
