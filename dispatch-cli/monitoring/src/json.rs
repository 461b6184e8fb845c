//! The JSON endpoints of sqsd's first version.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use dispatch_core::pipeline::{Handle, Phase};
use serde_json::{Value, json};

use crate::scoreboard::{Scoreboard, receipt};

pub(crate) fn router(board: Scoreboard) -> Router {
    Router::new()
        .route("/stats", get(stats))
        .route("/worker/stats", get(worker_stats))
        .route("/worker/current/jobs", get(current_jobs))
        .route("/worker/pause", post(pause))
        .route("/worker/resume", post(resume))
        .method_not_allowed_fallback(|| async { (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed") })
        .with_state(board)
}

/// The process, and how each pipeline is.
async fn stats(State(board): State<Scoreboard>) -> Json<Value> {
    let pipelines: Vec<_> = board.0.iter().map(Handle::status).collect();
    Json(json!({
        "name": "dispatch",
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_seconds": pipelines.iter().map(|status| status.uptime_seconds).max().unwrap_or_default(),
        "pipelines": pipelines,
    }))
}

/// All pipelines as one worker.
async fn worker_stats(State(board): State<Scoreboard>) -> Json<Value> {
    let (mut succeeded, mut failed, mut most, mut working) = (0, 0, 0, false);
    for pipeline in board.0.iter() {
        let (stats, status) = (pipeline.stats(), pipeline.status());
        succeeded += stats.delivered.load(Relaxed);
        failed += stats.failed.get().iter().map(|(_, count)| count).sum::<u64>();
        most += pipeline.concurrency();
        working |= status.phase == Phase::Running && !status.paused;
    }
    let busy = board.in_progress().await.len();
    Json(json!({
        "is_working": working,
        "total_handled": succeeded + failed,
        "total_succeeded": succeeded,
        "total_failed": failed,
        "max_worker": most,
        "busy_worker": busy,
        "idle_worker": most.saturating_sub(busy),
    }))
}

async fn current_jobs(State(board): State<Scoreboard>) -> Json<Value> {
    let all = board.in_progress().await;
    let jobs: Vec<_> = all
        .iter()
        .map(|one| json!({ "id": one.message.id(), "receipt": receipt(one), "started_at": millis(one.started_at) }))
        .collect();
    Json(json!({ "current_jobs": jobs }))
}

async fn pause(State(board): State<Scoreboard>) -> Json<Value> {
    board.0.iter().for_each(Handle::pause);
    Json(json!({ "success": true }))
}

async fn resume(State(board): State<Scoreboard>) -> Json<Value> {
    board.0.iter().for_each(Handle::resume);
    Json(json!({ "success": true }))
}

/// Milliseconds since 1970, as the times of SQS are.
fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
