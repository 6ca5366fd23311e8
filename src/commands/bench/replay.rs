//! `engram bench replay`: what looking back costs, beside the live run that it looks back on. Everything is done by commands, as
//! a user does it, so that starting them counts.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::figures::cpu_time_of_children;
use crate::cli::{BenchReplay, Global};
use crate::output;

const SEED: u64 = 7;
/// The event that bisection looks for lies behind so much of the history.
const PLANTED_AT: f64 = 0.637;
const PLANTED_USER: &str = "planted";
/// Moments that are looked at.
const LOOKS: usize = 9;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// One measurement.
pub struct Line {
    name: String,
    took: Duration,
    /// Records that were processed for it, and the same per second.
    records: Option<u64>,
    /// The live run's time for the same records, as a multiple of this.
    times_live: Option<f64>,
    note: String,
}

impl Line {
    fn json(&self) -> Value {
        json!({
            "name": self.name, "seconds": self.took.as_secs_f64(), "records": self.records,
            "times_live": self.times_live, "note": self.note
        })
    }

    fn row(&self) -> Vec<String> {
        let rate = self.records.map(|records| format!("{:.0}", records as f64 / self.took.as_secs_f64()));
        vec![
            self.name.clone(),
            format!("{:.2}", self.took.as_secs_f64()),
            rate.unwrap_or_default(),
            self.times_live.map(|times| format!("{times:.1}")).unwrap_or_default(),
            self.note.clone(),
        ]
    }
}

pub fn print(json: bool, lines: &[Line]) -> anyhow::Result<()> {
    if json {
        return Ok(lines.iter().try_for_each(|line| output::json(&line.json()))?);
    }
    Ok(output::table(&["measurement", "seconds", "records/s", "times live", ""], lines.iter().map(Line::row))?)
}

/// Commands on one environment.
struct Engram {
    data: PathBuf,
    brokers: Option<String>,
}

impl Engram {
    fn run(&self, args: &[&str]) -> anyhow::Result<(String, Duration)> {
        let started = Instant::now();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).arg("--data").arg(&self.data).stdin(Stdio::null());
        command.env("RUST_LOG", "warn").env_remove("ENGRAM_BROKERS").env_remove("ENGRAM_CONFIG");
        if let Some(brokers) = &self.brokers {
            command.args(["--brokers", brokers]);
        }
        let done = command.output().context("cannot run this program again")?;
        let said = String::from_utf8_lossy(&done.stderr);
        anyhow::ensure!(done.status.success(), "engram {}: {}", args.join(" "), said.lines().last().unwrap_or(""));
        Ok((String::from_utf8(done.stdout)?, started.elapsed()))
    }

    fn json(&self, args: &[&str]) -> anyhow::Result<(Vec<Value>, Duration)> {
        let (out, took) = self.run(&[args, &["--json"]].concat())?;
        Ok((out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?, took))
    }
}

pub fn measure(global: &Global, args: &BenchReplay, folder: &Path) -> anyhow::Result<Vec<Line>> {
    let engram = Engram { data: folder.join("environment"), brokers: global.brokers.clone() };
    if engram.brokers.is_some() {
        let (topics, _) = engram.json(&["topics"])?;
        anyhow::ensure!(topics.is_empty(), "this measures a whole environment: give brokers that have no topics yet");
    }
    let mut events = Events::new(args);
    let mut produce = Duration::ZERO;
    for from in (0..args.events).step_by(usize::try_from(args.snapshot_every)?) {
        let to = args.events.min(from + args.snapshot_every);
        output::say(format_args!("engram: events {from} to {to}"));
        let file = folder.join("events.ndjson");
        events.write(&file, from..to)?;
        produce += engram.run(&["produce", "activity.events", &file.display().to_string()])?.1;
        engram.run(&["up", "--exit-when-idle", "1", "--http", "127.0.0.1:0"])?;
        engram.run(&["snapshot", "create", "activity"])?;
    }
    let live = Live::of(&engram)?;
    let mut lines = vec![
        Line {
            name: "write the events".into(),
            took: produce,
            records: Some(args.events),
            times_live: None,
            note: String::new(),
        },
        Line {
            name: "live".into(),
            took: live.took,
            records: Some(live.records),
            times_live: Some(1.0),
            note: format!("{} events, {} outputs", args.events, live.outputs),
        },
    ];
    output::say("engram: looking back");
    for (name, command) in [
        ("replay --verify", &["replay", "activity", "--verify"][..]),
        ("replay --out", &["replay", "activity", "--out", &folder.join("out").display().to_string()][..]),
    ] {
        let (found, took) = engram.json(command)?;
        let records = found[0]["records"].as_u64();
        let times_live = live.took.as_secs_f64() / took.as_secs_f64();
        let note = format!("{} outputs", found[0]["outputs"]);
        lines.push(Line { name: name.into(), took, records, times_live: Some(times_live), note });
    }
    lines.extend(beside(global, args, folder)?);
    lines.push(looks(&engram, &mut events.random)?);
    lines.push(bisection(&engram, args, &events)?);
    let key = events.planted_key();
    let (_, took) = engram.run(&["why", "activity", "windows", &key])?;
    lines.push(Line { name: "why of one entry".into(), took, records: None, times_live: None, note: String::new() });
    Ok(lines)
}

