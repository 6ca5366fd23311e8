//! A file that a user brings to score events by: a model, which scores a row by its columns, or a detector, which scores each
//! value of a series by those before it.
//!
//! ```toml
//! [detector]
//! method = "holt-winters"      # robust-z, weighted-mean, half-space-trees
//! season = 288                 # the settings: `series::Settings`
//! ```

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::error::ModelError;
use crate::model::Model;
use crate::series::{Detector, Settings};

const DETECTOR: &str = "detector";
/// Far more than any of its settings takes.
const DETECTOR_BYTES_MAX: usize = 64 << 10;

/// What is in it.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelFile {
    Model(Model),
    Detector { detector: Detector, hash: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DetectorFile {
    detector: Settings,
}

impl ModelFile {
    /// Errors: see `ModelError`; there is no input on which it panics.
    pub fn read(file: &[u8]) -> Result<Self, ModelError> {
        if !is_detector(file) {
            return Model::read(file).map(Self::Model);
        }
        if file.len() > DETECTOR_BYTES_MAX {
            let (bytes, most) = (file.len(), DETECTOR_BYTES_MAX);
            return Err(ModelError::TooLarge(format!(
                "a detector's file has at most {most} bytes, and this has {bytes}"
            )));
        }
        let malformed = |reason: String| ModelError::Malformed { format: DETECTOR, reason };
        let text = std::str::from_utf8(file).map_err(|error| malformed(error.to_string()))?;
        let read: DetectorFile = toml::from_str(text).map_err(|error| malformed(error.message().to_owned()))?;
        let detector = Detector::new(read.detector)
            .map_err(|error| ModelError::Unsupported { format: DETECTOR, reason: error.to_string() })?;
        Ok(Self::Detector { detector, hash: hash(file) })
    }

    /// The name of what is in it: SHA-256 of the file, lower-case hexadecimal.
    pub fn hash(&self) -> &str {
        match self {
            Self::Model(model) => &model.hash,
            Self::Detector { hash, .. } => hash,
        }
    }

    /// As it is shown: see `Model::format`.
    pub fn format(&self) -> &'static str {
        match self {
            Self::Model(model) => model.format,
            Self::Detector { .. } => DETECTOR,
        }
    }

    /// The columns that it wants, by name; empty if it has no names for them.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Model(model) => &model.names,
            Self::Detector { .. } => &[],
        }
    }

    /// Whether it scores rows of so many columns. Errors: one clause that says what it wants. A detector scores each column by
    /// itself.
    pub fn check_columns(&self, columns: usize) -> Result<(), String> {
        match self {
            Self::Model(model) if model.features() != columns => {
                Err(format!("the model wants {} columns, and {columns} features are declared", model.features()))
            }
            Self::Detector { .. } if columns == 0 => Err("a detector wants at least one feature".to_owned()),
            _ => Ok(()),
        }
    }
}

/// The name of a file.
pub(crate) fn hash(file: &[u8]) -> String {
    Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Its first line is a detector's, comments and blank ones aside.
fn is_detector(file: &[u8]) -> bool {
    let lines = file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut lines = lines.skip_while(|line| line.is_empty() || line.starts_with(b"#"));
    lines.next().is_some_and(|line| line.starts_with(b"[detector]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(file: &str, wanted: &str) {
        let error = ModelFile::read(file.as_bytes()).expect_err("it is refused").to_string();
        assert!(error.contains(wanted), "{file}: {error}");
    }

    #[test]
    fn a_detector_is_read_with_defaults_for_what_is_not_said() {
        let read = |text: &str| match ModelFile::read(text.as_bytes()) {
            Ok(ModelFile::Detector { detector, hash }) => (detector, hash),
            other => panic!("{text}: {other:?}"),
        };
        let (detector, hash) = read("# of the load\n\n[detector] # here\nmethod = \"robust-z\"\n");
        assert_eq!(detector, Detector::fallback());
        assert_ne!(hash, read("[detector]\nmethod = \"robust-z\"\n").1);
        let (detector, _) = read("[detector]\nseason = 24\nmethod = \"holt-winters\"\n");
        let spelled = "[detector]\nmethod = \"holt-winters\"\nseason = 24\nalpha = 0.03\nbeta = 0.001\ngamma = 0.2\n\
                       warm_up = 48\ndeviation_min = 1e-6\n";
        assert_eq!(detector, read(spelled).0);
        assert_eq!(read("[detector]\nmethod = \"weighted-mean\"").0.kernel(), "weighted-mean-1");
        let trees = read("[detector]\nmethod = \"half-space-trees\"\nrange = [0.0, 100.0]\ntrees = 10\n").0;
        assert_eq!(trees.kernel(), "half-space-trees-1");
    }

    #[test]
    fn what_makes_no_detector_is_told_in_one_clause() {
        refused("[detector]", "missing field `method`");
        refused("[detector]\nmethod = \"magic\"", "unknown variant `magic`");
        refused("[detector]\nmethod = \"holt-winters\"", "missing field `season`");
        refused("[detector]\nmethod = \"robust-z\"\nwindow = 0", "window is 0");
        refused("[detector]\nmethod = \"robust-z\"\nwindow = -1", "integer `-1`");
        refused("[detector]\nmethod = \"robust-z\"\nwidow = 9", "unknown field `widow`");
        refused("[detector]\nmethod = \"robust-z\"\n[more]", "unknown field `more`");
        refused("[detector]\nmethod = \"weighted-mean\"\nalpha = 2", "alpha is 2");
        refused(&format!("[detector]\n#{}", "x".repeat(DETECTOR_BYTES_MAX)), "at most 65536 bytes");
        refused("[detectors]", "give XGBoost JSON");
        let deep = format!("[detector]\nmethod = {}", "[".repeat(10_000));
        assert!(ModelFile::read(deep.as_bytes()).is_err());
        assert!(ModelFile::read(b"[detector]\n\xff").is_err());
    }

    #[test]
    fn a_detector_scores_any_number_of_columns_and_a_model_its_own() {
        let detector = ModelFile::read(b"[detector]\nmethod = \"robust-z\"").expect("a detector");
        assert!(detector.check_columns(1).is_ok() && detector.check_columns(9).is_ok());
        assert!(detector.check_columns(0).is_err());
        let model = ModelFile::read(include_bytes!("../examples/iris/model.json")).expect("a model");
        let error = model.check_columns(1).expect_err("it has four");
        assert_eq!(error, "the model wants 4 columns, and 1 features are declared");
        assert!(model.check_columns(4).is_ok());
    }
}
