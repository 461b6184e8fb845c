//! What happens to one request.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    body::to_bytes,
    extract::{ConnectInfo, Request, State},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use dispatch_core::{
    Error, Store, process_id, random_id,
    store::{Enqueued, Item, Reservation},
};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AUTHORIZATION, ORIGIN, WWW_AUTHENTICATE},
    request::Parts,
};
use serde_json::json;
use smol_str::{SmolStr, format_smolstr};
use subtle::ConstantTimeEq as _;
use tokio::time::timeout;

use super::{
    HttpSourceConfig, Mode,
    waiting::{Refused, Waiting},
    wire::{self, Envelope, refuse},
};

/// How long an `Idempotency-Key` is remembered.
const REMEMBER: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a key is held while its message is being stored.
const HOLD: Duration = Duration::from_secs(30);
/// How long a caller may take to send its body.
const PATIENCE: Duration = Duration::from_secs(30);
/// When to come again after a failure that may pass.
const SOON: Duration = Duration::from_secs(1);

/// Everything that requests need.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) config: HttpSourceConfig,
    pub(super) store: Arc<dyn Store>,
    /// The Store's queue that messages wait in.
    pub(super) queue: SmolStr,
    pub(super) waiting: Waiting,
}

/// Answers one `POST`.
pub(super) async fn post(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    if !intake.admits(request.headers()) {
        let mut response = refuse(StatusCode::UNAUTHORIZED, "the token is missing or wrong", None);
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    if intake.config.token.is_none() && request.headers().contains_key(ORIGIN) {
        // Without a token only programs of this machine are meant, not every page that its browser shows.
        let words = "requests of web pages need a token: set `token`, and send it";
        return refuse(StatusCode::FORBIDDEN, words, None);
    }
    let (parts, body) = request.into_parts();
    let body = match timeout(PATIENCE, to_bytes(body, intake.config.max_body.as_usize())).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            // A body that breaks off has nobody left to read the answer.
            let words = format!("the body is larger than max_body, which is {}", intake.config.max_body);
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, &words, None);
        }
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time", None),
    };
    if intake.config.mode == Mode::Sync {
        // A caller that goes away takes its message along.
        return take(intake, parts, body, remote).await;
    }
    // In a task of its own: a caller that goes away must not stop it between storing and remembering the key.
    match tokio::spawn(take(intake, parts, body, remote)).await {
        Ok(response) => response,
        Err(_) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "a fault of ours; send it again",
            Some(SOON),
        ),
    }
}

/// Takes a whole request.
async fn take(intake: Arc<Intake>, parts: Parts, body: Bytes, remote: SocketAddr) -> Response {
    let key = match idempotency_key(&parts.headers) {
        Ok(key) => key,
        Err(words) => return refuse(StatusCode::BAD_REQUEST, words, None),
    };
    let envelope = Envelope {
        headers: &parts.headers,
        wanted: &intake.config.headers,
        path: parts.uri.path(),
        query: parts.uri.query(),
        remote: remote.to_string(),
    };
    match intake.config.mode {
        Mode::Sync => intake.answer(&envelope, key, body).await,
        Mode::Async => intake.accept(&envelope, key, &body).await.unwrap_or_else(|error| {
            tracing::warn!(
                error = error.report(),
                "message not stored; the caller is told to come again"
            );
            refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the message could not be stored",
                Some(SOON),
            )
        }),
    }
}

impl Intake {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.config.token else {
            return true;
        };
        let shown = headers
            .get(AUTHORIZATION)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        let shown = match shown.split_at_checked(7) {
            Some((scheme, shown)) if scheme.eq_ignore_ascii_case(b"bearer ") => shown,
            _ => return false,
        };
        shown.ct_eq(token.expose().as_bytes()).into()
    }

    /// `sync`: waits for the outcome.
    async fn answer(&self, envelope: &Envelope<'_>, key: Option<SmolStr>, body: Bytes) -> Response {
        if wire::is_batch(envelope.headers) {
            return refuse(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "a batch has no single answer; send it in async mode",
                None,
            );
        }
        let message = envelope.message(key, body);
        let id = message.id().clone();
        match self.waiting.enter(message).await {
            Ok(disposition) => wire::outcome(&id, disposition),
            Err(Refused::Held) => refuse(StatusCode::SERVICE_UNAVAILABLE, "nobody works right now", Some(SOON)),
            Err(Refused::Full) => refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests wait already",
                Some(SOON),
            ),
        }
    }

    /// `async`: stores, then answers.
    async fn accept(&self, envelope: &Envelope<'_>, key: Option<SmolStr>, body: &Bytes) -> Result<Response, Error> {
        let Some(key) = key else {
            return self.store(envelope, None, body).await;
        };
        let name = format!("{}:{key}", self.queue);
        // Two requests of one process are two owners.
        let owner = format!("{}:{}", process_id(), random_id());
        match self.store.reservations().reserve(&name, &owner, HOLD).await? {
            Reservation::Done(_) => {
                Ok((StatusCode::ACCEPTED, Json(json!({ "id": key, "duplicate": true }))).into_response())
            }
            Reservation::InProgress(_) => {
                let words = "a request with this Idempotency-Key is being taken right now";
                Ok(refuse(StatusCode::CONFLICT, words, Some(SOON)))
            }
            Reservation::Reserved => {
                let response = self.store(envelope, Some(&key), body).await;
                if response.as_ref().is_ok_and(|response| response.status().is_success()) {
                    // It is stored. A key that could not be marked is held until its hold ends, and then taken again.
                    if let Err(error) = self.store.reservations().commit(&name, &owner, REMEMBER).await {
                        tracing::warn!(error = error.report(), "idempotency key not remembered");
                    }
                } else {
                    self.store.reservations().cancel(&name, &owner).await?;
                }
                response
            }
        }
    }

    async fn store(&self, envelope: &Envelope<'_>, key: Option<&SmolStr>, body: &Bytes) -> Result<Response, Error> {
        let batch = wire::is_batch(envelope.headers);
        let payloads = match batch {
            false => vec![body.clone()],
            true => match wire::lines(body) {
                Ok(lines) => lines,
                Err(words) => return Ok(refuse(StatusCode::BAD_REQUEST, &words, None)),
            },
        };
        let items: Vec<Item> = payloads
            .into_iter()
            .enumerate()
            .map(|(index, payload)| {
                let id = key.map(|key| match batch {
                    true => format_smolstr!("{key}:{}", index + 1),
                    false => key.clone(),
                });
                let mut item = Item::of(&envelope.message(id.clone(), payload));
                item.dedupe = id;
                item
            })
            .collect();
        let (count, id) = (items.len(), items.first().map(|item| item.id.clone()));
        let stored = match items.is_empty() {
            true => Vec::new(),
            false => self.store.queue().enqueue(&self.queue, items).await?,
        };
        let mut answer = match batch {
            true => json!({ "accepted": count }),
            false => json!({ "id": id }),
        };
        if !stored.is_empty() && stored.iter().all(|stored| *stored == Enqueued::Duplicate) {
            answer["duplicate"] = true.into();
        }
        Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
    }
}

/// The caller's own id for the request: 1 to 255 visible characters.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<SmolStr>, &'static str> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(key.into())),
        _ => Err("an Idempotency-Key is 1 to 255 visible characters"),
    }
}
