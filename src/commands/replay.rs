//! `engram replay`: a service's commits made again beside the running service, compared with what was committed, or written
//! to files.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::replay::{
    Commit, Difference, Differs, Program, Remade, Times, Verified, Written, run_again, verify,
};
use engram_pipeline::store::prefix;
use engram_schemas::codec::Decoder;
use serde_json::{Value, json};

use super::{lock, stop_flag};
use crate::cli::{Global, ReplayService};
use crate::output;
use crate::outputs::Out;
use crate::past::{PastService, explained};
use crate::values::rfc3339;
use crate::wire::{self, Access, Connection};

pub fn run(global: &Global, args: &ReplayService) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let service = PastService::open(&connection, &args.service)?;
    let stop = stop_flag()?;
    let folder =
        tempfile::Builder::new().prefix("engram-replay").tempdir().context("cannot create a temporary folder")?;
    let tasks = match &args.key {
        Some(key) => {
            let task = partition_for(key.as_bytes(), service.partitions);
            task..task + 1
        }
        None => 0..service.partitions,
    };
    let program = if args.verify { Program::Same } else { Program::Other };
    let pasts: Vec<_> = tasks.map(|task| service.past_by(task, program)).collect();
    let times = Times { from_ms: args.from.unwrap_or(i64::MIN), to_ms: args.to.unwrap_or(i64::MAX) };
    let out = args.out.as_deref().map(|folder| Out::create(folder, args.format, &connection, &service)).transpose()?;
    let failed = Mutex::new(None);
    let started = Instant::now();
    let visit = |commit: &Commit, remade: &Remade| {
        if let Some(Err(error)) = out.as_ref().map(|out| out.write(commit, remade)) {
            lock(&failed).get_or_insert(error);
        }
        lock(&failed).is_none() && !stop.load(Ordering::Relaxed)
    };
    let verified = if args.verify {
        verify(&pasts, times, folder.path(), visit)
    } else {
        run_again(&pasts, times, folder.path(), visit)
    };
    let verified = verified.map_err(explained)?;
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    if let Some(out) = out {
        out.finish()?;
    }
    anyhow::ensure!(!stop.load(Ordering::Relaxed), "stopped after {} commits", verified.commits);
    let seconds = started.elapsed().as_secs_f64();
    anyhow::ensure!(verified.commits > 0, "there is no commit in that time");
    if !args.verify {
        return print_made(global, &verified, seconds);
    }
    let mut decoder = Decoder::new(Arc::clone(&connection.registry));
    let difference =
        verified.difference.as_ref().map(|found| describe(&args.service, found, &mut decoder)).transpose()?;
    print(global, &verified, difference.as_ref(), seconds)?;
    match (&verified.difference, difference) {
        (Some(found), Some(shown)) => {
            anyhow::bail!("commit {} of task {} is not as it was: {}", found.sequence, found.task, shown.line)
        }
        _ => Ok(()),
    }
}

fn print_made(global: &Global, made: &Verified, seconds: f64) -> anyhow::Result<()> {
    let Verified { commits, records, outputs, .. } = made;
    let per_second = (*records as f64 / seconds.max(1e-9)).round() as u64;
    if global.json {
        let made =
            json!({"commits": commits, "records": records, "outputs": outputs, "records_per_second": per_second});
        return Ok(output::json(&made)?);
    }
    let numbers = [*commits, *records, *outputs, per_second];
    let header = ["commits", "records", "outputs", "records/s"];
    Ok(output::table(&header, [numbers.iter().map(u64::to_string).collect()])?)
}

