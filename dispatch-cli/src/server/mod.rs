//! The admin server: health, metrics and control.

mod auth;
mod control;
mod dead_letters;
mod debug;
mod health;
mod metrics;
mod openapi;

#[cfg(feature = "dispatcherd")]
pub(crate) use metrics::metrics_text;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    http::StatusCode,
    middleware,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use dispatch_core::config::AdminConfig;
use serde_json::json;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    failure::{Failure, Result},
    run::Board,
};

/// How long requests may take to end once the server closes.
const FAREWELL: Duration = Duration::from_millis(500);

/// The admin server, or none where it is off.
#[derive(Debug)]
pub(crate) struct Server {
    config: AdminConfig,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens and answers from a task of its own.
    pub(crate) async fn start(config: &AdminConfig, board: &Board) -> Result<Self> {
        let address = config.address().map_err(|error| Failure::config(error.to_string()))?;
        let running = match address {
            Some(address) => Some(Running::start(address, config, board).await?),
            None => None,
        };
        Ok(Self {
            config: config.clone(),
            running,
        })
    }

    /// Becomes what `config` says, if that differs.
    pub(crate) async fn follow(&mut self, config: &AdminConfig, board: &Board) -> Result<()> {
        if self.config == *config {
            return Ok(());
        }
        if self.config.listen == config.listen {
            // Another token for the same address, which only one can have.
            self.stop().await;
        }
        let mut before = std::mem::replace(self, Self::start(config, board).await?);
        before.stop().await;
        Ok(())
    }

    /// Answers nobody any more.
    pub(crate) async fn stop(&mut self) {
        if let Some(Running { stop, task }) = self.running.take() {
            drop(stop);
            if tokio::time::timeout(FAREWELL, task).await.is_err() {
                tracing::debug!("admin requests are cut off");
            }
        }
    }
}

impl Running {
    async fn start(address: SocketAddr, config: &AdminConfig, board: &Board) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Failure::run(format!(
                "the admin server cannot listen on {address}: {error}\n  \
                 help: choose another address with [admin] listen = \"127.0.0.1:9091\", any free one with \
                 \"127.0.0.1:0\", or none with \"off\""
            ))
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let router = router(board.clone(), config);
        let task = tokio::spawn(dispatch_http_server::serve(listener, router, async {
            drop(stopped.await);
        }));
        tracing::info!(%address, "admin server listens");
        Ok(Self { stop, task })
    }
}

/// Every route; those before the guard are open to all who can reach the address.
fn router(board: Board, config: &AdminConfig) -> Router {
    let guard = Arc::new(auth::Guard::new(config));
    let debug = match config.debug {
        true => Router::new()
            .route("/debug/in-flight", get(debug::in_flight))
            .route("/debug/config", get(debug::config))
            .route("/debug/tasks", get(debug::tasks)),
        false => Router::new(),
    };
    let guarded = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(health::healthz))
        .route("/health", get(health::healthz))
        .route("/version", get(health::version))
        .route("/v1/openapi.json", get(openapi::document))
        .route("/v1/status", get(control::status))
        .route("/v1/pause", post(control::pause))
        .route("/v1/resume", post(control::resume))
        .route("/v1/drain", post(control::drain))
        .route("/v1/dlq", get(dead_letters::list))
        .route("/v1/dlq/{number}", get(dead_letters::show))
        .route("/v1/dlq/replay", post(dead_letters::replay))
        .route("/v1/dlq/purge", post(dead_letters::purge))
        .merge(debug)
        .layer(middleware::from_fn_with_state(guard, auth::check));
    Router::new()
        .route("/livez", get(health::livez))
        .route("/ping", get(health::ping))
        .route("/readyz", get(health::readyz))
        .route("/ready", get(health::readyz))
        .merge(guarded)
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "no such path; /v1/openapi.json lists them") })
        .layer(CatchPanicLayer::new())
        .with_state(board)
}

/// An error as JSON.
fn refuse(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}
