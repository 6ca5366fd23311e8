//! Looking back as a debugger does: why, bisect, step, diff, fork and the past by event time, each against what the inputs say,
//! on both logs; and that none of it leaves a trace.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use support::activity::seeded;
use support::engram::Engram;
use support::git_sample::counts_from_git_log;
use support::kafka::Kafka;

const DAY_MS: i64 = 86_400_000;
const COMMITS: usize = 250;
/// Values, records and expressions that are looked into on each log.
const LOOKS: usize = 4;

/// An input record of the activity service.
#[derive(Debug, Clone)]
struct Event {
    partition: i64,
    offset: i64,
    user: String,
    target: Option<String>,
    time_ms: i64,
}

impl Event {
    fn place(&self) -> String {
        format!("activity.events/{}/{}", self.partition, self.offset)
    }

    fn day(&self) -> i64 {
        self.time_ms - self.time_ms.rem_euclid(DAY_MS)
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().expect("a number")
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// In the order of partitions and offsets.
fn inputs(engram: &Engram) -> Vec<Event> {
    let event = |record: Value| Event {
        partition: number(&record["partition"]),
        offset: number(&record["offset"]),
        user: text(&record["value"]["user"]),
        target: record["value"]["target"].as_str().map(str::to_owned),
        time_ms: number(&record["value"]["time"]),
    };
    let mut events: Vec<Event> = engram.consume("activity.events").into_iter().map(event).collect();
    events.sort_by_key(|event| (event.partition, event.offset));
    events
}

fn one_of<'a, T>(items: &'a [T], random: &mut StdRng) -> &'a T {
    &items[random.random_range(0..items.len())]
}

fn user_key(event: &Event) -> String {
    json!({"dimension": "user", "key": event.user, "window_start": event.day(), "source": "git"}).to_string()
}

/// The original events of a tree.
fn leaves(tree: &Value, found: &mut BTreeSet<String>) {
    if let Some(record) = tree["record"].as_str().filter(|record| record.starts_with("activity.events/")) {
        found.insert(record.to_owned());
    }
    tree["of"].as_array().into_iter().flatten().for_each(|child| leaves(child, found));
}

/// All records of a tree, by topic.
fn records(tree: &Value, topic: &str, found: &mut Vec<String>) {
    if let Some(record) = tree["record"].as_str().filter(|record| record.starts_with(&format!("{topic}/"))) {
        found.push(record.to_owned());
    }
    tree["of"].as_array().into_iter().flatten().for_each(|child| records(child, topic, found));
}

fn why(engram: &Engram, args: &[&str]) -> Value {
    engram.json(&[&["why", "--limit", "1000000"], args].concat()).swap_remove(0)
}

/// A count is made of exactly the events that it counts.
fn why_is_what_was_counted(engram: &Engram, events: &[Event], random: &mut StdRng) {
    for _ in 0..LOOKS {
        let event = one_of(events, random);
        let of = |matches: &dyn Fn(&Event) -> bool| -> BTreeSet<String> {
            events.iter().filter(|other| other.day() == event.day() && matches(other)).map(Event::place).collect()
        };
        let expected = of(&|other| other.user == event.user);
        let mut found = BTreeSet::new();
        leaves(&why(engram, &["activity", "windows", &user_key(event)]), &mut found);
        assert_eq!(found, expected, "{}", user_key(event));

        // As it was right after that record.
        let at = format!("{}:{}", event.partition, event.offset);
        let earlier: BTreeSet<String> = events
            .iter()
            .filter(|other| other.user == event.user && other.day() == event.day() && other.offset <= event.offset)
            .map(Event::place)
            .collect();
        let mut found = BTreeSet::new();
        leaves(&why(engram, &["activity", "windows", &user_key(event), "--at", &at]), &mut found);
        assert_eq!(found, earlier, "{} at {at}", user_key(event));

        // Across the repartition, from the last record of a file's day.
        let Some(target) = &event.target else { continue };
        let key = format!("target:{target}@{}/git", event.day());
        let last = engram.json(&["consume", "activity.windows", "--key", &key]).pop().expect("the file was counted");
        let place = format!("{}:{}", last["partition"], last["offset"]);
        let mut found = BTreeSet::new();
        leaves(&why(engram, &["activity.windows", &place]), &mut found);
        assert_eq!(found, of(&|other| other.target.as_ref() == Some(target)), "{key} at {place}");
        assert_eq!(found.len() as i64, number(&last["value"]["count"]));
    }
}

