//! What a user gets who asks for something that cannot be: one clear line, exit code 2 for a command line that makes no
//! sense and 1 for everything else, and nothing lost.

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::{Cleanup, Log, TopicSpec};
use support::engram::{Engram, bare, failure};
use support::wait_until;

fn embedded() -> (tempfile::TempDir, Engram) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    (folder, engram)
}

/// A log with three events, all processed.
fn with_events() -> (tempfile::TempDir, Engram) {
    let (folder, engram) = embedded();
    engram.run_with(&["produce", "activity.events"], &events(3));
    engram.catch_up();
    (folder, engram)
}

fn events(count: usize) -> String {
    let line = |number: usize| {
        format!(
            "{{\"id\":\"{number}\",\"time\":\"2026-01-01T00:00:00Z\",\"user\":\"ada\",\"type\":\"edit\",\"target\":\"a.md\"}}\n"
        )
    };
    (0..count).map(line).collect()
}

fn git(arguments: &[&str], at: &Path) {
    let output = Command::new("git").arg("-C").arg(at).args(arguments).output().expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn command_lines_that_make_no_sense() {
    let (_folder, engram) = embedded();
    for (arguments, names) in [
        (&["frobnicate"] as &[&str], "frobnicate"),
        (&["--frobnicate", "topics"], "--frobnicate"),
        (&["up", "--services", "frobnicator"], "activity"),
        (&["up", "--workers", "0"], "0"),
        (&["up", "--http", "nowhere"], "nowhere"),
        (&["up", "--exit-when-idle", "soon"], "soon"),
        (&["ingest", "git"], "PATH"),
        (&["produce", "no.such.topic"], "activity.events"),
        (&["produce", "activity.events", "--type", "engram.Nothing"], "engram.activity.Interaction"),
        (&["consume"], "TOPIC"),
        (&["consume", "activity.windows", "--from", "yesterday"], "2026-"),
        (&["consume", "activity.windows", "--follow", "--last", "3"], "--last"),
        (&["state", "get", "activity"], "STORE"),
        (&["bench", "--records", "many"], "many"),
        (&["topics", "--brokers", "nowhere"], "HOST:PORT"),
    ] {
        let line = engram.fails(2, arguments);
        assert!(line.contains(names), "{arguments:?} should name {names}: {line}");
        assert!(line.len() < 400, "{line}");
    }
    let nothing: &[&str] = &[];
    assert!(failure(&bare(nothing).output().expect("it runs"), 2, nothing).contains("--help"));
    assert!(!engram.data().exists(), "nothing was created for a command line that makes no sense");
}

#[test]
fn what_is_not_there() {
    let (folder, engram) = embedded();
    for arguments in [&["topics"] as &[&str], &["consume", "activity.windows"], &["lag"], &["schemas", "list"]] {
        let line = engram.fails(1, arguments);
        assert!(line.contains("there is no log in") && line.contains("engram up"), "{line}");
    }
    let elsewhere = folder.path().join("nothing").display().to_string();
    assert!(engram.fails(1, &["ingest", "git", &elsewhere]).contains(&elsewhere));
    let plain = folder.path().display().to_string();
    assert!(engram.fails(1, &["ingest", "git", &plain]).contains("repository"));
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).expect("created");
    git(&["init", "--quiet"], &empty);
    let line = engram.fails(1, &["ingest", "git", &empty.display().to_string()]);
    assert!(line.contains("commit") || line.contains("HEAD"), "{line}");
    let this = env!("CARGO_MANIFEST_DIR");
    assert!(engram.fails(1, &["ingest", "git", this, "--revision", "no-such-branch"]).contains("no-such-branch"));
    assert!(!engram.data().exists(), "a wrong path creates no log");

    let missing = folder.path().join("missing.toml").display().to_string();
    assert!(engram.fails(1, &["up", "--config", &missing]).contains(&missing));
    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, "[commit]\ninterval = \"10 parsecs\"\n").expect("written");
    assert!(engram.fails(1, &["up", "--config", &wrong.display().to_string()]).contains("parsecs"));
    std::fs::write(&wrong, "partitons = 3\n").expect("written");
    assert!(engram.fails(1, &["up", "--config", &wrong.display().to_string()]).contains("partitons"));

    let (_folder, engram) = with_events();
    for (arguments, names) in [
        (&["consume", "no.such.topic"] as &[&str], "engram topics"),
        (&["state", "get", "frobnicator", "windows", "x"], "activity"),
        (&["state", "get", "activity", "frobnicates", "x"], "windows"),
        (&["state", "get", "activity", "windows", "no such key"], "no such key"),
        (&["schemas", "show", "no-such-subject"], "engram schemas list"),
        (&["reset", "frobnicator", "--yes"], "activity"),
    ] {
        let line = engram.fails(1, arguments);
        assert!(line.contains(names), "{arguments:?} should name {names}: {line}");
    }
}

