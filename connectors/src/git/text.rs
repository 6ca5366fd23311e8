//! Git's bytes as text: paths, names and addresses are bytes in a repository and strings in an event.

use std::fmt::Write as _;

/// The bytes as text: what is UTF-8 stays as it is, every other byte becomes `\xNN` (two lower-case digits).
///
/// The way back is to replace each `\xNN` by its byte. It is exact unless the bytes hold that very sequence literally: a
/// backslash stays as it is, so that no ordinary text is changed. The price is that a path with the byte E9 and one with
/// the four characters `\xe9` in its place become the same text.
pub fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_utf8_is_escaped() {
        for (bytes, expected) in [
            (&b""[..], ""),
            (b"src/main.rs", "src/main.rs"),
            ("Größe/日本.txt".as_bytes(), "Größe/日本.txt"),
            (b"caf\xe9.txt", r"caf\xe9.txt"),
            (b"\xff\xfe", r"\xff\xfe"),
            (b"a\xc3", r"a\xc3"),
            (b"a\xe2\x82z", r"a\xe2\x82z"),
            (b"a\\b\"c\td", "a\\b\"c\td"),
            (br"a\xe9", r"a\xe9"),
        ] {
            assert_eq!(text(bytes), expected, "{bytes:?}");
        }
    }
}
