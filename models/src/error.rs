//! What is wrong with a model.

use thiserror::Error;

/// Why a model cannot be used. Each is one clause for the user who brought the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModelError {
    /// None of the formats.
    #[error("this is no model of a format that is read: {0}")]
    Unrecognized(String),
    /// It is of that format, and damaged or inconsistent. The text says where.
    #[error("the {format} model is damaged: {reason}")]
    Malformed { format: &'static str, reason: String },
    /// It is sound, and asks for something that is not done here.
    #[error("the {format} model cannot be used: {reason}")]
    Unsupported { format: &'static str, reason: String },
    /// It is beyond a bound of `format::bounds`.
    #[error("the model is too large: {0}")]
    TooLarge(String),
}
