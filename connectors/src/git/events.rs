//! What a commit says, as events: who did what to which file, and what belongs together. Pure.

use std::collections::BTreeMap;

use engram_schemas::activity::Interaction;
use engram_schemas::document::Edit;
use engram_schemas::graph::RelationCreated;
use gix::ObjectId;

use super::commit::Commit;
use super::repository::{Change, FileChange};
use super::text::text;

/// The source that windows are configured for; which repository it was is in the attribute `repository`.
const SOURCE: &str = "git";
/// Files of one commit that count as changed together. A larger commit (an import, a new licence header) says little
/// about how its files belong together, and has pairs by the square.
const FILES_TOGETHER_MAX: usize = 50;
const SUBJECT_CHARS_MAX: usize = 200;

/// A commit, ready to be told as events.
pub struct Story<'a> {
    repository: &'a str,
    commit: String,
    time: i64,
    /// Who: the author's address, the name if there is none, `unknown` if there is neither. `.mailmap` is not applied.
    user: String,
    name: String,
    subject: String,
    parents: usize,
}

impl<'a> Story<'a> {
    pub fn new(repository: &'a str, id: &ObjectId, commit: &Commit<'_>) -> Self {
        let author = &commit.author;
        let user = [author.email, author.name].into_iter().find(|who| !who.is_empty());
        Self {
            repository,
            commit: id.to_string(),
            time: author.time_ms,
            user: user.map_or_else(|| "unknown".to_owned(), text),
            name: text(author.name),
            subject: String::from_utf8_lossy(commit.subject()).chars().take(SUBJECT_CHARS_MAX).collect(),
            parents: commit.parents.len(),
        }
    }

    /// The commit itself. Id: `COMMIT`.
    pub fn commit(&self) -> Interaction {
        let mut event = self.interaction(self.commit.clone(), "git.commit", None);
        event.attributes.insert("name".to_owned(), self.name.clone());
        event.attributes.insert("subject".to_owned(), self.subject.clone());
        event.attributes.insert("parents".to_owned(), self.parents.to_string());
        event
    }

    /// What it did to a file. Id: `COMMIT:PATH`.
    pub fn file(&self, file: &FileChange) -> Interaction {
        let kind = match file.change {
            Change::Added => "git.file-added",
            Change::Modified => "git.file-modified",
            Change::Deleted => "git.file-deleted",
        };
        self.interaction(format!("{}:{}", self.commit, file.path), kind, Some(file.path.clone()))
    }

    /// From the author to a file, deleted or not. Id: `COMMIT:AUTHORED:PATH`.
    pub fn authored(&self, path: &str) -> RelationCreated {
        self.relation(format!("{}:AUTHORED:{path}", self.commit), "AUTHORED", &self.user, path)
    }

    /// Between two files of the commit. Id: `COMMIT:CHANGED_WITH:FROM:TO`.
    pub fn changed_with(&self, from: &str, to: &str) -> RelationCreated {
        self.relation(format!("{}:CHANGED_WITH:{from}:{to}", self.commit), "CHANGED_WITH", from, to)
    }

    /// What it changed in a file's document. Id: `COMMIT:EDIT:PATH`.
    pub fn edit(&self, path: &str, document: String, update: Vec<u8>) -> Edit {
        Edit {
            id: format!("{}:EDIT:{path}", self.commit),
            time: self.time,
            document,
            actor: self.user.clone(),
            session: String::new(),
            update,
            source: SOURCE.to_owned(),
            purpose: self.commit.clone(),
        }
    }

    /// Who.
    pub fn user(&self) -> &str {
        &self.user
    }

    fn interaction(&self, id: String, kind: &str, target: Option<String>) -> Interaction {
        Interaction {
            id,
            time: self.time,
            user: self.user.clone(),
            kind: kind.to_owned(),
            target,
            source: SOURCE.to_owned(),
            value: None,
            attributes: BTreeMap::from([
                ("commit".to_owned(), self.commit.clone()),
                ("repository".to_owned(), self.repository.to_owned()),
            ]),
        }
    }