/// What an event has caused is made of it.
fn forward_is_backward(engram: &Engram, events: &[Event], random: &mut StdRng) {
    for _ in 0..LOOKS {
        let event = one_of(events, random);
        let place = format!("{}:{}", event.partition, event.offset);
        let tree = why(engram, &["activity.events", &place, "--forward"]);
        let mut caused = Vec::new();
        records(&tree, "activity.windows", &mut caused);
        // Of the user, the kind of event and, if it has one, the file.
        assert_eq!(caused.len(), 2 + usize::from(event.target.is_some()), "{tree}");
        for record in caused {
            let (topic, place) = record.split_once('/').expect("a place");
            let mut found = BTreeSet::new();
            leaves(&why(engram, &[topic, &place.replace('/', ":")]), &mut found);
            assert!(found.contains(&event.place()), "{record} is not made of {}", event.place());
        }
    }
}

/// The n-th event of a user's day is the first after which its count is n.
fn bisect_finds_the_event(engram: &Engram, events: &[Event], random: &mut StdRng) {
    for _ in 0..LOOKS {
        let event = one_of(events, random);
        let count = events
            .iter()
            .filter(|other| other.user == event.user && other.day() == event.day() && other.offset <= event.offset);
        // Raw, as a name may have a backslash.
        let expression = format!("get('windows', r'{}').count >= {}", user_key(event), count.count());
        let found = &engram.json(&["bisect", "activity", "--where", &expression])[0];
        assert_eq!(found["first"]["record"]["place"], event.place(), "{expression}");
        assert!(number(&found["probes"]) <= 40, "{found}");
        let before = event.offset > 0;
        let at = format!("{}:{}", event.partition, event.offset);
        let found = &engram.json(&["bisect", "activity", "--where", &expression, "--bad", &at])[0];
        assert_eq!(found["first"]["record"]["place"], event.place(), "{expression} until {at}");
        assert!(engram.fails(1, &["bisect", "activity", "--where", &expression, "--good", &at]).contains("already"));
        if before {
            let at = format!("{}:{}", event.partition, event.offset - 1);
            let fails = engram.fails(1, &["bisect", "activity", "--where", &expression, "--bad", &at]);
            assert!(fails.contains("does not hold at --bad") || fails.contains("no commit has taken"), "{fails}");
        }
    }
    // By an output: the first that says so, found by the step that it was made of.
    let event = one_of(events, random);
    let expression = format!(
        "output.topic == 'activity.windows' && output.value.key == r'{}' && output.value.count > 0",
        event.user
    );
    let found = &engram.json(&["bisect", "activity", "--where", &expression])[0];
    assert_eq!(found["first"]["record"]["key"], event.user, "{found}");
}

/// Step by step a task takes its inputs in order, and each change goes on from the one before.
fn steps_are_the_past(engram: &Engram, events: &[Event], random: &mut StdRng) {
    let event = one_of(events, random);
    let task = event.partition.to_string();
    let steps = engram.json(&["step", "activity", "--task", &task]);
    let taken: Vec<i64> = steps
        .iter()
        .filter_map(|step| {
            step["record"]["place"].as_str()?.strip_prefix(&format!("activity.events/{task}/"))?.parse().ok()
        })
        .collect();
    let of_task: Vec<i64> =
        events.iter().filter(|other| other.partition == event.partition).map(|other| other.offset).collect();
    assert_eq!(taken, of_task);
    let mut state: BTreeMap<(String, String), Value> = BTreeMap::new();
    for change in steps.iter().flat_map(|step| step["changes"].as_array().expect("a list")) {
        let key = (text(&change["store"]), change["key"].to_string());
        assert_eq!(state.get(&key).unwrap_or(&Value::Null), &change["before"], "{change}");
        state.insert(key, change["after"].clone());
    }
    for entry in engram.json(&["state", "range", "activity", "windows", "--limit", "1000000"]) {
        let key = ("windows".to_owned(), entry["key"].to_string());
        assert!(state.get(&key).is_none_or(|known| *known == entry["value"]), "{entry}");
    }
    let own = |step: &&Value| step["record"]["key"] == event.user.as_str();
    let of_key = engram.json(&["step", "activity", "--key", &event.user, "--from", &format!("{task}:{}", of_task[0])]);
    assert_eq!(of_key.iter().filter(own).count(), steps.iter().filter(own).count());
    let place = format!("{task}:{}", event.offset);
    let expression = format!("step.record.key == r'{}'", event.user);
    let breaks = engram.json(&["step", "activity", "--from", &place, "--to", &place, "--break-where", &expression]);
    assert_eq!(breaks.len(), 1, "{breaks:?}");
    assert_eq!((&breaks[0]["record"]["place"], &breaks[0]["break"]), (&json!(event.place()), &json!(true)));
    assert!(engram.fails(2, &["step", "activity", "--task", &task]).contains("--json"));
}

