//! What a task did in a commit, as JSON for people and programs: a record or a timer, what it changed, what came of it.

use std::sync::Arc;

use engram_pipeline::replay::{Cause, Change, Commit, Step, TakenRecord, Written};
use engram_pipeline::store::StoreSpec;
use engram_pipeline::timers::TimerClock;
use engram_schemas::codec::Decoder;
use engram_schemas::registry::Registry;
use serde_json::{Value, json};

use crate::output;
use crate::values::rfc3339;
use crate::wire;

/// Shows the steps of a service.
pub struct Steps {
    stores: Vec<StoreSpec>,
    decoder: Decoder,
}

impl Steps {
    pub fn new(service: &str, registry: &Arc<dyn Registry>) -> anyhow::Result<Self> {
        Ok(Self { stores: wire::stores(service)?, decoder: Decoder::new(Arc::clone(registry)) })
    }

    /// A step with the commit that it is in, and its number there (from 1).
    pub fn show(&mut self, commit: &Commit, number: usize, step: &Step) -> anyhow::Result<Value> {
        let mut shown = json!({
            "task": commit.manifest.partition, "commit": commit.manifest.sequence, "committed": rfc3339(commit.time_ms),
            "number": number, "cause": cause(step.cause),
        });
        if let Some(record) = &step.record {
            shown["record"] = self.record(record)?;
        }
        let changes: Vec<Value> = step.changes.iter().map(|change| self.change(change)).collect();
        shown["changes"] = changes.into();
        let outputs: anyhow::Result<Vec<Value>> =
            step.outputs.iter().map(|emitted| self.written(&emitted.record)).collect();
        shown["outputs"] = outputs?.into();
        if !step.dead_letters.is_empty() {
            let letters: anyhow::Result<Vec<Value>> =
                step.dead_letters.iter().map(|written| self.written(written)).collect();
            shown["dead_letters"] = letters?.into();
        }
        Ok(shown)
    }

    pub fn record(&mut self, record: &TakenRecord) -> anyhow::Result<Value> {
        Ok(json!({
            "place": format!("{}/{}", record.partition, record.offset), "timestamp": rfc3339(record.timestamp_ms),
            "key": record.key.as_deref().map(String::from_utf8_lossy),
            "value": output::value(&mut self.decoder, record.value.as_deref())?
        }))
    }

    pub fn written(&mut self, written: &Written) -> anyhow::Result<Value> {
        Ok(json!({
            "topic": &*written.topic, "partition": written.partition,
            "key": written.key.as_deref().map(String::from_utf8_lossy),
            "value": output::value(&mut self.decoder, written.value.as_deref())?
        }))
    }

    fn change(&self, change: &Change) -> Value {
        let store = &self.stores[change.store];
        let shown = |value: &Option<Vec<u8>>| value.as_ref().map(|value| (store.describe)(&change.key, value));
        let (before, after) = (shown(&change.before), shown(&change.after));
        let key = before.as_ref().or(after.as_ref()).map(|(key, _)| key.clone());
        json!({
            "store": store.name, "key": key, "before": before.map(|(_, value)| value), "after": after.map(|(_, value)| value)
        })
    }
}

/// The word for what made a task do something.
fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Record => "record",
        Cause::Timer(TimerClock::StreamTime) => "timer by stream time",
        Cause::Timer(TimerClock::WallClock) => "timer by wall clock",
        Cause::Commit => "end of the commit",
    }
}

/// In one line, for people.
pub fn line(shown: &Value) -> String {
    match shown.get("record") {
        Some(record) => {
            let text = |name: &str| record[name].as_str().unwrap_or("").to_owned();
            format!("{} key {} {}", text("place"), record["key"], record["value"])
        }
        None => shown["cause"].as_str().unwrap_or("").to_owned(),
    }
}

/// The changes as a diff: a line for what was, one for what is.
pub fn diff(shown: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for change in shown["changes"].as_array().into_iter().flatten() {
        lines.push(format!("  {} {}", change["store"].as_str().unwrap_or(""), change["key"]));
        for (sign, name) in [('-', "before"), ('+', "after")] {
            if !change[name].is_null() {
                lines.push(format!("  {sign} {}", change[name]));
            }
        }
    }
    for (sign, name) in [("=>", "outputs"), ("!!", "dead_letters")] {
        for output in shown[name].as_array().into_iter().flatten() {
            let topic = output["topic"].as_str().unwrap_or("");
            lines.push(format!("  {sign} {topic} {} {}", output["key"], output["value"]));
        }
    }
    lines
}
