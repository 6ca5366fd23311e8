//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::values::{Allow, Place, Start, When};

/// Event-sourced streaming for applications in which people edit documents and a knowledge graph together.
#[derive(Debug, Parser)]
#[command(name = "engram", version, propagate_version = true, arg_required_else_help = false)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Folder of the embedded log and of the stores
    #[arg(long, global = true, value_name = "DIR", env = "ENGRAM_DATA", default_value = "engram-data")]
    pub data: PathBuf,
    /// Apache Kafka to use instead of the embedded log
    #[arg(long, global = true, value_name = "HOST:PORT", env = "ENGRAM_BROKERS", value_parser = brokers)]
    pub brokers: Option<String>,
    /// Schema registry (any Confluent-compatible one); without it, the one in the log
    #[arg(long, global = true, value_name = "URL", env = "ENGRAM_REGISTRY")]
    pub registry: Option<String>,
    /// Configuration file (TOML), see docs/configuration.md
    #[arg(long, global = true, value_name = "FILE", env = "ENGRAM_CONFIG")]
    pub config: Option<PathBuf>,
    /// Machine-readable output
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the services until stopped
    Up(Up),
    /// Read a real source into the log
    #[command(subcommand)]
    Ingest(Ingest),
    /// Write events: one JSON object a line, checked against the topic's schema
    Produce(Produce),
    /// Read a topic's records
    Consume(Consume),
    /// List the topics
    Topics,
    /// The registered schemas
    #[command(subcommand)]
    Schemas(Schemas),
    /// The services, their groups and workers
    Services,
    /// How far each service is behind its inputs
    Lag,
    /// The state of a service's stores
    #[command(subcommand)]
    State(State),
    /// Documents and their history: as they are or were, who wrote what, rollback, branch, merge
    #[command(subcommand)]
    Document(Document),
    /// Snapshots of the services' stores
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Run a service's past again, beside the running one, and compare
    Replay(ReplayService),
    /// What made a value or a record: the events behind it, across services
    Why(Why),
    /// Compare what two builds or configurations make of the same history
    Diff(Diff),
    /// Go through a service's past event by event
    Step(StepThrough),
    /// A range of history as a new embedded environment, to try things on
    Fork(Fork),
    /// Find the first event after which something holds, between a good and a bad moment
    Bisect(Bisect),
    /// Records that could not be processed: look at them, send them back
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Let a service begin anew: forgets its positions, stores, changelog and outputs
    Reset(Reset),
    /// Models that score events as they come
    #[command(subcommand)]
    Models(Models),
    /// Scores of a file's rows by a model, without a log
    Score(Score),
    /// The memories of a workspace whose embeddings are nearest to one of them, or to a vector
    Similar(Similar),
    /// Measure
    Bench(Bench),
}

#[derive(Debug, Subcommand)]
pub enum Models {
    /// Let a model score events from now on, in place of the one of this name
    Load {
        /// Name of the model, in its scores
        name: String,
        /// XGBoost JSON or UBJSON, LightGBM text, a Treelite checkpoint (version 4), or ONNX
        #[arg(long, value_name = "FILE")]
        model: PathBuf,
        /// Which events it scores, and what its columns are made of (TOML), see docs/scoring.md
        #[arg(long, value_name = "FILE")]
        features: PathBuf,
    },
    /// Let a model score nothing from now on
    Unload { name: String },
    /// The models that are in service
    List,
}

