//! What a program reads: columns of f32, where a null is NaN.

use arrow::array::{Array as _, Float32Array};
use arrow::buffer::NullBuffer;

/// A column of a batch, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    values: &'a [f32],
    nulls: Option<&'a NullBuffer>,
}

/// The columns of a batch, by feature, all of one length.
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    columns: Vec<Column<'a>>,
    rows: usize,
}

impl<'a> Column<'a> {
    /// Panics if there is not one bit for each value.
    pub fn new(values: &'a [f32], nulls: Option<&'a NullBuffer>) -> Self {
        assert!(nulls.is_none_or(|nulls| nulls.len() == values.len()), "a validity bit for each value");
        Self { values, nulls: nulls.filter(|nulls| nulls.null_count() > 0) }
    }

    /// The value of a row; NaN for null.
    pub(super) fn value(&self, row: usize) -> f32 {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) { f32::NAN } else { self.values[row] }
    }

    /// Copies the rows from `start` on; NaN for null.
    pub(super) fn copy(&self, start: usize, to: &mut [f32]) {
        to.copy_from_slice(&self.values[start..start + to.len()]);
        let Some(nulls) = self.nulls else { return };
        let (bytes, first) = (nulls.validity(), nulls.offset() + start);
        for (at, value) in to.iter_mut().enumerate() {
            let bit = first.wrapping_add(at);
            // Selected, not branched on: which rows are null cannot be predicted.
            *value = if bytes[bit / 8] >> (bit % 8) & 1 == 1 { *value } else { f32::NAN };
        }
    }
}

impl<'a> From<&'a [f32]> for Column<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::new(values, None)
    }
}

impl<'a> From<&'a Float32Array> for Column<'a> {
    fn from(array: &'a Float32Array) -> Self {
        Self::new(array.values(), array.nulls())
    }
}

impl<'a> Columns<'a> {
    /// Panics if the columns differ in length.
    pub fn new(columns: Vec<Column<'a>>) -> Self {
        let rows = columns.first().map_or(0, |column| column.values.len());
        assert!(columns.iter().all(|column| column.values.len() == rows), "columns of one length");
        Self { columns, rows }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    pub(super) fn column(&self, feature: u32) -> Column<'a> {
        self.columns[feature as usize]
    }
}
