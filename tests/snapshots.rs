//! Snapshots and standbys of the binary: what a machine with an empty disk restores is what was there, from a folder and from
//! a real S3-compatible server, on the embedded log and on Apache Kafka.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use support::engram::{Engram, Up};
use support::kafka::Kafka;
use support::s3::S3;
use support::wait_until;

const DEADLINE: Duration = Duration::from_secs(60);

fn events(from: usize, count: usize) -> String {
    let line = |number: usize| {
        format!(
            "{{\"id\":\"{number}\",\"time\":\"2026-01-01T00:{:02}:00Z\",\"user\":\"user-{}\",\"type\":\"edit\",\"target\":\"{}.md\"}}\n",
            number % 60,
            number % 97,
            number % 31
        )
    };
    (from..from + count).map(line).collect()
}

/// All that the service's stores hold, in an order of its own.
fn state(engram: &Engram) -> Vec<String> {
    let mut found = Vec::new();
    for store in engram.json(&["state", "list", "activity"]) {
        let name = store["store"].as_str().expect("a name");
        let entries = engram.json(&["state", "range", "activity", name, "--limit", "1000000"]);
        found.extend(entries.iter().map(|entry| format!("{name} {entry}")));
    }
    found.sort();
    assert!(found.len() > 100, "there is something to compare: {}", found.len());
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("read").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// An embedded log whose stores are lost: they come back from the newest snapshot that is whole, and the changelog.
fn comes_back(engram: &Engram, objects: &Path) {
    engram.run_with(&["produce", "activity.events"], &events(0, 2_000));
    engram.catch_up();
    // Nothing runs: what is on disk is taken.
    let taken = engram.json(&["snapshot", "create", "activity"]);
    assert_eq!(taken.len(), 4, "{taken:?}");
    engram.run_with(&["produce", "activity.events"], &events(2_000, 2_000));
    let up = engram.up(&[]);
    up.wait_until_idle(DEADLINE);
    // The running process takes them.
    let again = engram.json(&["snapshot", "create", "activity"]);
    assert_eq!(again.len(), 4, "{again:?}");
    assert!(again.iter().zip(&taken).all(|(new, old)| new["sequence"].as_i64() > old["sequence"].as_i64()));
    up.stop();
    engram.run_with(&["produce", "activity.events"], &events(4_000, 500));
    engram.catch_up();
    let expected = state(engram);
    let listed = engram.json(&["snapshot", "list", "activity"]);
    assert_eq!(listed.len(), 8, "{listed:?}");

    let stores = engram.data().join("stores");
    let lose_and_start = |newest: bool| {
        std::fs::remove_dir_all(&stores).expect("deleted");
        let up = engram.up(&[]);
        up.wait_until_idle(DEADLINE);
        let restores = up.restores();
        assert_eq!(restores.len(), 4, "{}", up.log());
        let wanted = if newest { &again } else { &taken };
        for restored in &restores {
            let of = wanted.iter().find(|taken| taken["task"] == restored["task"]).expect("taken");
            assert_eq!(restored["snapshot"], of["sequence"], "{restored}");
        }
        up.stop();
        assert_eq!(state(engram), expected);
    };
    lose_and_start(true);
    // One bit of each newest descriptor.
    for task in 0..4 {
        let descriptors = files(&objects.join(format!("embedded/activity/{task}/snapshots")));
        let newest = descriptors.last().expect("there are two");
        let mut bytes = std::fs::read(newest).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(newest, bytes).expect("written");
    }
    lose_and_start(false);
    // All files: only the changelog is left.
    for file in files(objects).iter().filter(|path| path.to_string_lossy().contains("/files/")) {
        std::fs::remove_file(file).expect("deleted");
    }
    std::fs::remove_dir_all(&stores).expect("deleted");
    let up = engram.up(&[]);
    up.wait_until_idle(DEADLINE);
    assert!(up.restores().iter().all(|restored| restored["snapshot"].is_null()), "{}", up.log());
    assert!(up.log().contains("snapshot not used"), "{}", up.log());
    up.stop();
    assert_eq!(state(engram), expected);
    // Begun anew, nothing of the old history is left.
    engram.run(&["reset", "activity", "--yes"]);
    assert!(engram.json(&["snapshot", "list"]).is_empty());
}

#[test]
fn stores_come_back_from_a_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    comes_back(&engram, &folder.path().join("data/snapshots"));
}

#[test]
fn stores_come_back_from_s3() {
    let s3 = S3::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data")).configured(&s3.toml());
    comes_back(&engram, &s3.objects());
    // Out of reach, it costs a warning.
    engram.run_with(&["produce", "activity.events"], &events(0, 100));
    s3.stop();
    let line = engram.fails(1, &["snapshot", "list"]);
    assert!(line.contains("s3://engram/snapshots"), "{line}");
    let up = engram.up(&[]);
    up.wait_until_idle(DEADLINE);
    assert!(up.log().contains("snapshots cannot be listed; restoring from the changelog"), "{}", up.log());
    up.stop();
}

