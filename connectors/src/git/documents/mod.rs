//! A repository's text files as documents that their authors edit: each commit's change of a file is one edit.
//!
//! A history branches, and a document has one past. So the documents follow one line: the first parents of the commit that is
//! ingested, where a merge is one edit by the one who merged. `difference` tells what a commit changed in a text, `pieces`
//! what of the document that is, `update` writes it down.
//!
//! ```text
//!   history:     c1 --- c2 --- m5 --- c6        documents:  c1, c2, m5, c6
//!                  `-c3 - c4 --'
//! ```
//!
//! INVARIANT: after a commit's edits the documents are that commit's files, whatever they were before: each is the difference
//! to what the document had of git. What others write into it stays.
//!
//! INVARIANT: no two edits of a document have a client and clock in common. The clients are made of source, file and author;
//! how far their clocks are is read back from the log, once nobody else can write there.

mod difference;
mod names;
mod pieces;
mod position;
mod read_back;
mod update;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engram_pipeline::log::{Log, LogError};
use engram_schemas::document::{DEFAULT_TENANT, document_key};
use engram_schemas::registry::Registry;
use gix::ObjectId;

use super::events::Story;
use super::repository::{BlobChange, Repository};
use super::writer::Writer;
use super::{IngestError, Progress};
use crate::gateway::DOCUMENT_ID_BYTES_MAX;
use difference::{changes, units};
use names::{client, path};
use pieces::Pieces;
use position::Position;

/// The topic of edits.
pub const EDITS: &str = "document.edits";
/// Largest file that becomes a document, bytes. Its updates are at most a few times as large, so that the collaboration
/// service takes them (`update_bytes_max`, `document_bytes_max`) unless it is told to take less.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// A transaction ends after this many edits or bytes of updates, even within a commit.
const TRANSACTION_EDITS_MAX: u64 = 5_000;
const TRANSACTION_BYTES_MAX: usize = 16 << 20;
/// So does it after this many commits, whether they change texts or not.
const TRANSACTION_COMMITS_MAX: usize = 500;

/// Which documents a repository's files become.
#[derive(Debug, Clone, Default)]
pub struct DocumentsOptions {
    /// What their ids have before the path. `None` goes on with the one that they have; where there are none, it is the
    /// source's name and a slash.
    pub prefix: Option<String>,
}

/// What a run has added to the documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentsSummary {
    pub prefix: String,
    /// Commits of the line.
    pub commits: u64,
    /// Records in `document.edits`.
    pub edits: u64,
    /// Versions of files that are no text or too large, or whose path is too long for an id: the document is empty instead.
    pub left_out: u64,
}

/// The documents of one source.
pub struct Documents {
    source: String,
    position: Position,
    documents: HashMap<String, Pieces>,
    left_out: u64,
}

impl Documents {
    /// Reads where the documents are. To be called once the source's producer is open: from then on nobody else can move
    /// them.
    pub fn open(
        log: &dyn Log,
        registry: &Arc<dyn Registry>,
        source: &str,
        options: &DocumentsOptions,
    ) -> Result<Self, IngestError> {
        if options.prefix.as_ref().is_some_and(|prefix| prefix.chars().any(char::is_control)) {
            return Err(IngestError::WrongPrefix);
        }
        let mut others = Position::read_all(log)?;
        let known = others.remove(source);
        let position = match (&options.prefix, known) {
            (Some(prefix), Some(known)) if *prefix != known.prefix => {
                return Err(IngestError::OtherPrefix { name: source.to_owned(), prefix: known.prefix });
            }
            (_, Some(known)) => known,
            (prefix, None) => {
                let prefix = prefix.clone().unwrap_or_else(|| format!("{source}/"));
                if let Some((other, _)) = others.into_iter().find(|(_, other)| other.prefix == prefix) {
                    return Err(IngestError::TakenPrefix { other, prefix });
                }
                Position { prefix, ..Position::default() }
            }
        };
        let documents = match position.commit.is_some() || position.begun.is_some() {
            true => read_back::documents(log, registry, source)?,
            false => HashMap::new(),
        };
        Ok(Self { source: source.to_owned(), position, documents, left_out: 0 })
    }

    /// The commit that the documents are at, and the one that is begun.
    pub fn place(&self) -> [Option<&str>; 2] {
        [self.position.commit.as_deref(), self.position.begun.as_deref()]
    }

