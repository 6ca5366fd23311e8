//! `engram why`: the input records that made a value or a record, across services back to the original events, as a tree; or,
//! forward, what an event has caused.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use engram_pipeline::changelog;
use engram_pipeline::log::{Log, LogError, RecordRef, TopicPartition, partitions_of};
use engram_pipeline::replay::{EntryKey, Made, OutputId, RecordPlace};
use engram_schemas::codec::Decoder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Global, Why};
use crate::output::{self, Usage};
use crate::past::{PastService, explained};
use crate::queries::{self, Wanted};
use crate::steps::Steps;
use crate::values::{Place, When, rfc3339};
use crate::wire::{self, Access, Connection};

const WHAT: &str = "give SERVICE STORE KEY, or TOPIC PARTITION:OFFSET";
/// Records of a tree.
const NODES_MAX: usize = 10_000;
/// How long before its manifest a commit's outputs may have been written.
const COMMIT_MS_MAX: i64 = 120_000;

pub fn run(global: &Global, args: &Why) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let folder = tempfile::Builder::new().prefix("engram-why").tempdir().context("cannot create a temporary folder")?;
    let mut tree = Tree {
        decoder: Decoder::new(Arc::clone(&connection.registry)),
        connection: &connection,
        services: HashMap::new(),
        nodes: Vec::new(),
        known: HashMap::new(),
        limit: args.limit,
        folder,
        folders: 0,
    };
    match args.of.as_slice() {
        [service, _] if wire::stores(service).is_ok() => {
            anyhow::bail!(Usage("KEY is missing: give SERVICE STORE KEY, or TOPIC PARTITION:OFFSET".to_owned()))
        }
        [_] | [_, _] => {
            let (topic, place) = match args.of.as_slice() {
                [topic, place] => (topic.clone(), place.parse::<Place>().map_err(Usage)?),
                of => match of[0].parse() {
                    Ok(When::Record { topic: Some(topic), place }) => (topic, place),
                    _ => anyhow::bail!(Usage(WHAT.to_owned())),
                },
            };
            let partition = TopicPartition::new(topic.as_str(), place.partition);
            anyhow::ensure!(
                args.at.is_none(),
                Usage("a record is what it is at any time: --at goes with SERVICE STORE KEY".to_owned())
            );
            tree.check(&partition)?;
            let root = tree.record(&(partition, place.offset))?;
            anyhow::ensure!(
                !tree.nodes[root].is_gone,
                "there is no record at {topic}/{place}: it was deleted, or is yet to come"
            );
            if args.forward {
                tree.forward(root, args.depth)?;
            } else {
                tree.backward(vec![root], args.depth)?;
            }
        }
        [service, store, key] => {
            anyhow::ensure!(!args.forward, Usage("--forward goes with TOPIC PARTITION:OFFSET".to_owned()));
            tree.entry(service, store, key, args.at.as_ref(), args.depth)?;
        }
        _ => anyhow::bail!(Usage(WHAT.to_owned())),
    }
    if global.json {
        return Ok(output::json(&tree.to_json(0))?);
    }
    tree.print(0, "", "")
}

/// A record, an entry or a step, and what it was made of (or has caused).
#[derive(Default)]
struct Node {
    shown: Value,
    line: String,
    /// Which output of whom it is.
    id: Option<OutputId>,
    place: Option<RecordPlace>,
    /// The log has it no longer.
    is_gone: bool,
    children: Vec<usize>,
    /// Children that are not shown.
    more: usize,
}

/// The nodes of one task's outputs, by commit and number in it.
type NodesByOutput = BTreeMap<(i64, usize), Vec<usize>>;

struct Tree<'a> {
    connection: &'a Connection,
    services: HashMap<String, PastService<'a>>,
    decoder: Decoder,
    nodes: Vec<Node>,
    /// The nodes that tell of a record.
    known: HashMap<RecordPlace, usize>,
    limit: usize,
    folder: TempDir,
    folders: usize,
}

