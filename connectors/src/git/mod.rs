//! A repository's history into the log: each commit and each file that it changed is an event in `activity.events`, who
//! changed which file and which files change together are relations in `graph.events`.
//!
//! A record's way begins here, with a commit: `repository` reads it, `history` puts it in its turn, `events` tells what it
//! says, `writer` writes that down with the new `position`, all in one transaction.
//!
//! ```text
//!   history.walk:  c1 c2 c3 ........ c500 | c501 ......... c1000 | ...
//!   transactions:  [events, position 500] | [events, position 1000] | ...
//! ```
//!
//! Where it is wanted, the files are `documents` too, in transactions of their own that follow.
//!
//! INVARIANT: every commit's events are in the log once, however often and whenever an ingest was killed: the position is
//! in the transaction of its events, read after the producer has fenced the one before it, and the walk is always the same.

mod commit;
mod documents;
mod events;
mod history;
mod position;
mod repository;
mod text;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engram_pipeline::log::{CommitError, Log, LogError};
use engram_schemas::codec::EncodeError;
use engram_schemas::registry::{Registry, RegistryError};
use gix::ObjectId;
use thiserror::Error;

use documents::Documents;
use history::{History, Node};
use position::Position;
use repository::Repository;
use writer::Writer;

pub use documents::{DocumentsOptions, DocumentsSummary, FILE_BYTES_MAX};
pub use text::text;

const ACTIVITY: &str = "activity.events";
const GRAPH: &str = "graph.events";
/// A transaction ends after this many commits or records, whichever comes first; never within a commit.
const TRANSACTION_COMMITS_MAX: u64 = 500;
const TRANSACTION_RECORDS_MAX: u64 = 5_000;

/// What to ingest.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Up to which commit, in git's words (`HEAD`, a branch, a tag, an id, `HEAD~40`, ...).
    pub revision: String,
    /// The name of this history in the log. `None` goes on with the one under which some of its commits are there
    /// already; where there is none, it is `git-` and the first 12 digits of the oldest root.
    pub source: Option<String>,
    /// `None`: no documents are made of the files.
    pub documents: Option<DocumentsOptions>,
}

/// How far a run is: first with the events, then with the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub commits: u64,
    /// What this run has to do.
    pub commits_total: u64,
    /// Edits of documents; `None` as long as it is about events.
    pub edits: Option<u64>,
}

/// What a run has added to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub source: String,
    pub commits: u64,
    /// Records in `activity.events`.
    pub activity: u64,
    /// Records in `graph.events`.
    pub relations: u64,
    /// It is a shallow clone: what lies before its boundary is not in the log, and no later run will add it.
    pub is_shallow: bool,
    /// `None` where no documents were wanted.
    pub documents: Option<DocumentsSummary>,
}

/// Why a history could not be ingested. Nothing of an unfinished transaction is left in the log.
#[derive(Debug, Error)]
pub enum IngestError {
    #[error("{path} is not a git repository: give the folder that holds its .git, or a bare repository")]
    NotARepository { path: String, source: Source },
    #[error("the repository has no commits yet")]
    NoCommits,
    #[error("the repository has no commit {revision}: give a branch, a tag or a commit id")]
    UnknownRevision { revision: String, source: Source },
    #[error("the name of a source cannot be empty: leave it out to have one made from the first commit")]
    EmptySource,
    /// What is there no longer leads to what was ingested.
    #[error(
        "commit {id} that was ingested before is no longer in the repository (history rewritten or shallow clone): give \
         another --source name than {name} to ingest it as a new one"
    )]
    MissingCommit { id: String, name: String },
    #[error("the prefix of documents cannot have control characters")]
    WrongPrefix,
    #[error("the documents of {name} have the prefix {prefix:?}: leave --prefix out, or give another --source name")]
    OtherPrefix { name: String, prefix: String },
    #[error("the documents of {other} have the prefix {prefix:?} already: give another --prefix")]
    TakenPrefix { other: String, prefix: String },
    #[error(
        "document {document} is not what git has written to it: edits are gone from the topic; give another --source name \
         and --prefix to make documents anew"
    )]
    StrangeDocument { document: String },
    #[error("cannot read {what}")]
    Read { what: String, source: Source },
    #[error("an event cannot be written")]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("a transaction could not be committed: run it again, it goes on where it was and writes nothing twice")]
    Commit(#[source] CommitError),
}

