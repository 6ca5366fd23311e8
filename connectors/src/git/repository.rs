//! The repository on disk, through gix: its commits, and which files each of them changed.

use std::collections::HashSet;
use std::path::Path;

use gix::ObjectId;
use gix::diff::tree::{Recorder, recorder};
use gix::objs::tree::EntryMode;
use gix::objs::{FindExt as _, Kind, TreeRefIter};

use super::IngestError;
use super::commit::Commit;
use super::text::text;

/// Decoded objects kept: a commit's trees are its child's parent trees, and most of them do not change in between.
const OBJECT_CACHE_BYTES: usize = 64 << 20;

/// A repository to read from.
pub struct Repository {
    gix: gix::Repository,
    /// Commits whose parents were left out of a shallow clone: they are read as roots.
    boundary: HashSet<ObjectId>,
    state: gix::diff::tree::State,
}

/// A file that a commit changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileChange {
    pub path: String,
    pub change: Change,
}

/// A file whose content is another one in a commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlobChange {
    pub path: Vec<u8>,
    /// Its content; `None` where there is no file, but nothing, a symbolic link, a submodule or a folder.
    pub before: Option<ObjectId>,
    pub after: Option<ObjectId>,
}

/// How a commit changed a file. A changed mode or type is a modification; a rename is a deletion and an addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

impl Repository {
    /// Opens the repository whose worktree or `.git` folder this is; unlike git, it does not look in the folders above,
    /// where a mistyped path would find some other history. The user's configuration is not read.
    pub fn open(path: &Path) -> Result<Self, IngestError> {
        let mut gix = gix::open_opts(path, gix::open::Options::isolated()).map_err(|source| {
            IngestError::NotARepository { path: path.display().to_string(), source: source.into() }
        })?;
        gix.object_cache_size_if_unset(OBJECT_CACHE_BYTES);
        let shallow = gix.shallow_commits().map_err(|error| IngestError::read("the shallow boundary", error))?;
        let boundary = shallow.map(|commits| commits.iter().copied().collect()).unwrap_or_default();
        Ok(Self { gix, boundary, state: gix::diff::tree::State::default() })
    }

    /// The commit that a revision names, as `git rev-parse REVISION^{commit}` would find it.
    pub fn resolve(&self, revision: &str) -> Result<ObjectId, IngestError> {
        if matches!(revision, "HEAD" | "@") && self.gix.head().is_ok_and(|head| head.is_unborn()) {
            return Err(IngestError::NoCommits);
        }
        let found =
            self.gix.rev_parse_single(revision).and_then(|id| id.object()).and_then(|object| object.peel_to_commit());
        match found {
            Ok(commit) => Ok(commit.id),
            Err(source) => Err(IngestError::UnknownRevision { revision: revision.to_owned(), source: source.into() }),
        }
    }

    /// Older commits were left out when it was cloned.
    pub fn is_shallow(&self) -> bool {
        !self.boundary.is_empty()
    }

    pub fn has(&self, commit: &ObjectId) -> bool {
        self.gix.has_object(commit)
    }

