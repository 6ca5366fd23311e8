//! A repository's files as documents: right after a commit's edits, by time travel, a document is what `git show` gives for
//! the commit, for random files and commits, however the history came in. Which edits there must be is told by git alone.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use engram_connectors::git::{DocumentsOptions, Ingest, IngestOptions, Progress};
use engram_pipeline::dead_letter;
use engram_pipeline::log::embedded::EmbeddedLog;
use engram_pipeline::log::kafka::{KafkaLog, KafkaOptions};
use engram_pipeline::log::{Log, TopicPartition, partitions_of};
use engram_pipeline::registry::LogRegistry;
use engram_pipeline::replay::{MEMORY_BYTES_MAX, Past, Program, ReadOnlyRegistry, RerunOptions, Walk};
use engram_pipeline::store::Budget;
use engram_processors::collaboration;
use engram_processors::collaboration::documents::{DocumentsConfig, stored};
use engram_schemas::registry::Registry;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::Value;
use support::activity::seeded;
use support::engram::Engram;
use support::git_sample::generate;
use support::kafka::Kafka;

const FILE_BYTES_MAX: usize = 1 << 20;
/// Pairs that are asked for by HTTP, each of which makes the task's history again.
const ASKED: usize = 4;

/// Small commits: a moment in one of them is near its beginning.
const CONFIG: &str = "[commit]\nrecords_max = 200\n";

/// Random (file, commit) pairs of each history.
fn pairs() -> usize {
    if std::env::var_os("ENGRAM_SOAK").is_some() { 1_000 } else { 100 }
}

fn commits() -> usize {
    if std::env::var_os("ENGRAM_SOAK").is_some() { 5_000 } else { 1_200 }
}