#[test]
fn a_new_machine_takes_over_on_kafka() {
    let kafka = Kafka::start();
    let s3 = S3::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let machine = |name: &str| Engram::on_kafka(&folder.path().join(name), kafka.brokers()).configured(&s3.toml());
    let (first, second) = (machine("first"), machine("second"));
    first.run_with(&["produce", "activity.events"], &events(0, 3_000));
    let up = first.up(&[]);
    up.wait_until_idle(DEADLINE);
    assert_eq!(first.json(&["snapshot", "create", "activity"]).len(), 4);
    first.run_with(&["produce", "activity.events"], &events(3_000, 1_000));
    up.wait_until_idle(DEADLINE);
    let expected = state(&first);
    up.kill();

    let up = second.up(&[]);
    wait_until("the second has all tasks", DEADLINE, || up.restores().len() == 4);
    up.wait_until_idle(DEADLINE);
    assert!(up.restores().iter().all(|restored| restored["snapshot"].is_i64()), "{}", up.log());
    assert_eq!(state(&second), expected);
    up.stop();
}

#[test]
fn a_standby_takes_over_on_kafka() {
    let kafka = Kafka::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = "[snapshots]\nurl = \"none\"\n[standby]\nreplicas = 1\n";
    let machine = |name: &str| Engram::on_kafka(&folder.path().join(name), kafka.brokers()).configured(config);
    let (first, second) = (machine("first"), machine("second"));
    first.run_with(&["produce", "activity.events"], &events(0, 3_000));
    let one = first.up(&[]);
    one.wait_until_idle(DEADLINE);
    let two = second.up(&[]);
    // The second gets some of the partitions, and keeps the others warm.
    let warm = || {
        let services = two.get("/v1/services");
        let standby = services[0]["standby"].as_array().cloned().unwrap_or_default();
        let tasks = services[0]["workers"][0]["tasks"].as_array().map_or(0, Vec::len);
        let warm = standby.iter().filter(|copy| copy["behind"] == 0).count();
        // With two processes one of them is always among a task's first two, so that each keeps what it does not run.
        tasks > 0 && warm > 0 && tasks + warm == 4
    };
    wait_until("the second is warm", DEADLINE, warm);
    first.run_with(&["produce", "activity.events"], &events(3_000, 1_000));
    one.wait_until_idle(DEADLINE);
    two.wait_until_idle(DEADLINE);
    wait_until("the second is warm", DEADLINE, warm);
    // What the second has on disk, without asking the log for more.
    wait_until("the second can be read", DEADLINE, || {
        !second.json(&["state", "range", "activity", "windows", "--limit", "1000000", "--stale"]).is_empty()
    });
    let expected = state(&first);
    one.kill();

    let before = two.restores().len();
    wait_until("the second has all tasks", DEADLINE, || {
        two.get("/v1/services")[0]["workers"][0]["tasks"].as_array().is_some_and(|tasks| tasks.len() == 4)
    });
    two.wait_until_idle(DEADLINE);
    let taken: Vec<Value> = two.restores().split_off(before);
    let from_standby: Vec<_> = taken.iter().filter(|restored| restored["from_standby"] == true).collect();
    assert!(!from_standby.is_empty(), "{}", two.log());
    assert!(from_standby.iter().all(|restored| restored["restored_records"].as_i64() < Some(500)), "{from_standby:?}");
    assert_eq!(state(&second), expected);

    // Among five processes not everybody keeps everything warm: each task has one copy, or two where its owner would not
    // have been among the first two.
    let more: Vec<Up> = ["third", "fourth", "fifth", "sixth"].map(|name| machine(name).up(&[])).into();
    let ups = || more.iter().chain([&two]);
    wait_until("each task has as many copies as it should have", DEADLINE, || {
        let copies: Vec<i64> = ups()
            .flat_map(|up| up.get("/v1/services")[0]["standby"].as_array().cloned().unwrap_or_default())
            .filter_map(|copy| copy["task"].as_i64())
            .collect();
        (0..4).all(|task| (1..=2).contains(&copies.iter().filter(|copy| **copy == task).count()))
    });
    wait_until("they have said so", DEADLINE, || {
        let instances = second.json(&["services"])[0]["instances"].clone();
        let standbys = |instance: &Value| instance["workers"][0]["standbys"].as_array().map_or(0, Vec::len);
        instances.as_array().is_some_and(|instances| instances.iter().map(standbys).sum::<usize>() >= 4)
    });
    more.into_iter().for_each(Up::stop);
    two.stop();
}