/// The live run once more, in two environments of their own: alone, and while commands look back on it all the time.
fn beside(global: &Global, args: &BenchReplay, folder: &Path) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    if global.brokers.is_some() {
        return Ok(lines);
    }
    for looked_at in [false, true] {
        output::say(format_args!("engram: a live run {}", if looked_at { "that is looked at" } else { "alone" }));
        let engram = Engram { data: folder.join(format!("live-{looked_at}")), brokers: None };
        let file = folder.join("live.ndjson");
        Events::new(args).write(&file, 0..args.events / 2)?;
        engram.run(&["produce", "activity.events", &file.display().to_string()])?;
        let before = cpu_time_of_children();
        let mut up = Command::new(std::env::current_exe()?)
            .args(["up", "--exit-when-idle", "1", "--http", "127.0.0.1:0", "--data"])
            .arg(&engram.data)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut commands = 0;
        while up.try_wait()?.is_none() {
            if looked_at {
                // It may not have committed anything yet.
                commands += u32::from(engram.run(&["replay", "activity", "--verify", "--key", "u1"]).is_ok());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        anyhow::ensure!(up.wait()?.success(), "the live run has failed");
        let cpu = (cpu_time_of_children() - before).as_secs_f64();
        let live = Live::of(&engram)?;
        let note = format!(
            "{commands} replays meanwhile; {cpu:.0} s of CPU in all, of {:.0}",
            live.took.as_secs_f64() * std::thread::available_parallelism()?.get() as f64
        );
        let name = if looked_at { "live, looked at" } else { "live, alone" };
        lines.push(Line { name: name.into(), took: live.took, records: Some(live.records), times_live: None, note });
        if looked_at {
            engram.run(&["replay", "activity", "--verify"])?;
        }
    }
    Ok(lines)
}

/// The state of one user at random moments: the middle one of all looks, and the longest.
fn looks(engram: &Engram, random: &mut StdRng) -> anyhow::Result<Line> {
    let (offsets, _) = engram.json(&["consume", "activity.events", "--last", "4000"])?;
    let ends: Vec<(i64, i64)> = (0..)
        .map_while(|partition| {
            let of = offsets.iter().filter(|record| record["partition"] == partition);
            of.filter_map(|record| record["offset"].as_i64()).max().map(|end| (partition, end))
        })
        .collect();
    anyhow::ensure!(!ends.is_empty(), "there are no events");
    let mut took = Vec::new();
    while took.len() < LOOKS {
        let (partition, end) = ends[random.random_range(0..ends.len())];
        let offset = random.random_range(0..=end);
        let at = format!("{partition}:{offset}");
        let place = format!("{offset}");
        let to = format!("{}", offset + 1);
        let (event, _) = engram.json(&["consume", "activity.events", "--from", &place, "--to", &to])?;
        let event = event.iter().find(|event| event["partition"] == partition).context("an event")?;
        let (time, user) = (event["value"]["time"].as_i64().unwrap_or(0), event["key"].clone());
        if user == PLANTED_USER {
            continue;
        }
        let start = time - time.rem_euclid(60_000);
        let key = json!({"dimension": "user", "key": user, "window_start": start, "source": ""}).to_string();
        let (found, look) = engram.json(&["state", "get", "activity", "windows", &key, "--at", &at])?;
        anyhow::ensure!(found[0]["value"]["count"].as_i64().is_some_and(|count| count > 0), "no count at {at}");
        took.push(look);
    }
    took.sort_unstable();
    let note = format!("the middle of {LOOKS}; the longest {:.2} s", took[LOOKS - 1].as_secs_f64());
    Ok(Line { name: "state get --at".into(), took: took[LOOKS / 2], records: None, times_live: None, note })
}

fn bisection(engram: &Engram, args: &BenchReplay, events: &Events) -> anyhow::Result<Line> {
    let expression = format!("get('windows', '{}') != null", events.planted_key());
    let (found, took) = engram.json(&["bisect", "activity", "--where", &expression])?;
    let event = &found[0]["first"]["record"];
    anyhow::ensure!(
        event["value"]["id"].as_str() == Some(&*events.planted.to_string()),
        "found {event}, and not the event that was planted"
    );
    let note = format!("{} events, {} probes", args.events, found[0]["probes"]);
    Ok(Line { name: "bisect".into(), took, records: None, times_live: None, note })
}

/// What the service did, by its manifests: the time within commits' rounds, without the starts of the process.
struct Live {
    took: Duration,
    records: u64,
    outputs: u64,
}

/// Commits that are further apart belong to different rounds.
const ROUND_GAP_MS: i64 = 900;

impl Live {
    fn of(engram: &Engram) -> anyhow::Result<Self> {
        let (manifests, _) = engram.json(&["consume", "engram-activity-manifests"])?;
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let (mut records, mut outputs, mut times) = (0, 0, Vec::new());
        for manifest in &manifests {
            let time: jiff::Timestamp = manifest["timestamp"].as_str().context("a time")?.parse()?;
            times.push(time.as_millisecond());
            let runs = manifest["value"]["interleaving"].as_array().into_iter().flatten();
            records += runs.map(|run| number(&run["count"])).sum::<u64>();
            outputs += number(&manifest["value"]["outputs"]);
        }
        times.sort_unstable();
        let ms: i64 = times.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap < ROUND_GAP_MS).sum();
        Ok(Self { took: Duration::from_millis(u64::try_from(ms)?), records, outputs })
    }
}

