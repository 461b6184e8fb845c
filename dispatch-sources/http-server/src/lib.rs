//! Serves a router on a listener: HTTP/1.1 and HTTP/2, with bounded patience, until it is told to stop.
//!
//! A caller has [`PATIENCE`] to send the head of a request, from the moment it connects or its last request was answered;
//! then its connection is closed. How long a body may take is the router's to say.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! use axum::{Router, routing::get};
//! use tokio::{net::TcpListener, sync::oneshot};
//!
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let (stop, stopped) = oneshot::channel::<()>();
//! let router = Router::new().route("/", get(|| async { "here" }));
//! let server = tokio::spawn(dispatch_http_server::serve(listener, router, async { drop(stopped.await) }));
//! drop(stop);
//! server.await?;
//! # Ok(()) }
//! ```

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::Service as _;

/// How long a caller may take to send a request's head, and a connection may be without a request.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How often a caller that has sent a part of it is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long no connection is accepted after the system refused one, for want of descriptors or memory.
const RECOVER: Duration = Duration::from_secs(1);

/// What became of connections, but for the answers that a router gives.
#[derive(Debug, Default)]
pub struct Counts {
    /// Accepted.
    pub connections: AtomicU64,
    /// Ended by what is no HTTP.
    pub bad_requests: AtomicU64,
    /// Ended after [`PATIENCE`] without a request's head.
    pub timeouts: AtomicU64,
    /// Left by the caller in the middle of a request or its answer, or before the first request.
    pub disconnects: AtomicU64,
}

impl Counts {
    fn note(&self, error: &(dyn std::error::Error + 'static)) {
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        let count = match causes.find_map(|error| error.downcast_ref::<hyper::Error>()) {
            Some(error) if error.is_parse() => &self.bad_requests,
            Some(error) if error.is_timeout() => &self.timeouts,
            _ => &self.disconnects,
        };
        count.fetch_add(1, Relaxed);
    }
}

/// Accepts connections and lets `router` answer, which finds the caller's address as
/// [`ConnectInfo<SocketAddr>`](ConnectInfo).
///
/// Once `stopped` ends, it accepts no more, lets the requests under way end, and returns.
///
/// # Cancel safety
/// Dropping it cuts every connection off.
pub async fn serve(listener: TcpListener, router: Router, stopped: impl Future<Output = ()> + Send) {
    serve_counting(listener, router, stopped, Arc::default()).await;
}

/// As [`serve`], and counts what becomes of connections.
///
/// # Cancel safety
/// Dropping it cuts every connection off.
pub async fn serve_counting(
    listener: TcpListener,
    router: Router,
    stopped: impl Future<Output = ()> + Send,
    counts: Arc<Counts>,
) {
    let (graceful, mut connections) = (GracefulShutdown::new(), JoinSet::new());
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    let watcher = graceful.watcher();
                    let router = router.clone();
                    let counts = Arc::clone(&counts);
                    counts.connections.fetch_add(1, Relaxed);
                    connections.spawn(async move {
                        let begun = timeout(PATIENCE, begins(&stream)).await;
                        let Ok(true) = begun else {
                            let count = if begun.is_ok() { &counts.disconnects } else { &counts.timeouts };
                            count.fetch_add(1, Relaxed);
                            return;
                        };
                        let builder = builder();
                        let service = service_fn(move |request| answer(router.clone(), remote, request));
                        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                        if let Err(error) = watcher.watch(connection.into_owned()).await {
                            counts.note(&*error);
                            tracing::debug!(%remote, error, "connection ended");
                        }
                    });
                }
                Err(error) if is_the_callers(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections; trying again in a second");
                    tokio::select! {
                        () = &mut stopped => break,
                        () = sleep(RECOVER) => {}
                    }
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PATIENCE);
    builder
}

/// Waits until it is clear which version a caller speaks, which has no bound of its own; false if it left before.
async fn begins(stream: &TcpStream) -> bool {
    let mut start = [0; PREFACE.len()];
    let mut seen = 0;
    loop {
        match stream.peek(&mut start).await {
            Ok(0) | Err(_) => return false,
            Ok(length) if length == PREFACE.len() || !PREFACE.starts_with(&start[..length]) => return true,
            // What was seen stays there, and so does not wait for more.
            Ok(length) if length == seen => sleep(LOOK_AGAIN).await,
            Ok(length) => seen = length,
        }
    }
}

async fn answer(
    mut router: Router,
    remote: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<axum::response::Response, std::convert::Infallible> {
    request.extensions_mut().insert(ConnectInfo(remote));
    router.call(request.map(Body::new)).await
}

/// Whether only this one connection failed.
fn is_the_callers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::oneshot,
        time::Instant,
    };

    use super::*;

    /// A server that answers `/` with the caller's port.
    async fn server() -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        counting(Arc::default()).await
    }

    async fn counting(counts: Arc<Counts>) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let port = async |ConnectInfo(remote): ConnectInfo<SocketAddr>| remote.port().to_string();
        let router = Router::new().route("/", get(port));
        let stopped = async { drop(stopped.await) };
        let task = tokio::spawn(serve_counting(listener, router, stopped, counts));
        (address, stop, task)
    }

    #[tokio::test]
    async fn requests_are_answered_one_after_the_other_until_the_end() {
        let (address, stop, task) = server().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let port = stream.local_addr().unwrap().port().to_string();

        for _ in 0..2 {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let mut answer = vec![0; 1024];
            let length = stream.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]);
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with(&port),
                "{answer}"
            );
        }
        drop(stop);
        task.await.unwrap();

        assert_eq!(
            stream.read(&mut [0; 8]).await.unwrap(),
            0,
            "an idle connection is closed"
        );
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_of_connections_is_counted() {
        let counts = Arc::<Counts>::default();
        let (address, stop, task) = counting(Arc::clone(&counts)).await;
        for start in [
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            "\u{1}\u{2} no HTTP\r\n\r\n",
            "GET / HT",
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(start.as_bytes()).await.unwrap();
            drop(stream.read_to_end(&mut Vec::new()).await);
        }
        for start in ["", "GET / HT"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(start.as_bytes()).await.unwrap();
        }
        let seen = || {
            let Counts {
                connections,
                bad_requests,
                timeouts,
                disconnects,
            } = &*counts;
            [connections, bad_requests, timeouts, disconnects].map(|count| count.load(Relaxed))
        };
        let wanted = [5, 1, 1, 2];
        let began = Instant::now();
        while seen() != wanted && began.elapsed() < PATIENCE * 10 {
            sleep(LOOK_AGAIN).await;
        }

        assert_eq!(seen(), wanted);
        drop(stop);
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_come_to_the_point_is_cut_off() {
        for start in ["", "P", "PRI * HTTP", "GET / HTTP/1.1\r\nhost: a\r\nx: "] {
            let (address, _stop, _task) = server().await;
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(start.as_bytes()).await.unwrap();
            let began = Instant::now();

            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer).await);

            assert!(
                answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"),
                "{start:?}: {answer:?}"
            );
            let took = began.elapsed();
            assert!(took >= PATIENCE && took < PATIENCE * 3, "{start:?}: {took:?}");
        }
    }
}
