//! The reference as a device: row by row, slowly, as the definition says.

use arrow::array::{Array as _, Float32Array};

use super::{Device, DeviceError, Memory, Scorer, rows_of};
use crate::model::{Kind, Model};

/// The reference evaluation.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainDevice;

struct PlainScorer {
    kind: Kind,
    features: usize,
}

impl Device for PlainDevice {
    fn name(&self) -> String {
        "reference".to_owned()
    }

    fn memory(&self) -> Memory {
        Memory { limit: usize::MAX, used: 0 }
    }

    fn load(&self, model: &Model) -> Result<Box<dyn Scorer>, DeviceError> {
        Ok(Box::new(PlainScorer { kind: model.kind.clone(), features: model.features() }))
    }
}

impl Scorer for PlainScorer {
    fn score(&mut self, columns: &[Float32Array]) -> Result<Vec<f64>, DeviceError> {
        let rows = rows_of(columns, self.features)?;
        let value = |column: &Float32Array, row| if column.is_null(row) { f32::NAN } else { column.value(row) };
        let mut margins = Vec::new();
        for row in 0..rows {
            let row: Vec<f32> = columns.iter().map(|column| value(column, row)).collect();
            match &self.kind {
                Kind::Forest(forest) => margins.extend(forest.margins(&row)),
                Kind::Network(network) => margins.extend(network.margins(&row).into_iter().map(f64::from)),
            }
        }
        Ok(margins)
    }
}
