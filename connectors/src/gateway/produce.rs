//! `POST /v1/topics/{topic}`: events as JSON, checked against the topic's schema, into the log. All of a request or none of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::partitions_of;
use engram_schemas::document::{DEFAULT_TENANT, split_document_key};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Gateway;
use super::auth::Action;
use super::caller::{Caller, Denied};
use super::limits::depth_within;
use super::writer::{Fate, Outgoing};
use crate::events::{self, JsonEncoder, Of};

/// Events of a request.
const EVENTS_MAX: usize = 10_000;
/// Wrong events that are told one by one.
const WRONG_MAX: usize = 20;
/// How long a body may take to come.
const BODY_MAX: Duration = Duration::from_secs(30);
/// Of a body that is too large, so much is still read.
const PASSED_OVER_MAX: usize = 32 << 20;
/// How long the log may take.
pub(super) const WRITE_MAX: Duration = Duration::from_secs(60);
/// Idempotency keys that are remembered, and their length.
const KEYS_MAX: usize = 10_000;
const KEY_BYTES_MAX: usize = 128;

#[derive(Deserialize)]
pub(super) struct Parameters {
    /// The event's type, for a topic that takes several.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Requests that were written, by tenant and idempotency key: those of late, by this process.
#[derive(Default)]
pub(super) struct Produced(Mutex<VecDeque<(String, usize)>>);

impl Produced {
    fn get(&self, key: &str) -> Option<usize> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(known, _)| known == key).map(|(_, written)| *written)
    }

    fn put(&self, key: String, written: usize) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == KEYS_MAX {
            known.pop_front();
        }
        known.push_back((key, written));
    }
}

pub(super) async fn produce(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    Path(topic): Path<String>,
    Query(Parameters { kind }): Query<Parameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Denied> {
    gateway.require_in_tenant(&caller, Action::Produce)?;
    let body = read(body, gateway.limits.body_bytes_max as usize).await?;
    let idempotency_key = idempotency_key(&headers, &caller, &topic)?;
    if let Some(written) = idempotency_key.as_deref().and_then(|key| gateway.produced.get(key)) {
        return Ok(axum::Json(json!({"topic": topic, "written": written, "repeated": true})).into_response());
    }
    let is_lines = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/x-ndjson");
    let lines = headers.get(header::CONTENT_TYPE).is_some_and(is_lines);
    let texts = split(&body, lines, gateway.limits.json_depth_max as usize);
    let texts = texts.map_err(|reason| Denied::new(StatusCode::BAD_REQUEST, reason))?;
    let written = texts.len();
    let (work, topic_name) = (Arc::clone(&gateway), topic.clone());
    let encoded = tokio::task::spawn_blocking(move || work.encode(&caller, &topic_name, kind.as_deref(), &texts)).await;
    let outgoing = encoded.map_err(|_| Denied::unavailable("the server is stopping"))??;
    let unknown = "the log does not answer: it is not known whether the events were written";
    let delivered = timeout(WRITE_MAX, gateway.deliver(outgoing)).await;
    delivered.map_err(|_| Denied::unavailable(unknown))?.map_err(Denied::unavailable)?;
    if let Some(key) = idempotency_key {
        gateway.produced.put(key, written);
    }
    Ok(axum::Json(json!({"topic": topic, "written": written})).into_response())
}

/// The whole body. One that is too large is read on for a while, and forgotten: who is still sending would not hear why not.
pub(super) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Denied> {
    let reading = async {
        let (mut chunks, mut bytes, mut seen) = (body.into_data_stream(), Vec::new(), 0_usize);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Denied::new(StatusCode::BAD_REQUEST, "the body breaks off"))?;
            seen += chunk.len();
            if seen <= bytes_max {
                bytes.extend_from_slice(&chunk);
            } else if seen > bytes_max.saturating_add(PASSED_OVER_MAX) {
                break;
            }
        }
        if seen <= bytes_max {
            return Ok(Bytes::from(bytes));
        }
        let message = format!("a body has at most {bytes_max} bytes: send less at a time");
        Err(Denied::new(StatusCode::PAYLOAD_TOO_LARGE, message))
    };
    let late = |_| Denied::new(StatusCode::REQUEST_TIMEOUT, "the body has not come in time");
    timeout(BODY_MAX, reading).await.map_err(late)?
}

/// What a request is known by, among those of its tenant to its topic.
fn idempotency_key(headers: &HeaderMap, caller: &Caller, topic: &str) -> Result<Option<String>, Denied> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => {
            Ok(Some(format!("{}:{topic}:{key}", caller.identity.tenant)))
        }
        _ => Err(Denied::new(StatusCode::BAD_REQUEST, "an Idempotency-Key has 1 to 128 visible characters")),
    }
}