impl Tree<'_> {
    fn fresh(&mut self) -> PathBuf {
        self.folders += 1;
        self.folder.path().join(self.folders.to_string())
    }

    fn check(&self, partition: &TopicPartition) -> anyhow::Result<()> {
        let topics = self.connection.log.topics()?;
        let count = partitions_of(&topics, &partition.topic);
        anyhow::ensure!(count > 0, "there is no topic {:?}; 'engram topics' shows what there is", &*partition.topic);
        anyhow::ensure!(partition.partition < count, "topic {} has the partitions 0 to {}", partition.topic, count - 1);
        Ok(())
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A node for a record.
    fn record(&mut self, place: &RecordPlace) -> anyhow::Result<usize> {
        let (partition, offset) = place;
        let mut node = Node { place: Some(place.clone()), is_gone: true, ..Node::default() };
        let name = format!("{partition}/{offset}");
        (node.shown, node.line) = (json!({"record": name, "gone": true}), format!("{name} is no longer in the log"));
        let (log, decoder) = (&*self.connection.log, &mut self.decoder);
        at_place(log, place, |record, headers, id| {
            let value = output::value(decoder, record.value)?;
            let key = record.key.map(|key| String::from_utf8_lossy(key).into_owned());
            let named = ["user", "author", "actor"].iter().find_map(|name| value[*name].as_str().map(str::to_owned));
            let actor = headers.get("actor").cloned().or(named);
            let time = value["time"].as_i64().map_or_else(|| rfc3339(record.timestamp_ms), rfc3339);
            let by = actor.as_ref().map_or_else(String::new, |actor| format!(" by {actor}"));
            node.line = format!("{name} at {time}{by} {value}");
            node.shown = json!({
                "record": name, "time": time, "written": rfc3339(record.timestamp_ms), "actor": actor, "key": key,
                "value": value
            });
            (node.id, node.is_gone) = (id, false);
            Ok(())
        })?;
        let at = self.add(node);
        self.known.entry(place.clone()).or_insert(at);
        Ok(at)
    }

    fn service(&mut self, name: &str) -> anyhow::Result<&PastService<'_>> {
        if !self.services.contains_key(name) {
            let service = PastService::open(self.connection, name)?;
            self.services.insert(name.to_owned(), service);
        }
        Ok(&self.services[name])
    }

    /// The tree of an entry.
    fn entry(
        &mut self,
        service: &str,
        store: &str,
        key: &str,
        when: Option<&When>,
        depth: usize,
    ) -> anyhow::Result<()> {
        let (index, spec) = queries::find_store(service, store)?;
        let when = when.cloned().unwrap_or(When::Time(i64::MAX));
        let past = PastService::open(self.connection, service)?;
        let wanted = Wanted::new(&spec, Some(key), past.partitions);
        let tasks: Vec<i32> = past.tasks(&when)?.filter(|task| wanted.partitions.contains(task)).collect();
        let mut found: Vec<(i32, EntryKey, Value, Value)> = Vec::new();
        for task in tasks {
            let mut state = past.at(task, &when)?;
            for (entry, key, value) in past.entries(&mut state, index, &spec, &wanted, key)? {
                found.push((task, (index, entry), key, value));
            }
        }
        anyhow::ensure!(!found.is_empty(), "store {store} of service {service} has no entry {key}");
        let (task, entry, shown_key, value) = queries::only_one(found, |(_, _, shown, _)| shown, key)?;
        let folder = self.fresh();
        let made = past.past(task).why_entry(&entry, &past.moment(&when), &folder).map_err(explained)?;
        let root = self.add(Node {
            shown: json!({"service": service, "task": task, "store": store, "key": shown_key, "value": value}),
            line: format!("{service} {store} {shown_key} = {value}"),
            ..Node::default()
        });
        let next = self.made_of(root, service, &made)?;
        self.backward(next, depth.saturating_sub(1))
    }

    /// Adds what something was made of; returns the records among it.
    fn made_of(&mut self, parent: usize, service: &str, made: &Made) -> anyhow::Result<Vec<usize>> {
        let mut next = Vec::new();
        // The newest, in the order in which they were taken.
        let skipped = made.of.len().saturating_sub(self.limit);
        for place in &made.of[skipped..] {
            if let Some(&known) = self.known.get(place) {
                let name = format!("{}/{}", place.0, place.1);
                let again = Node {
                    shown: json!({"record": name, "above": true}),
                    line: format!("{name} (as above)"),
                    ..Node::default()
                };
                let at = if self.nodes[known].children.is_empty() && self.nodes[known].id.is_none() {
                    self.record(place)?
                } else {
                    self.add(again)
                };
                self.nodes[parent].children.push(at);
                continue;
            }
            let at = self.record(place)?;
            self.nodes[parent].children.push(at);
            next.push(at);
        }
        let stores = wire::stores(service)?;
        for (store, key) in &made.read {
            let key = (stores[*store].describe)(key, &[]).0;
            let at = self.add(Node {
                shown: json!({"read": {"service": service, "store": stores[*store].name, "key": key}}),
                line: format!("read: {service} {} {key}", stores[*store].name),
                ..Node::default()
            });
            self.nodes[parent].children.push(at);
        }
        if let Some(sequence) = made.begins_at {
            let at = self.add(Node {
                shown: json!({"begins_at_commit": sequence}),
                line: format!("what came before commit {sequence} cannot be told: its manifests were deleted"),
                ..Node::default()
            });
            self.nodes[parent].children.push(at);
        }
        self.nodes[parent].more = skipped;
        Ok(next)
    }

    /// Level by level: the outputs of each task are looked into together.
    fn backward(&mut self, mut level: Vec<usize>, depth: usize) -> anyhow::Result<()> {
        for _ in 0..depth {
            let mut wanted: BTreeMap<(String, i32), NodesByOutput> = BTreeMap::new();
            for &at in &level {
                if let Some(id) = self.nodes[at].id.clone() {
                    let of_task = wanted.entry((id.service, id.task)).or_default();
                    of_task.entry((id.sequence, id.index)).or_default().push(at);
                }
            }
            if wanted.is_empty() {
                break;
            }
            if self.nodes.len() > NODES_MAX {
                self.cut();
                break;
            }
            let mut next = Vec::new();
            for ((service, task), outputs) in wanted {
                let folder = self.fresh();
                let ids: BTreeSet<(i64, usize)> = outputs.keys().copied().collect();
                let past = self.service(&service)?;
                let made = past.past(task).why_outputs(&ids, &folder).map_err(explained)?;
                for (id, parents) in outputs {
                    let Some(made) = made.get(&id) else { continue };
                    for parent in parents {
                        next.extend(self.made_of(parent, &service, made)?);
                    }
                }
            }
            level = next;
        }
        Ok(())
    }

    /// What an event has caused, level by level.
    fn forward(&mut self, root: usize, depth: usize) -> anyhow::Result<()> {
        let mut level = vec![root];
        for _ in 0..depth {
            let mut next = Vec::new();
            for parent in std::mem::take(&mut level) {
                let Some((partition, offset)) = self.nodes[parent].place.clone() else { continue };
                for &name in wire::SERVICES {
                    let runs = queries::partitions(&self.connection.log.topics()?, name) > 0;
                    if !runs || !self.service(name)?.reads(&partition.topic) {
                        continue;
                    }
                    next.extend(self.effects(parent, name, &partition, offset)?);
                }
                if self.nodes.len() > NODES_MAX {
                    self.cut();
                    return Ok(());
                }
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        Ok(())
    }

    /// What one service has done with a record; returns the outputs that came of it.
    fn effects(
        &mut self,
        parent: usize,
        service: &str,
        partition: &TopicPartition,
        offset: i64,
    ) -> anyhow::Result<Vec<usize>> {
        let folder = self.fresh();
        let task = partition.partition;
        let past = self.service(service)?.past(task);
        let Some(effects) = past.effects(partition, offset, &folder).map_err(explained)? else {
            let line = format!("{service}: has not taken it yet");
            let at = self.add(Node { shown: json!({"service": service, "taken": false}), line, ..Node::default() });
            self.nodes[parent].children.push(at);
            return Ok(Vec::new());
        };
        let mut shown =
            Steps::new(service, &self.connection.registry)?.show(&effects.commit, effects.number, &effects.step)?;
        let sequence = effects.commit.manifest.sequence;
        let mut node = Node { line: format!("{service}: task {task}, commit {sequence}"), ..Node::default() };
        if let Some(fields) = shown.as_object_mut() {
            fields.retain(|name, _| ["changes", "dead_letters"].contains(&name.as_str()));
        }
        for change in shown["changes"].as_array().into_iter().flatten() {
            let store = change["store"].as_str().unwrap_or("");
            node.line += &format!("\n{store} {}: {} -> {}", change["key"], change["before"], change["after"]);
        }
        for letter in shown["dead_letters"].as_array().into_iter().flatten() {
            node.line += &format!("\ndead letter: {}", letter["value"]);
        }
        if effects.outputs.is_empty() && effects.step.changes.is_empty() && effects.step.dead_letters.is_empty() {
            node.line += ": nothing came of it";
        }
        shown["service"] = json!(service);
        (shown["task"], shown["commit"]) = (json!(task), json!(sequence));
        node.shown = shown;
        let at = self.add(node);
        self.nodes[parent].children.push(at);
        let mut found = Vec::new();
        let skipped = effects.outputs.len().saturating_sub(self.limit);
        for (index, partition) in &effects.outputs[skipped..] {
            let id = OutputId { service: service.to_owned(), task, sequence, index: *index };
            let from = effects.step.record.as_ref().map_or(i64::MAX, |record| record.timestamp_ms);
            let from = from.min(effects.commit.time_ms - COMMIT_MS_MAX);
            match find_output(&*self.connection.log, &id, partition, from)? {
                Some(offset) => found.push(self.record(&(partition.clone(), offset))?),
                None => {
                    let name = format!("an output to {partition}");
                    let gone = Node {
                        shown: json!({"record": name, "gone": true}),
                        line: format!("{name}, no longer in the log"),
                        ..Node::default()
                    };
                    let gone = self.add(gone);
                    self.nodes[at].children.push(gone);
                }
            }
        }
        self.nodes[at].more = skipped;
        self.nodes[at].children.extend(&found);
        Ok(found)
    }

    /// Says that there is more.
    fn cut(&mut self) {
        let line =
            format!("... the tree ends here, after {NODES_MAX} records: ask for one of them, or less with --limit");
        let at = self.add(Node { shown: json!({"cut": true}), line, ..Node::default() });
        self.nodes[0].children.push(at);
    }

    fn to_json(&self, at: usize) -> Value {
        let node = &self.nodes[at];
        let mut shown = node.shown.clone();
        if !node.children.is_empty() {
            shown["of"] = node.children.iter().map(|&child| self.to_json(child)).collect();
        }
        if node.more > 0 {
            shown["more"] = node.more.into();
        }
        shown
    }

    /// `lead` stands before the node's first line, `rest` before those that follow and its children.
    fn print(&self, at: usize, lead: &str, rest: &str) -> anyhow::Result<()> {
        let node = &self.nodes[at];
        let mut lines = node.line.lines();
        output::line(format_args!("{lead}{}", lines.next().unwrap_or("")))?;
        for line in lines {
            output::line(format_args!("{rest}{}  {line}", if node.children.is_empty() { " " } else { "│" }))?;
        }
        if node.more > 0 {
            output::line(format_args!("{rest}├─ ... {} before these (--limit)", node.more))?;
        }
        for (number, &child) in node.children.iter().enumerate() {
            let is_last = number + 1 == node.children.len();
            let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.print(child, &format!("{rest}{branch}"), &format!("{rest}{below}"))?;
        }
        Ok(())
    }
}

/// Visits the record at a place, if the log still has it, with its headers as text.
fn at_place(
    log: &dyn Log,
    (partition, offset): &RecordPlace,
    mut visit: impl FnMut(RecordRef<'_>, HashMap<String, String>, Option<OutputId>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let range = log.offsets(std::slice::from_ref(partition))?[0];
    if *offset < range.first || *offset >= range.stable {
        return Ok(());
    }
    changelog::read_batches(log, partition, *offset, *offset + 1, |batch, at| -> anyhow::Result<()> {
        if batch.record(at).offset != *offset {
            return Ok(());
        }
        let mut headers = HashMap::new();
        batch.visit_headers(at, &mut |name, value| {
            headers.insert(name.to_owned(), String::from_utf8_lossy(value.unwrap_or_default()).into_owned());
        });
        visit(batch.record(at), headers, OutputId::of(batch, at))
    })?;
    Ok(())
}

/// Why reading ends early.
enum Stop {
    Enough,
    Failed(LogError),
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

/// Where an output lies in its partition.
fn find_output(log: &dyn Log, id: &OutputId, partition: &TopicPartition, from_ms: i64) -> anyhow::Result<Option<i64>> {
    let range = log.offsets(std::slice::from_ref(partition))?[0];
    let start = log.offset_at(partition, from_ms.max(0))?.unwrap_or(range.first);
    let mut found = None;
    let read = changelog::read_batches(log, partition, start, range.stable, |batch, at| {
        let Some(seen) = OutputId::of(batch, at) else { return Ok(()) };
        if seen == *id {
            found = Some(batch.record(at).offset);
        }
        let is_past = seen.service == id.service && seen.task == id.task && seen.sequence > id.sequence;
        if found.is_some() || is_past { Err(Stop::Enough) } else { Ok(()) }
    });
    match read {
        Err(Stop::Failed(error)) => Err(error.into()),
        _ => Ok(found),
    }
}
