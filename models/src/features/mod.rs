//! What a model's columns are made of: a list of features, computed from columns of decoded events and from a history of each
//! series.
//!
//! ```text
//! [[features]] --Features::new (checked)--> Features --inputs--> the columns of events that it wants
//! columns, keys, times --compute--> a column of f32 for each feature
//!                           ^ v
//!                         States: a history for each key
//! ```
//!
//! A missing value (a null, a NaN, an infinity) is NaN, and so is a result that an f32 cannot hold: a column has finite numbers
//! and NaN, which every format of models takes as missing.
//!
//! INVARIANT: a row's features depend on the list and on the rows of its series up to it, in the order in which they come, on
//! nothing else. A batch that is cut anywhere gives the same columns, bit for bit, and so does a replay. No feature depends on
//! what others are in the list.

mod feature;
mod history;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Float32Array, Float64Array, StringArray};
use arrow::datatypes::Float64Type;

pub use feature::{Aggregate, Feature, FeatureError, duration_ms};

use crate::gpu::pinned::{Block, Pool};
use feature::Kind;
use history::{History, Layout};

/// Rows of a series that a feature can look at, the present one included; a lag is at most as many. It bounds a state: 8 KiB,
/// and as many for each field.
pub const HISTORY_ROWS_MAX: usize = 1024;

/// Features that a list may have.
pub const FEATURES_MAX: usize = 4096;

/// A list of features, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    columns: Vec<Column>,
    inputs: Vec<Input>,
    layout: Layout,
}

/// A column of events that features want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Of the field, as the list has it.
    pub path: String,
    pub kind: InputKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// A Float64Array; a null, a NaN or an infinity is missing.
    Number,
    /// A StringArray; a null is missing.
    Text,
}

#[derive(Debug, Clone, PartialEq)]
struct Column {
    name: Option<String>,
    /// Among the inputs; of what looks back, among the layout's.
    input: usize,
    kind: Kind,
}

/// Where the histories are: a key-value store.
pub trait States {
    type Error;

    fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Self::Error>;

    fn put(&mut self, key: &str, state: &[u8]) -> Result<(), Self::Error>;
}

impl Features {
    /// Errors: the first feature that cannot be computed, or contradicts itself.
    pub fn new(list: Vec<Feature>) -> Result<Self, FeatureError> {
        if list.len() > FEATURES_MAX {
            return Err(FeatureError::Count(list.len()));
        }
        let mut features = Self { columns: Vec::with_capacity(list.len()), inputs: vec![], layout: Layout::default() };
        for (at, feature) in list.into_iter().enumerate() {
            let kind = feature.kind().map_err(|why| FeatureError::Feature { number: at + 1, why })?;
            let name = feature.name;
            if name.is_some() && features.columns.iter().any(|column| column.name == name) {
                let why = format!("its name {:?} is another's", name.unwrap_or_default());
                return Err(FeatureError::Feature { number: at + 1, why });
            }
            let wanted = Input { path: feature.field, kind: kind.input() };
            let input = index_or_push(&mut features.inputs, wanted);
            let input = if kind.looks_back() { features.layout.add(input, &kind) } else { input };
            features.columns.push(Column { name, input, kind });
        }
        features.layout.seal(&features.inputs);
        Ok(features)
    }

    /// The columns of events that it wants, each once, in the order of their first use.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Whether there are histories to keep.
    pub fn is_stateful(&self) -> bool {
        !self.layout.inputs.is_empty()
    }

    /// Of each feature, in the order of the list, where it has a name.
    pub fn names(&self) -> impl ExactSizeIterator<Item = Option<&str>> {
        self.columns.iter().map(|column| column.name.as_deref())
    }

