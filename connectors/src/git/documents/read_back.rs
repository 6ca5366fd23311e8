//! The documents of a source, from the edits that it has written. The log is the truth: what a later version of this program
//! would have written in their place does not matter.

use std::collections::HashMap;
use std::sync::Arc;

use engram_pipeline::changelog;
use engram_pipeline::log::{Log, LogError, TopicPartition, partitions_of};
use engram_schemas::codec::Decoder;
use engram_schemas::document::Edit;
use engram_schemas::registry::Registry;
use engram_schemas::yjs::Outline;

use super::super::IngestError;
use super::super::writer::ce_source;
use super::EDITS;
use super::pieces::Pieces;

/// All of them, by their keys. It takes as long as reading the topic does, and 16 bytes for each insertion that was not
/// followed by another one at once.
pub fn documents(
    log: &dyn Log,
    registry: &Arc<dyn Registry>,
    source: &str,
) -> Result<HashMap<String, Pieces>, IngestError> {
    let mut decoder = Decoder::new(Arc::clone(registry));
    let mut documents: HashMap<String, Pieces> = HashMap::new();
    let ours = ce_source(source);
    let partitions: Vec<_> =
        (0..partitions_of(&log.topics()?, EDITS)).map(|partition| TopicPartition::new(EDITS, partition)).collect();
    for (partition, range) in partitions.iter().zip(log.offsets(&partitions)?) {
        changelog::read_batches(log, partition, range.first, range.end, |batch, index| {
            let mut is_ours = false;
            batch.visit_headers(index, &mut |key, value| {
                is_ours |= key == "ce_source" && value == Some(ours.as_bytes());
            });
            let record = batch.record(index);
            let (Some(value), true) = (record.value, is_ours && record.offset < range.end) else { return Ok(()) };
            let damaged = |reason: String| LogError::Corrupt { what: format!("{partition}/{}", record.offset), reason };
            let edit: Edit = decoder.decode(value).map_err(|error| damaged(error.to_string()))?;
            let outline = Outline::read(&edit.update).map_err(|error| damaged(error.to_string()))?;
            let pieces = documents.entry(edit.document).or_default();
            let applied = pieces.apply(&outline);
            applied.ok_or_else(|| damaged("an edit does not follow those before it: some were deleted".to_owned()))?;
            Ok::<_, IngestError>(())
        })?;
    }
    Ok(documents)
}
