//! HTTP/1.1 on loopback.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Fake, wire::Answer};

/// A [`Fake`] that listens; it stops when this is dropped.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Fake {
    /// Listens on a free port of loopback.
    ///
    /// # Panics
    /// If there is none.
    pub async fn serve(&self) -> FakeServer {
        self.serve_on((std::net::Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Listens on this address; so a server can come back where it was.
    ///
    /// # Panics
    /// If somebody else listens there.
    pub async fn serve_on(&self, address: SocketAddr) -> FakeServer {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let address = listener.local_addr().expect("it listens");
        let fake = self.clone();
        let task = tokio::spawn(async move {
            // Connections end with the task that holds them.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        if let Err(error) = stream.set_nodelay(true) {
                            tracing::debug!(%error, "no nodelay");
                        }
                        let fake = fake.clone();
                        connections.spawn(async move {
                            let service = service_fn(move |request| answer(fake.clone(), request));
                            let connection = hyper::server::conn::http1::Builder::new()
                                .serve_connection(TokioIo::new(stream), service);
                            // A connection that ends in the middle was ordered, or the client's doing.
                            drop(connection.await);
                        });
                    }
                    Some(_) = connections.join_next(), if !connections.is_empty() => {}
                }
            }
        });
        FakeServer { address, task }
    }
}

async fn answer(fake: Fake, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let target = request
        .headers()
        .get("x-amz-target")
        .and_then(|value| value.to_str().ok());
    let target = target.unwrap_or_default().to_owned();
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    match fake.call(&target, &body).await {
        Answer::Reset => Err(io::Error::other("ordered")),
        Answer::Http { status, headers, body } => {
            let mut answer = Response::builder()
                .status(status)
                .header("content-type", "application/x-amz-json-1.0");
            for (name, value) in headers {
                answer = answer.header(name, value);
            }
            answer.body(Full::from(body)).map_err(io::Error::other)
        }
    }
}

impl FakeServer {
    /// The address as an endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and ends every connection.
    pub async fn stop(mut self) {
        self.task.abort();
        drop((&mut self.task).await);
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
