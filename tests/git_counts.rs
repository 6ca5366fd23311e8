//! The history of a repository, all the way: what `engram consume activity.windows` ends with are the counts that one
//! `git log` gives, per author, file and type and UTC day, exactly, on both logs.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use engram_pipeline::log::Log;
use engram_pipeline::log::embedded::EmbeddedLog;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use support::engram::Engram;
use support::git_sample::{counts_from_git_log, generate};
use support::kafka::Kafka;

/// (dimension, key, start of the day in ms) -> count.
type Counts = BTreeMap<(String, String, i64), i64>;

/// What is left when each window's last record counts.
fn counts(engram: &Engram) -> Counts {
    let mut counts = Counts::new();
    for record in engram.consume("activity.windows") {
        let value = &record["value"];
        let text = |name: &str| value[name].as_str().expect(name).to_owned();
        let number = |name: &str| value[name].as_i64().expect(name);
        assert_eq!(number("window_end") - number("window_start"), 86_400_000, "a day: {record}");
        assert_eq!(text("source"), "git");
        let key = format!("{}:{}@{}/git", text("dimension"), text("key"), number("window_start"));
        assert_eq!(record["key"], key, "git has windows of its own, and so keys of its own");
        assert!(number("window_start") <= number("first_ts") && number("first_ts") <= number("last_ts"), "{record}");
        assert!(number("last_ts") < number("window_end"), "{record}");
        counts.insert((text("dimension"), text("key"), number("window_start")), number("count"));
    }
    counts
}

#[track_caller]
fn assert_counts(found: &Counts, expected: &Counts) {
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(key, count)| found.get(*key) != Some(count))
        .map(|(key, count)| format!("{key:?}: {:?} instead of {count}", found.get(key)))
        .chain(found.keys().filter(|key| !expected.contains_key(*key)).map(|key| format!("{key:?}: too much")))
        .take(10)
        .collect();
    assert!(
        wrong.is_empty(),
        "{} windows expected, {} found; wrong are\n{}",
        expected.len(),
        found.len(),
        wrong.join("\n")
    );
}

fn this_repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn this_repository_on_the_embedded_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    engram.run(&["ingest", "git", &this_repository().display().to_string()]);
    engram.catch_up();
    assert_counts(&counts(&engram), &counts_from_git_log(this_repository(), "HEAD"));
    let again = engram.run(&["ingest", "git", &this_repository().display().to_string()]);
    assert!(again.contains("nothing new"), "{again}");
}

#[test]
fn twenty_thousand_odd_commits_on_the_embedded_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let repository = folder.path().join("repository");
    generate(&repository, 20_000, 1);
    let engram = Engram::embedded(&folder.path().join("data"));
    engram.run(&["ingest", "git", &repository.display().to_string()]);
    engram.catch_up();
    assert_counts(&counts(&engram), &counts_from_git_log(&repository, "HEAD"));
}

#[test]
#[ignore = "needs ENGRAM_REPOSITORY=PATH, as `make soak` gives it"]
fn a_given_repository_on_the_embedded_log() {
    let repository = PathBuf::from(std::env::var_os("ENGRAM_REPOSITORY").expect("ENGRAM_REPOSITORY is set"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    println!("{}", engram.run(&["ingest", "git", &repository.display().to_string()]));
    engram.catch_up();
    assert_counts(&counts(&engram), &counts_from_git_log(&repository, "HEAD"));
}

#[test]
fn both_repositories_on_apache_kafka() {
    for (repository, commits) in [(None, 0), (Some("repository"), 20_000)] {
        let kafka = Kafka::start();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let repository = match repository {
            None => this_repository().to_owned(),
            Some(name) => {
                generate(&folder.path().join(name), commits, 2);
                folder.path().join(name)
            }
        };
        let engram = Engram::on_kafka(&folder.path().join("data"), kafka.brokers());
        engram.run(&["ingest", "git", &repository.display().to_string()]);
        engram.catch_up();
        assert_counts(&counts(&engram), &counts_from_git_log(&repository, "HEAD"));
    }
}

/// Every event once, however often and whenever the ingest was killed, and while the services run.
fn survives_kills(engram: &Engram, repository: &Path, seed: u64) {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let up = engram.up(&[]);
    let (mut kills, mut failures, mut finished) = (0, 0, false);
    while !finished {
        let mut ingest =
            engram.command(&["ingest", "git", &repository.display().to_string()]).spawn().expect("it runs");
        // Not a wait for a condition: the moment of the kill is what is random.
        std::thread::sleep(Duration::from_millis(random.random_range(20..400)));
        finished = kills >= 8 || ingest.try_wait().expect("our child").is_some_and(|status| status.success());
        if finished {
            // A broker that gets no processor time aborts a transaction: then the user is told to run it again.
            finished = ingest.wait().expect("our child").success();
            failures += i32::from(!finished);
            assert!(failures < 3, "an ingest that nobody kills fails again and again");
        } else {
            let _ = ingest.kill();
            ingest.wait().expect("our child");
            kills += 1;
        }
    }
    println!("killed {kills} times");
    assert!(kills > 0, "the ingest was too fast to be killed");
    up.wait_until_idle(Duration::from_secs(60));
    up.stop();
    let ids: Vec<String> = engram
        .consume("activity.events")
        .iter()
        .map(|record| record["value"]["id"].as_str().expect("id").to_owned())
        .collect();
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "an event came twice");
    assert_counts(&counts(engram), &counts_from_git_log(repository, "HEAD"));
}

#[test]
fn a_killed_ingest_goes_on_where_it_was_on_the_embedded_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let repository = folder.path().join("repository");
    generate(&repository, 8_000, 3);
    survives_kills(&Engram::embedded(&folder.path().join("data")), &repository, 3);
}

