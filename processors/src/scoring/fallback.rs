//! What stands in for a model that cannot be had: the robust z-score of each number that it wants of an event, within its
//! series. The one furthest from usual is the score.
//!
//! It learns only while it stands in, so its first scores of a series are 0 (`Detector::fallback`).

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{DataType, Float64Type};
use engram_models::series::Detector;
use engram_pipeline::processor::ProcessError;
use engram_pipeline::store::{Store, codec};

use super::active::{Batch, Scores};
use super::series::SeriesStates;

/// One score a row; NaN where the event has none of the numbers.
pub fn scores(
    detector: &Detector,
    model: &str,
    fields: &[String],
    batch: &Batch,
    store: &mut Store,
) -> Result<Scores, ProcessError> {
    let mut states = SeriesStates::default();
    let mut scores = Vec::with_capacity(batch.offsets.len());
    for row in 0..batch.offsets.len() {
        let series = batch.series.value(row);
        let time_ms = batch.times[row].unwrap_or(0);
        let mut furthest = f64::NAN;
        for (field, column) in fields.iter().zip(&batch.inputs) {
            if *column.data_type() != DataType::Float64 {
                continue;
            }
            let value = column.as_primitive::<Float64Type>().value(row);
            if value.is_nan() {
                continue;
            }
            let key = codec::to_bytes(&(model.to_owned(), series.to_owned(), field.clone()));
            let score = detector.score(states.get(&key, detector, store)?, time_ms, value);
            // NaN is further from nothing.
            if furthest.is_nan() || score.abs() > furthest.abs() {
                furthest = score;
            }
        }
        scores.push(furthest);
    }
    states.write(detector, store)?;
    Ok(Scores { values: scores, width: 1, kernel: detector.kernel() })
}
