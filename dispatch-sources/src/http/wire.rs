//! Requests into messages, and outcomes into answers.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use dispatch_core::{Attempt, Disposition, Message, Reply};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::json;
use smol_str::SmolStr;

use crate::framing::Framer;

/// Headers that HTTP derives from the answer itself, or that belong to the connection (RFC 9110 section 7.6.1).
const OF_THE_CONNECTION: [&str; 8] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What all messages of one request have in common.
#[derive(Debug)]
pub(super) struct Envelope<'r> {
    pub(super) headers: &'r HeaderMap,
    /// Which headers go along; a name may end with `*`.
    pub(super) wanted: &'r [String],
    pub(super) path: &'r str,
    pub(super) query: Option<&'r str>,
    pub(super) remote: String,
}

impl Envelope<'_> {
    /// A message in this envelope, under the caller's id if it gave one.
    pub(super) fn message(&self, id: Option<SmolStr>, payload: Bytes) -> Message {
        let mut message = match id {
            Some(id) => Message::with_id(id, payload),
            None => Message::new(payload),
        };
        for (name, value) in self.headers {
            if self.wanted.iter().any(|wanted| matches(wanted, name)) {
                message
                    .headers_mut()
                    .append(name.as_str(), Bytes::copy_from_slice(value.as_bytes()));
            }
        }
        let metadata = message.metadata_mut();
        metadata.append("http_path", self.path);
        if let Some(query) = self.query {
            metadata.append("http_query", query);
        }
        metadata.append("http_remote", self.remote.clone());
        message
    }
}

fn matches(wanted: &str, name: &HeaderName) -> bool {
    match wanted.strip_suffix('*') {
        Some(beginning) => name
            .as_str()
            .get(..beginning.len())
            .is_some_and(|begins| begins.eq_ignore_ascii_case(beginning)),
        None => name.as_str().eq_ignore_ascii_case(wanted),
    }
}

/// Whether the body is one message per line.
pub(super) fn is_batch(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_ascii_lowercase());
    matches!(
        kind.as_deref(),
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl")
    )
}

/// The lines of a batch, or what is wrong with the first that is no message.
pub(super) fn lines(body: &Bytes) -> Result<Vec<Bytes>, String> {
    let mut framer = Framer::new(true, body.len(), 0, 0);
    framer.buffer().extend_from_slice(body);
    let mut lines = Vec::new();
    while let Some(frame) = framer.next().or_else(|| framer.finish()) {
        if let Some(fault) = frame.fault {
            return Err(format!("line {}: {fault}", frame.number));
        }
        lines.push(frame.bytes);
    }
    Ok(lines)
}

/// An answer that says what is wrong, and when to come again.
pub(super) fn refuse(status: StatusCode, words: &str, again: Option<Duration>) -> Response {
    let mut response = (status, Json(json!({ "error": words }))).into_response();
    if let Some(again) = again {
        // Rounded up: a caller that comes too early is sent away again.
        let seconds = again.as_secs() + u64::from(again.subsec_nanos() > 0);
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// What the caller of a `sync` request is told.
pub(super) fn outcome(id: &str, disposition: Disposition) -> Response {
    match disposition {
        Disposition::Ack(reply) => answer(reply),
        Disposition::Parked => (StatusCode::ACCEPTED, Json(json!({ "id": id }))).into_response(),
        Disposition::DeadLetter(attempts) => failed(StatusCode::BAD_GATEWAY, id, attempts.last(), None),
        Disposition::Nack { delay, attempts } => {
            let again = delay.unwrap_or(Duration::from_secs(1));
            failed(StatusCode::SERVICE_UNAVAILABLE, id, attempts.last(), Some(again))
        }
        Disposition::Release | Disposition::Bury(_) => {
            failed(StatusCode::SERVICE_UNAVAILABLE, id, None, Some(Duration::from_secs(1)))
        }
    }
}

/// Class and code of the last attempt. Its text stays with us: it may name what callers need not know.
fn failed(status: StatusCode, id: &str, last: Option<&Attempt>, again: Option<Duration>) -> Response {
    let words = if again.is_some() {
        "the message was not worked on"
    } else {
        "the message was given up on"
    };
    let mut response = refuse(status, words, again);
    let body = json!({
        "error": words,
        "id": id,
        "class": last.map(|last| &last.class),
        "code": last.and_then(|last| last.code.as_ref()),
    });
    *response.body_mut() = Body::from(body.to_string());
    response
}

fn answer(reply: Reply) -> Response {
    let mut response = Response::new(Body::from(reply.payload.clone()));
    for (name, value) in reply.headers.iter() {
        let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_maybe_shared(value.clone()),
        ) else {
            continue;
        };
        if !OF_THE_CONNECTION.contains(&name.as_str()) {
            response.headers_mut().append(name, value);
        }
    }
    if !response.headers().contains_key(CONTENT_TYPE) {
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    }
    response
}
