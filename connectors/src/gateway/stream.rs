//! `GET /v1/topics/{topic}/stream`: the records of a topic as they are committed, as server-sent events.
//!
//! An event's id is the position after it: `PARTITION:OFFSET` of each partition. A client that comes back with it in
//! `Last-Event-ID`, as browsers do on their own, misses nothing and gets nothing twice.
//!
//! Source: HTML Living Standard, section 9.2 "Server-sent events".

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use engram_pipeline::log::{LogError, TopicPartition, partitions_of};
use engram_schemas::codec::Decoder;
use engram_schemas::document::DEFAULT_TENANT;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::Gateway;
use super::auth::Action;
use super::caller::{Caller, Denied};
use super::produce::tenant_of;

/// Records that may wait for a slow reader; then it is waited for.
const WAITING_MAX: usize = 256;
const FETCH_RECORDS_MAX: usize = 256;
const WAIT: Duration = Duration::from_millis(200);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
pub(super) struct Parameters {
    /// `beginning`, `end` or `PARTITION:OFFSET,...`; `Last-Event-ID` comes before it.
    from: Option<String>,
    /// For clients that cannot send headers.
    last_event_id: Option<String>,
}

pub(super) async fn stream(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(topic): Path<String>,
    Query(asked): Query<Parameters>,
    headers: HeaderMap,
) -> Result<Response, Denied> {
    gateway.require_in_tenant(&caller, Action::Read)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let from = last.or(asked.last_event_id).or(asked.from).unwrap_or_else(|| "end".to_owned());
    let Ok(permit) = Arc::clone(&gateway.streams).try_acquire_owned() else {
        return Err(Denied::unavailable("too many streams are open: try again later"));
    };
    let (work, tenant) = (Arc::clone(&gateway), caller.identity.tenant);
    let opened = tokio::task::spawn_blocking(move || work.open_stream(&topic, &from, tenant)).await;
    let (reading, records) = opened.map_err(|_| Denied::unavailable("the server is stopping"))??;
    let thread = std::thread::Builder::new().name("gateway-stream".to_owned()).spawn(move || {
        reading.run();
        drop(permit);
    });
    if let Err(error) = thread {
        tracing::error!(%error, "a stream cannot be read");
        return Err(Denied::unavailable("the server is busy: try again later"));
    }
    let events = stream::unfold(records, |mut records: Receiver<Event>| async move {
        records.recv().await.map(|event| (Ok::<_, Infallible>(event), records))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// A topic that is read for one stream, by a thread of its own.
struct Reading {
    gateway: Arc<Gateway>,
    topic: String,
    tenant: String,
    positions: Vec<(TopicPartition, i64)>,
    records: Sender<Event>,
}

impl Gateway {
    fn open_stream(
        self: &Arc<Self>,
        topic: &str,
        from: &str,
        tenant: String,
    ) -> Result<(Reading, Receiver<Event>), Denied> {
        let unreachable = |error: LogError| {
            tracing::warn!(%error, topic, "a stream cannot be opened");
            Denied::unavailable("the log cannot be reached: try again")
        };
        let has_tenants = tenant_of(topic, "x:y") == "x";
        if topic.starts_with('_') || tenant != DEFAULT_TENANT && !has_tenants {
            return Err(Denied::new(StatusCode::NOT_FOUND, "there is no such topic for you"));
        }
        let count = partitions_of(&self.log.topics().map_err(unreachable)?, topic);
        if count == 0 {
            return Err(Denied::new(StatusCode::NOT_FOUND, "there is no such topic"));
        }
        let partitions: Vec<TopicPartition> =
            (0..count).map(|partition| TopicPartition::new(topic, partition)).collect();
        let ranges = self.log.offsets(&partitions).map_err(unreachable)?;
        let mut positions: Vec<(TopicPartition, i64)> = partitions
            .into_iter()
            .zip(ranges)
            .map(|(place, range)| (place, if from == "beginning" { range.first } else { range.stable }))
            .collect();
        if from != "beginning" && from != "end" {
            read_positions(from, &mut positions).ok_or_else(|| {
                Denied::new(
                    StatusCode::BAD_REQUEST,
                    "a position is 'beginning', 'end' or PARTITION:OFFSET,..., such as the id of an event",
                )
            })?;
        }
        let (records, receiver) = mpsc::channel(WAITING_MAX);
        let reading = Reading { gateway: Arc::clone(self), topic: topic.to_owned(), tenant, positions, records };
        Ok((reading, receiver))
    }
}

/// Partitions that the text does not name stay where they are.
fn read_positions(text: &str, positions: &mut [(TopicPartition, i64)]) -> Option<()> {
    for part in text.split(',') {
        let (partition, offset) = part.split_once(':')?;
        let (partition, offset) = (partition.parse::<usize>().ok()?, offset.parse::<i64>().ok()?);
        positions.get_mut(partition).filter(|_| offset >= 0)?.1 = offset;
    }
    Some(())
}

fn write_positions(positions: &[(TopicPartition, i64)]) -> String {
    let parts: Vec<String> = positions.iter().map(|(place, offset)| format!("{}:{offset}", place.partition)).collect();
    parts.join(",")
}

impl Reading {
    fn run(mut self) {
        if let Err(error) = self.read() {
            // The client comes back with the id of the last event that it got.
            tracing::warn!(%error, topic = self.topic, "a stream has ended");
        }
    }

    fn read(&mut self) -> Result<(), LogError> {
        let mut reader = self.gateway.log.reader()?;
        reader.assign(&self.positions)?;
        let mut decoder = Decoder::new(Arc::clone(&self.gateway.registry));
        loop {
            let mut is_idle = true;
            for index in 0..self.positions.len() {
                let Some(batch) = reader.fetch(index, FETCH_RECORDS_MAX)?.records else { continue };
                is_idle = false;
                for at in 0..batch.len() {
                    let record = batch.record(at);
                    self.positions[index].1 = record.offset + 1;
                    let key = record.key.map(String::from_utf8_lossy);
                    if tenant_of(&self.topic, key.as_deref().unwrap_or_default()) != self.tenant {
                        continue;
                    }
                    let value = match record.value.map(|value| decoder.decode_json(value)) {
                        None => json!(null),
                        Some(Ok(value)) => value,
                        Some(Err(_)) => json!({"undecodable": true}),
                    };
                    let data = json!({
                        "partition": index, "offset": record.offset, "timestamp": record.timestamp_ms, "key": key,
                        "value": value
                    });
                    let event = Event::default().id(write_positions(&self.positions)).data(data.to_string());
                    if self.is_over() || self.records.blocking_send(event).is_err() {
                        return Ok(());
                    }
                }
            }
            if self.is_over() {
                return Ok(());
            }
            if is_idle {
                reader.wait(WAIT)?;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.records.is_closed() || *self.gateway.stopping.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_back() {
        let at = |offsets: [i64; 3]| -> Vec<_> {
            offsets.iter().enumerate().map(|(at, offset)| (TopicPartition::new("t", at as i32), *offset)).collect()
        };
        let mut positions = at([1, 2, 3]);
        assert_eq!(write_positions(&positions), "0:1,1:2,2:3");
        assert_eq!(read_positions("2:9,0:7", &mut positions), Some(()));
        assert_eq!(positions, at([7, 2, 9]));
        for text in ["", "0", "3:1", "0:-1", "a:b", "0:1,"] {
            assert_eq!(read_positions(text, &mut positions), None, "{text}");
        }
    }
}