    /// Reads a commit; at the boundary of a shallow clone it has no parents.
    pub fn commit<'a>(&self, id: &ObjectId, buffer: &'a mut Vec<u8>) -> Result<Commit<'a>, IngestError> {
        let what = || format!("commit {id}");
        let data = self.gix.objects.find(id, buffer).map_err(|error| IngestError::read(what(), error))?;
        let commit = if data.kind == Kind::Commit { Commit::parse(data.data) } else { None };
        let mut commit = commit.ok_or_else(|| IngestError::read(what(), "it is damaged, or no commit"))?;
        if self.boundary.contains(id) {
            commit.parents.clear();
        }
        Ok(commit)
    }

    /// The files that a commit changed, ordered by path: against its parent; all its files if it has none; none if it is a
    /// merge, as in `git log --no-renames --name-status`. Symbolic links and submodules count as files.
    pub fn changes(&mut self, id: &ObjectId, commit: &Commit<'_>) -> Result<Vec<FileChange>, IngestError> {
        let parent_tree = match commit.parents.as_slice() {
            [] => None,
            [parent] => Some(self.commit(parent, &mut Vec::new())?.tree),
            _ => return Ok(Vec::new()),
        };
        let compared = self.compare(id, parent_tree, commit.tree)?;
        let mut changes: Vec<FileChange> = compared.into_iter().filter_map(file_change).collect();
        changes.sort_unstable();
        Ok(changes)
    }

    /// The files that have other content in commit `id`, whose tree is `after`, than in the tree `before`; ordered by path.
    pub fn blob_changes(
        &mut self,
        id: &ObjectId,
        before: Option<ObjectId>,
        after: ObjectId,
    ) -> Result<Vec<BlobChange>, IngestError> {
        let compared = self.compare(id, before, after)?;
        let mut changes: Vec<BlobChange> = compared.into_iter().filter_map(blob_change).collect();
        changes.sort_unstable();
        Ok(changes)
    }

    /// The tree of a commit.
    pub fn tree(&self, commit: &ObjectId) -> Result<ObjectId, IngestError> {
        Ok(self.commit(commit, &mut Vec::new())?.tree)
    }

    /// A file's content, if it is text: UTF-8, without NUL, of at most so many bytes.
    pub fn text(&self, blob: &ObjectId, bytes_max: u64) -> Result<Option<String>, IngestError> {
        let what = || format!("file {blob}");
        let header = self.gix.find_header(*blob).map_err(|error| IngestError::read(what(), error))?;
        if header.size() > bytes_max {
            return Ok(None);
        }
        let mut data = Vec::new();
        self.gix.objects.find_blob(blob, &mut data).map_err(|error| IngestError::read(what(), error))?;
        Ok(String::from_utf8(data).ok().filter(|text| !text.contains('\0')))
    }

    fn compare(
        &mut self,
        id: &ObjectId,
        before: Option<ObjectId>,
        after: ObjectId,
    ) -> Result<Vec<recorder::Change>, IngestError> {
        if before == Some(after) {
            return Ok(Vec::new());
        }
        let read = |error: gix::diff::tree::Error| IngestError::read(format!("the files of commit {id}"), error);
        let (mut before_data, mut after_data) = (Vec::new(), Vec::new());
        let objects = &self.gix.objects;
        let before = tree(objects, &before.unwrap_or(ObjectId::empty_tree(id.kind())), &mut before_data)
            .map_err(|error| read(error.into()))?;
        let after = tree(objects, &after, &mut after_data).map_err(|error| read(error.into()))?;
        let mut recorder = Recorder::default();
        gix::diff::tree(before, after, &mut self.state, objects, &mut recorder).map_err(read)?;
        Ok(recorder.records)
    }
}

/// The entries of a tree. The empty tree need not be stored.
fn tree<'a>(objects: &gix::OdbHandle, id: &ObjectId, buffer: &'a mut Vec<u8>) -> gix::Result<TreeRefIter<'a>> {
    if id.is_empty_tree() { Ok(TreeRefIter::from_bytes(&[], id.kind())) } else { objects.find_tree_iter(id, buffer) }
}

/// The change of a file; changed folders are left out, their files come by themselves.
fn file_change(change: recorder::Change) -> Option<FileChange> {
    let (is_folder, path, change) = match change {
        recorder::Change::Addition { entry_mode, path, .. } => (entry_mode.is_tree(), path, Change::Added),
        recorder::Change::Deletion { entry_mode, path, .. } => (entry_mode.is_tree(), path, Change::Deleted),
        // Old trees hold modes that git no longer tells apart (100664 is 100644).
        recorder::Change::Modification { previous_entry_mode, previous_oid, entry_mode, oid, .. }
            if previous_oid == oid && previous_entry_mode.kind() == entry_mode.kind() =>
        {
            return None;
        }
        // Both are files or both are folders: a file and a folder of one name are never compared with each other.
        recorder::Change::Modification { entry_mode, path, .. } => (entry_mode.is_tree(), path, Change::Modified),
    };
    (!is_folder).then(|| FileChange { path: text(&path), change })
}

/// The change of a file's content; `None` where neither is a file.
fn blob_change(change: recorder::Change) -> Option<BlobChange> {
    let file = |mode: EntryMode, id: ObjectId| mode.is_blob().then_some(id);
    let (path, before, after) = match change {
        recorder::Change::Addition { entry_mode, oid, path, .. } => (path, None, file(entry_mode, oid)),
        recorder::Change::Deletion { entry_mode, oid, path, .. } => (path, file(entry_mode, oid), None),
        recorder::Change::Modification { previous_entry_mode, previous_oid, entry_mode, oid, path } => {
            (path, file(previous_entry_mode, previous_oid), file(entry_mode, oid))
        }
    };
    (before != after).then(|| BlobChange { path: path.into(), before, after })
}