#[test]
fn a_killed_ingest_goes_on_where_it_was_on_apache_kafka() {
    let kafka = Kafka::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let repository = folder.path().join("repository");
    generate(&repository, 8_000, 4);
    survives_kills(&Engram::on_kafka(&folder.path().join("data"), kafka.brokers()), &repository, 4);
}

#[test]
fn new_commits_are_added_to_what_is_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let repository = folder.path().join("repository");
    generate(&repository, 300, 5);
    let engram = Engram::embedded(&folder.path().join("data"));
    let path = repository.display().to_string();
    engram.run(&["ingest", "git", &path, "--revision", "HEAD~40"]);
    engram.catch_up();
    assert_counts(&counts(&engram), &counts_from_git_log(&repository, "HEAD~40"));
    engram.run(&["ingest", "git", &path]);
    engram.catch_up();
    assert_counts(&counts(&engram), &counts_from_git_log(&repository, "HEAD"));
    let commits = Command::new("git").args(["-C", &path, "rev-list", "--count", "HEAD"]).output().expect("git runs");
    let commits: usize = String::from_utf8_lossy(&commits.stdout).trim().parse().expect("a number");
    let events = engram.consume("activity.events");
    assert_eq!(events.iter().filter(|record| record["value"]["type"] == "git.commit").count(), commits);
}

/// A clone's oldest root is another one once the clone is deepened; its history is not.
#[test]
fn a_shallow_clone_that_is_deepened_is_the_same_source() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (whole, clone) = (folder.path().join("whole"), folder.path().join("clone"));
    generate(&whole, 200, 8);
    let git = |arguments: &[&str]| {
        let status = Command::new("git").args(arguments).status().expect("git runs");
        assert!(status.success(), "git {arguments:?}: {status}");
    };
    let (url, path) = (format!("file://{}", whole.display()), clone.display().to_string());
    git(&["clone", "--quiet", "--bare", "--depth", "20", &url, &path]);
    let engram = Engram::embedded(&folder.path().join("data"));
    let first = engram.json(&["ingest", "git", &path]);
    let events = engram.consume("activity.events").len();
    git(&["-C", &path, "fetch", "--quiet", "--unshallow"]);
    let second = engram.json(&["ingest", "git", &path]);
    assert_eq!(first[0]["source"], second[0]["source"]);
    assert_eq!((&second[0]["commits"], engram.consume("activity.events").len()), (&0.into(), events));
}

#[test]
fn relations_join_authors_and_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let repository = folder.path().join("repository");
    generate(&repository, 300, 6);
    let engram = Engram::embedded(&folder.path().join("data"));
    engram.run(&["ingest", "git", &repository.display().to_string()]);
    // By commit, from the events: every file has its author, and every two files of a commit of at most 50 each other.
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in engram.consume("activity.events") {
        if let Some(path) = record["value"]["target"].as_str() {
            let commit = record["value"]["attributes"]["commit"].as_str().expect("commit").to_owned();
            files.entry(commit).or_default().push(path.to_owned());
        }
    }
    assert!(files.values().any(|files| files.len() > 50), "the sample has a large commit");
    let authored: usize = files.values().map(Vec::len).sum();
    let small = files.values().map(Vec::len).filter(|&count| count <= 50);
    let together: usize = small.map(|count| count * (count - 1) / 2).sum();
    let relations = engram.consume("graph.events");
    let of = |kind: &str| relations.iter().filter(|record| record["value"]["type"] == kind).count();
    assert_eq!((of("AUTHORED"), of("CHANGED_WITH"), relations.len()), (authored, together, authored + together));
    // All of a repository's graph is in one partition, in order.
    let log = EmbeddedLog::open(engram.data()).expect("nobody else has it open");
    let partitions =
        log.topics().expect("topics").into_iter().find(|topic| topic.name == "graph.events").expect("it is there");
    assert!(partitions.partitions > 1);
    let places: std::collections::BTreeSet<_> = relations.iter().map(|record| record["partition"].as_i64()).collect();
    assert_eq!(places.len(), 1);
}

/// The process that owns the embedded log is killed while it takes in a history and counts it.
#[test]
fn a_killed_owner_of_the_embedded_log_loses_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let repository = folder.path().join("repository");
    generate(&repository, 6_000, 7);
    let engram = Engram::embedded(&folder.path().join("data"));
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..6 {
        let up = engram.up(&[]);
        let mut ingest =
            engram.command(&["ingest", "git", &repository.display().to_string()]).spawn().expect("it runs");
        // Not a wait for a condition: the moment of the kill is what is random.
        std::thread::sleep(Duration::from_millis(random.random_range(50..700)));
        up.kill();
        let _ = ingest.kill();
        ingest.wait().expect("our child");
    }
    engram.run(&["ingest", "git", &repository.display().to_string()]);
    engram.catch_up();
    assert_counts(&counts(&engram), &counts_from_git_log(&repository, "HEAD"));
}