type Source = Box<dyn std::error::Error + Send + Sync>;

impl IngestError {
    fn read(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Read { what: what.into(), source: source.into() }
    }
}

/// A history, ready to be written to a log.
pub struct Ingest {
    repository: Repository,
    history: History,
    tip: Node,
    source: String,
    /// The source's name was made, not given.
    is_unnamed: bool,
    documents: Option<DocumentsOptions>,
}

/// A part of the way: a walk, of which the first `position.commits` are in the log already.
struct Leg {
    position: Position,
    order: Vec<Node>,
    /// The position at its end.
    end: Position,
}

impl Ingest {
    /// Opens the repository and reads its graph of commits. Writes nothing.
    pub fn open(path: &Path, options: &IngestOptions) -> Result<Self, IngestError> {
        let repository = Repository::open(path)?;
        let tip = repository.resolve(&options.revision)?;
        let mut history = History::default();
        let tip = add(&mut history, &repository, tip)?;
        let source = match &options.source {
            Some(source) if source.is_empty() => return Err(IngestError::EmptySource),
            Some(source) => source.clone(),
            None => {
                let root = history.oldest_root().expect("the ancestors of a commit have a first one");
                format!("git-{}", root.to_hex_with_len(12))
            }
        };
        let (is_unnamed, documents) = (options.source.is_none(), options.documents.clone());
        Ok(Self { repository, history, tip, source, is_unnamed, documents })
    }