fn git(repository: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut git = Command::new("git");
    let output = git.arg("-C").arg(repository).args(arguments).stderr(Stdio::inherit()).output().expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", output.status);
    output.stdout
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// The files of a commit, by path: those that are a regular file, with the id of their content.
fn files(repository: &Path, commit: &str) -> BTreeMap<Vec<u8>, String> {
    let listed = git(repository, &["ls-tree", "-r", "-z", commit]);
    let entries = listed.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
    entries
        .filter_map(|entry| {
            let tab = entry.iter().position(|&byte| byte == b'\t').expect("a path");
            let about = String::from_utf8_lossy(&entry[..tab]).into_owned();
            let blob = about.strip_prefix("100644 blob ").or_else(|| about.strip_prefix("100755 blob "))?;
            Some((entry[tab + 1..].to_vec(), blob.to_owned()))
        })
        .collect()
}

/// What a document of that content shows.
fn text(content: Vec<u8>) -> String {
    let is_text = content.len() <= FILE_BYTES_MAX && !content.contains(&0);
    String::from_utf8(content).ok().filter(|_| is_text).unwrap_or_default()
}

/// The key of a file's document.
fn document(prefix: &str, path: &[u8]) -> String {
    let path = path.utf8_chunks().fold(String::new(), |mut id, chunk| {
        let mut rest = chunk.valid();
        while let Some(character) = rest.chars().next() {
            let is_escape = matches!(rest.as_bytes(), [b'\\', b'x', one, two, ..]
                if one.is_ascii_hexdigit() && two.is_ascii_hexdigit());
            match character {
                '\\' if is_escape => id += "\\x5c",
                control if control.is_ascii_control() => id += &format!("\\x{:02x}", u32::from(control)),
                character => id.push(character),
            }
            rest = &rest[character.len_utf8()..];
        }
        chunk.invalid().iter().for_each(|byte| id += &format!("\\x{byte:02x}"));
        id
    });
    let id = format!("{prefix}{path}");
    if id.contains(':') { format!("default:{id}") } else { id }
}

/// An edit in its place.
#[derive(Debug, Clone)]
struct Edit {
    partition: i32,
    offset: i64,
    commit: String,
}

/// The edits of each document, in order.
fn edits(engram: &Engram) -> HashMap<String, Vec<Edit>> {
    let mut edits: HashMap<String, Vec<Edit>> = HashMap::new();
    let mut ids = BTreeSet::new();
    for record in engram.consume("document.edits") {
        let value = &record["value"];
        let text = |name: &str| value[name].as_str().expect(name).to_owned();
        assert!(ids.insert((text("document"), text("id"))), "{} came twice", text("id"));
        assert_eq!(text("source"), "git");
        assert_eq!(record["key"].as_str(), value["document"].as_str());
        edits.entry(text("document")).or_default().push(Edit {
            partition: record["partition"].as_i64().expect("a number") as i32,
            offset: record["offset"].as_i64().expect("a number"),
            commit: text("purpose"),
        });
    }
    edits.values_mut().for_each(|edits| edits.sort_by_key(|edit| edit.offset));
    edits
}

/// What a document must be at a place.
#[derive(Debug)]
struct Expected {
    document: String,
    /// Its last edit at or before the commit.
    edit: Edit,
    commit: String,
    text: String,
}

/// Random pairs: a commit and one of its files, or a file that it changed, which it may have deleted.
fn expectations(
    repository: &Path,
    prefix: &str,
    line: &[String],
    edits: &HashMap<String, Vec<Edit>>,
    wanted: usize,
    random: &mut StdRng,
) -> Vec<Expected> {
    let place: HashMap<&str, usize> = line.iter().enumerate().map(|(place, commit)| (commit.as_str(), place)).collect();
    let own = edits.iter().filter(|(document, _)| document.trim_start_matches("default:").starts_with(prefix));
    let of_commits: HashMap<&str, Vec<&String>> = own.fold(HashMap::new(), |mut of, (document, edits)| {
        edits.iter().for_each(|edit| of.entry(edit.commit.as_str()).or_insert_with(Vec::new).push(document));
        of
    });
    let mut expected = Vec::new();
    while expected.len() < wanted {
        let commit = &line[random.random_range(0..line.len())];
        let files: BTreeMap<String, String> =
            files(repository, commit).into_iter().map(|(path, blob)| (document(prefix, &path), blob)).collect();
        let mut candidates: Vec<&String> = match of_commits.get(commit.as_str()) {
            Some(changed) if random.random_bool(0.5) => changed.clone(),
            _ => files.keys().collect(),
        };
        candidates.sort();
        if candidates.is_empty() {
            continue;
        }
        let document = candidates[random.random_range(0..candidates.len())].clone();
        let text =
            files.get(&document).map_or(String::new(), |blob| text(git(repository, &["cat-file", "blob", blob])));
        let until = |edit: &&Edit| place[edit.commit.as_str()] <= place[commit.as_str()];
        let last = edits.get(&document).and_then(|edits| edits.iter().rfind(until));
        match last {
            Some(edit) => expected.push(Expected { document, edit: edit.clone(), commit: commit.clone(), text }),
            None => assert_eq!(text, "", "{document} has no edit until {commit}"),
        }
    }
    expected
}

/// All expectations of a task in one run through its past.
fn check_in_passing(walk: &mut Walk<'_>, task: i32, mut expected: Vec<&Expected>) {
    expected.sort_by_key(|expected| expected.edit.offset);
    let topic = TopicPartition::new(collaboration::DOCUMENT_EDITS, task);
    let mut next = expected.into_iter().peekable();
    while let Some(commit) = walk.next_commit().cloned() {
        let taken = walk.rerun.records_of(&commit).expect("a commit that happened");
        let mut is_partial = false;
        for (index, record) in taken.iter().enumerate() {
            let is_wanted = |expected: &&Expected| *record == Some((topic.clone(), expected.edit.offset));
            while let Some(expected) = next.next_if(is_wanted) {
                walk.rerun.up_to_step(&commit, index + 1).expect("a commit that happened");
                is_partial = true;
                let state = stored(&mut walk.rerun, task, &expected.document).expect("readable");
                let roots: Value = serde_json::from_str(&state.expect("it has an edit").roots).expect("JSON");
                let found = roots.get("text").and_then(Value::as_str).unwrap_or_default();
                assert!(found == expected.text, "{expected:?}\nfound {found:?}");
            }
        }
        if is_partial {
            walk.rerun.up_to_step(&commit, 0).expect("the beginning of the commit");
        }
        walk.step_checked().expect("it comes out as it did");
    }
    assert!(next.next().is_none(), "every edit was taken");
}

fn check(log: Arc<dyn Log>, folder: &Path, expected: &[Expected]) {
    let registry: Arc<dyn Registry> = Arc::new(ReadOnlyRegistry(Arc::new(LogRegistry::new(Arc::clone(&log)))));
    let topics = log.topics().expect("topics");
    let partitions = partitions_of(&topics, collaboration::DOCUMENT_EDITS);
    let rerun = RerunOptions {
        service: &Arc::new(collaboration::service(DocumentsConfig::default())),
        log: &*log,
        registry: &registry,
        budget: &Budget::new(64 << 20),
        partitions,
        dead_letter_partitions: partitions_of(&topics, dead_letter::TOPIC),
        memory_bytes_max: MEMORY_BYTES_MAX,
        program: Program::Same,
        stop: None,
    };
    for task in 0..partitions {
        let past = Past { rerun, snapshots: None, task };
        let mut walk = past.walk_to(0, &folder.join(format!("past-{task}"))).expect("the beginning");
        let own = expected.iter().filter(|expected| expected.edit.partition == task).collect();
        check_in_passing(&mut walk, task, own);
    }
}

/// As a program asks for it.
fn ask(engram: &Engram, expected: &[Expected]) {
    let up = engram.up(&[]);
    for Expected { document, edit, commit, text } in expected {
        let id = document.strip_prefix("default:").unwrap_or(document);
        let encode = |byte: u8| match byte {
            b'/' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        let path = format!("/v1/documents/{}", id.bytes().map(encode).collect::<String>());
        let found = up.get_with(&path, &[("at", &format!("{}:{}", edit.partition, edit.offset))]);
        assert_eq!(found["roots"]["text"].as_str().unwrap_or_default(), text, "{document} at {commit}");
    }
    up.stop();
}

/// All that a history's documents must be, once it is in.
fn documents_are_files(engram: &Engram, brokers: Option<&str>, folder: &Path, repository: &Path, random: &mut StdRng) {
    branches_are_files(engram, brokers, folder, repository, &[("HEAD", &[])], random);
}

/// The same for several branches, each of which came in with arguments of its own.
fn branches_are_files(
    engram: &Engram,
    brokers: Option<&str>,
    folder: &Path,
    repository: &Path,
    branches: &[(&str, &[&str])],
    random: &mut StdRng,
) {
    let path = repository.display().to_string();
    let started = Instant::now();
    engram.catch_up();
    let caught_up = started.elapsed();
    assert_eq!(engram.consume("document.rejects"), [] as [Value; 0]);
    // Each author has seen all that came before.
    assert_eq!(engram.consume("document.conflicts"), [] as [Value; 0]);
    let edits = edits(engram);
    let (mut commits, mut expected) = (BTreeSet::new(), Vec::new());
    for (branch, arguments) in branches {
        let ingest = ["ingest", "git", &path, "--documents", "--revision", branch];
        let done = engram.json(&[&ingest, *arguments].concat());
        assert_eq!((&done[0]["documents"]["commits"], &done[0]["documents"]["edits"]), (&0.into(), &0.into()));
        let prefix = done[0]["documents"]["prefix"].as_str().expect("a prefix");
        let line = lines(&git(repository, &["rev-list", "--first-parent", "--reverse", branch]));
        expected.extend(expectations(repository, prefix, &line, &edits, pairs().div_ceil(branches.len()), random));
        commits.extend(line);
    }
    let started = Instant::now();
    let log: Arc<dyn Log> = match brokers {
        Some(brokers) => Arc::new(KafkaLog::connect(KafkaOptions::new(brokers)).expect("the broker is there")),
        None => Arc::new(EmbeddedLog::open(engram.data()).expect("nobody else has it open")),
    };
    check(log, folder, &expected);
    let checked = started.elapsed();
    ask(engram, &expected[..ASKED]);
    println!(
        "{} commits on the line, {} documents, {} edits, processed in {caught_up:?}; {} pairs looked at in {checked:?}",
        commits.len(),
        edits.len(),
        edits.values().map(Vec::len).sum::<usize>(),
        expected.len(),
    );
}

fn engram_in(folder: &Path) -> Engram {
    Engram::embedded(&folder.join("data")).configured(CONFIG)
}

/// In parts, the last of them killed again and again.
fn ingest_with_kills(engram: &Engram, repository: &Path, random: &mut StdRng) {
    let path = repository.display().to_string();
    let line = lines(&git(repository, &["rev-list", "--first-parent", "HEAD"])).len();
    let earlier = format!("HEAD~{}", random.random_range(line / 4..line / 2));
    engram.run(&["ingest", "git", &path, "--documents", "--revision", &earlier]);
    killed(engram, &path, random);
    println!("{}", engram.run(&["ingest", "git", &path, "--documents"]));
}

/// Runs that do not come to their end.
fn killed(engram: &Engram, path: &str, random: &mut StdRng) {
    let mut killed = 0;
    for _ in 0..6 {
        let mut ingest = engram.command(&["ingest", "git", path, "--documents"]);
        let mut ingest = ingest.stdout(Stdio::null()).spawn().expect("it runs");
        // Not a wait for a condition: the moment of the kill is what is random.
        std::thread::sleep(Duration::from_millis(random.random_range(5..120)));
        killed += usize::from(ingest.try_wait().expect("our child").is_none());
        let _ = ingest.kill();
        ingest.wait().expect("our child");
    }
    println!("killed {killed} times");
}

/// Odd paths, many branches, merges of several parents.
#[test]
fn documents_of_an_odd_history() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut random = seeded();
    let repository = folder.path().join("repository");
    generate(&repository, commits(), random.random());
    let engram = engram_in(folder.path());
    ingest_with_kills(&engram, &repository, &mut random);
    documents_are_files(&engram, None, folder.path(), &repository, &mut random);
}

/// The same on Apache Kafka, and while the services run.
#[test]
fn documents_on_apache_kafka() {
    let kafka = Kafka::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut random = seeded();
    let repository = folder.path().join("repository");
    generate(&repository, 700, random.random());
    let engram = Engram::on_kafka(&folder.path().join("data"), kafka.brokers()).configured(CONFIG);
    let up = engram.up(&[]);
    ingest_with_kills(&engram, &repository, &mut random);
    up.stop();
    documents_are_files(&engram, Some(kafka.brokers()), folder.path(), &repository, &mut random);
    kafka.stop();
}

/// Texts that people change here and there, with characters of all lengths, and now and then no text at all.
#[test]
fn documents_of_texts_that_are_edited() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut random = seeded();
    let repository = folder.path().join("repository");
    edited_texts(&repository, commits(), &mut random);
    let engram = engram_in(folder.path());
    let up = engram.up(&[]);
    ingest_with_kills(&engram, &repository, &mut random);
    up.stop();
    documents_are_files(&engram, None, folder.path(), &repository, &mut random);
}

