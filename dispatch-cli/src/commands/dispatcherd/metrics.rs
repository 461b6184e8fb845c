//! dispatcherd's own metrics, on its own port, with ours behind them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use dispatch_http_server::Counts;
use dispatch_sources::dispatcherd::MetricsKwargs;
use serde_json::{Value, json};

use crate::{run::Board, server::metrics_text};

/// The original's content type.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Served {
    board: Board,
    counts: Arc<Counted>,
}

/// What the original counts of its own server. No answer of ours can fail inside, so there are no internal errors.
#[derive(Default)]
struct Counted {
    connections: Arc<Counts>,
    requests: AtomicU64,
    not_found: AtomicU64,
}

impl Counted {
    fn shown(&self) -> Value {
        let connections = &self.connections;
        json!({
            "connections_total": connections.connections.load(Relaxed),
            "metrics_requests_served": self.requests.load(Relaxed),
            "bad_requests": connections.bad_requests.load(Relaxed),
            "internal_errors": 0,
            "not_found_responses": self.not_found.load(Relaxed),
            "client_disconnects": connections.disconnects.load(Relaxed),
            "request_timeouts": connections.timeouts.load(Relaxed),
            "is_running": true,
        })
    }
}

/// Serves until it is dropped; a port that is taken is logged, and the service goes on, as the original does.
pub(super) async fn serve(kwargs: Option<MetricsKwargs>, board: Board) {
    let Some(MetricsKwargs { host, port, .. }) = kwargs else {
        return;
    };
    let listener = match tokio::net::TcpListener::bind((host.as_str(), port)).await {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%host, port, %error, "metrics not served"),
    };
    let counts = Arc::new(Counted::default());
    for member in board.members().iter() {
        let (host, counts) = (host.clone(), Arc::clone(&counts));
        member.handle.commands().on("metrics", move |_| {
            let status = json!({ "host": host, "port": port, "ready": true, "http_server": counts.shown() });
            let answer = json!({ "enabled": true, "status": status }).to_string();
            async move { answer }
        });
    }
    tracing::info!(%host, port, "metrics are served");
    let connections = Arc::clone(&counts.connections);
    let router = Router::new()
        .route("/metrics", get(metrics).fallback(nothing))
        .fallback(nothing)
        .with_state(Served { board, counts });
    dispatch_http_server::serve_counting(listener, router, std::future::pending(), connections).await;
}

async fn nothing(State(served): State<Served>) -> impl IntoResponse {
    served.counts.not_found.fetch_add(1, Relaxed);
    (StatusCode::NOT_FOUND, [(header::CONNECTION, "close")])
}

async fn metrics(State(served): State<Served>) -> impl IntoResponse {
    served.counts.requests.fetch_add(1, Relaxed);
    let mut text = String::new();
    for member in served.board.members().iter() {
        let answers = member.handle.commands().ask("main", "{}").await;
        let main: Value = answers
            .first()
            .and_then(|answer| serde_json::from_str(answer).ok())
            .unwrap_or_default();
        for (name, help, value) in [
            (
                "dispatcher_messages_received_total",
                "Messages received, commands included",
                &main["received_count"],
            ),
            (
                "dispatcher_control_messages_count_total",
                "Commands received",
                &main["control_count"],
            ),
            (
                "dispatcher_worker_count_total",
                "Workers that are known",
                &main["pool"]["worker_ct"],
            ),
        ] {
            let value = value.as_u64().unwrap_or_default();
            text.push_str(&format!(
                "# HELP {name} {help}.\n# TYPE {name} counter\n{name} {value}\n"
            ));
        }
    }
    // Ours end with the mark of OpenMetrics, which this format does not know.
    text.push_str(metrics_text(&served.board).trim_end_matches("# EOF\n"));
    ([(header::CONTENT_TYPE, TEXT), (header::CONNECTION, "close")], text)
}
