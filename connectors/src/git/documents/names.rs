//! How files and authors are named in documents: a file by its document's id, an author by a Yjs client.

use std::fmt::Write as _;

use xxhash_rust::xxh3::xxh3_64;

/// The Yjs client of an author in a document: 32 bits, as those of editors are.
pub fn client(source: &str, document: &str, user: &str) -> u32 {
    xxh3_64([source, document, user].join("\0").as_bytes()) as u32
}

/// A path as part of a document's id: as `text` has it, and without control characters. No two paths become one: where a
/// path has what looks like an escaped byte, its backslash is escaped.
pub fn path(bytes: &[u8]) -> String {
    let mut path = String::with_capacity(bytes.len());
    let escape = |path: &mut String, bytes: &[u8]| {
        bytes.iter().for_each(|byte| write!(path, "\\x{byte:02x}").expect("a string takes everything"));
    };
    for chunk in bytes.utf8_chunks() {
        for (at, character) in chunk.valid().char_indices() {
            let rest = &chunk.valid()[at..];
            if character.is_control() || looks_escaped(rest.as_bytes()) {
                escape(&mut path, &rest.as_bytes()[..character.len_utf8()]);
            } else {
                path.push(character);
            }
        }
        escape(&mut path, chunk.invalid());
    }
    path
}

fn looks_escaped(text: &[u8]) -> bool {
    matches!(text, [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_paths_are_one() {
        for (bytes, expected) in [
            (&b"src/main.rs"[..], "src/main.rs"),
            ("Größe/日本.txt".as_bytes(), "Größe/日本.txt"),
            (b"caf\xe9.txt", r"caf\xe9.txt"),
            (br"caf\xe9.txt", r"caf\x5cxe9.txt"),
            (b"ta\tb", r"ta\x09b"),
            (b"a\\b", r"a\b"),
            ("next\u{85}line".as_bytes(), r"next\xc2\x85line"),
        ] {
            assert_eq!(path(bytes), expected);
        }
    }

    #[test]
    fn a_client_is_of_one_source_document_and_author() {
        let known = client("git-1", "git-1/a", "ada");
        assert_eq!(known, client("git-1", "git-1/a", "ada"));
        for other in
            [client("git-2", "git-1/a", "ada"), client("git-1", "git-1/b", "ada"), client("git-1", "git-1/a", "ben")]
        {
            assert_ne!(known, other);
        }
    }
}