/// A run that ends after its first transaction of edits.
fn died_within_a_commit(engram: &Engram, repository: &Path) {
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(engram.data()).expect("nobody else has it open"));
    let registry: Arc<dyn Registry> = Arc::new(LogRegistry::new(Arc::clone(&log)));
    let documents = Some(DocumentsOptions::default());
    let options = IngestOptions { revision: "HEAD".to_owned(), source: None, documents };
    let mut ingest = Ingest::open(repository, &options).expect("a repository");
    let mut die = |progress: Progress| assert_ne!(progress.edits, Some(5_000), "it dies here");
    let run = || ingest.run(&*log, &registry, &AtomicBool::new(false), &mut die).map(drop);
    assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
}

/// More files in one commit than a transaction has edits.
#[test]
fn documents_of_an_import() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut random = seeded();
    let repository = folder.path().join("repository");
    let mut stream = b"commit refs/heads/main\ncommitter C <c@example.org> 1 +0000\ndata 0\n".to_vec();
    for number in 0..12_000 {
        stream.extend(format!("M 100644 inline {}/{number}\ndata 5\n{number:05}\n", number % 100).bytes());
    }
    import(&repository, &stream);
    let engram = engram_in(folder.path());
    let path = repository.display().to_string();
    engram.run(&["ingest", "git", &path]);
    engram.catch_up();
    died_within_a_commit(&engram, &repository);
    let rest = engram.json(&["ingest", "git", &path, "--documents"]);
    assert_eq!((&rest[0]["commits"], &rest[0]["documents"]["edits"]), (&0.into(), &7_000.into()));
    documents_are_files(&engram, None, folder.path(), &repository, &mut random);
    assert_eq!(engram.consume("document.edits").len(), 12_000);
}