/// Two builds over one history: none differs from itself; what a setting takes away is told.
fn diff_tells(engram: &Engram, folder: &Path) {
    let same = &engram.json(&["diff", "activity", "--with", "this"])[0];
    assert_eq!(same["differences"], json!([]));
    let config = folder.join("no-sessions.toml");
    std::fs::write(&config, "[commit]\nrecords_max = 50\n[activity]\nsessions = false\n").expect("written");
    let config = config.display().to_string();
    let said = engram.fails(1, &["diff", "activity", "--with", &config]);
    assert!(said.contains("outputs differ"), "{said}");
    let report = &engram.json(&["diff", "activity", "--with", &config, "--allow", "100%"])[0];
    for topic in report["topics"].as_array().expect("a list") {
        let of_sessions = topic["topic"] == "activity.sessions";
        let base = number(&topic["base"]);
        assert!(base > 0, "{topic}");
        assert_eq!(number(&topic["missing"]), if of_sessions { base } else { 0 }, "{topic}");
        assert_eq!((number(&topic["changed"]), number(&topic["extra"])), (0, 0), "{topic}");
    }
    assert!(engram.fails(2, &["diff", "activity", "--with", "/nowhere"]).contains("there is no file"));
}

/// (user, day) -> count.
fn user_counts(engram: &Engram, args: &[&str]) -> BTreeMap<(String, i64), i64> {
    let range = ["state", "range", "activity", "windows", "--limit", "1000000"];
    let entries = engram.json(&[&range, args].concat());
    let of_users = entries.iter().filter(|entry| entry["key"]["dimension"] == "user");
    of_users
        .map(|entry| {
            ((text(&entry["key"]["key"]), number(&entry["key"]["window_start"])), number(&entry["value"]["count"]))
        })
        .collect()
}

fn counted<'a>(events: impl Iterator<Item = &'a Event>) -> BTreeMap<(String, i64), i64> {
    let mut counts = BTreeMap::new();
    events.for_each(|event| *counts.entry((event.user.clone(), event.day())).or_default() += 1);
    counts
}

/// A fork has the inputs until then, at their places, and its services make of them what they do.
fn forks_go_their_own_way(
    engram: &Engram,
    brokers: Option<&str>,
    events: &[Event],
    folder: &Path,
    random: &mut StdRng,
) {
    let event = one_of(events, random);
    let new = folder.join("fork");
    let data = engram.data().display().to_string();
    let at = event.place();
    let source = match brokers {
        Some(brokers) => ["--brokers", brokers],
        None => ["--of", &data],
    };
    let args = [&["fork", "--at", &at][..], &source].concat();
    let fork = Engram::embedded(&new);
    fork.run(&args);
    assert!(fork.fails(1, &args).contains("not empty"));
    assert!(!folder.join("fork.partial").exists());
    let elsewhere = Engram::embedded(&folder.join("none"));
    let of_output = [&["fork", "--at", "activity.windows/0/0"][..], &source].concat();
    assert!(elsewhere.fails(1, &of_output).contains("no input"));
    assert!(elsewhere.fails(1, &["fork", "--of", "/nowhere"]).contains("--of or --brokers"));
    let copied = inputs(&fork);
    let of_partition = |of: &[Event]| -> Vec<i64> {
        of.iter().filter(|other| other.partition == event.partition).map(|other| other.offset).collect()
    };
    let expected: Vec<i64> = of_partition(events).into_iter().filter(|&offset| offset <= event.offset).collect();
    assert_eq!(of_partition(&copied), expected, "the places of {at} and before");
    fork.catch_up();
    assert_eq!(user_counts(&fork, &[]), counted(copied.iter()));
    fork.replays("activity");
}

/// The state by event time is what the events until then count.
fn as_of_event(engram: &Engram, events: &[Event], random: &mut StdRng) {
    let time_ms = one_of(events, random).time_ms;
    let time = jiff::Timestamp::from_millisecond(time_ms).expect("a time").to_string();
    let expected = counted(events.iter().filter(|event| event.time_ms <= time_ms));
    assert_eq!(user_counts(engram, &["--as-of-event", &time]), expected, "at {time}");
}

