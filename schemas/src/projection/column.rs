//! A column while it grows. Arrow's builders cannot take a row back, so these are the buffers that arrays are made of.

use std::fmt::{Display, Write as _};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};

use super::Kind;

/// Rows that were begun, the last of them perhaps not ended.
pub enum Values {
    Numbers(Vec<f64>),
    Texts { bytes: String, ends: Vec<i32>, is_there: Vec<bool> },
}

impl Values {
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::Number => Self::Numbers(Vec::new()),
            Kind::Text => Self::Texts { bytes: String::new(), ends: vec![0], is_there: Vec::new() },
        }
    }

    /// A row begins: it is missing until something is set.
    pub fn begin(&mut self) {
        match self {
            Self::Numbers(values) => values.push(f64::NAN),
            Self::Texts { is_there, .. } => is_there.push(false),
        }
    }

    /// The row's value is this number. The last that is set counts: a map may have a key twice.
    pub fn set_number(&mut self, value: impl Into<f64> + Display + Copy) {
        match self {
            Self::Numbers(values) => *values.last_mut().expect("a row was begun") = value.into(),
            Self::Texts { .. } => self.set_shown(value),
        }
    }

    /// The same for what an f64 does not hold whole.
    pub fn set_long(&mut self, value: i64) {
        match self {
            Self::Numbers(values) => *values.last_mut().expect("a row was begun") = value as f64,
            Self::Texts { .. } => self.set_shown(value),
        }
    }

    fn set_shown(&mut self, value: impl Display) {
        if let Self::Texts { bytes, ends, is_there } = self {
            bytes.truncate(begins(ends));
            write!(bytes, "{value}").expect("strings take everything");
            *is_there.last_mut().expect("a row was begun") = true;
        }
    }

    /// The row's value is this text. False: Arrow's offsets of 32 bits do not reach so far.
    #[inline]
    pub fn set_text(&mut self, text: &str) -> bool {
        match self {
            Self::Numbers(values) => {
                *values.last_mut().expect("a row was begun") = text.trim().parse().unwrap_or(f64::NAN);
            }
            Self::Texts { bytes, ends, is_there } => {
                let begins = begins(ends);
                if bytes.len() > begins {
                    bytes.truncate(begins);
                }
                if begins + text.len() > i32::MAX as usize {
                    return false;
                }
                bytes.push_str(text);
                *is_there.last_mut().expect("a row was begun") = true;
            }
        }
        true
    }

    /// The row's value is missing after all.
    pub fn set_missing(&mut self) {
        match self {
            Self::Numbers(values) => *values.last_mut().expect("a row was begun") = f64::NAN,
            Self::Texts { bytes, ends, is_there } => {
                bytes.truncate(begins(ends));
                *is_there.last_mut().expect("a row was begun") = false;
            }
        }
    }

    /// The row has ended.
    pub fn end(&mut self) {
        if let Self::Texts { bytes, ends, .. } = self {
            ends.push(i32::try_from(bytes.len()).expect("texts are kept below it"));
        }
    }

    /// Takes the last row back, which has ended.
    pub fn pop(&mut self) {
        match self {
            Self::Numbers(values) => drop(values.pop()),
            Self::Texts { bytes, ends, is_there } => {
                ends.pop();
                is_there.pop();
                bytes.truncate(begins(ends));
            }
        }
    }

    /// The rows as an array; there are none left. The next batch has room for as much.
    pub fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Numbers(values) => {
                let next = Vec::with_capacity(values.len());
                Arc::new(Float64Array::from(std::mem::replace(values, next)))
            }
            Self::Texts { bytes, ends, is_there } => {
                let mut next = Vec::with_capacity(ends.len());
                next.push(0);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(ends, next)));
                let next = String::with_capacity(bytes.len());
                let texts = Buffer::from(std::mem::replace(bytes, next).into_bytes());
                let next = Vec::with_capacity(is_there.len());
                let nulls = NullBuffer::from(std::mem::replace(is_there, next));
                Arc::new(StringArray::new(offsets, texts, Some(nulls).filter(|nulls| nulls.null_count() > 0)))
            }
        }
    }
}

/// Where the row's text begins.
fn begins(ends: &[i32]) -> usize {
    ends.last().map_or(0, |end| *end as usize)
}
