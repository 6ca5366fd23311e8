//! Repositories to ingest, and what one `git log` says is in them: a generator of odd histories, and the oracle that the
//! windows are compared with. Both know git only, and nothing of the connector.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const DAY_SECONDS: i64 = 86_400;
/// 2023-01-01T00:00:00Z.
const START_SECONDS: i64 = 1_672_531_200;
/// Files of a branch beyond which more are deleted than added.
const FILES_MAX: usize = 1_200;
const BRANCHES_MAX: usize = 6;

type Bytes = Vec<u8>;

/// Makes a bare repository in `dir` with this many commits, nearly all of which HEAD reaches; the same for the same seed.
pub fn generate(dir: &Path, commits: usize, seed: u64) {
    let status = git().args(["init", "-q", "--bare", "-b", "main"]).arg(dir).status().expect("git runs");
    assert!(status.success(), "git init: {status}");
    let mut import = git()
        .arg("-C")
        .arg(dir)
        .args(["fast-import", "--quiet", "--date-format=raw"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("git runs");
    let out = BufWriter::with_capacity(1 << 20, import.stdin.take().expect("it was piped"));
    let mut sample = Sample::new(out, seed);
    for number in 0..commits {
        sample.commit(number, commits);
    }
    sample.out.flush().expect("fast-import reads");
    drop(sample);
    let status = import.wait().expect("our child");
    assert!(status.success(), "git fast-import: {status}, seed {seed}");
}

/// Git without the user's configuration.
fn git() -> Command {
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("LC_ALL", "C");
    git
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

struct Branch {
    name: String,
    /// Mark of its last commit; `None` before its first one, which is a root.
    mark: Option<usize>,
    /// What it is believed to hold: mode and content. Nothing depends on this being exact.
    files: BTreeMap<Bytes, (&'static str, Bytes)>,
}

struct Sample<W: Write> {
    out: W,
    random: Random,
    /// The first is `main`.
    branches: Vec<Branch>,
    branches_made: usize,
    /// Committer's clock.
    clock: i64,
    author_time: i64,
}

impl<W: Write> Sample<W> {
    fn new(out: W, seed: u64) -> Self {
        let main = Branch { name: "main".to_owned(), mark: None, files: BTreeMap::new() };
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Self { out, random, branches: vec![main], branches_made: 0, clock: START_SECONDS, author_time: START_SECONDS }
    }

    /// Writes the `number`-th commit of `total`.
    fn commit(&mut self, number: usize, total: usize) {
        if number + 1 == total {
            // One branch stays out: what HEAD does not reach is not ingested.
            let merged = 1..self.branches.len().max(2) - 1;
            return self.merge(number, merged.collect());
        }
        match self.random.below(1_000) {
            _ if number == 0 => self.change(number, 0),
            0..40 if self.branches.len() < BRANCHES_MAX => {
                let from = self.random.below(self.branches.len());
                let (mark, files) = (self.branches[from].mark, self.branches[from].files.clone());
                let branch = self.add_branch(mark, files);
                self.change(number, branch);
            }
            40..44 if self.branches.len() < BRANCHES_MAX => {
                // Another root.
                let branch = self.add_branch(None, BTreeMap::new());
                self.change(number, branch);
            }
            44..100 if self.branches.len() > 1 => {
                let mut merged: Vec<usize> = (1..self.branches.len()).collect();
                let count = if self.random.chance(20) { merged.len() } else { 1 };
                while merged.len() > count {
                    merged.remove(self.random.below(merged.len()));
                }
                self.merge(number, merged);
            }
            _ => {
                let branch = if self.random.chance(50) { 0 } else { self.random.below(self.branches.len()) };
                self.change(number, branch);
            }
        }
    }

    fn add_branch(&mut self, mark: Option<usize>, files: BTreeMap<Bytes, (&'static str, Bytes)>) -> usize {
        self.branches_made += 1;
        self.branches.push(Branch { name: format!("branch-{}", self.branches_made), mark, files });
        self.branches.len() - 1
    }

    /// Merges branches (indices, ascending) into main; most of them end there.
    fn merge(&mut self, number: usize, merged: Vec<usize>) {
        let parents: Vec<usize> = merged.iter().filter_map(|&index| self.branches[index].mark).collect();
        self.begin(number, 0, &parents);
        for index in merged.into_iter().rev() {
            let files: Vec<_> =
                self.branches[index].files.iter().take(20).map(|(p, f)| (p.clone(), f.clone())).collect();
            for (path, (mode, content)) in files {
                self.put(0, path, mode, content);
            }
            if self.random.chance(80) {
                self.branches.remove(index);
            }
        }
        if self.random.chance(10) {
            self.add_file(0);
        }
        self.line(b"");
    }

    /// A commit with some changes, or none.
    fn change(&mut self, number: usize, branch: usize) {
        self.begin(number, branch, &[]);
        if number == 3 {
            // Git must not apply it, in the oracle either.
            let map = b"Somebody Else <else@example.org> <dev1@example.org>\n".to_vec();
            self.put(branch, b".mailmap".to_vec(), "100644", map);
        }
        let changes = match self.random.below(100) {
            _ if number % 97 == 50 => 51 + self.random.below(70),
            0..4 => 0,
            4..7 => 10 + self.random.below(41),
            _ => 1 + self.random.below(4),
        };
        for _ in 0..changes {
            let count = self.branches[branch].files.len();
            match self.random.below(100) {
                _ if count == 0 => self.add_file(branch),
                0..30 if count < FILES_MAX => self.add_file(branch),
                0..40 => self.delete_file(branch),
                40..46 => self.rename_file(branch),
                46..54 => self.change_mode(branch),
                54..55 if self.random.chance(20) => self.delete_folder(branch),
                _ => self.modify_file(branch),
            }
        }
        self.line(b"");
    }

    /// The head of a commit on a branch, with further parents.
    fn begin(&mut self, number: usize, branch: usize, parents: &[usize]) {
        let mark = number + 1;
        self.tick();
        let (name, email) = self.author();
        let zones = ["+0000", "+0100", "-0500", "+1345", "-0930", "+1400", "-1200", "+0530"];
        let zone = self.random.pick(&zones);
        let message = self.message(number);
        self.line(format!("commit refs/heads/{}\nmark :{mark}", self.branches[branch].name).as_bytes());
        let clock = self.clock;
        let author_time = format!("{} {zone}", self.author_time);
        self.line(&[b"author ", name.as_slice(), b" <", &email, b"> ", author_time.as_bytes()].concat());
        self.line(format!("committer C O Mitter <committer@example.org> {clock} {zone}").as_bytes());
        if self.random.chance(3) {
            self.line(b"encoding ISO-8859-1");
        }
        self.data(&message);
        if let Some(from) = self.branches[branch].mark {
            self.line(format!("from :{from}").as_bytes());
        }
        for parent in parents {
            self.line(format!("merge :{parent}").as_bytes());
        }
        self.branches[branch].mark = Some(mark);
    }

    /// Moves the clocks: mostly on, but people's clocks are wrong, and imports come from anywhere.
    fn tick(&mut self) {
        self.clock += self.random.below(4 * 3_600) as i64;
        let day = self.clock - self.clock.rem_euclid(DAY_SECONDS);
        self.author_time = match self.random.below(200) {
            0..20 => self.author_time,
            20..40 => self.clock - self.random.below(10 * DAY_SECONDS as usize) as i64,
            40..44 => day,
            44..48 => day - 1,
            48..52 => day + DAY_SECONDS - 1,
            52..54 => self.clock + self.random.below(400 * DAY_SECONDS as usize) as i64,
            54 => self.random.below(3) as i64,
            55 => DAY_SECONDS - 1 + self.random.below(3) as i64,
            // 2038-01-19T03:14:07Z and 2100-01-01T00:00:00Z, and around.
            56 => i64::from(i32::MAX) + self.random.below(3) as i64,
            57 => 4_102_444_800 - 1 + self.random.below(3) as i64,
            _ => self.clock,
        };
    }

    /// Name and address.
    fn author(&mut self) -> (Bytes, Bytes) {
        let odd: [(&[u8], &[u8]); 14] = [
            (b"Jos\xe9 Latin", b"jos\xe9@example.org"),
            ("José Ünicode".as_bytes(), "josé@exämple.org".as_bytes()),
            (b"Literal", b"jos\\xe9@example.org"),
            (b"No Address", b""),
            (b"No Addr\xe9ss", b""),
            (b"  Led by spaces", b""),
            (b"", b"nameless@example.org"),
            (b"", b""),
            (b"Quoted \"Q\" Name", b"\"quoted\"@example.org"),
            (b"Back\\slash", b"back\\slash@example.org"),
            (b"Tab\tbed", b"tab\tbed@example.org"),
            (b"Spaced", b" spaced@example.org "),
            (b"\xff\xfe", b"\xff\xfe\xc3"),
            (b"Colon: Comma, Semi;", b"DEV1@Example.ORG"),
        ];
        if self.random.chance(8) {
            let (name, email) = odd[self.random.below(odd.len())];
            return (name.to_vec(), email.to_vec());
        }
        // A few do most of the work.
        let end = 1 + self.random.below(60);
        let number = self.random.below(end);
        (format!("Developer {number}").into_bytes(), format!("dev{number}@example.org").into_bytes())
    }

    fn message(&mut self, number: usize) -> Bytes {
        match self.random.below(40) {
            0 => Bytes::new(),
            1 => b"\n\n  \nSubject after blank lines\n".to_vec(),
            2 => b"Men\xfc in Latin-1\n\nauthor Not An Author <not@example.org> 1 +0000\n".to_vec(),
            3 => "long ".repeat(200).into_bytes(),
            4 => format!("Größe {number}\n\nA body.\n\nparent 0123\n").into_bytes(),
            _ => format!("Change {number}\n").into_bytes(),
        }
    }

    fn add_file(&mut self, branch: usize) {
        let path = self.new_path();
        let mode = ["100644", "100644", "100644", "100755", "120000", "160000"][self.random.below(6)];
        let content = self.content(mode);
        self.put(branch, path, mode, content);
    }

    fn modify_file(&mut self, branch: usize) {
        let (path, (mode, _)) = self.any_file(branch);
        let content = self.content(mode);
        self.put(branch, path, mode, content);
    }

    /// Another mode, and so perhaps another type: a file becomes a symbolic link or a submodule.
    fn change_mode(&mut self, branch: usize) {
        let (path, (mode, content)) = self.any_file(branch);
        let (mode, content) = match mode {
            "100644" if self.random.chance(70) => ("100755", content),
            "100755" => ("100644", content),
            "160000" => ("120000", self.content("120000")),
            "120000" => ("100644", content),
            _ => ("160000", self.content("160000")),
        };
        self.put(branch, path, mode, content);
    }

    fn rename_file(&mut self, branch: usize) {
        let (path, (mode, content)) = self.any_file(branch);
        self.delete(branch, &path);
        let path = self.new_path();
        self.put(branch, path, mode, content);
    }

    fn delete_file(&mut self, branch: usize) {
        let (path, _) = self.any_file(branch);
        self.delete(branch, &path);
    }

    fn delete_folder(&mut self, branch: usize) {
        let (path, _) = self.any_file(branch);
        let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(path.len());
        self.delete(branch, &path[..end]);
    }

    fn any_file(&mut self, branch: usize) -> (Bytes, (&'static str, Bytes)) {
        let files = &self.branches[branch].files;
        if files.is_empty() {
            return (b"only".to_vec(), ("100644", Bytes::new()));
        }
        let (path, file) = files.iter().nth(self.random.below(files.len())).expect("it is one of them");
        (path.clone(), file.clone())
    }

    /// Of a fixed set, so that paths come back: deleted ones again, files where folders were, and the other way round.
    fn new_path(&mut self) -> Bytes {
        let folders: [&[u8]; 12] = [
            b"",
            b"src/",
            b"src/deep/er/",
            b"a/",
            b"a.d/",
            b"caf\xe9/",
            "Größe/日本/".as_bytes(),
            b"sp ace/",
            b"quo\"te/",
            b"back\\slash/",
            b"ta\tb/",
            b"docs/",
        ];
        // `a`, `a.d` and `a0` lie around `a/` in a tree's order, and `src` and `docs` are folders as well.
        let names: [&[u8]; 20] = [
            b"a",
            b"a0",
            b"a-b",
            b"a.d",
            b"src",
            b"docs",
            b"men\xfc.txt",
            b"\xff\xfe",
            "naïve-ß-日本-🎉.txt".as_bytes(),
            b"quo\"te.txt",
            b"back\\slash.txt",
            b"ta\tb.txt",
            b" leading",
            b"trailing ",
            b"lit\\xe8ral",
            b"*glob?[x]",
            b"-dash",
            b":colon:",
            b"con\x01trol\x7f",
            b"M",
        ];
        let folder = self.random.pick(&folders);
        if self.random.chance(10) {
            return [folder, self.random.pick(&names)].concat();
        }
        [folder, format!("file{:03}.rs", self.random.below(250)).as_bytes()].concat()
    }

    /// Of a mode's kind; a submodule's is the id of its commit.
    fn content(&mut self, mode: &str) -> Bytes {
        match mode {
            "160000" => format!("{:040x}", u128::from(self.random.next()) << 64 | 1).into_bytes(),
            "120000" => format!("../target{}", self.random.below(1_000)).into_bytes(),
            _ => format!("line\n{}\n", self.random.below(1 << 30)).repeat(1 + self.random.below(5)).into_bytes(),
        }
    }

    fn put(&mut self, branch: usize, path: Bytes, mode: &'static str, content: Bytes) {
        let quoted = quote(&path);
        if mode == "160000" {
            self.line(&[b"M 160000 ", content.as_slice(), b" ", &quoted].concat());
        } else {
            self.line(&[b"M ", mode.as_bytes(), b" inline ", &quoted].concat());
            self.data(&content);
        }
        let files = &mut self.branches[branch].files;
        // Git puts a file in a folder's place, and the other way round.
        files.retain(|other, _| !is_under(other, &path) && !is_under(&path, other));
        files.insert(path, (mode, content));
    }

    /// Deletes a file or folder.
    fn delete(&mut self, branch: usize, path: &[u8]) {
        self.line(&[b"D ", quote(path).as_slice()].concat());
        self.branches[branch].files.retain(|other, _| other != path && !is_under(other, path));
    }

    fn data(&mut self, data: &[u8]) {
        self.line(format!("data {}", data.len()).as_bytes());
        self.line(data);
    }

    fn line(&mut self, line: &[u8]) {
        self.out.write_all(line).and_then(|()| self.out.write_all(b"\n")).expect("fast-import reads");
    }
}

fn is_under(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"))
}

/// A path in C's quotes.
fn quote(path: &[u8]) -> Bytes {
    let mut quoted = vec![b'"'];
    for &byte in path {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', byte]),
            b' '..=b'~' => quoted.push(byte),
            _ => quoted.extend(format!("\\{byte:03o}").into_bytes()),
        }
    }
    quoted.push(b'"');
    quoted
}

/// How many events of each author (`user`), file (`target`) and kind (`type`) there are on each UTC day of the history of
/// a revision, days by their start in ms. An event is a commit, or a file that a commit with at most one parent changed.
pub fn counts_from_git_log(repo: &Path, revision: &str) -> BTreeMap<(String, String, i64), i64> {
    let output = Command::new("git")
        .arg("-C")
        .arg(repo)
        .args(["-c", "core.quotePath=false", "-c", "diff.renames=false", "-c", "log.showSignature=false"])
        .args(["-c", "log.mailmap=false", "-c", "log.showRoot=true", "-c", "log.decorate=false"])
        .args(["log", "-z", "--no-renames", "--name-status", "--no-mailmap", "--no-notes", "--ignore-submodules=none"])
        .args(["--encoding=UTF-8", "--format=tformat:%H%x00%e%x00%ae%x00%an%x00%at", revision, "--"])
        .stderr(Stdio::inherit())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git log: {}", output.status);
    let mut counts = BTreeMap::new();
    // ID NUL ENCODING NUL EMAIL NUL NAME NUL SECONDS NUL (LF (STATUS NUL PATH NUL)+)?, again and again.
    let mut fields = output.stdout.split(|&byte| byte == 0).peekable();
    while let Some(id) = fields.next_if(|id| !id.is_empty()) {
        assert!(matches!(id.len(), 40 | 64) && id.iter().all(u8::is_ascii_hexdigit), "{}", id.escape_ascii());
        let [encoding, email, name, seconds] = [(); 4].map(|()| fields.next().expect("a commit has five fields"));
        let (email, name) = (as_stored(email, encoding), as_stored(name, encoding));
        let user = match (email.as_slice(), name.as_slice()) {
            (b"", b"") => "unknown".to_owned(),
            (b"", name) => printable(name),
            (email, _) => printable(email),
        };
        // Git gives no time for an author line without one.
        let seconds: i64 = String::from_utf8_lossy(seconds).parse().unwrap_or(0);
        let day = seconds.div_euclid(DAY_SECONDS) * DAY_SECONDS * 1_000;
        let mut count = |dimension: &str, key: &str| {
            *counts.entry((dimension.to_owned(), key.to_owned(), day)).or_insert(0) += 1;
        };
        count("user", &user);
        count("type", "git.commit");
        while let Some(kind) = fields.peek().and_then(|field| kind(field)) {
            fields.next();
            let path = fields.next().expect("a status is of a path");
            count("user", &user);
            count("type", kind);
            count("target", &printable(path));
        }
    }
    assert_eq!(fields.count(), 1, "what follows the last commit is empty");
    counts
}

/// A format's text is always converted to UTF-8 from what the commit says it is in; this is the way back. Engram takes
/// the bytes as they are stored, since one author is one author whatever their commits say.
fn as_stored(text: &[u8], encoding: &[u8]) -> Bytes {
    match encoding {
        b"" | b"UTF-8" => text.to_vec(),
        b"ISO-8859-1" => {
            let text = std::str::from_utf8(text).expect("git has converted it");
            text.chars().map(|latin1| u8::try_from(latin1).expect("git has converted it")).collect()
        }
        other => panic!("the samples hold no {}", other.escape_ascii()),
    }
}

/// What a status stands for; `None` if it is none, but the id of the next commit.
fn kind(field: &[u8]) -> Option<&'static str> {
    match field.strip_prefix(b"\n").unwrap_or(field) {
        b"A" => Some("git.file-added"),
        b"M" | b"T" => Some("git.file-modified"),
        b"D" => Some("git.file-deleted"),
        _ => None,
    }
}

/// The bytes as text; `\xNN` for each byte that is not UTF-8.
fn printable(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    loop {
        match std::str::from_utf8(bytes) {
            Ok(valid) => return text + valid,
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                let wrong = error.error_len().unwrap_or(rest.len());
                text += &String::from_utf8_lossy(valid);
                rest[..wrong].iter().for_each(|byte| text += &format!("\\x{byte:02x}"));
                bytes = &rest[wrong..];
            }
        }
    }
}