#[test]
fn wrong_lines_are_reported_by_number_and_the_others_written() {
    let (folder, engram) = embedded();
    let lines = [
        r#"{"id":"1","time":1,"user":"ada","type":"edit"}"#,
        "not json",
        r#"{"id":"2","time":"soon","user":"ada","type":"edit"}"#,
        "",
        r#"{"id":"3","user":"ada","typ":"edit"}"#,
        r#"["id"]"#,
        r#"{"id":"4","type":"edit"}"#,
        r#"{"id":"5","time":"2026-01-01T00:00:00+01:00","user":"ada","type":"edit","value":1e400}"#,
        r#"{"id":"6","time":"2026-01-01T00:00:00+01:00","user":"ada","type":"edit"}"#,
    ];
    let output = engram.output_with(&["produce", "activity.events"], &lines.join("\n"));
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    for number in [2, 3, 5, 6, 7, 8] {
        assert!(errors.contains(&format!("line {number}: ")), "line {number} is missing in\n{errors}");
    }
    assert_eq!(errors.lines().count(), 7, "{errors}");
    let written = engram.consume("activity.events");
    let ids: Vec<&str> = written.iter().map(|record| record["value"]["id"].as_str().expect("id")).collect();
    assert_eq!(ids, ["1", "6"]);
    assert_eq!(written[1]["value"]["time"], 1_767_222_000_000_i64, "a time zone counts");
    drop(folder);
}

#[test]
fn windows_of_another_length_need_a_reset() {
    let (folder, engram) = with_events();
    let counted = engram.json(&["state", "range", "activity", "windows"]);
    let config = folder.path().join("hours.toml");
    std::fs::write(&config, "[activity.sources.default]\nwindow = \"1h\"\n").expect("written");
    let hours = ["--config", config.to_str().expect("UTF-8")];
    let up = [&["up", "--http", "127.0.0.1:0", "--exit-when-idle", "1"], &hours[..]].concat();
    engram.run(&up);
    engram.run_with(&["produce", "activity.events"], &events(1));
    let line = engram.fails(1, &up);
    assert!(line.contains("window of source default was 60000 ms") && line.contains("engram reset activity"), "{line}");
    assert_eq!(engram.json(&["state", "range", "activity", "windows"]), counted, "nothing was done");
    engram.run(&["reset", "activity", "--yes"]);
    engram.run(&up);
    let windows = engram.json(&["state", "range", "activity", "windows", "ada"]);
    assert_eq!((windows.len(), &windows[0]["value"]["count"]), (1, &4.into()));
}