fn print(global: &Global, verified: &Verified, difference: Option<&Shown>, seconds: f64) -> anyhow::Result<()> {
    let Verified { commits, records, outputs, equal, gone, unnamed, .. } = verified;
    let per_second = (*records as f64 / seconds.max(1e-9)).round();
    if global.json {
        return Ok(output::json(&json!({
            "commits": commits, "records": records, "outputs": outputs, "equal": equal, "gone": gone, "unnamed": unnamed,
            "records_per_second": per_second, "difference": difference.map(|shown| &shown.json)
        }))?);
    }
    let header = ["commits", "records", "outputs", "equal in the log", "no longer there", "without ids", "records/s"];
    let numbers = [*commits, *records, *outputs, *equal, *gone, *unnamed, per_second as u64];
    Ok(output::table(&header, [numbers.iter().map(u64::to_string).collect()])?)
}

/// A difference, for people and for machines.
struct Shown {
    line: String,
    json: Value,
}

fn describe(service: &str, found: &Difference, decoder: &mut Decoder) -> anyhow::Result<Shown> {
    let (what, details) = match &found.what {
        Differs::Output { place, recorded, remade } => {
            let decode = |written: &Option<Written>, decoder: &mut Decoder| -> anyhow::Result<Value> {
                let Some(written) = written else { return Ok(Value::Null) };
                let key = written.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
                let value = output::value(decoder, written.value.as_deref())?;
                Ok(json!({"topic": &*written.topic, "partition": written.partition, "key": key, "value": value}))
            };
            let (then, now) = (decode(recorded, decoder)?, decode(remade, decoder)?);
            let place = place.as_ref().map(|(partition, offset)| format!("{partition}/{offset}"));
            let line = match (&place, then.is_null(), now.is_null()) {
                (Some(place), _, true) => format!("{place} would not come out: {}", then["value"]),
                (Some(place), _, false) => format!("{place} has {}", fields(&then, &now)),
                (None, ..) => format!("an output to {} is not there: {}", now["topic"], now["value"]),
            };
            (line, json!({"output": place, "recorded": then, "remade": now}))
        }
        Differs::State { key, recorded, remade } => {
            let stores = wire::stores(service)?;
            let index = (0..stores.len()).find(|&index| key.first() == Some(&prefix(index)));
            let index = index.context("the changelog has an entry of no store")?;
            let show = |value: &Option<Option<Vec<u8>>>| match value {
                None => json!("not changed"),
                Some(None) => json!("deleted"),
                Some(Some(value)) => (stores[index].describe)(&key[1..], value).1,
            };
            let shown_key = match recorded.iter().chain(remade).flatten().next() {
                Some(value) => (stores[index].describe)(&key[1..], value).0,
                None => json!(output::hexadecimal(&key[1..])),
            };
            let (then, now) = (show(recorded), show(remade));
            let line = format!("store {}, key {shown_key}: {}", stores[index].name, fields(&then, &now));
            (line, json!({"store": stores[index].name, "key": shown_key, "recorded": then, "remade": now}))
        }
        Differs::Commit(what) => (what.clone(), json!({"commit": what})),
    };
    let random = "; made again twice it comes out in two ways: the processor goes by something that is not recorded";
    let line = format!("{what} (committed {}){}", rfc3339(found.time_ms), if found.is_random { random } else { "" });
    let json = json!({
        "task": found.task, "commit": found.sequence, "time": rfc3339(found.time_ms), "is_random": found.is_random,
        "what": details
    });
    Ok(Shown { line, json })
}

/// The first field in which two values differ, with both.
fn fields(then: &Value, now: &Value) -> String {
    if let (Some(then), Some(now)) = (then.as_object(), now.as_object()) {
        let names: std::collections::BTreeSet<&String> = then.keys().chain(now.keys()).collect();
        for name in names {
            let of = |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or(Value::Null);
            let (then, now) = (of(then), of(now));
            if then != now {
                return match (&then, &now) {
                    (Value::Object(_), Value::Object(_)) => format!("{name}.{}", fields(&then, &now)),
                    _ => format!("{name} {then}, and {now} comes out now"),
                };
            }
        }
    }
    format!("{then}, and {now} comes out now")
}
