//! The CPU as a device: any model, any number of threads.

use arrow::array::Float32Array;

use super::{Device, DeviceError, Memory, Scorer, rows_of};
use crate::cpu::{Column, Columns, Margins, NetworkProgram, Program};
use crate::model::{Kind, Model};

/// The CPU, with so many threads a batch.
#[derive(Debug, Clone, Copy)]
pub struct CpuDevice {
    threads: usize,
}

/// A model on the CPU.
struct CpuScorer {
    program: Ready,
    features: usize,
    threads: usize,
    margins: Margins,
}

enum Ready {
    Forest(Box<Program>),
    Network(NetworkProgram),
}

impl CpuDevice {
    /// `threads` 0 counts as 1.
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1) }
    }
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        "cpu".to_owned()
    }

    fn memory(&self) -> Memory {
        Memory { limit: usize::MAX, used: 0 }
    }

    fn load(&self, model: &Model) -> Result<Box<dyn Scorer>, DeviceError> {
        let program = match &model.kind {
            Kind::Forest(forest) => Ready::Forest(Box::new(Program::new(forest))),
            Kind::Network(network) => Ready::Network(NetworkProgram::new(network)),
        };
        let (features, threads) = (model.features(), self.threads);
        Ok(Box::new(CpuScorer { program, features, threads, margins: Margins::default() }))
    }
}

impl Scorer for CpuScorer {
    fn score(&mut self, columns: &[Float32Array]) -> Result<Vec<f64>, DeviceError> {
        rows_of(columns, self.features)?;
        let columns = Columns::new(columns.iter().map(Column::from).collect());
        Ok(match &self.program {
            Ready::Forest(program) => {
                program.margins_by(self.threads, &columns, &mut self.margins);
                self.margins.to_f64()
            }
            Ready::Network(program) => program.margins_by(self.threads, &columns).into_iter().map(f64::from).collect(),
        })
    }
}
