//! From an address to an HTTP connection: resolve, check, connect, TLS, handshake.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    HttpSinkError, HttpVersion,
    counted::{Counted, Received},
    guard,
    url::Address,
};

/// How often a shared HTTP/2 connection is asked for a sign of life, and how long it has for it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What is sent.
pub(super) type Request = http::Request<Full<Bytes>>;

/// How connections are made.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) version: HttpVersion,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) unix_socket: Option<PathBuf>,
    pub(super) connect_timeout: Duration,
    /// Whether only public addresses will do.
    pub(super) guarded: bool,
}

/// A connection that is ready, or will be after its last answer.
#[derive(Debug)]
pub(super) enum Connection {
    Http1(Http1),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// An HTTP/1 connection, closed when it is dropped, whatever it was doing.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<Full<Bytes>>,
    /// How much has come over it.
    pub(super) received: Received,
    /// An empty map for the headers of the next request.
    pub(super) headers: HeaderMap,
    task: AbortHandle,
}

impl Drop for Http1 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connector {
    /// Whether one connection serves all calls, for sure.
    pub(super) fn speaks_only_http2(&self) -> bool {
        self.version == HttpVersion::Two
    }

    /// Connects within `connect_timeout`.
    pub(super) async fn connect(&self, address: &Address) -> Result<Connection, HttpSinkError> {
        timeout(self.connect_timeout, self.establish(address))
            .await
            .unwrap_or_else(|_| {
                Err(HttpSinkError::ConnectTimeout {
                    target: self.target(address),
                    after: self.connect_timeout,
                })
            })
    }

    async fn establish(&self, address: &Address) -> Result<Connection, HttpSinkError> {
        #[cfg(unix)]
        if let Some(path) = &self.unix_socket {
            let failed = |source| HttpSinkError::Connect {
                target: self.target(address),
                source,
            };
            let stream = tokio::net::UnixStream::connect(path).await.map_err(failed)?;
            return self.secure(stream, address).await;
        }
        let stream = self.tcp(address).await?;
        // A request is written whole; waiting for more to send only delays it.
        stream.set_nodelay(true).ok();
        self.secure(stream, address).await
    }

    /// Tries each address that the host has and that is allowed, in the resolver's order, sharing the time out.
    async fn tcp(&self, address: &Address) -> Result<TcpStream, HttpSinkError> {
        let resolve = |source| HttpSinkError::Resolve {
            host: address.host.to_string(),
            source,
        };
        let mut found: Vec<SocketAddr> = lookup_host((address.host.as_str(), address.port))
            .await
            .map_err(resolve)?
            .collect();
        if self.guarded {
            // The very addresses that were checked are connected to; a second lookup could answer otherwise.
            let private = found
                .iter()
                .find(|found| !guard::is_public(found.ip()))
                .map(SocketAddr::ip);
            found.retain(|found| guard::is_public(found.ip()));
            if let (Some(private), true) = (private, found.is_empty()) {
                return Err(HttpSinkError::PrivateAddress {
                    host: address.host.to_string(),
                    address: private,
                });
            }
        }
        let share = self.connect_timeout / u32::try_from(found.len()).unwrap_or(u32::MAX).max(1);
        let mut last = None;
        for candidate in found {
            match timeout(share, TcpStream::connect(candidate)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = Some(error),
                Err(_) => {
                    last = Some(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no answer from {candidate}"),
                    ))
                }
            }
        }
        match last {
            Some(source) => Err(HttpSinkError::Connect {
                target: self.target(address),
                source,
            }),
            None => Err(resolve(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ))),
        }
    }

    async fn secure<T>(&self, stream: T, address: &Address) -> Result<Connection, HttpSinkError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(config) = self.tls.as_ref().filter(|_| address.https) else {
            return match self.version {
                HttpVersion::Two => self.http2(stream, address).await,
                HttpVersion::One | HttpVersion::Auto => self.http1(stream, address).await,
            };
        };
        let failed = |source| HttpSinkError::Tls {
            target: self.target(address),
            source,
        };
        let name = ServerName::try_from(address.host.to_string())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = TlsConnector::from(config.clone())
            .connect(name, stream)
            .await
            .map_err(failed)?;
        match (self.version, stream.get_ref().1.alpn_protocol()) {
            (HttpVersion::Two, _) | (HttpVersion::Auto, Some(b"h2")) => self.http2(stream, address).await,
            _ => self.http1(stream, address).await,
        }
    }

    async fn http1<T>(&self, stream: T, address: &Address) -> Result<Connection, HttpSinkError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, received) = Counted::new(stream);
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|source| HttpSinkError::Handshake {
                    target: self.target(address),
                    source,
                })?;
        // hyper drives a connection from a task of its own; what fails in it is told to the request under way.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Connection::Http1(Http1 {
            sender,
            received,
            headers: HeaderMap::new(),
            task,
        }))
    }

    async fn http2<T>(&self, stream: T, address: &Address) -> Result<Connection, HttpSinkError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // A far side that vanished without a word must not keep the shared connection for ever.
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(KEEP_ALIVE))
            .keep_alive_timeout(KEEP_ALIVE)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| HttpSinkError::Handshake {
                target: self.target(address),
                source,
            })?;
        // It ends by itself when the last sender is gone.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection::Http2(sender))
    }

    fn target(&self, address: &Address) -> String {
        match &self.unix_socket {
            Some(path) => path.display().to_string(),
            None => address.to_string(),
        }
    }
}