#[test]
fn only_inputs_are_produced_to_and_only_what_can_be_counted() {
    let (_folder, engram) = embedded();
    for topic in ["activity.windows", "dead-letters", "engram-activity-repartition"] {
        assert!(engram.fails(2, &["produce", topic]).contains("activity.events"));
    }
    for (line, names) in [
        (r#"{"id":"1","time":9223372036854775807,"user":"ada","type":"edit"}"#, "time"),
        (r#"{"id":"1","time":1,"user":"","type":"edit"}"#, "user"),
    ] {
        let output = engram.output_with(&["produce", "activity.events"], line);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && errors.contains("line 1: ") && errors.contains(names), "{errors}");
    }
    let large = format!(r#"{{"id":"1","time":1,"user":"ada","type":"{}"}}"#, "t".repeat(11 << 20));
    assert_eq!(engram.output_with(&["produce", "activity.events"], &large).status.code(), Some(1));
}

/// `engram ... 2>&1 | head -1`, and Ctrl-C while nothing comes.
#[test]
fn closed_and_silent_pipes() {
    let (_folder, engram) = embedded();
    let mut command = engram.command(&["produce", "activity.events"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut produce = command.spawn().expect("engram runs");
    drop(produce.stderr.take());
    let mut input = produce.stdin.take().expect("it is piped");
    input.write_all(b"not json\nnor this\n").expect("it reads");
    drop(input);
    assert_eq!(produce.wait().expect("our child").code(), Some(1), "nobody listens, and it ends as it would");

    let mut command = engram.command(&["produce", "activity.events"]);
    let mut produce = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("engram runs");
    let mut input = produce.stdin.take().expect("it is piped");
    input.write_all(events(1).as_bytes()).expect("it reads");
    wait_until("the event is in the log", Duration::from_secs(30), || {
        engram.data().join("log/CURRENT").exists() && engram.consume("activity.events").len() == 1
    });
    // SAFETY: kill(2) takes no pointers; the process is our child and has not been waited for.
    unsafe { libc::kill(produce.id() as i32, libc::SIGINT) };
    let output = produce.wait_with_output().expect("our child");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 events written"), "{output:?}");
    drop(input);
}

#[test]
fn a_line_that_is_too_long_is_one_wrong_line() {
    let (_folder, engram) = embedded();
    let line = |id: &str| format!("{{\"id\":\"{id}\",\"time\":1,\"user\":\"ada\",\"type\":\"edit\"}}");
    let lines = [line("1"), line(&"2".repeat(17 << 20)), line("3")];
    let output = engram.output_with(&["produce", "activity.events"], &lines.join("\n"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 2: longer than"), "{output:?}");
    assert_eq!(engram.consume("activity.events").len(), 2);
}

#[test]
fn what_comes_by_a_pipe_is_written_at_once() {
    let (_folder, engram) = embedded();
    let up = engram.up(&[]);
    let mut command = engram.command(&["produce", "activity.events"]);
    let mut produce = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("engram runs");
    let mut input = produce.stdin.take().expect("it is piped");
    input.write_all(events(2).as_bytes()).expect("it reads");
    wait_until("the events are in the log", Duration::from_secs(30), || {
        let topics = engram.json(&["topics"]);
        topics.iter().any(|topic| topic["topic"] == "activity.events") && engram.consume("activity.events").len() == 2
    });
    drop(input);
    assert!(produce.wait().expect("our child").success());
    up.stop();
}

#[test]
fn a_broker_that_does_not_answer() {
    let (_folder, engram) = embedded();
    let started = Instant::now();
    for arguments in [&["topics"] as &[&str], &["up"], &["consume", "activity.windows"]] {
        let line = engram.fails(1, &[arguments, &["--brokers", "127.0.0.1:1"]].concat());
        assert!(line.contains("127.0.0.1:1"), "{line}");
    }
    assert!(started.elapsed() < Duration::from_secs(60), "it took {:?}", started.elapsed());
}

#[test]
fn a_registry_that_does_not_answer() {
    let (_folder, engram) = with_events();
    let line = engram.fails(1, &["schemas", "list", "--registry", "http://127.0.0.1:1"]);
    assert!(line.contains("127.0.0.1:1"), "{line}");
    let line = engram.fails(1, &["consume", "activity.events", "--last", "1", "--registry", "http://127.0.0.1:1"]);
    assert!(line.contains("127.0.0.1:1"), "{line}");
    let line = engram.fails(1, &["schemas", "list", "--registry", "gopher://x"]);
    assert!(line.contains("gopher") || line.contains("http"), "{line}");
}

#[test]
fn a_folder_that_another_process_holds() {
    let (_folder, engram) = with_events();
    let up = engram.up(&[]);
    let line = engram.fails(1, &["up", "--http", "127.0.0.1:0"]);
    assert!(line.contains("in use") && line.contains(&up.pid().to_string()) && line.contains("--data"), "{line}");
    // Reading and writing commands work beside it.
    engram.run_with(&["produce", "activity.events"], &events(2));
    assert_eq!(engram.consume("activity.events").len(), 5);
    // Only for those who may read the folder.
    let request = ureq::post(format!("{}/internal/log", up.http)).send(&b"\x01\x02\0\0\0\0"[..]);
    assert!(matches!(request, Err(ureq::Error::StatusCode(403))), "{request:?}");
    let line = engram.fails(1, &["reset", "activity", "--yes"]);
    assert!(line.contains("stop it first"), "a running service is not reset: {line}");
    up.stop();
}

#[test]
fn an_address_that_is_taken() {
    let (_folder, engram) = embedded();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let line = engram.fails(1, &["up", "--http", &address]);
    assert!(line.contains(&address) && line.contains("--http"), "{line}");
}

#[test]
fn a_damaged_log_is_left_as_it_is() {
    let (_folder, engram) = with_events();
    let log = engram.data().join("log");
    let manifest = std::fs::read_dir(&log)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("MANIFEST")))
        .expect("RocksDB has a manifest");
    let before = std::fs::read(&manifest).expect("readable");
    std::fs::write(&manifest, vec![0x5a; before.len()]).expect("writable");
    for arguments in [&["up", "--http", "127.0.0.1:0"] as &[&str], &["topics"]] {
        let line = engram.fails(1, arguments);
        assert!(line.contains("damaged") && line.contains(&log.display().to_string()), "{line}");
    }
    std::fs::write(&manifest, before).expect("writable");
    assert_eq!(engram.consume("activity.events").len(), 3, "nothing was deleted");
}

#[test]
fn a_damaged_store_is_left_as_it_is_and_can_be_rebuilt() {
    let (_folder, engram) = with_events();
    let windows = engram.json(&["state", "range", "activity", "windows"]);
    assert!(!windows.is_empty());
    let stores = engram.data().join("stores/embedded/activity");
    for task in std::fs::read_dir(&stores).expect("a folder") {
        std::fs::write(task.expect("an entry").path().join("CURRENT"), "nonsense\n").expect("writable");
    }
    let line = engram.fails(1, &["up", "--http", "127.0.0.1:0", "--exit-when-idle", "1"]);
    assert!(line.contains(&stores.display().to_string()) && line.contains("move that folder away"), "{line}");
    std::fs::rename(&stores, engram.data().join("away")).expect("renamed");
    engram.catch_up();
    assert_eq!(engram.json(&["state", "range", "activity", "windows"]), windows, "rebuilt from the changelog");
}

#[test]
fn topics_with_differing_partition_counts() {
    let (_folder, engram) = embedded();
    let topic = |name: &str, partitions| TopicSpec {
        name: name.to_owned(),
        partitions,
        cleanup: Cleanup::Keep,
        max_message_bytes: 1 << 20,
    };
    let log = EmbeddedLog::open(engram.data()).expect("opened");
    log.create_topics(&[topic("activity.events", 3), topic("engram-activity-repartition", 2)]).expect("created");
    drop(log);
    let line = engram.fails(1, &["up", "--http", "127.0.0.1:0"]);
    for part in ["activity.events has 3", "engram-activity-repartition has 2", "same number"] {
        assert!(line.contains(part), "{line}");
    }
}

/// In a file system of a few MiB, made for the test in a mount namespace of its own.
#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).expect("created");
    let input = folder.path().join("events.json");
    std::fs::write(&input, events(100_000)).expect("written");
    // Fills the disk with events until one command fails, then with the services; then makes room and goes on.
    let script = r#"
        set -u
        mount -t tmpfs -o size=40m tmpfs "$DISK" || exit 99
        dd if=/dev/zero of="$DISK/ballast" bs=1M count=24 status=none
        produced=0
        while true; do
            "$ENGRAM" produce activity.events "$INPUT" --data "$DISK/data" >"$OUT/produced" 2>"$OUT/full"
            code=$?
            [ $code -eq 0 ] || break
            produced=$((produced + 1)); [ $produced -lt 50 ] || exit 98
        done
        echo $code >"$OUT/full.rc"
        "$ENGRAM" up --data "$DISK/data" --http 127.0.0.1:0 --exit-when-idle 1 2>"$OUT/up"
        echo $? >"$OUT/up.rc"
        rm "$DISK/ballast"
        "$ENGRAM" up --data "$DISK/data" --http 127.0.0.1:0 --exit-when-idle 1 2>"$OUT/again" || exit 97
        "$ENGRAM" consume activity.events --data "$DISK/data" --json | wc -l >"$OUT/events"
        "$ENGRAM" consume activity.windows --data "$DISK/data" --json | grep '"dimension":"user"' | tail -n 1 >"$OUT/window"
        echo $produced >"$OUT/runs"
    "#;
    let status = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .env("DISK", &disk)
        .env("ENGRAM", env!("CARGO_BIN_EXE_engram"))
        .env("INPUT", &input)
        .env("OUT", folder.path())
        .status()
        .expect("unshare runs (package util-linux)");
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    assert!(status.success(), "{status}: {}\n{}\n{}", text("full"), text("up"), text("again"));
    assert_eq!(text("full.rc").trim(), "1");
    let full = text("full");
    assert!(full.lines().count() == 1 && full.contains("no space left") && full.contains("free some space"), "{full}");
    // The services may or may not find room for what they do; if not, they say so.
    let up = text("up");
    assert!(text("up.rc").trim() == "0" || up.contains("no space left"), "{up}");
    assert!(!up.contains("panicked"), "{up}");
    // Whole runs are there, and of the last one what had been flushed; all of it is counted, once.
    let events: u64 = text("events").trim().parse().expect("a number");
    let runs: u64 = text("runs").trim().parse().expect("a number");
    assert!(events >= runs * 100_000, "{events} events of {runs} runs and a bit");
    let window: serde_json::Value = serde_json::from_str(&text("window")).expect("a window");
    assert_eq!(window["value"]["count"], events);
}
