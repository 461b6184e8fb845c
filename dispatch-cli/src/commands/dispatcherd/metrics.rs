//! dispatcherd's own metrics, on its own port, with ours behind them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use dispatch_sources::dispatcherd::MetricsKwargs;
use serde_json::{Value, json};

use crate::{run::Board, server::metrics_text};

/// The original's content type.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Served {
    board: Board,
    requests: Arc<AtomicU64>,
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
    let requests = Arc::new(AtomicU64::new(0));
    for member in board.members().iter() {
        let (host, requests) = (host.clone(), Arc::clone(&requests));
        member.handle.commands().on("metrics", move |_| {
            let served = requests.load(Relaxed);
            let counted = json!({
                "connections_total": served, "metrics_requests_served": served, "bad_requests": 0, "internal_errors": 0,
                "not_found_responses": 0, "client_disconnects": 0, "request_timeouts": 0, "is_running": true,
            });
            let status = json!({ "host": host, "port": port, "ready": true, "http_server": counted });
            let answer = json!({ "enabled": true, "status": status }).to_string();
            async move { answer }
        });
    }
    tracing::info!(%host, port, "metrics are served");
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(Served { board, requests });
    dispatch_http_server::serve(listener, router, std::future::pending()).await;
}

async fn metrics(State(served): State<Served>) -> impl IntoResponse {
    served.requests.fetch_add(1, Relaxed);
    let mut text = String::new();
    for member in served.board.members().iter() {
        let answers = member.handle.commands().ask("ctl", r#"{"control": "main"}"#).await;
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
