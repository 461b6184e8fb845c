//! One port for both.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use dispatch_core::pipeline::Handle;
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};
use tonic::service::Routes;

use crate::{
    json,
    proto::{DESCRIPTOR, monitoring_service_server::MonitoringServiceServer},
    scoreboard::Scoreboard,
};

/// How long requests may take to end once the server stops.
const FAREWELL: Duration = Duration::from_millis(500);

/// Tells what pipelines are working on. Dropping it closes the port at once.
#[derive(Debug)]
#[must_use = "dropping the server closes its port"]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    abort: AbortHandle,
}

impl Server {
    /// Listens on `address` and answers for `pipelines` from a task of its own. Port 0 takes any that is free.
    ///
    /// # Errors
    /// The address cannot be listened on.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(address: SocketAddr, pipelines: impl IntoIterator<Item = Handle>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "monitoring is open to other machines, and asks nobody for a password");
        }
        let board = Scoreboard(pipelines.into_iter().collect::<Arc<[_]>>());
        let router = services(&board)?.merge(json::router(board));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(dispatch_http_server::serve(listener, router, async {
            drop(stopped.await);
        }));
        tracing::info!(%address, "monitoring listens");
        Ok(Self {
            address,
            stop: Some(stop),
            abort: task.abort_handle(),
            task: Some(task),
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers what was asked, for half a second at most, and closes the port.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take()
            && tokio::time::timeout(FAREWELL, task).await.is_err()
        {
            tracing::debug!("monitoring requests are cut off");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// The scoreboard, and reflection in both of its versions.
fn services(board: &Scoreboard) -> io::Result<axum::Router> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
    };
    let broken = io::Error::other::<tonic_reflection::server::Error>;
    Ok(Routes::new(MonitoringServiceServer::new(board.clone()))
        .add_service(reflection().build_v1().map_err(broken)?)
        .add_service(reflection().build_v1alpha().map_err(broken)?)
        .prepare()
        .into_axum_router()
        // What is no path at all is for the other half to answer.
        .reset_fallback())
}
