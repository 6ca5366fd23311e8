//! The last two windows of a series' values, for detectors that learn from one while the next lasts. The state of such a
//! detector is these, and what is usual of its scores: whatever it makes of the values it makes again.

use crate::series::encoding::{Reader, Writer};
use crate::series::error::SeriesError;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Windows {
    /// Values of the window that counts; empty while the first one lasts.
    pub(crate) reference: Vec<f64>,
    /// Values of the window that lasts.
    pub(crate) latest: Vec<f64>,
}

impl Windows {
    /// Adds a value to the window that lasts, which has `len` values in all; whether it counts from now on.
    pub(crate) fn push(&mut self, x: f64, len: usize) -> bool {
        self.latest.push(x);
        let is_full = self.latest.len() == len;
        if is_full {
            self.reference.clear();
            std::mem::swap(&mut self.reference, &mut self.latest);
        }
        is_full
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.numbers(self.reference.iter().copied());
        writer.numbers(self.latest.iter().copied());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, len: usize) -> Result<Self, SeriesError> {
        let (reference, latest) = (reader.numbers(len)?, reader.numbers(len - 1)?);
        if !reference.is_empty() && reference.len() != len {
            return Err(SeriesError::Damaged("half a window that counts"));
        }
        Ok(Self { reference, latest })
    }
}
