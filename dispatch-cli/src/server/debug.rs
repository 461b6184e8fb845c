//! `/debug/`: for who has to find out why a process does what it does. Only where `[admin] debug = true`.

use axum::{
    Json,
    extract::{Query, State},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::control::Which;
use crate::run::{Board, at_work};

/// What is at the sinks now, as SIGUSR2 prints it.
pub(super) async fn in_flight(State(board): State<Board>, Query(which): Query<Which>) -> Response {
    match which.of(&board) {
        Ok(members) => Json(json!({ "pipelines": at_work(&members).await })).into_response(),
        Err(response) => *response,
    }
}

/// What the pipelines run by, as `dispatch echo` prints it.
pub(super) async fn config(State(board): State<Board>, Query(which): Query<Which>) -> Response {
    match which.of(&board) {
        Ok(members) => {
            let all: Vec<_> = members
                .iter()
                .map(|member| json!({ "name": member.handle.name(), "file": member.file, "config": member.shown }))
                .collect();
            Json(json!({ "pipelines": all })).into_response()
        }
        Err(response) => *response,
    }
}

/// How busy the runtime's threads are.
pub(super) async fn tasks() -> Json<Value> {
    let metrics = Handle::current().metrics();
    let worker = |worker| {
        json!({
            "busy_seconds": metrics.worker_total_busy_duration(worker).as_secs_f64(),
            "parks": metrics.worker_park_count(worker),
            // It is counted on its way to sleep and on its way back.
            "parked": metrics.worker_park_unpark_count(worker) % 2 == 1,
        })
    };
    Json(json!({
        "alive_tasks": metrics.num_alive_tasks(),
        "global_queue_depth": metrics.global_queue_depth(),
        "workers": (0..metrics.num_workers()).map(worker).collect::<Vec<_>>(),
    }))
}