    /// Writes the edits of the commits on the line, the one that is begun included, until all are written or `stop` is set.
    pub fn write(
        &mut self,
        repository: &mut Repository,
        writer: &mut Writer,
        line: &[ObjectId],
        stop: &AtomicBool,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<DocumentsSummary, IngestError> {
        let (commits_total, prefix) = (line.len() as u64, self.position.prefix.clone());
        let mut summary = DocumentsSummary { prefix, commits: 0, edits: 0, left_out: 0 };
        let mut progress = |summary: &DocumentsSummary| {
            on_progress(Progress { commits: summary.commits, commits_total, edits: Some(summary.edits) });
        };
        progress(&summary);
        let mut before = match &self.position.commit {
            Some(commit) => Some(repository.tree(&id(&self.source, commit)?)?),
            None => None,
        };
        let source = self.source.clone();
        for (index, id) in line.iter().enumerate() {
            let mut buffer = Vec::new();
            let commit = repository.commit(id, &mut buffer)?;
            let story = Story::new(&source, id, &commit);
            for change in repository.blob_changes(id, before, commit.tree)?.iter().skip(self.position.changes) {
                self.write_edit(repository, writer, &story, change)?;
                self.position.changes += 1;
                if is_full(writer) {
                    self.position.begun = Some(id.to_string());
                    self.commit(writer, &mut summary)?;
                    progress(&summary);
                }
            }
            before = Some(commit.tree);
            summary.commits += 1;
            let prefix = std::mem::take(&mut self.position.prefix);
            self.position = Position { prefix, commit: Some(id.to_string()), ..Position::default() };
            let stopped = stop.load(Ordering::Relaxed);
            if stopped
                || is_full(writer)
                || index + 1 == line.len()
                || (index + 1).is_multiple_of(TRANSACTION_COMMITS_MAX)
            {
                self.commit(writer, &mut summary)?;
                progress(&summary);
            }
            if stopped {
                break;
            }
        }
        Ok(summary)
    }

    fn commit(&mut self, writer: &mut Writer, summary: &mut DocumentsSummary) -> Result<(), IngestError> {
        summary.edits += writer.commit(position::TOPIC, &self.position.to_json())?.edits;
        summary.left_out += std::mem::take(&mut self.left_out);
        Ok(())
    }

    /// What a commit made of a file, unless that is nothing.
    fn write_edit(
        &mut self,
        repository: &Repository,
        writer: &mut Writer,
        story: &Story<'_>,
        change: &BlobChange,
    ) -> Result<(), IngestError> {
        let path = path(&change.path);
        let id = format!("{}{path}", self.position.prefix);
        if id.len() > DOCUMENT_ID_BYTES_MAX {
            self.left_out += u64::from(change.after.is_some());
            return Ok(());
        }
        let new = match &change.after {
            None => String::new(),
            Some(blob) => repository.text(blob, FILE_BYTES_MAX)?.unwrap_or_else(|| {
                self.left_out += 1;
                String::new()
            }),
        };
        let document = document_key(DEFAULT_TENANT, &id);
        let pieces = self.documents.entry(document.clone()).or_default();
        // What was left out then need not be what would be now.
        let old = match &change.before {
            Some(blob) if pieces.units() > 0 => repository.text(blob, u64::MAX)?.unwrap_or_default(),
            _ => String::new(),
        };
        if u64::from(units(&old)) != pieces.units() {
            return Err(IngestError::StrangeDocument { document });
        }
        let changes = changes(&old, &new);
        if !changes.is_empty() {
            let update = pieces.edit(client(&self.source, &document, story.user()), &changes);
            writer.edit(&story.edit(&path, document, update))?;
        }
        Ok(())
    }
}

fn is_full(writer: &Writer) -> bool {
    writer.pending.edits >= TRANSACTION_EDITS_MAX || writer.pending.edit_bytes >= TRANSACTION_BYTES_MAX
}

fn id(source: &str, hex: &str) -> Result<ObjectId, IngestError> {
    let id = ObjectId::from_hex(hex.as_bytes());
    id.map_err(|_| super::position::damaged(position::TOPIC, source, format!("{hex:?} is no id")).into())
}

pub fn create_topic(log: &dyn Log) -> Result<(), LogError> {
    super::position::create_compacted(log, position::TOPIC)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Texts of a few lines and words, so that they have much in common, with characters of one to four bytes.
    fn a_text() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            "[abß🎉]{1,3}",
            "[ \t]",
            "[(){};.]",
            Just("\r".to_owned()),
            any::<char>().prop_map(String::from)
        ];
        let line = proptest::collection::vec(word, 0..6).prop_map(|words| words.concat() + "\n");
        (proptest::collection::vec(line, 0..12), "[ab🎉]{0,2}").prop_map(|(lines, end)| lines.concat() + &end)
    }

    /// A text and what became of it.
    pub fn text_pair() -> impl Strategy<Value = (String, String)> {
        let edited = (a_text(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), "[ab\n🎉]{0,4}").prop_map(
            |(old, from, to, with)| {
                let ends: Vec<usize> = old.char_indices().map(|(at, _)| at).chain([old.len()]).collect();
                let (from, to) = (ends[from.index(ends.len())], ends[to.index(ends.len())]);
                let new = [&old[..from.min(to)], &with, &old[from.max(to)..]].concat();
                (old, new)
            },
        );
        prop_oneof![(a_text(), a_text()), edited]
    }

    /// A text's history.
    pub fn texts() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(text_pair(), 1..6)
            .prop_map(|pairs| pairs.into_iter().flat_map(|(old, new)| [old, new]).collect())
    }
}
