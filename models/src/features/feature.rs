//! A feature as a user says it, and what is checked of it.
//!
//! ```text
//! field = "value"                                          its number
//! field = "value", lag = 3                                 that of 3 rows of the series ago
//! field = "value", aggregate = "mean", rows = 20           over the last 20 rows of the series, the present one included
//! field = "value", aggregate = "max", window = "5m"        over the rows of the last 5 minutes, the present one included
//! field = "kind", one_hot = "open"                         1 where the text is that, else 0
//! field = "kind", categories = ["open", "shut"]            the text's index, for models that split by category
//! ```

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::features::{FEATURES_MAX, HISTORY_ROWS_MAX, InputKind};

/// Texts that `categories` may have.
const CATEGORIES_MAX: usize = 1024;

/// One entry of the list. What is missing stays missing: no number, no text, no such row, a text that is no category give NaN.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// Of the column, for models that name theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of the event.
    pub field: String,
    /// Rows of the series, before the present one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    /// The last rows of the series, the present one among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    /// A duration such as 5m: a row counts if its time is within (time - window, time], it is among the last
    /// `HISTORY_ROWS_MAX`, and no row since was later than it by the window or more. So late rows count by their time, as long
    /// as the window has not left them behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_hot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub categories: Option<Vec<String>>,
}

/// Of the values that are not missing. Of none, `count` is 0 and the others are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    Count,
    Sum,
    Mean,
    Min,
    Max,
    /// Of the population: divided by the count.
    Std,
}

/// Why a list cannot be used. Stop.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FeatureError {
    #[error("{0} features, and at most {FEATURES_MAX} are computed")]
    Count(usize),
    /// `number` counts from 1.
    #[error("feature {number} cannot be computed: {why}")]
    Feature { number: usize, why: String },
}

/// What a feature computes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Value,
    Lag(usize),
    Rows(Aggregate, usize),
    /// Of so many ms.
    Window(Aggregate, i64),
    OneHot(String),
    /// The codes of texts.
    Categories(HashMap<String, f32>),
}

impl Kind {
    pub(super) fn input(&self) -> InputKind {
        match self {
            Self::Value | Self::Lag(_) | Self::Rows(..) | Self::Window(..) => InputKind::Number,
            Self::OneHot(_) | Self::Categories(_) => InputKind::Text,
        }
    }

    /// Whether it needs a history.
    pub(super) fn looks_back(&self) -> bool {
        matches!(self, Self::Lag(_) | Self::Rows(..) | Self::Window(..))
    }
}

impl Feature {
    /// Errors: what is wrong with it, as a clause.
    pub(super) fn kind(&self) -> Result<Kind, String> {
        if self.field.is_empty() {
            return Err("its field is empty".to_owned());
        }
        let kinds = [
            ("lag", self.lag.is_some()),
            ("aggregate", self.aggregate.is_some()),
            ("one_hot", self.one_hot.is_some()),
            ("categories", self.categories.is_some()),
        ];
        let said: Vec<&str> = kinds.iter().filter(|(_, is_said)| *is_said).map(|(name, _)| *name).collect();
        if let [one, other, ..] = said[..] {
            return Err(format!("it has both {one} and {other}"));
        }
        if self.aggregate.is_none() && (self.rows.is_some() || self.window.is_some()) {
            return Err("it has rows or a window, and no aggregate over them".to_owned());
        }
        if let Some(rows) = self.lag {
            return Ok(Kind::Lag(within("lag", rows, HISTORY_ROWS_MAX)?));
        }
        if let Some(aggregate) = self.aggregate {
            return match (self.rows, &self.window) {
                (Some(rows), None) => Ok(Kind::Rows(aggregate, within("rows", rows, HISTORY_ROWS_MAX)?)),
                (None, Some(window)) => match duration_ms(window) {
                    Ok(0) => Err("its window is of no time".to_owned()),
                    length => Ok(Kind::Window(aggregate, length.map_err(|why| format!("its window {why}"))?)),
                },
                (None, None) => Err("its aggregate needs rows or a window".to_owned()),
                (Some(_), Some(_)) => Err("it has both rows and window".to_owned()),
            };
        }
        if let Some(text) = &self.one_hot {
            return Ok(Kind::OneHot(text.clone()));
        }
        let Some(categories) = &self.categories else { return Ok(Kind::Value) };
        within("the number of categories", categories.len(), CATEGORIES_MAX)?;
        let mut codes = HashMap::new();
        for (code, category) in categories.iter().enumerate() {
            if codes.insert(category.clone(), code as f32).is_some() {
                return Err(format!("its category {category:?} is there twice"));
            }
        }
        Ok(Kind::Categories(codes))
    }
}

impl Aggregate {
    /// Passes over the values once more for `Std`: a sum of squares would lose what differs little.
    pub(super) fn of(self, values: impl Iterator<Item = f64> + Clone) -> f64 {
        let present = values.filter(|value| !value.is_nan());
        let count = present.clone().count() as f64;
        match self {
            Self::Count => count,
            _ if count == 0.0 => f64::NAN,
            Self::Sum => sum(present.clone()),
            Self::Mean => sum(present.clone()) / count,
            // Not f64::min and max, which give either of two zeros.
            Self::Min => present.fold(f64::INFINITY, |min, value| if value < min { value } else { min }),
            Self::Max => present.fold(f64::NEG_INFINITY, |max, value| if value > max { value } else { max }),
            Self::Std => {
                let mean = sum(present.clone()) / count;
                (sum(present.map(|value| (value - mean) * (value - mean))) / count).sqrt()
            }
        }
    }
}

/// In their order, from 0: that of `Iterator::sum` begins at -0.
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}

fn within(name: &str, value: usize, max: usize) -> Result<usize, String> {
    if (1..=max).contains(&value) { Ok(value) } else { Err(format!("{name} is {value}, and must be from 1 to {max}")) }
}

/// A duration in ms, not below 0: a number and `ms`, `s`, `m`, `h` or `d`. Errors: one clause that quotes it.
pub fn duration_ms(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a duration such as 500ms, 30s, 1m, 12h or 7d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: i64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60 * 1_000,
        "h" => 60 * 60 * 1_000,
        "d" => 24 * 60 * 60 * 1_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).ok_or_else(wrong)
}