/// Events of many users, as a time goes on; one of them is of nobody else.
struct Events {
    random: StdRng,
    time_ms: i64,
    users: u64,
    planted: u64,
    planted_ms: i64,
}

impl Events {
    fn new(args: &BenchReplay) -> Self {
        let planted = (args.events as f64 * PLANTED_AT) as u64;
        let time_ms = 1_767_225_600_000;
        Self { random: StdRng::seed_from_u64(SEED), time_ms, users: args.users, planted, planted_ms: 0 }
    }

    fn write(&mut self, path: &Path, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let kinds = ["document.open", "document.edit", "search", "memory.access"];
        for number in numbers {
            self.time_ms += self.random.random_range(0..120);
            // Some users do far more than others.
            let user = (self.random.random::<f64>().powi(2) * self.users as f64) as u64;
            let target = self.random.random_range(0..=self.users / 4);
            // The history of a repository is never final, so that what it has counted stays to be looked at.
            let (user, source) = match number == self.planted {
                true => (PLANTED_USER.to_owned(), "git"),
                false => (format!("u{user}"), ""),
            };
            if number == self.planted {
                self.planted_ms = self.time_ms;
            }
            let event = json!({
                "id": number.to_string(), "time": self.time_ms, "user": user, "type": kinds[number as usize % kinds.len()],
                "target": format!("d{target}"), "source": source
            });
            writeln!(file, "{event}")?;
        }
        Ok(file.flush()?)
    }

    fn planted_key(&self) -> String {
        let start = self.planted_ms - self.planted_ms.rem_euclid(DAY_MS);
        json!({"dimension": "user", "key": PLANTED_USER, "window_start": start, "source": "git"}).to_string()
    }
}
