//! `engram diff`: what two builds or configurations make of the same history, compared output by output: a gate for CI.
//!
//! Each side is `engram replay --out` of that build: the same records in the same order and commits, whatever comes of them. So
//! outputs are compared by topic, key and commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::{Diff, Global};
use crate::output::{self, Usage};
use crate::values::rfc3339;

pub fn run(global: &Global, args: &Diff) -> anyhow::Result<()> {
    let folder =
        tempfile::Builder::new().prefix("engram-diff").tempdir().context("cannot create a temporary folder")?;
    let builds = [("base", &args.base, Build::parse(&args.base)?), ("with", &args.with, Build::parse(&args.with)?)];
    let mut sides = Vec::new();
    for (name, said, build) in builds {
        let out = folder.path().join(name);
        make(global, args, &build, &out).with_context(|| format!("--{name} {said}"))?;
        sides.push(out);
    }
    let mut report = Report { limit: args.limit, ..Report::default() };
    let files: BTreeSet<PathBuf> = files(&sides[0])?.into_iter().chain(files(&sides[1])?).collect();
    for file in files {
        report.compare(&file, &sides[0].join(&file), &sides[1].join(&file))?;
    }
    report.print(global)?;
    let (differences, outputs) = report.totals();
    anyhow::ensure!(
        args.allow.allows(differences, outputs),
        "{differences} outputs differ, of {outputs}; --allow {}",
        args.allow
    );
    Ok(())
}

/// A side: which program, with which configuration.
struct Build {
    program: PathBuf,
    config: Option<PathBuf>,
}

impl Build {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let this = || std::env::current_exe().context("cannot tell where this program is");
        let is_config = |text: &str| text.ends_with(".toml");
        let (program, config) = match text.split_once(',') {
            Some((program, config)) => (Some(program), Some(config)),
            None if is_config(text) => (None, Some(text)),
            None => (Some(text), None),
        };
        let program = match program {
            None | Some("this") => this()?,
            Some(path) => PathBuf::from(path),
        };
        for path in std::iter::once(program.as_path()).chain(config.map(Path::new)) {
            anyhow::ensure!(
                path.is_file(),
                Usage(format!(
                    "there is no file {}: a build is a program, a configuration (.toml), PROGRAM,CONFIG, or this",
                    path.display()
                ))
            );
        }
        // A name alone would be looked for elsewhere.
        let program = std::fs::canonicalize(&program).with_context(|| format!("cannot use {}", program.display()))?;
        Ok(Self { program, config: config.map(PathBuf::from) })
    }
}

/// Lets a build make its outputs.
fn make(global: &Global, args: &Diff, build: &Build, out: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(&build.program);
    command.args(["replay", &args.service, "--json", "--out"]).arg(out).arg("--data").arg(&global.data);
    let (from, to) = (args.from.map(rfc3339), args.to.map(rfc3339));
    for (name, value) in
        [("--brokers", &global.brokers), ("--registry", &global.registry), ("--from", &from), ("--to", &to)]
    {
        if let Some(value) = value {
            command.args([name, value]);
        }
    }
    if let Some(config) = build.config.as_ref().or(global.config.as_ref()) {
        command.arg("--config").arg(config);
    }
    let done =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", build.program.display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    let last = said.lines().rev().find(|line| line.starts_with("engram: ")).map(|line| &line["engram: ".len()..]);
    anyhow::ensure!(done.status.success(), "{}", last.unwrap_or("it has failed and says nothing of it"));
    let made: Value = serde_json::from_slice(&done.stdout).context("it is no engram that has 'replay --out'")?;
    anyhow::ensure!(made["commits"].as_u64().is_some_and(|commits| commits > 0), "there is no commit in that time");
    Ok(())
}

/// TOPIC/TASK.ndjson of a side.
fn files(side: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    // A side without outputs has no folder.
    for topic in std::fs::read_dir(side).into_iter().flatten() {
        let topic = topic?;
        for file in std::fs::read_dir(topic.path())? {
            found.push(Path::new(&topic.file_name()).join(file?.file_name()));
        }
    }
    Ok(found)
}

/// The differences of a topic.
#[derive(Debug, Default)]
struct Counts {
    base: u64,
    with: u64,
    changed: u64,
    missing: u64,
    extra: u64,
    /// Changed, by field.
    fields: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Report {
    topics: BTreeMap<String, Counts>,
    examples: Vec<Value>,
    limit: usize,
}

/// Outputs of one commit by key, each key's in order.
type OfCommit = BTreeMap<Key, Vec<Value>>;

/// A key, which may be null.
type Key = Option<String>;

impl Report {
    fn compare(&mut self, file: &Path, base: &Path, with: &Path) -> anyhow::Result<()> {
        let topic = file.parent().unwrap_or(file).display().to_string();
        let (mut base, mut with) = (Commits::open(base)?, Commits::open(with)?);
        self.topics.entry(topic.clone()).or_default();
        loop {
            let (left, right) = (base.sequence(), with.sequence());
            let Some(sequence) = left.into_iter().chain(right).min() else { return Ok(()) };
            let take = |side: &mut Commits, at: Option<i64>| {
                if at == Some(sequence) { side.take() } else { Ok(OfCommit::new()) }
            };
            let (left, right) = (take(&mut base, left)?, take(&mut with, right)?);
            self.commit(&topic, sequence, left, right);
        }
    }