#[derive(Debug, Args)]
pub struct Score {
    /// XGBoost JSON or UBJSON, LightGBM text, a Treelite checkpoint (version 4), or ONNX
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Rows: .csv, .parquet or .arrow
    ///
    /// Columns are found by name or, where the model or the file has no names, taken as they come. What is missing is an empty
    /// cell or NaN in CSV, and null elsewhere.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Scores: .csv, .parquet or .arrow
    ///
    /// A column score, or score_0, score_1, .. for several classes: what the model's own library predicts.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Write the margins, too: the sums before the link function
    #[arg(long)]
    pub margin: bool,
    /// Threads; as many as there are cores by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

#[derive(Debug, Args)]
pub struct Similar {
    pub workspace: String,
    /// A memory of it: those that are most similar to it
    #[arg(long, value_name = "MEMORY", required_unless_present = "vector", conflicts_with = "vector")]
    pub to: Option<String>,
    /// A JSON list of numbers: the memories that are most similar to it, whatever has made their embeddings
    #[arg(long, value_name = "FILE")]
    pub vector: Option<PathBuf>,
    /// How many
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The faster one
    Auto,
    Cpu,
    Gpu,
}

#[derive(Debug, Args)]
pub struct Up {
    /// Services to run; all by default
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub services: Vec<String>,
    /// Address of the HTTP interface: registry, metrics, health
    #[arg(long, value_name = "ADDR", env = "ENGRAM_HTTP", default_value = "127.0.0.1:8099")]
    pub http: SocketAddr,
    /// Address by which other processes reach that interface, where it is not the one it listens on
    #[arg(long, value_name = "HOST:PORT", env = "ENGRAM_ADVERTISE")]
    pub advertise: Option<String>,
    /// Stop once every input was processed and nothing has come for so long
    #[arg(long, value_name = "SECONDS")]
    pub exit_when_idle: Option<u64>,
    /// Threads for each service
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
}

#[derive(Debug, Subcommand)]
pub enum Ingest {
    /// A git repository's history: activity of its authors, relations between authors and files, documents
    Git(IngestGit),
}

#[derive(Debug, Args)]
pub struct IngestGit {
    /// The repository
    pub path: PathBuf,
    /// What to ingest up to
    #[arg(long, value_name = "REVISION", default_value = "HEAD")]
    pub revision: String,
    /// Name of this history in the log; by default it is made from its first commit
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Make each text file a document, too, which the commits' authors edit (topic document.edits)
    ///
    /// The documents follow the first parents of the revision: a merge is one edit by the one who merged, and after each of
    /// these commits a document is what the file is. A file that is deleted leaves its document empty, one that is renamed
    /// goes on as another document. Of files that are not UTF-8, have a NUL in them or are larger than 1 MiB the document is
    /// empty.
    #[arg(long)]
    pub documents: bool,
    /// What a document's id has before the path, by default the name of the history and a slash
    #[arg(long, value_name = "PREFIX", requires = "documents")]
    pub prefix: Option<String>,
}

#[derive(Debug, Args)]
pub struct Produce {
    pub topic: String,
    /// File of JSON objects, one a line; standard input without it
    pub file: Option<PathBuf>,
    /// Full name of the events' type, where the topic takes several
    #[arg(long = "type", value_name = "NAME")]
    pub event_type: Option<String>,
}

#[derive(Debug, Args)]
pub struct Consume {
    pub topic: String,
    /// Where to begin: beginning, end, an offset, or a time (RFC 3339)
    #[arg(long, value_name = "WHERE", default_value = "beginning")]
    pub from: Start,
    /// Where to stop: end, an offset (exclusive), or a time
    #[arg(long, value_name = "WHERE", default_value = "end")]
    pub to: Start,
    /// Only records with this key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Only the last N records of what was found, by the time at which they were written
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// What there was at a moment, as for `state --at`: of a topic that a service writes, what it had committed by then, or
    /// what had come of an input record and those before it; of others what had been written by TIME
    #[arg(long, value_name = "WHEN", conflicts_with_all = ["to", "from", "follow"])]
    pub as_of: Option<When>,
    /// Go on with what comes, until stopped
    #[arg(long, conflicts_with_all = ["to", "last"])]
    pub follow: bool,
    #[arg(long, value_enum)]
    pub format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, for people
    Table,
    /// One JSON object a line
    Ndjson,
    /// The values' bytes as they are, a newline after each
    Raw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutFormat {
    /// One JSON object a line
    Ndjson,
    /// Apache Parquet, a file for each type of event
    Parquet,
}

#[derive(Debug, Subcommand)]
pub enum Schemas {
    /// All subjects with their versions
    List,
    /// A subject's schema
    Show {
        subject: String,
        /// A version's number; the latest by default
        version: Option<u32>,
    },
    /// Would this schema be accepted as the subject's next version?
    Check {
        subject: String,
        /// An .avsc file
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum State {
    /// The stores of a service, or of all
    List { service: Option<String> },
    /// One entry
    Get {
        service: String,
        store: String,
        /// The key as JSON, as `state range` shows it, or the text of one of its fields
        key: String,
        #[command(flatten)]
        stale: Stale,
        #[command(flatten)]
        at: At,
    },
    /// The entries in key order
    Range {
        service: String,
        store: String,
        /// Only entries in whose key some field has this text
        key: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        stale: Stale,
        #[command(flatten)]
        at: At,
    },
}

/// Documents are given as `ID`, or as `TENANT:ID` where there are tenants.
#[derive(Debug, Subcommand)]
pub enum Document {
    /// What it shows
    Show {
        id: String,
        /// As it was: TIME (what was committed by then), or PARTITION:OFFSET of one of its edits (right after that)
        #[arg(long, value_name = "WHEN", value_parser = moment)]
        at: Option<String>,
    },
    /// Its edits, the newest last
    History {
        id: String,
        /// The newest N
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Who wrote which part of its texts, when, and by which edit
    Blame { id: String },
    /// Undo edits of somebody, or a range of edits, by one edit more
    Rollback {
        id: String,
        /// Whose edits
        #[arg(long, value_name = "NAME", required_unless_present = "seq")]
        actor: Option<String>,
        /// Only those made at this time or later
        #[arg(long, value_name = "TIME", value_parser = time, requires = "actor")]
        since: Option<i64>,
        /// The edits with these numbers, both included
        #[arg(long, value_name = "A..B", value_parser = numbers, conflicts_with = "actor")]
        seq: Option<(i64, i64)>,
        #[command(flatten)]
        by: By,
    },
    /// A new document that begins with the state of this one
    Branch {
        id: String,
        new_id: String,
        /// The moment, as for `document show`
        #[arg(long, value_name = "WHEN", value_parser = moment)]
        at: Option<String>,
        #[command(flatten)]
        by: By,
    },
    /// Give it what a branch of it has and it lacks
    Merge {
        id: String,
        #[arg(long, value_name = "BRANCH")]
        from: String,
        #[command(flatten)]
        by: By,
    },
}

#[derive(Debug, Args)]
pub struct By {
    /// The actor of the edit that is written
    #[arg(long, value_name = "NAME", default_value = "engram")]
    pub by: String,
}

#[derive(Debug, Args)]
pub struct ReplayService {
    pub service: String,
    /// Compare outputs and state with what was committed, and name the first record and field that differ
    #[arg(long, required_unless_present = "out")]
    pub verify: bool,
    /// Write the outputs there, into a new folder: DIR/TOPIC/TASK.ndjson or, as Parquet, DIR/TOPIC/TASK.TYPE.parquet
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How to write them
    #[arg(long, value_enum, default_value_t = OutFormat::Ndjson, requires = "out")]
    pub format: OutFormat,
    /// Only what was committed at this time or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Option<i64>,
    /// Only what was committed at this time or earlier
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to: Option<i64>,
    /// Only the task that records with this key go to
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

#[derive(Debug, Args)]
pub struct Why {
    /// SERVICE STORE KEY (the key as for `state get`), or TOPIC PARTITION:OFFSET, or TOPIC/PARTITION/OFFSET
    #[arg(required = true, num_args = 1..=3, value_names = ["SERVICE", "STORE", "KEY"])]
    pub of: Vec<String>,
    /// As it was: TIME, PARTITION:OFFSET or TOPIC/PARTITION/OFFSET
    #[arg(long, value_name = "WHEN")]
    pub at: Option<When>,
    /// Of TOPIC PARTITION:OFFSET: what this record has caused
    #[arg(long)]
    pub forward: bool,
    /// Steps back, from a record to those that it was made of
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub depth: usize,
    /// The newest N of the records that something was made of
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct Diff {
    pub service: String,
    /// The one side: a program, a configuration (.toml), both as PROGRAM,CONFIG, or `this`
    #[arg(long, value_name = "BUILD", default_value = "this")]
    pub base: String,
    /// The other side
    #[arg(long, value_name = "BUILD")]
    pub with: String,
    /// Only what was committed at this time or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Option<i64>,
    /// Only what was committed at this time or earlier
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to: Option<i64>,
    /// So many outputs may differ, or so much of the base's, such as 0.1%
    #[arg(long, value_name = "N|N%", default_value = "0")]
    pub allow: Allow,
    /// Differences shown
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct StepThrough {
    pub service: String,
    /// Only what has to do with this key: of records, entries or outputs
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Where to begin, as for `state --at`; the beginning by default
    #[arg(long, value_name = "WHEN")]
    pub from: Option<When>,
    /// Where to stop
    #[arg(long, value_name = "WHEN")]
    pub to: Option<When>,
    /// The task, where neither --key nor a record tells
    #[arg(long, value_name = "PARTITION")]
    pub task: Option<i32>,
    /// Stop at this record: PARTITION:OFFSET or TOPIC/PARTITION/OFFSET; or at the first step committed at this TIME or later
    #[arg(long = "break-at", value_name = "WHEN")]
    pub break_at: Vec<When>,
    /// Stop where something has to do with this key
    #[arg(long = "break-key", value_name = "KEY")]
    pub break_keys: Vec<String>,
    /// Stop where this holds, in CEL, of `step`: step.record, step.changes, step.outputs, ... as --json shows them
    #[arg(long = "break-where", value_name = "EXPR")]
    pub break_where: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Fork {
    /// Inputs written until then: TIME, or TOPIC/PARTITION/OFFSET (that record, and what was written before it); all by default
    #[arg(long, value_name = "WHEN")]
    pub at: Option<When>,
    /// Only inputs written at this time or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Option<i64>,
    /// Only inputs whose event time is not later
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub as_of_event: Option<i64>,
    /// The data folder whose history it is, where it is not on Kafka: by default $ENGRAM_DATA, or engram-data; --data is the
    /// new folder
    #[arg(long, value_name = "DIR")]
    pub of: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Bisect {
    pub service: String,
    /// A moment at which it does not hold yet, as for `state --at`; the beginning by default
    #[arg(long, value_name = "WHEN")]
    pub good: Option<When>,
    /// A moment at which it holds; now by default
    #[arg(long, value_name = "WHEN")]
    pub bad: Option<When>,
    /// What is to hold, in CEL: of the state, by get(STORE, KEY), all(STORE) and count(STORE), or of some output by
    /// output.topic, output.key, output.value and output.partition
    #[arg(long = "where", value_name = "EXPR")]
    pub expression: String,
}

#[derive(Debug, Clone, Args)]
pub struct At {
    /// As it was: TIME (what was committed by then), or PARTITION:OFFSET or TOPIC/PARTITION/OFFSET (right after that input
    /// record)
    #[arg(long, value_name = "WHEN", conflicts_with = "stale")]
    pub at: Option<When>,
    /// As just the inputs make it whose event time is not later than TIME, such as those of a git history; they are all
    /// processed anew for it
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["stale", "at"])]
    pub as_of_event: Option<i64>,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Stale {
    /// Only what this machine has on disk, of running tasks or of standbys, and tell how far it is behind
    #[arg(long)]
    pub stale: bool,
}

#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Take one of each of the service's tasks: of those that run here, or of what is on disk if none runs
    Create { service: String },
    /// The snapshots, newest first
    List { service: Option<String> },
    /// Delete what the configuration does not keep
    Prune { service: Option<String> },
}

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// The newest, in the order in which they were found
    List {
        #[command(flatten)]
        filter: LetterFilter,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// One of them, in full
    Show {
        /// PARTITION:OFFSET, as `dead-letters list` shows it
        place: Place,
    },
    /// Send records back to the topics that they came from, each once
    Replay(Replay),
}

#[derive(Debug, Args)]
pub struct LetterFilter {
    /// Only those of this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only those with this cause, such as malformed
    #[arg(long, value_name = "CAUSE")]
    pub cause: Option<String>,
    /// Where to begin: beginning, end, an offset of the topic dead-letters, or a time (RFC 3339)
    #[arg(long, value_name = "WHERE", default_value = "beginning")]
    pub from: Start,
    /// Where to stop: end, an offset (exclusive), or a time
    #[arg(long, value_name = "WHERE", default_value = "end")]
    pub to: Start,
}

#[derive(Debug, Args)]
pub struct Replay {
    /// PARTITION:OFFSET, as `dead-letters list` shows it
    #[arg(value_name = "PLACE", required_unless_present = "all")]
    pub places: Vec<Place>,
    /// All that the filters let through and that were not sent back before
    #[arg(long, conflicts_with = "places")]
    pub all: bool,
    #[command(flatten)]
    pub filter: LetterFilter,
    /// Send this JSON instead of the record's value, checked against the topic's schema; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    pub value: Option<PathBuf>,
    /// Full name of the mended value's type, where the topic takes several
    #[arg(long = "type", value_name = "NAME", requires = "value")]
    pub event_type: Option<String>,
    /// Also what was sent back before
    #[arg(long)]
    pub again: bool,
}

#[derive(Debug, Args)]
pub struct Reset {
    pub service: String,
    /// Do it, do not just say what would be deleted
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure; without it, what the runtime costs
    #[command(subcommand)]
    pub what: Option<BenchWhat>,
    /// Events of each measurement
    #[arg(long, global = true, value_name = "N", default_value_t = 1_000_000)]
    pub records: u64,
    /// Size of an event's record value, about
    #[arg(long, global = true, value_name = "BYTES", default_value_t = 100)]
    pub bytes: usize,
    /// Distinct keys for the stateful measurements
    #[arg(long, global = true, value_name = "N", default_value_t = 100_000)]
    pub keys: u64,
    #[arg(long, global = true, value_name = "N", default_value_t = 4)]
    pub partitions: i32,
}

#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// The services over 1 to 8 partitions
    Scale {
        /// Numbers of partitions
        #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,2,4,8",
              value_parser = clap::value_parser!(i32).range(1..=64))]
        over: Vec<i32>,
    },
    /// State of many small keys: what a record costs, and the memory that it takes
    Keys {
        /// Numbers of keys
        #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1000000",
              value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
        sizes: Vec<u64>,
    },
    /// Looking back: replay, past states, bisection, beside the live run
    Replay(BenchReplay),
    /// Restoring a task's state: from the changelog, from a snapshot, and opening what is there
    Restore(BenchRestore),
}

#[derive(Debug, Args)]
pub struct BenchReplay {
    /// Events of the history
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub events: u64,
    /// Events between two snapshots
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub snapshot_every: u64,
    /// Distinct users
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub users: u64,
}

#[derive(Debug, Args)]
pub struct BenchRestore {
    /// State: keys and values, all partitions together
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub state_mib: u64,
    /// Size of an entry's value
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub value_bytes: usize,
    /// Changelog records for each entry
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub versions: u64,
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub partitions: i32,
}

/// A list of HOST:PORT, or nothing: a variable that is set to nothing is as good as not set.
fn brokers(text: &str) -> Result<String, String> {
    let is_address = |part: &str| {
        let (host, port) = part.trim().rsplit_once(':')?;
        (!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(())
    };
    match text.split(',').find(|part| is_address(part).is_none()) {
        Some(_) if text.is_empty() => Ok(String::new()),
        Some(part) => Err(format!("{part:?} is not HOST:PORT")),
        None => Ok(text.to_owned()),
    }
}

/// Milliseconds since the epoch.
fn time(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(Start::Time(ms)) => Ok(ms),
        _ => Err("expected a time such as 2026-01-31T12:00:00Z".to_owned()),
    }
}

/// A moment that makes sense, as it was written.
fn moment(text: &str) -> Result<String, String> {
    text.parse::<When>().map(|_| text.to_owned())
}

/// Numbers of edits: `A..B`, both included.
fn numbers(text: &str) -> Result<(i64, i64), String> {
    let read = || {
        let (from, to) = text.split_once("..")?;
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        (1 <= from && from <= to).then_some((from, to))
    };
    read().ok_or_else(|| "expected numbers of edits such as 3..5, as 'engram document history' shows them".to_owned())
}
