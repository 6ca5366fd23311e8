//! What is different between two texts: by lines, within the lines that changed by words, and of two words what they do not
//! begin and end with alike.
//!
//! INVARIANT: the changes turn the one text into the other, exactly; between two of them something stays.

use imara_diff::{Algorithm, Diff, InternedInput, TokenSource};

/// Changed lines in a row beyond which they are not compared word by word, bytes on both sides together.
const WORDS_BYTES_MAX: usize = 64 << 10;
/// What stays between two changes, and is shorter, counts as changed: it would cost more to keep than to write.
const KEPT_BYTES_MIN: usize = 4;
/// About what a change costs in an update, beside its text. Where the changes cost more than the text, it is replaced.
const CHANGE_BYTES: usize = 24;

/// A place where the texts differ. Positions and lengths are in UTF-16 code units of the old text, as Yjs counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<'a> {
    pub at: u32,
    pub removed: u32,
    pub inserted: &'a str,
}

/// A range of the old text's bytes and the one of the new that takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Replaced {
    old: std::ops::Range<usize>,
    new: std::ops::Range<usize>,
}

impl Replaced {
    /// Without what both ranges begin and end with.
    fn trimmed(self, old: &str, new: &str) -> Self {
        let (old, new) = (&old[self.old.clone()], &new[self.new.clone()]);
        let same = |(one, other): &(char, char)| one == other;
        let start: usize = old.chars().zip(new.chars()).take_while(same).map(|(one, _)| one.len_utf8()).sum();
        let ends = old[start..].chars().rev().zip(new[start..].chars().rev());
        let end: usize = ends.take_while(same).map(|(one, _)| one.len_utf8()).sum();
        Self { old: self.old.start + start..self.old.end - end, new: self.new.start + start..self.new.end - end }
    }
}

/// The changes, in order.
pub fn changes<'a>(old: &str, new: &'a str) -> Vec<Change<'a>> {
    let mut replaced: Vec<Replaced> = Vec::new();
    let mut add = |next: Replaced| match replaced.last_mut() {
        Some(last) if next.old.start - last.old.end < KEPT_BYTES_MIN => {
            last.old.end = next.old.end;
            last.new.end = next.new.end;
        }
        _ => replaced.push(next),
    };
    for lines in compare(Algorithm::Histogram, old, new) {
        let (before, after) = (&old[lines.old.clone()], &new[lines.new.clone()]);
        if before.is_empty() || after.is_empty() || before.len() + after.len() > WORDS_BYTES_MAX {
            add(lines);
            continue;
        }
        for words in compare(Algorithm::Myers, Words(before), Words(after)) {
            let within = |range: std::ops::Range<usize>, start: usize| range.start + start..range.end + start;
            let words = Replaced { old: within(words.old, lines.old.start), new: within(words.new, lines.new.start) };
            add(words.trimmed(old, new));
        }
    }
    if replaced.len() * CHANGE_BYTES > new.len() {
        let (first, last) = (replaced.first().cloned(), replaced.pop());
        let whole = first.zip(last);
        let whole = whole
            .map(|(first, last)| Replaced { old: first.old.start..last.old.end, new: first.new.start..last.new.end });
        replaced = whole.into_iter().collect();
    }
    let (mut at, mut byte) = (0, 0);
    let change = |Replaced { old: range, new: with }: Replaced| {
        at += units(&old[byte..range.start]);
        let removed = units(&old[range.clone()]);
        let change = Change { at, removed, inserted: &new[with] };
        (at, byte) = (at + removed, range.end);
        change
    };
    replaced.into_iter().map(change).collect()
}

/// UTF-16 code units of a text. Panics beyond 4 billion.
pub fn units(text: &str) -> u32 {
    let units = if text.is_ascii() { text.len() } else { text.encode_utf16().count() };
    u32::try_from(units).expect("texts are bounded")
}

fn compare<'a, S: TokenSource<Token = &'a str>>(algorithm: Algorithm, old: S, new: S) -> Vec<Replaced> {
    let input = InternedInput::new(old, new);
    let mut diff = Diff::compute(algorithm, &input);
    diff.postprocess_no_heuristic(&input);
    let bytes = |tokens: &[imara_diff::Token]| tokens.iter().map(|&token| input.interner[token].len()).sum::<usize>();
    let (mut done, mut end) = ((0, 0), (0, 0));
    let replaced = |hunk: imara_diff::Hunk| {
        let (before, after) = (hunk.before.start as usize, hunk.after.start as usize);
        let start = (end.0 + bytes(&input.before[done.0..before]), end.1 + bytes(&input.after[done.1..after]));
        done = (hunk.before.end as usize, hunk.after.end as usize);
        end = (start.0 + bytes(&input.before[before..done.0]), start.1 + bytes(&input.after[after..done.1]));
        Replaced { old: start.0..end.0, new: start.1..end.1 }
    };
    diff.hunks().map(replaced).collect()
}

/// A text by words: letters and digits in a row, white space in a row, anything else by itself.
#[derive(Clone, Copy)]
struct Words<'a>(&'a str);

impl<'a> TokenSource for Words<'a> {
    type Token = &'a str;
    type Tokenizer = Self;

    fn tokenize(&self) -> Self {
        *self
    }

    fn estimate_tokens(&self) -> u32 {
        units(self.0) / 3
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let kind = |character: char| match character {
            '_' => 0,
            _ if character.is_alphanumeric() => 0,
            ' ' | '\t' => 1,
            _ => 2,
        };
        let first = self.0.chars().next()?;
        let end = match kind(first) {
            2 => first.len_utf8(),
            wanted => self.0.find(|character| kind(character) != wanted).unwrap_or(self.0.len()),
        };
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::text_pair;
    use super::*;

    fn applied(old: &str, changes: &[Change<'_>]) -> String {
        let old: Vec<u16> = old.encode_utf16().collect();
        let (mut text, mut done) = (Vec::new(), 0);
        for change in changes {
            text.extend_from_slice(&old[done..change.at as usize]);
            text.extend(change.inserted.encode_utf16());
            done = (change.at + change.removed) as usize;
        }
        text.extend_from_slice(&old[done..]);
        String::from_utf16(&text).expect("no character is cut in two")
    }

    #[test]
    fn changes_are_small() {
        let old = "fn one() {}\n\nfn two(first: u32) -> u32 {\n    first + 1 // 🎉 is two\n}\n".repeat(3);
        let new = old.replacen("first + 1 // 🎉 is two", "first + 2 // 🎉 is three", 1);
        let found = changes(&old, &new);
        let expected = [Change { at: 53, removed: 1, inserted: "2" }, Change { at: 65, removed: 2, inserted: "hree" }];
        assert_eq!(found, expected);
        assert_eq!(changes(&old, &old), []);
        assert_eq!(changes("", "a"), [Change { at: 0, removed: 0, inserted: "a" }]);
        assert_eq!(changes("a", ""), [Change { at: 0, removed: 1, inserted: "" }]);
    }

    #[test]
    fn what_would_cost_more_than_the_text_is_replaced() {
        let (old, new) = ("same line\nx\n".repeat(9), "same line\ny\n".repeat(9));
        assert_eq!(changes(&old, &new).len(), 1);
    }

    proptest! {
        #[test]
        fn they_turn_the_one_text_into_the_other((old, new) in text_pair()) {
            let changes = changes(&old, &new);
            prop_assert_eq!(&applied(&old, &changes), &new);
            for pair in changes.windows(2) {
                prop_assert!(pair[0].at + pair[0].removed < pair[1].at);
            }
        }
    }
}