/// All branches of the repository in `ENGRAM_REPOSITORY`, each a source of its own.
#[test]
#[ignore = "needs ENGRAM_REPOSITORY=PATH, as `make soak` gives it"]
fn documents_of_a_given_repository() {
    let repository = PathBuf::from(std::env::var_os("ENGRAM_REPOSITORY").expect("ENGRAM_REPOSITORY is set"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = engram_in(folder.path());
    let path = repository.display().to_string();
    let branches = lines(&git(&repository, &["for-each-ref", "--format=%(refname:short)", "refs/heads"]));
    for branch in &branches {
        println!("{}", engram.run(&["ingest", "git", &path, "--documents", "--revision", branch, "--source", branch]));
    }
    let arguments: Vec<_> = branches.iter().map(|branch| ["--source", branch]).collect();
    let branches: Vec<_> = branches.iter().zip(&arguments).map(|(branch, of)| (branch.as_str(), &of[..])).collect();
    branches_are_files(&engram, None, folder.path(), &repository, &branches, &mut seeded());
}

/// Its events were ingested before, without documents; and then it has a prefix of its own, which it keeps.
#[test]
fn documents_of_this_repository() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = engram_in(folder.path());
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = repository.display().to_string();
    engram.run(&["ingest", "git", &path]);
    assert!(engram.fails(2, &["ingest", "git", &path, "--prefix", "engram:"]).contains("--documents"));
    println!("{}", engram.run(&["ingest", "git", &path, "--documents", "--prefix", "engram:"]));
    let other = engram.fails(1, &["ingest", "git", &path, "--documents", "--prefix", "other/"]);
    assert!(other.contains(r#"have the prefix "engram:""#), "{other}");
    let source = ["ingest", "git", &path, "--source", "other", "--documents", "--prefix", "engram:"];
    let taken = engram.fails(1, &source);
    assert!(taken.contains("give another --prefix"), "{taken}");
    documents_are_files(&engram, None, folder.path(), repository, &mut seeded());
}

/// Once the revision is one that the documents' commit does not lead to, they become its files all the same.
#[test]
fn documents_go_over_to_another_branch() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut random = seeded();
    let repository = folder.path().join("repository");
    edited_texts(&repository, 60, &mut random);
    let engram = engram_in(folder.path());
    let path = repository.display().to_string();
    engram.run(&["ingest", "git", &path, "--documents", "--revision", "side"]);
    engram.run(&["ingest", "git", &path, "--documents"]);
    engram.catch_up();
    let prefix = engram.json(&["ingest", "git", &path, "--documents"])[0]["documents"]["prefix"].clone();
    let shown: BTreeMap<String, String> = engram
        .consume("document.state")
        .iter()
        .map(|record| {
            let value = &record["value"];
            let roots: Value = serde_json::from_str(value["roots"].as_str().expect("roots")).expect("JSON");
            let text = roots.get("text").and_then(Value::as_str).unwrap_or_default().to_owned();
            (value["document"].as_str().expect("a document").to_owned(), text)
        })
        .filter(|(_, text)| !text.is_empty())
        .collect();
    let content = |blob: String| text(git(&repository, &["cat-file", "blob", &blob]));
    let expected: BTreeMap<String, String> = files(&repository, "HEAD")
        .into_iter()
        .map(|(path, blob)| (document(prefix.as_str().expect("a prefix"), &path), content(blob)))
        .filter(|(_, text)| !text.is_empty())
        .collect();
    assert_eq!(shown, expected);
}

/// A bare repository of a few files that change a little with each commit; every tenth commit merges one of the branch
/// `side`.
fn edited_texts(repository: &Path, commits: usize, random: &mut StdRng) {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut stream = Vec::new();
    for number in 1..=commits {
        let author = random.random_range(0..5);
        let head = |branch: &str, stream: &mut Vec<u8>| {
            let who = format!("Author {author} <author{author}@example.org> {} +0000", 1_700_000_000 + number * 60);
            stream.extend(format!("commit refs/heads/{branch}\nauthor {who}\ncommitter {who}\ndata 0\n").bytes());
        };
        if number % 10 == 9 {
            head("side", &mut stream);
            stream.extend(format!("M 100644 inline side\ndata 5\n{number:05}\n").bytes());
        }
        head("main", &mut stream);
        if number % 10 == 0 {
            stream.extend(b"merge refs/heads/side\n");
        }
        for _ in 0..random.random_range(1..4) {
            change(&mut files, &mut stream, random);
        }
    }
    import(repository, &stream);
}

/// A bare repository of what git's fast-import makes of a stream.
fn import(repository: &Path, stream: &[u8]) {
    let path = repository.display().to_string();
    let status = Command::new("git").args(["init", "-q", "--bare", "-b", "main", &path]).status().expect("git runs");
    assert!(status.success());
    let mut import = Command::new("git");
    let import = import.args(["-C", &path, "fast-import", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut import = import.spawn().expect("git runs");
    import.stdin.take().expect("it is piped").write_all(stream).expect("fast-import reads");
    assert!(import.wait().expect("our child").success());
}

/// One file becomes another one.
fn change(files: &mut BTreeMap<String, Vec<String>>, stream: &mut Vec<u8>, random: &mut StdRng) {
    let path = format!("folder {}/text{}.md", random.random_range(0..3), random.random_range(0..5));
    let put = |stream: &mut Vec<u8>, content: &[u8]| {
        stream.extend(format!("M 100644 inline {path}\ndata {}\n", content.len()).bytes());
        stream.extend(content);
        stream.push(b'\n');
    };
    let text = files.entry(path.clone()).or_default();
    match random.random_range(0..100) {
        0..3 => put(stream, b"a\0b"),
        3..6 => put(stream, b"caf\xe9"),
        6 => put(stream, &vec![b'x'; FILE_BYTES_MAX + 1]),
        7..12 => {
            stream.extend(format!("D {path}\n").bytes());
            text.clear();
        }
        12..15 => put(stream, b""),
        _ => {
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..=text.len());
                let words = (0..random.random_range(1..8))
                    .map(|_| ["naïve", "日本", "🎉", "text", "(a)", "\t"][random.random_range(0..6)]);
                let line = words.collect::<Vec<_>>().join(" ") + ["\n", "\r\n"][random.random_range(0..2)];
                match random.random_range(0..10) {
                    0..2 if at < text.len() => drop(text.remove(at)),
                    2..6 if at < text.len() => text[at] = text[at].replacen(' ', " 𝄞 new ", 1),
                    6 => text.truncate(at),
                    _ => text.insert(at, line),
                }
            }
            put(stream, text.concat().as_bytes());
        }
    }
}
