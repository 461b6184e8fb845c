//! Whether the process lives, whether it can do its work, and why not.

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use crate::{about::about, run::Board};

/// Lives: 200 as long as anything answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

pub(super) async fn ping() -> &'static str {
    "pong\n"
}

/// Can work: every component of every pipeline is connected, and nobody has said stop.
pub(super) async fn readyz(State(board): State<Board>) -> (StatusCode, &'static str) {
    if board.ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// How each component is.
pub(super) async fn healthz(State(board): State<Board>) -> (StatusCode, Json<Value>) {
    let ready = board.ready();
    let pipelines: Vec<_> = board
        .members()
        .iter()
        .map(|member| {
            let status = member.handle.status();
            json!({
                "name": status.name, "file": member.file, "phase": status.phase, "ready": status.ready,
                "paused": status.paused, "breaker": status.breaker, "components": status.components,
            })
        })
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({ "ready": ready, "pipelines": pipelines })))
}

pub(super) async fn version() -> Json<Value> {
    Json(about())
}
