//! Model files. Each format has its reader; which one it is, a file's first bytes tell.
//!
//! INVARIANT: a file is hostile until it is read. Every length and index in it is checked, and nothing is allocated by what it
//! claims to hold, but by what it holds.

mod bytes;
mod lightgbm;
mod nodes;
mod onnx;
mod treelite;
mod xgboost;

use crate::error::ModelError;
use crate::model::Kind;

/// What a reader makes of a file.
pub struct Parsed {
    pub kind: Kind,
    pub format: &'static str,
    /// Names of the columns; empty if the file has none.
    pub names: Vec<String>,
}

/// Reads a file of any format.
pub fn read(file: &[u8]) -> Result<Parsed, ModelError> {
    if xgboost::is_json(file) || xgboost::is_ubjson(file) {
        xgboost::read(file)
    } else if lightgbm::is_text(file) {
        lightgbm::read(file)
    } else if treelite::is_checkpoint(file) {
        treelite::read(file)
    } else if onnx::is_onnx(file) {
        onnx::read(file)
    } else {
        Err(ModelError::Unrecognized(
            "give XGBoost JSON or UBJSON, LightGBM text, a Treelite checkpoint or ONNX; or a detector, whose file begins with \
             [detector]"
                .to_owned(),
        ))
    }
}

/// A text of a file in a message: its beginning.
fn quoted(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let beginning: String = text.chars().take(CHARACTERS_MAX).collect();
    format!("{beginning:?}{}", if beginning.len() < text.len() { ".." } else { "" })
}