    fn commit(&mut self, topic: &str, sequence: i64, base: OfCommit, mut with: OfCommit) {
        let keys: BTreeSet<Key> = base.keys().chain(with.keys()).cloned().collect();
        let mut base = base;
        for key in keys {
            let (left, right) = (base.remove(&key).unwrap_or_default(), with.remove(&key).unwrap_or_default());
            let counts = self.topics.get_mut(topic).expect("it was entered");
            counts.base += left.len() as u64;
            counts.with += right.len() as u64;
            for at in 0..left.len().max(right.len()) {
                let (kind, differing) = match (left.get(at), right.get(at)) {
                    (Some(left), Some(right)) if left == right => continue,
                    (Some(left), Some(right)) => {
                        let mut fields = Vec::new();
                        differing_fields("", left, right, &mut fields);
                        for (name, ..) in &fields {
                            *counts.fields.entry(name.clone()).or_default() += 1;
                        }
                        counts.changed += 1;
                        let fields = fields
                            .into_iter()
                            .map(|(name, base, with)| json!({"field": name, "base": base, "with": with}));
                        ("changed", json!({"fields": fields.collect::<Vec<_>>()}))
                    }
                    (Some(left), None) => {
                        counts.missing += 1;
                        ("missing", json!({"value": left}))
                    }
                    (None, right) => {
                        counts.extra += 1;
                        ("extra", json!({"value": right}))
                    }
                };
                if self.examples.len() < self.limit {
                    let mut example = json!({"topic": topic, "key": key, "commit": sequence, "kind": kind});
                    for (name, value) in differing.as_object().into_iter().flatten() {
                        example[name] = value.clone();
                    }
                    self.examples.push(example);
                }
            }
        }
    }

    /// Outputs that differ, and the base's outputs.
    fn totals(&self) -> (u64, u64) {
        let differ = self.topics.values().map(|counts| counts.changed + counts.missing + counts.extra).sum();
        (differ, self.topics.values().map(|counts| counts.base).sum())
    }

    fn print(&self, global: &Global) -> anyhow::Result<()> {
        if global.json {
            let topics: Vec<Value> = self.topics.iter().map(|(topic, counts)| {
                let Counts { base, with, changed, missing, extra, fields } = counts;
                json!({
                    "topic": topic, "base": base, "with": with, "changed": changed, "missing": missing, "extra": extra,
                    "fields": fields
                })
            }).collect();
            return Ok(output::json(&json!({"topics": topics, "differences": self.examples}))?);
        }
        let rows = self.topics.iter().map(|(topic, counts)| {
            let Counts { base, with, changed, missing, extra, fields } = counts;
            let fields: Vec<String> = fields.iter().map(|(name, count)| format!("{name} {count}")).collect();
            let mut row = vec![topic.clone()];
            row.extend([base, with, changed, missing, extra].map(u64::to_string));
            row.push(fields.join(", "));
            row
        });
        output::table(&["topic", "base", "with", "changed", "missing", "extra", "fields"], rows)?;
        for example in &self.examples {
            let text = |name: &str| example[name].as_str().unwrap_or("null").to_owned();
            output::line(format_args!(
                "{} {} key {} (commit {})",
                text("kind"),
                text("topic"),
                text("key"),
                example["commit"]
            ))?;
            for field in example["fields"].as_array().into_iter().flatten() {
                output::line(format_args!(
                    "  {}: {} -> {}",
                    field["field"].as_str().unwrap_or(""),
                    field["base"],
                    field["with"]
                ))?;
            }
            if !example["value"].is_null() {
                output::line(format_args!("  {}", example["value"]))?;
            }
        }
        let (differ, of) = self.totals();
        let shown = self.examples.len() as u64;
        if differ > shown {
            output::line(format_args!("... and {} more (--limit)", differ - shown))?;
        }
        output::line(format_args!("{differ} of {of} outputs differ"))?;
        Ok(())
    }
}

/// The fields in which two outputs differ, each by its path.
fn differing_fields(path: &str, base: &Value, with: &Value, found: &mut Vec<(String, Value, Value)>) {
    if let (Some(left), Some(right)) = (base.as_object(), with.as_object()) {
        let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        for name in names {
            let of = |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or(Value::Null);
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            differing_fields(&path, &of(left), &of(right), found);
        }
    } else if base != with {
        let path = if path.is_empty() { "value" } else { path };
        found.push((path.to_owned(), base.clone(), with.clone()));
    }
}

/// A file of outputs, commit by commit.
struct Commits {
    lines: Option<Lines<BufReader<File>>>,
    next: Option<(i64, Value)>,
}

impl Commits {
    /// A file that is not there has none.
    fn open(path: &Path) -> anyhow::Result<Self> {
        let lines = File::open(path).ok().map(|file| BufReader::new(file).lines());
        let mut commits = Self { lines, next: None };
        commits.read()?;
        Ok(commits)
    }

    fn sequence(&self) -> Option<i64> {
        self.next.as_ref().map(|(sequence, _)| *sequence)
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let line = self.lines.as_mut().and_then(Iterator::next).transpose()?;
        self.next = match line {
            None => None,
            Some(line) => {
                let output: Value = serde_json::from_str(&line)?;
                Some((output["commit"].as_i64().context("an output without a commit")?, output))
            }
        };
        Ok(())
    }

    /// The outputs of the next commit. They are compared as one object: partition and value.
    fn take(&mut self) -> anyhow::Result<OfCommit> {
        let (mut taken, sequence) = (OfCommit::new(), self.sequence());
        while self.sequence() == sequence
            && let Some((_, output)) = self.next.take()
        {
            let mut fields = match &output["value"] {
                Value::Object(fields) => fields.clone(),
                Value::Null => serde_json::Map::new(),
                other => serde_json::Map::from_iter([("value".to_owned(), other.clone())]),
            };
            if output["value"].is_null() {
                fields.insert("deleted".to_owned(), true.into());
            }
            fields.insert("partition".to_owned(), output["partition"].clone());
            taken.entry(output["key"].as_str().map(str::to_owned)).or_default().push(fields.into());
            self.read()?;
        }
        Ok(taken)
    }
}
