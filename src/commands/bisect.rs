//! `engram bisect`: the first event after which something holds, between a good and a bad moment.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use engram_pipeline::changelog;
use engram_pipeline::log::{TopicPartition, partitions_of};
use engram_pipeline::replay::{Bisected, Commit, First, OutputId, ReplayError, State, at_once, bisect, made_of};
use engram_schemas::codec::Decoder;
use serde_json::{Value, json};

use crate::cli::{Bisect, Global};
use crate::expression::{Ask, Expression};
use crate::output::{self, Usage};
use crate::past::{OutputsAt, PastService, explained};
use crate::queries;
use crate::steps::{self, Steps};
use crate::values::{When, rfc3339};
use crate::wire::{Access, Connection};

/// The output that is looked at.
const OUTPUT: &str = "output";
/// Entries that `all` gives at most.
const ENTRIES_MAX: usize = 100_000;

pub fn run(global: &Global, args: &Bisect) -> anyhow::Result<()> {
    let parse = || Expression::parse(&args.expression, &[OUTPUT], true).map_err(Usage);
    let expression = parse()?;
    let by_output = expression.uses(OUTPUT);
    anyhow::ensure!(
        !(by_output && expression.asks()),
        Usage(format!("{:?} is about an output and about state: it can be about one of them", args.expression))
    );
    let connection = Connection::open(global, Access::Read)?;
    let service = PastService::open(&connection, &args.service)?;
    let good = args.good.clone().unwrap_or(When::Time(i64::MIN));
    let bad = args.bad.clone().unwrap_or(When::Time(i64::MAX));
    let tasks: Vec<i32> = match (service.tasks(&good)?, service.tasks(&bad)?) {
        (good, bad) if good.len() > 1 || bad.len() > 1 || good == bad => {
            if good.len() == 1 { good } else { bad }.collect()
        }
        _ => anyhow::bail!(Usage(
            "--good and --bad are records of two partitions: give times, or records of one".to_owned()
        )),
    };
    let folder =
        tempfile::Builder::new().prefix("engram-bisect").tempdir().context("cannot create a temporary folder")?;
    let started = Instant::now();
    let search = Search { connection: &connection, service: &service, name: &args.service, folder: folder.path() };
    let found: Vec<(i32, Bisected, u32)> = if by_output {
        search.outputs(&tasks, (&good, &bad), &parse)?
    } else {
        at_once(&tasks, |&task| -> anyhow::Result<_> {
            let (found, probes) = search.state(task, (&good, &bad), &parse()?)?;
            Ok((task, found, probes))
        })?
    };
    let probes: u32 = found.iter().map(|(.., probes)| *probes).max().unwrap_or(0);
    let earliest = found.iter().filter_map(|(_, found, _)| match found {
        Bisected::First(first) => Some(first),
        _ => None,
    });
    let earliest = earliest.min_by_key(|first| (first.commit.time_ms, first.commit.manifest.partition));
    let Some(first) = earliest else {
        let always: Vec<String> = found
            .iter()
            .filter(|(_, found, _)| matches!(found, Bisected::Always))
            .map(|(task, ..)| task.to_string())
            .collect();
        anyhow::ensure!(
            always.is_empty(),
            "it holds at --good already, in task {}: give an earlier moment",
            always.join(", ")
        );
        anyhow::bail!("it does not hold at --bad: give a later moment, or try the expression on 'engram state range'")
    };
    print(global, &args.service, &connection, first, probes, started.elapsed().as_secs_f64())
}

fn print(
    global: &Global,
    service: &str,
    connection: &Connection,
    first: &First,
    probes: u32,
    seconds: f64,
) -> anyhow::Result<()> {
    let shown = Steps::new(service, &connection.registry)?.show(&first.commit, first.number, &first.step)?;
    if global.json {
        return Ok(output::json(&json!({"first": shown, "probes": probes, "seconds": seconds}))?);
    }
    output::line(format_args!("it holds first after {}", steps::line(&shown)))?;
    output::line(format_args!(
        "task {}, commit {} at {}, {} of its {} steps; {probes} probes, {seconds:.1} s",
        first.commit.manifest.partition,
        first.commit.manifest.sequence,
        rfc3339(first.commit.time_ms),
        first.number,
        first.steps
    ))?;
    steps::diff(&shown).iter().try_for_each(|line| output::line(format_args!("{line}")))?;
    Ok(())
}

struct Search<'a> {
    connection: &'a Connection,
    service: &'a PastService<'a>,
    name: &'a str,
    folder: &'a Path,
}