    fn relation(&self, id: String, kind: &str, from: &str, to: &str) -> RelationCreated {
        RelationCreated {
            id,
            time: self.time,
            workspace: self.repository.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            kind: kind.to_owned(),
            strength: 1.0,
            actor: self.user.clone(),
            attributes: BTreeMap::from([("commit".to_owned(), self.commit.clone())]),
            observed: None,
        }
    }
}

/// Every two files that a commit changed together, the smaller path first; none for a large commit. `files` are ordered
/// by path.
pub fn pairs(files: &[FileChange]) -> impl Iterator<Item = (&str, &str)> {
    debug_assert!(files.is_sorted());
    let files = if files.len() <= FILES_TOGETHER_MAX { files } else { &[] };
    files
        .iter()
        .enumerate()
        .flat_map(move |(index, from)| files[index + 1..].iter().map(move |to| (from.path.as_str(), to.path.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = "tree aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nauthor A <a@b> 12 +0000\n\n";

    fn files(count: usize) -> Vec<FileChange> {
        (0..count).map(|number| FileChange { path: format!("{number:03}"), change: Change::Added }).collect()
    }

    fn story(author: &str, message: &str) -> Story<'static> {
        let data = DATA.replace("A <a@b> 12 +0000", author) + message;
        let commit = Commit::parse(data.as_bytes()).expect("it is a commit");
        Story::new("engram", &ObjectId::from_bytes_or_panic(&[0xab; 20]), &commit)
    }

    #[test]
    fn every_two_files_are_a_pair_once() {
        assert_eq!(pairs(&files(0)).count(), 0);
        assert_eq!(pairs(&files(1)).count(), 0);
        assert_eq!(pairs(&files(3)).collect::<Vec<_>>(), [("000", "001"), ("000", "002"), ("001", "002")]);
        assert_eq!(pairs(&files(50)).count(), 50 * 49 / 2);
        assert!(pairs(&files(50)).all(|(from, to)| from < to));
        assert_eq!(pairs(&files(51)).count(), 0);
    }

    #[test]
    fn the_user_is_the_address_or_else_the_name() {
        for (author, user) in
            [("A <a@b> 12 +0000", "a@b"), ("A <> 12 +0000", "A"), ("<> 12 +0000", "unknown"), ("damaged", "unknown")]
        {
            assert_eq!(story(author, "").commit().user, user, "{author}");
        }
    }

    #[test]
    fn a_story_is_told() {
        let subject = "ß".repeat(300);
        let story = story("A <a@b> 12 +0000", &format!("{subject}\n\nbody"));
        let commit = "ab".repeat(20);
        let event = story.commit();
        assert_eq!((event.id.as_str(), event.kind.as_str(), event.target.as_deref()), (&*commit, "git.commit", None));
        assert_eq!((event.time, event.source.as_str()), (12_000, "git"));
        let attributes: Vec<_> = event.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let subject = "ß".repeat(200);
        assert_eq!(
            attributes,
            [("commit", &*commit), ("name", "A"), ("parents", "0"), ("repository", "engram"), ("subject", &*subject)]
        );
        let file = story.file(&FileChange { path: "a/b".to_owned(), change: Change::Deleted });
        assert_eq!((file.id, file.kind), (format!("{commit}:a/b"), "git.file-deleted".to_owned()));
        let authored = story.authored("a/b");
        assert_eq!(
            (authored.id, authored.from, authored.to),
            (format!("{commit}:AUTHORED:a/b"), "a@b".into(), "a/b".into())
        );
        let together = story.changed_with("a", "b");
        assert_eq!((together.id, together.workspace), (format!("{commit}:CHANGED_WITH:a:b"), "engram".to_owned()));
    }
}