    /// The features' columns, in the order of the list. `columns` are in the order of `inputs`, `keys` have each row's series,
    /// `times` are in ms. Of each series a state is read once and, after all rows, written once, in the order of first
    /// appearance. A state that is damaged, or is of a list that keeps other things, is as none: its series begins anew.
    ///
    /// The columns lie in the pool's memory: in that of a GPU's, it uploads them as they are.
    ///
    /// A row costs a pass over the rows that a feature looks at, for each feature.
    ///
    /// Errors: those of the states. Where reading failed, nothing was written.
    ///
    /// # Panics
    /// The columns are not those of `inputs`, or lengths differ, or a key is null.
    pub fn compute<S: States>(
        &self,
        columns: &[ArrayRef],
        keys: &StringArray,
        times: &[i64],
        states: &mut S,
        pool: &Arc<Pool>,
    ) -> Result<Vec<Float32Array>, S::Error> {
        assert_eq!(columns.len(), self.inputs.len(), "a column for each input");
        assert!(columns.iter().all(|column| column.len() == times.len()), "columns of one length");
        assert!(keys.len() == times.len() && keys.null_count() == 0, "a key for each row");
        let rows = times.len();
        let mut blocks: Vec<Block> = self.columns.iter().map(|_| pool.take(rows * size_of::<f32>())).collect();
        let mut made: Vec<&mut [f32]> = blocks.iter_mut().map(|block| &mut block.values_mut()[..rows]).collect();
        self.columns.iter().zip(&mut made).for_each(|(column, made)| column.at_once(columns, made));
        if self.is_stateful() {
            self.look_back(columns, keys, times, states, &mut made)?;
        }
        Ok(blocks.into_iter().map(|block| block.into_array(rows, None)).collect())
    }

    /// Fills the columns of those features that look back.
    fn look_back<S: States>(
        &self,
        columns: &[ArrayRef],
        keys: &StringArray,
        times: &[i64],
        states: &mut S,
        made: &mut [&mut [f32]],
    ) -> Result<(), S::Error> {
        let inputs: Vec<&Float64Array> =
            self.layout.inputs.iter().map(|input| columns[*input].as_primitive()).collect();
        let mut series: Vec<(&str, History)> = vec![];
        let mut index_of = HashMap::new();
        for (row, time_ms) in times.iter().enumerate() {
            let key = keys.value(row);
            let index = match index_of.get(key) {
                Some(index) => *index,
                None => {
                    let read = states.get(key)?.and_then(|bytes| History::decode(&bytes, &self.layout));
                    series.push((key, read.unwrap_or_else(|| History::new(&self.layout))));
                    index_of.insert(key, series.len() - 1);
                    series.len() - 1
                }
            };
            let history = &mut series[index].1;
            history.push(*time_ms, inputs.iter().map(|input| number(input, row)));
            for (column, made) in self.columns.iter().zip(&mut *made) {
                match &column.kind {
                    Kind::Lag(rows) => made[row] = narrow(history.lag(column.input, *rows)),
                    Kind::Rows(aggregate, rows) => {
                        made[row] = narrow(aggregate.of(history.last(column.input, *rows)));
                    }
                    Kind::Window(aggregate, window_ms) => {
                        made[row] = narrow(aggregate.of(history.window(column.input, *window_ms)));
                    }
                    Kind::Value | Kind::OneHot(_) | Kind::Categories(_) => {}
                }
            }
            history.forget(&self.layout);
        }
        series.iter().try_for_each(|(key, history)| states.put(key, &history.encode(&self.layout)))
    }
}

impl Column {
    /// Fills the column, if each value needs its own row only.
    fn at_once(&self, columns: &[ArrayRef], made: &mut [f32]) {
        match &self.kind {
            Kind::Value => {
                let input = columns[self.input].as_primitive::<Float64Type>();
                made.iter_mut().enumerate().for_each(|(row, made)| *made = narrow(number(input, row)));
            }
            Kind::OneHot(text) => {
                let is = |present: &str| if present == text { 1.0 } else { 0.0 };
                let texts = columns[self.input].as_string::<i32>();
                made.iter_mut().zip(texts).for_each(|(made, present)| *made = present.map_or(f32::NAN, is));
            }
            Kind::Categories(codes) => {
                let code = |present: Option<&str>| present.and_then(|present| codes.get(present)).copied();
                let texts = columns[self.input].as_string::<i32>();
                made.iter_mut().zip(texts).for_each(|(made, present)| *made = code(present).unwrap_or(f32::NAN));
            }
            Kind::Lag(_) | Kind::Rows(..) | Kind::Window(..) => {}
        }
    }
}

/// What an input has: a finite number or NaN.
fn number(input: &Float64Array, row: usize) -> f64 {
    if input.is_valid(row) && input.value(row).is_finite() { input.value(row) } else { f64::NAN }
}

/// The nearest f32. One that is beyond them would be infinite, of which models make different things.
fn narrow(value: f64) -> f32 {
    let narrow = value as f32;
    if narrow.is_finite() { narrow } else { f32::NAN }
}

fn index_or_push<T: PartialEq>(all: &mut Vec<T>, one: T) -> usize {
    all.iter().position(|other| *other == one).unwrap_or_else(|| {
        all.push(one);
        all.len() - 1
    })
}