/// A derived topic at a moment ends with what the state was then.
fn as_of(engram: &Engram, random: &mut StdRng) {
    let manifests = engram.consume("engram-activity-manifests");
    let time = text(&one_of(&manifests, random)["timestamp"]);
    let mut last = BTreeMap::new();
    for record in engram.json(&["consume", "activity.windows", "--as-of", &time]) {
        let value = &record["value"];
        if value["dimension"] == "user" {
            last.insert((text(&value["key"]), number(&value["window_start"])), number(&value["count"]));
        }
    }
    assert_eq!(last, user_counts(engram, &["--at", &time]), "at {time}");
    let written = engram.json(&["consume", "activity.events", "--as-of", &time]);
    let all = engram.consume("activity.events");
    let time: jiff::Timestamp = time.parse().expect("a time");
    let expected =
        all.iter().filter(|record| text(&record["timestamp"]).parse::<jiff::Timestamp>().expect("a time") <= time);
    assert_eq!(written.len(), expected.count());
}

/// Outputs as Parquet have the rows that the JSON lines have.
fn parquet(engram: &Engram, folder: &Path) {
    let rows = |format: &str| {
        let out = folder.join(format);
        engram.run(&["replay", "activity", "--out", &out.display().to_string(), "--format", format]);
        let mut rows: BTreeMap<String, usize> = BTreeMap::new();
        for topic in std::fs::read_dir(&out).expect("a folder").map(|topic| topic.expect("a topic").path()) {
            for file in std::fs::read_dir(&topic).expect("a folder").map(|file| file.expect("a file").path()) {
                let count = match format {
                    "ndjson" => std::fs::read_to_string(&file).expect("text").lines().count(),
                    _ => {
                        let file = std::fs::File::open(&file).expect("a file");
                        let reader = SerializedFileReader::new(file).expect("Parquet");
                        usize::try_from(reader.metadata().file_metadata().num_rows()).expect("a number")
                    }
                };
                *rows.entry(topic.file_name().expect("a name").to_string_lossy().into_owned()).or_default() += count;
            }
        }
        rows
    };
    assert_eq!(rows("parquet"), rows("ndjson"));
}

/// Every file below a folder with its bytes; RocksDB's own logs, and its locks, are no data.
fn bytes_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(bytes_below(&path));
        } else if !entry.file_name().to_string_lossy().starts_with("LOG") {
            found.insert(path.display().to_string(), std::fs::read(&path).expect("a file"));
        }
    }
    found
}

fn look_back(engram: &Engram, brokers: Option<&str>, folder: &Path) {
    let mut random = seeded();
    engram.ingest_in_parts(folder, COMMITS, &mut random);
    let events = inputs(engram);
    let (topics, services, files) =
        (engram.run(&["topics", "--json"]), engram.run(&["services", "--json"]), bytes_below(engram.data()));
    why_is_what_was_counted(engram, &events, &mut random);
    forward_is_backward(engram, &events, &mut random);
    bisect_finds_the_event(engram, &events, &mut random);
    steps_are_the_past(engram, &events, &mut random);
    diff_tells(engram, folder);
    as_of_event(engram, &events, &mut random);
    as_of(engram, &mut random);
    parquet(engram, folder);
    forks_go_their_own_way(engram, brokers, &events, folder, &mut random);
    assert_eq!(engram.run(&["topics", "--json"]), topics, "nothing was written");
    assert_eq!(engram.run(&["services", "--json"]), services, "no group was touched");
    assert!(bytes_below(engram.data()) == files, "not a byte of log, stores and snapshots has changed");
}

#[test]
fn looking_back_on_the_embedded_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data")).configured("[commit]\nrecords_max = 50\n");
    look_back(&engram, None, folder.path());
    refusals(&engram);
}

#[test]
fn looking_back_on_apache_kafka() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kafka = Kafka::start();
    let data = folder.path().join("data");
    let engram = Engram::on_kafka(&data, kafka.brokers()).configured("[commit]\nrecords_max = 50\n");
    look_back(&engram, Some(kafka.brokers()), folder.path());
    kafka.stop();
}

