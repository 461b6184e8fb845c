//! Kept connections: for HTTP/1 one per concurrent call, last used first; for HTTP/2 one for all.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Full;
use hyper::client::conn::http2;
use tokio::time::{Instant, timeout};

use super::{
    HttpSinkError,
    connect::{Connection, Connector, Http1},
    url::Address,
};

/// How many origins are remembered before those without a call or a live connection are forgotten.
const ORIGINS: usize = 256;

/// How long a kept connection may take to be ready again before it is given up.
const SETTLES: Duration = Duration::from_millis(100);

/// How many headers a map may have room for that is kept for the next request.
const ROOM: usize = 64;

/// The connections to one origin.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) address: Address,
    idle: Mutex<VecDeque<(Instant, Http1)>>,
    shared: Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
    /// Held while an HTTP/2 connection is made, so that calls at the start share one.
    connecting: tokio::sync::Mutex<()>,
}

/// A connection on loan, and whether it served before.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) connection: Connection,
    pub(super) reused: bool,
}

impl Origin {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            idle: Mutex::default(),
            shared: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    /// Lends a kept connection that is ready, with an empty map for the headers of a request. Nothing else needs to wait.
    pub(super) fn lend(&self, keep_alive: Duration) -> Option<(Loan, HeaderMap)> {
        let mut kept = self.pop(keep_alive)?;
        if !kept.sender.is_ready() {
            // Still busy with its last answer, or closed: who may wait looks into that.
            lock(&self.idle).push_back((Instant::now(), kept));
            return None;
        }
        let headers = std::mem::take(&mut kept.headers);
        let connection = Connection::Http1(kept);
        Some((
            Loan {
                connection,
                reused: true,
            },
            headers,
        ))
    }

    /// Lends a kept connection that is still open, or a new one.
    ///
    /// # Cancel safety
    /// Dropping it closes at most the connection it was looking at or making.
    pub(super) async fn acquire(&self, connector: &Connector, keep_alive: Duration) -> Result<Loan, HttpSinkError> {
        while let Some(mut kept) = self.pop(keep_alive) {
            // Usually only the tail of the last answer is in the way; a worker that answered early and never reads the
            // rest of its request would be for ever.
            let ready = kept.sender.is_ready() || matches!(timeout(SETTLES, kept.sender.ready()).await, Ok(Ok(())));
            if ready {
                let connection = Connection::Http1(kept);
                return Ok(Loan {
                    connection,
                    reused: true,
                });
            }
        }
        if let Some(loan) = self.share() {
            return Ok(loan);
        }
        let _alone = match connector.speaks_only_http2() {
            true => Some(self.connecting.lock().await),
            false => None,
        };
        if let Some(loan) = self.share() {
            return Ok(loan);
        }
        self.connect(connector).await
    }

    /// Lends a new connection.
    pub(super) async fn connect(&self, connector: &Connector) -> Result<Loan, HttpSinkError> {
        let connection = connector.connect(&self.address).await?;
        if let Connection::Http2(sender) = &connection {
            *lock(&self.shared) = Some(sender.clone());
        }
        Ok(Loan {
            connection,
            reused: false,
        })
    }

    /// Keeps an HTTP/1 connection whose answer was read to its end. `headers`: those of the answer, done with; hyper has
    /// made them in the map of the request before, and the next request takes it in turn.
    pub(super) fn keep(&self, connection: Connection, mut headers: HeaderMap) {
        if let Connection::Http1(mut kept) = connection
            && !kept.sender.is_closed()
        {
            if headers.capacity() <= ROOM {
                headers.clear();
                kept.headers = headers;
            }
            lock(&self.idle).push_back((Instant::now(), kept));
        }
    }

    /// Stops sharing an HTTP/2 connection that takes no more requests.
    pub(super) fn forget_shared(&self) {
        *lock(&self.shared) = None;
    }

    fn pop(&self, keep_alive: Duration) -> Option<Http1> {
        let mut idle = lock(&self.idle);
        let (since, kept) = idle.pop_back()?;
        let now = Instant::now();
        // The oldest stand in front: what was not needed for so long is let go, one a call.
        if idle.front().is_some_and(|(since, _)| now - *since > keep_alive) {
            idle.pop_front();
        }
        if now - since > keep_alive {
            idle.clear();
            return None;
        }
        Some(kept)
    }

    fn share(&self) -> Option<Loan> {
        let mut shared = lock(&self.shared);
        if shared.as_ref().is_some_and(http2::SendRequest::is_closed) {
            *shared = None;
        }
        let connection = Connection::Http2(shared.clone()?);
        Some(Loan {
            connection,
            reused: true,
        })
    }

    fn is_unused(&self, keep_alive: Duration) -> bool {
        let now = Instant::now();
        lock(&self.idle)
            .back()
            .is_none_or(|(since, kept)| kept.sender.is_closed() || now - *since > keep_alive)
    }
}

/// The origins of a URL whose host is made of fields of the message.
#[derive(Debug, Default)]
pub(super) struct Origins(Mutex<HashMap<Address, Arc<Origin>>>);

impl Origins {
    /// The origin at `address`.
    pub(super) fn at(&self, address: Address, keep_alive: Duration) -> Arc<Origin> {
        let mut origins = lock(&self.0);
        if let Some(origin) = origins.get(&address) {
            return origin.clone();
        }
        if origins.len() >= ORIGINS {
            origins.retain(|_, origin| Arc::strong_count(origin) > 1 || !origin.is_unused(keep_alive));
        }
        let origin = Arc::new(Origin::new(address.clone()));
        origins.insert(address, origin.clone());
        origin
    }
}

/// What these locks guard is whole between any two statements, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
