//! A few fields of framed values, by path, straight into Arrow columns: what is not wanted is walked over, never read.
//!
//! ```text
//! schema id -> plan: the writer's schema, each wanted path at its place (once for each id)
//! body -> plan -> the end of every column; a body that breaks off is taken back from all
//! ```
//!
//! `columnar` reads whole events of one type that the program knows. This reads any type, as its writer had it: no schema
//! resolution, so a field that the writer did not have is missing, and neither aliases nor defaults are looked at.
//!
//! INVARIANT: columns have as many rows as values were pushed, whatever else was tried.

mod column;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field as Column, Schema};

use crate::codec::{DecodeError, load_schema};
use crate::registry::Registry;
use crate::{intern, wire};

use column::Values;
use plan::Plan;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Float64, where NaN is missing: numbers, dates and times as their number, booleans as 0 and 1, texts that are one.
    Number,
    /// Utf8, where null is missing: texts, symbols, and numbers as they are written.
    Text,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Names joined by dots: of a record's field; an array's item, from 0; a map's key, which is all that follows, dots too, where
    /// the map has plain values. Missing where the value has no such thing, or what is there is no number and no text.
    pub path: String,
    pub kind: Kind,
}

/// Collects columns of the events of one type.
pub struct Projection {
    registry: Arc<dyn Registry>,
    event: String,
    fields: Vec<Field>,
    schema: Arc<Schema>,
    columns: Vec<Values>,
    rows: usize,
    /// By schema id; `None`: another type.
    plans: BTreeMap<u32, Option<Plan>>,
}

impl Projection {
    /// `event` is the full name of the type.
    pub fn new(registry: Arc<dyn Registry>, event: &str, fields: Vec<Field>) -> Self {
        let column = |field: &Field| match field.kind {
            Kind::Number => Column::new(&field.path, DataType::Float64, false),
            Kind::Text => Column::new(&field.path, DataType::Utf8, true),
        };
        let schema = Arc::new(Schema::new(fields.iter().map(column).collect::<Vec<_>>()));
        let columns = fields.iter().map(|field| Values::new(field.kind)).collect();
        Self { registry, event: event.to_owned(), fields, schema, columns, rows: 0, plans: BTreeMap::new() }
    }

    /// Adds a row; false, and none, if the value is of another type. An error adds none and leaves the others as they are.
    pub fn push(&mut self, value: &[u8]) -> Result<bool, DecodeError> {
        let (id, body) = wire::split(value).ok_or(DecodeError::NotFramed)?;
        if !self.plans.contains_key(&id.0) {
            let schema = load_schema(&*self.registry, id)?;
            let is_wanted = intern::record_name(schema).as_deref() == Some(&*self.event);
            let plan = is_wanted.then(|| Plan::new(schema, &self.fields)).transpose();
            let plan = plan.map_err(|reason| DecodeError::UnusableSchema { id, reason })?;
            self.plans.insert(id.0, plan);
        }
        let Some(plan) = &self.plans[&id.0] else { return Ok(false) };
        self.columns.iter_mut().for_each(Values::begin);
        let mut rest = body;
        let read = match plan.read(&mut rest, &mut self.columns) {
            Ok(()) if rest.is_empty() => Ok(()),
            Ok(()) => Err(DecodeError::Trailing(rest.len())),
            Err(reason) => Err(DecodeError::Malformed { id, reason: reason.to_owned() }),
        };
        self.columns.iter_mut().for_each(Values::end);
        self.rows += 1;
        read.map(|()| true).inspect_err(|_| self.pop())
    }

    /// Rows since `finish`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes the last row back.
    ///
    /// # Panics
    /// If there is none.
    pub fn pop(&mut self) {
        self.rows = self.rows.checked_sub(1).expect("there is a row");
        self.columns.iter_mut().for_each(Values::pop);
    }

    /// The rows since the last call: a column for each field, in the fields' order. Nothing is copied.
    pub fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        let arrays = self.columns.iter_mut().map(Values::finish).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), arrays).expect("columns have equally many rows")
    }

    /// The ids of the schemas that the rows were written with so far.
    pub fn ids_seen(&self) -> Vec<u32> {
        self.plans.iter().filter(|(_, plan)| plan.is_some()).map(|(id, _)| *id).collect()
    }
}