/// Each in one line that says what to do.
fn refusals(engram: &Engram) {
    for (code, args, part) in [
        (1, &["why", "activity.events", "0:99999999"][..], "there is no record"),
        (1, &["why", "nothing", "0:0"], "there is no topic"),
        (2, &["why", "activity.events", "0"], "PARTITION:OFFSET"),
        (2, &["why", "activity.events"], "give SERVICE STORE KEY"),
        (1, &["why", "activity", "windows", "nobody"], "has no entry nobody"),
        (1, &["why", "activity", "nothing", "x"], "has no store"),
        (2, &["why", "activity", "windows", "x", "--forward"], "--forward goes with"),
        (2, &["bisect", "activity", "--where", "1 +"], "is no expression"),
        (2, &["bisect", "activity", "--where", "nobody == 1"], "names"),
        (1, &["bisect", "activity", "--where", "1 + 1"], "neither true nor false"),
        (1, &["bisect", "activity", "--where", "get('nothing', 'x') == 1"], "has no store"),
        (2, &["bisect", "activity", "--where", "true", "--good", "0:1", "--bad", "1:1"], "two partitions"),
        (1, &["step", "activity", "--task", "99", "--json"], "there is no partition 99"),
        (2, &["step", "activity", "--json"], "--key"),
        (
            2,
            &["step", "activity", "--task", "0", "--json", "--break-where", "get('windows', 'x') == 1"],
            "asks for state",
        ),
        (2, &["diff", "activity"], "--with"),
        (1, &["diff", "activity", "--with", "this", "--from", "2099-01-01T00:00:00Z"], "no commit in that time"),
        (2, &["bisect", "activity", "--where", "output.key == get('windows', 'x')"], "one of them"),
        (2, &["step", "activity", "--task", "0", "--from", "1:0", "--json"], "different partitions"),
        (1, &["step", "activity", "--task", "0", "--key", "nobody", "--json"], "no step of task 0"),
        (2, &["why", "activity", "windows"], "KEY is missing"),
        (1, &["why", "nobody", "windows", "x"], "there is no service"),
        (1, &["bisect", "nobody", "--where", "true"], "there is no service"),
        (1, &["state", "get", "activity", "clock", "{\"source\":\"git\"}"], "entry"),
        (2, &["diff", "activity", "--with", "this", "--allow", "lots"], "such as 0.1%"),
        (2, &["consume", "activity.events", "--as-of", "0:1"], "give --as-of a TIME"),
        (2, &["state", "range", "activity", "windows", "--as-of-event", "0:1"], "expected a time"),
        (2, &["replay", "activity", "--verify", "--format", "parquet"], "--out"),
    ] {
        let said = engram.fails(code, args);
        assert!(said.contains(part), "{args:?}: {said}");
    }
}

/// At the time of a commit of this repository, each file's changes per day are those that `git log` tells up to it.
#[test]
fn the_past_of_a_repository_is_its_git_log() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |args: &[&str]| {
        let done = Command::new("git").arg("-C").arg(repository).args(args).output().expect("git runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    engram.run(&["ingest", "git", &repository.display().to_string()]);
    engram.catch_up();
    // Commits whose past in time is their past in the history.
    let commits: Vec<(String, i64)> = git(&["log", "--reverse", "--format=%H %at"])
        .lines()
        .map(|line| {
            let (id, seconds) = line.split_once(' ').expect("two words");
            (id.to_owned(), seconds.parse::<i64>().expect("a number"))
        })
        .collect();
    let is_ordered = |at: usize| {
        let time = commits[at].1;
        let ancestors = git(&["rev-list", "--count", &commits[at].0]).trim().parse::<usize>().expect("a number");
        ancestors == at + 1
            && commits[..at].iter().all(|(_, other)| *other <= time)
            && commits[at + 1..].iter().all(|(_, other)| *other > time)
    };
    let fit: Vec<usize> = (0..commits.len()).filter(|&at| is_ordered(at)).collect();
    assert!(fit.len() >= LOOKS, "{} of {} commits are in the order of their times", fit.len(), commits.len());
    let mut random = seeded();
    for _ in 0..LOOKS {
        let (commit, seconds) = &commits[*one_of(&fit, &mut random)];
        let time = jiff::Timestamp::from_second(*seconds).expect("a time").to_string();
        let mut found = BTreeMap::new();
        for entry in
            engram.json(&["state", "range", "activity", "windows", "--limit", "1000000", "--as-of-event", &time])
        {
            let key = &entry["key"];
            found.insert(
                (text(&key["dimension"]), text(&key["key"]), number(&key["window_start"])),
                number(&entry["value"]["count"]),
            );
        }
        assert_eq!(found, counts_from_git_log(repository, commit), "at commit {commit}");
    }
}
