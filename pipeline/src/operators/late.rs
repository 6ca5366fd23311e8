//! Records that come too late: what they belong to has been closed, and its result is out.

use crate::processor::{Context, Input, ProcessError};

/// Where late records go. They are counted in `engram_late_records_total` either way, by service and operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Late {
    /// Nowhere.
    #[default]
    Drop,
    /// Into an output of the service (index into `Service::outputs`): key, value and timestamp as they came.
    Topic(usize),
}

impl Late {
    /// Does with a late record what is to be done with it.
    pub fn send(
        self,
        operator: &'static str,
        input: &Input<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProcessError> {
        metrics::counter!("engram_late_records_total", "service" => context.service(), "operator" => operator)
            .increment(1);
        match self {
            Self::Drop => Ok(()),
            Self::Topic(output) => context.pass_on(output, context.partition(), input),
        }
    }
}
