//! Reading a topic's committed records for a command: all partitions, each from one place to another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engram_pipeline::log::{Log, RecordRef, TopicInfo, TopicPartition};

use crate::values::Start;

const FETCH_RECORDS_MAX: usize = 1_000;
/// Longest wait for records, and for the flag that stops.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// What is read of a partition.
pub struct Span {
    pub partition: TopicPartition,
    pub from: i64,
    /// Exclusive.
    pub to: i64,
}

/// The spans of a topic's partitions; without `to` they have no end.
pub fn spans(log: &dyn Log, topic: &TopicInfo, from: Start, to: Option<Start>) -> anyhow::Result<Vec<Span>> {
    (0..topic.partitions)
        .map(|number| {
            let partition = TopicPartition::new(topic.name.as_str(), number);
            let (from, to) = (place(log, &partition, from)?, to.map_or(Ok(i64::MAX), |to| place(log, &partition, to))?);
            Ok(Span { partition, from, to })
        })
        .collect()
}

fn place(log: &dyn Log, partition: &TopicPartition, start: Start) -> anyhow::Result<i64> {
    let range = log.offsets(std::slice::from_ref(partition))?[0];
    Ok(match start {
        Start::Beginning => range.first,
        Start::End => range.stable,
        // Offsets that were compacted away, or are yet to come, are no error in one partition of several.
        Start::Offset(offset) => offset.clamp(range.first, range.stable),
        Start::Time(ms) => log.offset_at(partition, ms)?.unwrap_or(range.stable),
    })
}

/// Visits the records of the spans, each partition's in offset order, until their ends or until `stop` is set. `None`: there
/// is nothing at the moment.
pub fn read(
    log: &dyn Log,
    spans: &[Span],
    stop: &AtomicBool,
    mut visit: impl FnMut(Option<(&TopicPartition, RecordRef<'_>)>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut reader = log.reader()?;
    let positions: Vec<(TopicPartition, i64)> = spans.iter().map(|span| (span.partition.clone(), span.from)).collect();
    reader.assign(&positions)?;
    let mut open: Vec<bool> = spans.iter().map(|span| span.from < span.to).collect();
    while open.contains(&true) && !stop.load(Ordering::Relaxed) {
        let mut found = false;
        for (index, span) in spans.iter().enumerate() {
            if !open[index] {
                continue;
            }
            let fetched = reader.fetch(index, FETCH_RECORDS_MAX)?;
            if let Some(batch) = fetched.records {
                found = true;
                for at in 0..batch.len() {
                    let record = batch.record(at);
                    if record.offset >= span.to || stop.load(Ordering::Relaxed) {
                        open[index] = false;
                        break;
                    }
                    visit(Some((&span.partition, record)))?;
                    open[index] = record.offset + 1 < span.to;
                }
            }
            if fetched.end.is_some_and(|end| end >= span.to) {
                open[index] = false;
            }
        }
        if !found {
            visit(None)?;
            reader.wait(WAIT_MAX)?;
        }
    }
    Ok(())
}