    /// Writes what is not in the log yet, until all of it is or `stop` is set. `on_progress` hears of each transaction.
    pub fn run(
        &mut self,
        log: &dyn Log,
        registry: &Arc<dyn Registry>,
        stop: &AtomicBool,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Summary, IngestError> {
        position::create_topic(log)?;
        if self.is_unnamed {
            self.find_source(log)?;
        }
        if self.documents.is_some() {
            documents::create_topic(log)?;
        }
        let mut writer = Writer::open(log, &**registry, &self.source, self.documents.is_some())?;
        let position = Position::read(log, &self.source)?;
        let legs = self.legs(position)?;
        let mut written = self.write(&mut writer, legs, stop, on_progress);
        if let (Ok(summary), Some(options)) = (&mut written, self.documents.clone())
            && !stop.load(Ordering::Relaxed)
        {
            let documents = Documents::open(log, registry, &self.source, &options);
            match documents.and_then(|documents| self.write_documents(documents, &mut writer, stop, on_progress)) {
                Ok(documents) => summary.documents = Some(documents),
                Err(error) => written = Err(error),
            }
        }
        if written.is_err()
            && let Err(error) = writer.abort()
        {
            tracing::debug!(%error, "the transaction could not be aborted; the log does it when it times out");
        }
        written
    }

    /// Goes on with the name under which commits of this history are in the log already. The oldest root is no name to
    /// rely on: it is another one once a shallow clone is deepened, or an older history merged.
    fn find_source(&mut self, log: &dyn Log) -> Result<(), IngestError> {
        for (source, position) in Position::read_all(log)? {
            let heads = [position.done, position.target].concat();
            if position::ids(&source, &heads)?.iter().any(|id| self.history.contains(id)) {
                self.source = source;
                break;
            }
        }
        Ok(())
    }

    /// The way from where the log is: to the end of what was begun, and from there to the tip.
    fn legs(&mut self, position: Position) -> Result<Vec<Leg>, IngestError> {
        let done = self.nodes(&position.done)?;
        let target = self.nodes(&position.target)?;
        let begun = self.history.walk(&target, &done);
        let written = begun.get(..position.commits).and_then(<[Node]>::last).map(|&node| self.hex(node));
        if position.commits > 0 && written != position.last {
            let id = position.last.unwrap_or_default();
            return Err(IngestError::MissingCommit { id, name: self.source.clone() });
        }
        let middle = self.heads(&[done, target].concat());
        let rest = self.history.walk(&[self.tip], &middle);
        let end = self.heads(&[middle.as_slice(), &[self.tip]].concat());

        let finished = |heads: &[Node]| Position { done: self.all_hex(heads), ..Position::default() };
        let from_middle = Position { target: vec![self.hex(self.tip)], ..finished(&middle) };
        let mut legs = vec![
            Leg { position, order: begun, end: finished(&middle) },
            Leg { position: from_middle, order: rest, end: finished(&end) },
        ];
        legs.retain(|leg| leg.position.commits < leg.order.len());
        Ok(legs)
    }

    fn write(
        &mut self,
        writer: &mut Writer,
        legs: Vec<Leg>,
        stop: &AtomicBool,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Summary, IngestError> {
        let is_shallow = self.repository.is_shallow();
        let source = self.source.clone();
        let mut summary = Summary { source, commits: 0, activity: 0, relations: 0, is_shallow, documents: None };
        let commits_total = legs.iter().map(|leg| (leg.order.len() - leg.position.commits) as u64).sum();
        on_progress(Progress { commits: 0, commits_total, edits: None });
        for Leg { mut position, order, end } in legs {
            while position.commits < order.len() {
                let node = order[position.commits];
                self.write_commit(writer, node)?;
                position.commits += 1;
                position.last = Some(self.hex(node));
                let finished = position.commits == order.len();
                let stopped = stop.load(Ordering::Relaxed);
                let pending = writer.pending;
                let full = pending.commits >= TRANSACTION_COMMITS_MAX
                    || pending.activity + pending.relations >= TRANSACTION_RECORDS_MAX;
                if finished || full || stopped {
                    let written = writer.commit(position::TOPIC, &if finished { &end } else { &position }.to_json())?;
                    summary.commits += written.commits;
                    summary.activity += written.activity;
                    summary.relations += written.relations;
                    on_progress(Progress { commits: summary.commits, commits_total, edits: None });
                }
                if stopped {
                    return Ok(summary);
                }
            }
        }
        Ok(summary)
    }

    /// Takes the documents along their line: to the end of the commit that was begun, and on to the tip.
    fn write_documents(
        &mut self,
        mut documents: Documents,
        writer: &mut Writer,
        stop: &AtomicBool,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<DocumentsSummary, IngestError> {
        let [at, begun] = documents.place().map(|id| id.map(str::to_owned));
        let hidden = self.nodes(at.as_slice())?;
        let begun = self.nodes(begun.as_slice())?;
        let mut line = begun.clone();
        line.extend(self.history.line(self.tip, &[hidden, begun].concat()));
        let line: Vec<ObjectId> = line.into_iter().map(|node| self.history.id(node)).collect();
        documents.write(&mut self.repository, writer, &line, stop, on_progress)
    }

    fn write_commit(&mut self, writer: &mut Writer, node: Node) -> Result<(), IngestError> {
        let id = self.history.id(node);
        let mut buffer = Vec::new();
        let commit = self.repository.commit(&id, &mut buffer)?;
        let files = self.repository.changes(&id, &commit)?;
        let story = events::Story::new(&self.source, &id, &commit);
        writer.interaction(&story.commit())?;
        for file in &files {
            writer.interaction(&story.file(file))?;
            writer.relation(&story.authored(&file.path))?;
        }
        for (from, to) in events::pairs(&files) {
            writer.relation(&story.changed_with(from, to))?;
        }
        writer.pending.commits += 1;
        Ok(())
    }

    /// The commits of a position, which the history need not have reached yet: another branch may have been ingested.
    fn nodes(&mut self, hex: &[String]) -> Result<Vec<Node>, IngestError> {
        let mut nodes = Vec::new();
        for id in position::ids(&self.source, hex)? {
            if !self.repository.has(&id) {
                return Err(IngestError::MissingCommit { id: id.to_string(), name: self.source.clone() });
            }
            nodes.push(add(&mut self.history, &self.repository, id)?);
        }
        Ok(nodes)
    }

    /// Those that the others do not reach, ordered by id, so that the same history has one position.
    fn heads(&self, nodes: &[Node]) -> Vec<Node> {
        let mut heads = self.history.heads(nodes);
        heads.sort_unstable_by_key(|&head| self.history.id(head));
        heads
    }

    fn hex(&self, node: Node) -> String {
        self.history.id(node).to_string()
    }

    fn all_hex(&self, nodes: &[Node]) -> Vec<String> {
        nodes.iter().map(|&node| self.hex(node)).collect()
    }
}

fn add(history: &mut History, repository: &Repository, tip: ObjectId) -> Result<Node, IngestError> {
    let mut buffer = Vec::new();
    history.add(tip, |id| {
        let commit = repository.commit(id, &mut buffer)?;
        Ok((commit.author.time_ms, commit.parents))
    })
}