/// The events of a body: an object, a list of them, or one a line.
fn split(body: &[u8], lines: bool, depth_max: usize) -> Result<Vec<String>, String> {
    let deep = || format!("JSON is nested more than {depth_max} deep");
    let texts: Vec<String> = if lines {
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace));
        let line = |line: &[u8]| {
            if depth_within(line, depth_max) { Ok(String::from_utf8_lossy(line).into_owned()) } else { Err(deep()) }
        };
        lines.map(line).collect::<Result<_, _>>()?
    } else {
        if !depth_within(body, depth_max) {
            return Err(deep());
        }
        match serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))? {
            Value::Array(events) => events.iter().map(Value::to_string).collect(),
            event => vec![event.to_string()],
        }
    };
    match texts.len() {
        0 => Err("the body has no events".to_owned()),
        count if count > EVENTS_MAX => Err(format!("{count} events: send at most {EVENTS_MAX} at a time")),
        _ => Ok(texts),
    }
}

/// The tenant whose a record is, by its topic and key.
pub(super) fn tenant_of<'a>(topic: &str, key: &'a str) -> &'a str {
    let has_tenants = ["document.", "presence.", "memory.", "graph."].iter().any(|prefix| topic.starts_with(prefix));
    if has_tenants { split_document_key(key).0 } else { DEFAULT_TENANT }
}

impl Gateway {
    fn encode(
        &self,
        caller: &Caller,
        topic: &str,
        kind: Option<&str>,
        texts: &[String],
    ) -> Result<Vec<Outgoing>, Denied> {
        let subject = events::subject(Of::Inputs, topic, kind)
            .map_err(|error| Denied::new(StatusCode::NOT_FOUND, error.to_string().replace("--type", "?type=")))?;
        let unreachable = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, topic, "events cannot be written");
            Denied::unavailable("the log or the schema registry cannot be reached: try again")
        };
        let mut encoder = JsonEncoder::new(&self.registry, subject).map_err(|error| unreachable(&error))?;
        let partitions = partitions_of(&self.log.topics().map_err(|error| unreachable(&error))?, topic);
        if partitions == 0 {
            return Err(Denied::unavailable("no service has made this topic yet: start it with 'engram up'"));
        }
        let (mut outgoing, mut wrong) = (Vec::new(), Vec::new());
        for (index, text) in texts.iter().enumerate() {
            match encoder.encode(text.as_bytes()) {
                Ok(encoded) => {
                    caller
                        .identity
                        .require_tenant(tenant_of(topic, &encoded.key))
                        .map_err(|refusal| self.refuse_caller(&refusal, caller))?;
                    let mut headers = self.headers(subject.name, &encoded.id, &caller.identity);
                    headers.push(("ce_time", jiff::Timestamp::now().to_string().into_bytes()));
                    outgoing.push(Outgoing {
                        topic: topic.into(),
                        partition: partition_for(encoded.key.as_bytes(), partitions),
                        key: encoded.key.into_bytes(),
                        value: encoded.value,
                        headers,
                        fate: Fate::Drop,
                    });
                }
                Err(reason) => wrong.push(json!({"event": index + 1, "error": reason})),
            }
        }
        if wrong.is_empty() {
            return Ok(outgoing);
        }
        let message = format!("{} of {} events are wrong: nothing was written", wrong.len(), texts.len());
        wrong.truncate(WRONG_MAX);
        Err(Denied::new(StatusCode::UNPROCESSABLE_ENTITY, message).with_errors(wrong))
    }

    /// Writes records and waits until the last is in the log, and with it all.
    pub(super) async fn deliver(&self, mut outgoing: Vec<Outgoing>) -> Result<(), String> {
        let stopping = || "the server is stopping".to_owned();
        let mut told = Vec::new();
        for record in &mut outgoing {
            let (tell, fate) = oneshot::channel();
            record.fate = Fate::Tell(tell);
            told.push(fate);
        }
        for record in outgoing {
            self.queue.send(record).await.map_err(|_| stopping())?;
        }
        for fate in told {
            fate.await.map_err(|_| stopping())??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_one_event_or_many() {
        let one = vec![r#"{"a":1}"#.to_owned()];
        assert_eq!(split(br#" {"a": 1} "#, false, 5), Ok(one.clone()));
        assert_eq!(split(br#"[{"a":1},{"a":1}]"#, false, 5), Ok([one.clone(), one.clone()].concat()));
        assert_eq!(split(b"{\"a\":1}\n\n  \n", true, 5), Ok(one));
        for (body, lines) in [(&b""[..], false), (b"", true), (b"[]", false), (b"{", false), (b"[[[[[[1]]]]]]", false)]
        {
            assert!(split(body, lines, 5).is_err(), "{body:?}");
        }
    }

    #[test]
    fn a_record_is_of_its_keys_tenant_where_there_are_tenants() {
        assert_eq!(tenant_of("document.edits", "acme:notes"), "acme");
        assert_eq!(tenant_of("document.edits", "notes"), "default");
        assert_eq!(tenant_of("activity.windows", "user:ada@0"), "default");
    }
}
