//! What an XGBoost file holds, of either encoding.

use super::malformed;
use crate::error::ModelError;
use crate::format::quoted;

/// Deepest nesting of a file that is read. XGBoost's own files have eight.
pub const NESTING_MAX: usize = 64;

/// A value. Arrays of numbers are not lists of values, so that a file takes up a few times its size at most.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    /// Numbers and truth values, which count as 0 and 1.
    Numbers(Vec<f64>),
    /// Any others; an empty array is `Numbers`.
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    pub fn find(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(fields) => fields.iter().find(|(field, _)| field == name).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn field(&self, name: &str) -> Result<&Self, ModelError> {
        self.find(name).ok_or_else(|| malformed(format!("it has no {name}")))
    }

    pub fn text(&self, name: &str) -> Result<&str, ModelError> {
        match self.field(name)? {
            Self::Text(text) => Ok(text),
            _ => Err(malformed(format!("{name} is no text"))),
        }
    }

    pub fn numbers(&self, name: &str) -> Result<&[f64], ModelError> {
        match self.field(name)? {
            Self::Numbers(numbers) => Ok(numbers),
            _ => Err(malformed(format!("{name} is no list of numbers"))),
        }
    }

    pub fn list(&self, name: &str) -> Result<&[Self], ModelError> {
        match self.field(name)? {
            Self::List(values) => Ok(values),
            Self::Numbers(numbers) if numbers.is_empty() => Ok(&[]),
            _ => Err(malformed(format!("{name} is no list"))),
        }
    }

    /// A whole number, which XGBoost's parameters are given as text.
    pub fn count(&self, name: &str) -> Result<usize, ModelError> {
        let text = self.text(name)?;
        text.parse().map_err(|_| malformed(format!("{name} is {}", quoted(text))))
    }
}

/// An array as it is read.
#[derive(Default)]
pub struct Array {
    numbers: Vec<f64>,
    values: Vec<Value>,
}

impl Array {
    pub fn push(&mut self, value: Value) {
        match value {
            Value::Number(number) if self.values.is_empty() => self.numbers.push(number),
            Value::Bool(is) if self.values.is_empty() => self.numbers.push(f64::from(u8::from(is))),
            other => {
                self.values.extend(self.numbers.drain(..).map(Value::Number));
                self.values.push(other);
            }
        }
    }

    pub fn finish(self) -> Value {
        if self.values.is_empty() { Value::Numbers(self.numbers) } else { Value::List(self.values) }
    }
}
