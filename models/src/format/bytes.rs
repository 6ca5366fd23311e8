//! A binary file, read from its front.

/// What is not yet read of a file. What is cut short gives `None`.
pub struct Bytes<'a> {
    rest: &'a [u8],
    size: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(file: &'a [u8]) -> Self {
        Self { rest: file, size: file.len() }
    }

    /// Where in the file the next byte is.
    pub fn position(&self) -> usize {
        self.size - self.rest.len()
    }

    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Passes over the next byte, if it is that one.
    pub fn skip(&mut self, expected: u8) -> bool {
        let is_next = self.peek() == Some(expected);
        if is_next {
            self.byte();
        }
        is_next
    }

    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next `count` bytes, if there are so many.
    pub fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(count).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    pub fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }
}