impl Search<'_> {
    /// By what holds of a task's state.
    fn state(&self, task: i32, when: (&When, &When), expression: &Expression) -> anyhow::Result<(Bisected, u32)> {
        let (good, bad) = (self.service.moment(when.0), self.service.moment(when.1));
        let mut failed = None;
        let folder = self.folder.join(task.to_string());
        let found = bisect(&self.service.past(task), &good, &bad, &folder, |state| {
            let holds = expression.holds(&[(OUTPUT, &Value::Null)], |ask| look(self.name, state, ask));
            holds.map_err(|error| {
                let what = format!("{error:#}");
                failed = Some(error);
                ReplayError::Impossible(what)
            })
        });
        match failed {
            Some(error) => Err(error),
            None => found.map_err(explained),
        }
    }

    /// By what holds of an output: each is looked at once, in its topic.
    fn outputs(
        &self,
        tasks: &[i32],
        when: (&When, &When),
        parse: &(impl Fn() -> Result<Expression, Usage> + Sync),
    ) -> anyhow::Result<Vec<(i32, Bisected, u32)>> {
        let mut between = BTreeMap::new();
        for &task in tasks {
            between.insert(task, (self.service.outputs_at(task, when.0)?, self.service.outputs_at(task, when.1)?));
        }
        let topics = self.connection.log.topics()?;
        let partitions: Vec<TopicPartition> = self
            .service
            .outputs()
            .into_iter()
            .flat_map(|topic| (0..partitions_of(&topics, topic)).map(move |number| TopicPartition::new(topic, number)))
            .collect();
        let found = at_once(&partitions, |partition| self.first_output(partition, &between, &parse()?))?;
        let mut first: BTreeMap<i32, (i64, usize)> = BTreeMap::new();
        for (task, place) in found.into_iter().flatten() {
            first.entry(task).and_modify(|known| *known = place.min(*known)).or_insert(place);
        }
        let found = tasks.iter().map(|task| match first.get(task) {
            Some(&(sequence, index)) => {
                let folder = self.folder.join(task.to_string());
                let walked = self.service.past(*task).commit_by_steps(sequence, &folder).map_err(explained)?;
                Ok((*task, Bisected::First(Box::new(cause(walked, index)?)), 1))
            }
            None => Ok((*task, Bisected::Never, 1)),
        });
        found.collect()
    }

    /// The first output of each task in a partition for which it holds, by commit and number, between two commits.
    fn first_output(
        &self,
        partition: &TopicPartition,
        between: &BTreeMap<i32, (OutputsAt, OutputsAt)>,
        expression: &Expression,
    ) -> anyhow::Result<BTreeMap<i32, (i64, usize)>> {
        let log = &*self.connection.log;
        let range = log.offsets(std::slice::from_ref(partition))?[0];
        let mut decoder = Decoder::new(Arc::clone(&self.connection.registry));
        let mut first: BTreeMap<i32, (i64, usize)> = BTreeMap::new();
        changelog::read_batches(log, partition, range.first, range.stable, |batch, at| -> anyhow::Result<()> {
            let Some(id) = OutputId::of(batch, at).filter(|id| id.service == self.name) else { return Ok(()) };
            let Some(&(good, bad)) = between.get(&id.task) else { return Ok(()) };
            let place = (id.sequence, id.index);
            if good.has(&id) || !bad.has(&id) || first.get(&id.task).is_some_and(|known| *known <= place) {
                return Ok(());
            }
            let record = batch.record(at);
            let output = json!({
                "topic": &*partition.topic, "partition": partition.partition, "key": record.key.map(String::from_utf8_lossy),
                "value": output::value(&mut decoder, record.value)?
            });
            if expression.holds(&[(OUTPUT, &output)], |_| Ok(Value::Null))? {
                first.insert(id.task, place);
            }
            Ok(())
        })?;
        Ok(first)
    }
}

/// The last step that has gone into an output of a commit.
fn cause((commit, mut steps): (Commit, Vec<engram_pipeline::replay::Step>), index: usize) -> anyhow::Result<First> {
    let made = made_of(&steps, index).and_then(|made| made.steps.last().copied());
    let at = made.with_context(|| format!("commit {} does not come out as it did", commit.manifest.sequence))?;
    let count = steps.len();
    Ok(First { commit, step: steps.swap_remove(at), number: at + 1, steps: count })
}

/// Answers what an expression asks of a state.
pub fn look(service: &str, state: &mut dyn State, ask: &Ask) -> anyhow::Result<Value> {
    let (Ask::Get { store, .. } | Ask::All { store } | Ask::Count { store }) = ask;
    let (index, spec) = queries::find_store(service, store)?;
    match ask {
        Ask::Get { key, .. } => {
            let whole = serde_json::from_str(key).ok();
            if let Some(place) = whole.as_ref().and_then(|key| (spec.locate)(key)) {
                let value = state.get(index, &place.key)?;
                return Ok(value.map_or(Value::Null, |value| (spec.describe)(&place.key, &value).1));
            }
            let mut found: Vec<(Value, Value)> = Vec::new();
            state.visit(index, &mut |entry, value| {
                let entry = (spec.describe)(entry, value);
                if queries::matches(&entry.0, key) {
                    found.push(entry);
                }
                found.len() < 2
            })?;
            match found.as_slice() {
                [] => Ok(Value::Null),
                [(_, value)] => Ok(value.clone()),
                [(one, _), ..] => anyhow::bail!(
                    "several entries of {store} have {key} in their key: give one of them whole, such as get('{store}', '{one}')"
                ),
            }
        }
        Ask::All { .. } => {
            let mut entries = Vec::new();
            state.visit(index, &mut |key, value| {
                let (key, value) = (spec.describe)(key, value);
                entries.push(json!({"key": key, "value": value}));
                entries.len() <= ENTRIES_MAX
            })?;
            anyhow::ensure!(entries.len() <= ENTRIES_MAX, "store {store} has more than {ENTRIES_MAX} entries: use get");
            Ok(entries.into())
        }
        Ask::Count { .. } => {
            let mut count = 0_u64;
            state.visit(index, &mut |_, _| {
                count += 1;
                true
            })?;
            Ok(count.into())
        }
    }
}
