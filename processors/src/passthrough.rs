//! The smallest service: every record goes out as it came in. It exists to be measured (`engram bench`): what it costs is
//! what the runtime costs.

use engram_pipeline::errors::ErrorPolicy;
use engram_pipeline::log::{Cleanup, TopicSpec};
use engram_pipeline::processor::{Context, Input, Output, ProcessError, Processor, Service};
use engram_pipeline::service::TOPIC_MESSAGE_BYTES_MAX;

/// Copies `input` to `output`.
pub fn service(input: &str, output: &str) -> Service {
    Service {
        name: "passthrough",
        inputs: vec![input.to_owned()],
        outputs: vec![Output { topic: output.to_owned(), event: None }],
        topics: vec![TopicSpec {
            name: output.to_owned(),
            partitions: 0,
            cleanup: Cleanup::Keep,
            max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
        }],
        stores: Vec::new(),
        processor: Box::new(|_| Ok(Box::new(Passthrough))),
        errors: ErrorPolicy::default(),
    }
}

struct Passthrough;

impl Processor for Passthrough {
    fn process(&mut self, input: &Input<'_>, context: &mut Context<'_>) -> Result<(), ProcessError> {
        context.forward(0, input.record.key, input.record.value)
    }
}
