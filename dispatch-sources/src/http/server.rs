//! The socket: bound late, closed gracefully.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::post};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    HttpSourceError,
    intake::{self, Intake},
};

/// How long requests may take to end once the server closes.
const FAREWELL: Duration = Duration::from_secs(2);

/// A server that listens.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens, and answers from a task of its own.
    pub(super) async fn start(intake: Arc<Intake>) -> Result<Self, HttpSourceError> {
        let address = intake.config.listen;
        let failed = |source| HttpSourceError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let router = Router::new()
            .route(&intake.config.path, post(intake::post))
            // A fault of ours is an answer too: 500, and the caller sends again.
            .layer(CatchPanicLayer::new())
            .with_state(intake);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(dispatch_http_server::serve(listener, router, async {
            drop(stopped.await);
        }));
        tracing::info!(%address, "listening");
        Ok(Self { address, stop, task })
    }

    /// Accepts no more, and lets requests under way end; waits for them only if `wait` says so.
    pub(super) async fn stop(self, wait: bool) {
        drop(self.stop);
        let mut task = self.task;
        if wait && tokio::time::timeout(FAREWELL, &mut task).await.is_err() {
            task.abort();
            tracing::warn!("requests did not end in time and are cut off");
        }
    }
}
