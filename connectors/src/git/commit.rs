//! A commit as it is stored: a pure reading of its bytes. Who wrote it and when is read as `git log` reads it, broken
//! author lines included.
//!
//! INVARIANT: no author line makes a commit unreadable; histories are full of odd ones, and each commit is an event.

use engram_schemas::event::TIME_MS;
use gix::ObjectId;

/// What Engram takes from a commit object. Borrows from its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Commit<'a> {
    pub tree: ObjectId,
    /// As stored: a shallow boundary and replaced parents are the caller's.
    pub parents: Vec<ObjectId>,
    pub author: Ident<'a>,
    pub message: &'a [u8],
}

/// The author of a commit.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ident<'a> {
    pub name: &'a [u8],
    pub email: &'a [u8],
    /// Milliseconds since the epoch, UTC; 0 where git shows no time or the year is beyond 9999.
    pub time_ms: i64,
}

impl<'a> Commit<'a> {
    /// `None` if there is no tree or an id is not one.
    ///
    /// ```text
    /// tree HEX LF  (parent HEX LF)*  author IDENT LF  committer IDENT LF  (other headers)*  LF  message
    /// ```
    pub fn parse(mut data: &'a [u8]) -> Option<Self> {
        let (mut tree, mut parents, mut author) = (None, Vec::new(), None);
        loop {
            let (line, rest) = split_line(data);
            data = rest;
            if line.is_empty() {
                break;
            } else if let Some(hex) = line.strip_prefix(b"tree ") {
                tree = tree.or(Some(ObjectId::from_hex(hex).ok()?));
            } else if let Some(hex) = line.strip_prefix(b"parent ") {
                parents.push(ObjectId::from_hex(hex).ok()?);
            } else if let Some(ident) = line.strip_prefix(b"author ") {
                author = Some(Ident::parse(ident));
            }
        }
        Some(Self { tree: tree?, parents, author: author.unwrap_or_default(), message: data })
    }

    /// The first line of the message that is not blank.
    pub fn subject(&self) -> &'a [u8] {
        let lines = self.message.split(|&byte| byte == b'\n');
        lines.map(<[u8]>::trim_ascii).find(|line| !line.is_empty()).unwrap_or_default()
    }
}

impl<'a> Ident<'a> {
    /// Source: git's `split_ident_line` (ident.c). A line without `<` and `>` has neither name nor address; the address
    /// ends at the first `>`, the time begins after the last one, and without a time zone it is none.
    fn parse(line: &'a [u8]) -> Self {
        let Some(open) = line.iter().position(|&byte| byte == b'<') else { return Self::default() };
        let Some(length) = line[open + 1..].iter().position(|&byte| byte == b'>') else { return Self::default() };
        let last = line.iter().rposition(|&byte| byte == b'>').expect("one was found");
        Self {
            name: trim_end(&line[..open]),
            email: &line[open + 1..open + 1 + length],
            time_ms: time_ms(&line[last + 1..]).unwrap_or(0),
        }
    }
}

/// The time in ` SECONDS ZONE`. The zone does not move it: git's seconds are UTC.
fn time_ms(text: &[u8]) -> Option<i64> {
    let text = trim_start(text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (seconds, zone) = text.split_at(digits);
    if !matches!(trim_start(zone), [b'+' | b'-', b'0'..=b'9', ..]) {
        return None;
    }
    let seconds: i64 = str::from_utf8(seconds).ok()?.parse().ok()?;
    seconds.checked_mul(1000).filter(|time| TIME_MS.contains(time))
}

fn split_line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[]),
    }
}

/// Git's `isspace`, which unlike Rust's takes no form feed for white space.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().position(|&byte| !is_space(byte)).unwrap_or(bytes.len())..]
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_read() {
        let (tree, parent) = ("a".repeat(40), "b".repeat(40));
        let data = format!(
            "tree {tree}\nparent {parent}\nauthor A U Thor <a@example.org> 1700000000 +1345\ncommitter C <c@c> 1 +0000\n\
             gpgsig first\n author not <this@one> 5 +0000\n\n\n  The subject \nand more\n"
        );
        let commit = Commit::parse(data.as_bytes()).expect("it is a commit");
        assert_eq!(commit.tree.to_string(), tree);
        assert_eq!(commit.parents, [ObjectId::from_hex(parent.as_bytes()).expect("an id")]);
        let author = Ident { name: b"A U Thor", email: b"a@example.org", time_ms: 1_700_000_000_000 };
        assert_eq!(commit.author, author);
        assert_eq!(commit.subject(), b"The subject");
        assert_eq!(Commit::parse(b"author A <a@b> 0 +0000\n\nno tree"), None);
    }

    #[test]
    fn odd_authors_are_read_as_git_reads_them() {
        for (line, name, email, time_ms) in [
            (&b"A <a@b> 12 -0930"[..], &b"A"[..], &b"a@b"[..], 12_000),
            (b"<> 12 +0000", b"", b"", 12_000),
            (b"A <> 12 +0000", b"A", b"", 12_000),
            (b"A\xe9 <\xe9@b> 12 +0000", b"A\xe9", b"\xe9@b", 12_000),
            (b"A <a <b>> 12 +0000", b"A", b"a <b", 12_000),
            (b"A <a>b> 12 +0000", b"A", b"a", 12_000),
            (b"A < a@b > 12 +0000", b"A", b" a@b ", 12_000),
            (b"A <a@b> 12", b"A", b"a@b", 0),
            (b"A <a@b> -12 +0000", b"A", b"a@b", 0),
            (b"A <a@b>", b"A", b"a@b", 0),
            (b"A <a@b> 4102444800 +0000", b"A", b"a@b", 4_102_444_800_000),
            (b"A <a@b> 18446744073709551615 +0000", b"A", b"a@b", 0),
            (b"A <a@b> 253402300800 +0000", b"A", b"a@b", 0),
            (b"nobody", b"", b"", 0),
            (b"A <a@b", b"", b"", 0),
        ] {
            assert_eq!(Ident::parse(line), Ident { name, email, time_ms }, "{}", line.escape_ascii());
        }
    }
}
