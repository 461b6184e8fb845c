use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dispatch_core::testing::sink::sink_battery;
use dispatch_core::{Class, Error, Message, Sink as _, config::Period};
use dispatch_sinks::http::{HttpSink, HttpSinkConfig, HttpVersion};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
};

pub(crate) fn sink(url: &str, change: impl FnOnce(&mut HttpSinkConfig)) -> HttpSink {
    let mut config = HttpSinkConfig::new(url.parse().unwrap());
    change(&mut config);
    HttpSink::new(&config, ".".as_ref()).unwrap()
}

pub(crate) fn code(error: &Error) -> &str {
    error.code().unwrap()
}

pub(crate) type Answer = Response<Full<Bytes>>;

/// Serves `answer` on one connection until it ends.
async fn serve<T, F, Fut>(stream: T, answer: F)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Answer> + Send,
{
    let service = service_fn(move |request| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(answer(request).await) }
    });
    auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await
        .ok();
}

/// A worker on a free port; counts its connections.
pub(crate) async fn worker<F, Fut>(answer: F) -> (String, Arc<AtomicUsize>)
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, answer.clone()));
        }
    });
    (url, connections)
}

/// A server that is no HTTP server: hands each connection to `behave`.
pub(crate) async fn raw<F, Fut>(behave: F) -> String
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(behave(stream));
        }
    });
    address.to_string()
}

pub(crate) async fn read_request(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut seen).await.unwrap() == 0 {
            return;
        }
    }
}

pub(crate) async fn echo(request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(Full::new(body.collect().await.unwrap().to_bytes()));
    *response.headers_mut() = parts.headers;
    response.headers_mut().remove("content-length");
    response
        .headers_mut()
        .insert("x-path", parts.uri.path().parse().unwrap());
    response
}

#[tokio::test]
async fn the_message_arrives_and_the_answer_comes_back() {
    let (url, _) = worker(echo).await;
    let sink = sink(&format!("{url}/jobs/{{{{ id }}}}"), |_| {});

    let message = Message::with_id("m/1", "hello")
        .header("traceparent", "00-1-2-01")
        .with_attempt(3);
    let reply = sink.send(message).await.unwrap();

    assert_eq!(&reply.payload[..], b"hello");
    for (name, value) in [
        ("x-path", "/jobs/m%2F1"),
        ("dispatch-attempt", "3"),
        ("idempotency-key", "m/1"),
        ("traceparent", "00-1-2-01"),
        ("content-type", "application/octet-stream"),
        ("user-agent", concat!("dispatch/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(reply.headers.get(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn every_status_is_classified() {
    let (url, connections) = worker(|request| async move {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        let mut response = Response::new(Full::default());
        *response.status_mut() = status.try_into().unwrap();
        response.headers_mut().insert("retry-after", "7".parse().unwrap());
        response
    })
    .await;
    let sink = sink(&format!("{url}/{{{{ id }}}}"), |_| {});

    for status in 200..=599 {
        let outcome = sink.send(Message::with_id(status.to_string(), "")).await;

        let expected = match status {
            200..=299 => None,
            401 | 407 => Some(Class::Unavailable),
            429 | 503 => Some(Class::Throttled(Some(Duration::from_secs(7)))),
            408 | 425 | 500..=599 => Some(Class::Retry),
            _ => Some(Class::Permanent),
        };
        assert_eq!(outcome.as_ref().err().map(Error::class), expected, "{status}");
        if let Err(error) = outcome {
            assert_eq!(code(&error), status.to_string());
        }
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn every_way_to_get_no_answer_is_classified() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let hangs_up = raw(|mut stream| async move { read_request(&mut stream).await }).await;
    let cuts_short = raw(|mut stream| async move {
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            .await
            .unwrap();
    })
    .await;
    let babbles = raw(|mut stream| async move {
        stream.read_buf(&mut Vec::new()).await.unwrap();
        stream.write_all(b"what?\r\n\r\n").await.unwrap();
    })
    .await;
    let silent = raw(|mut stream| async move {
        let mut end = Vec::new();
        stream.read_to_end(&mut end).await.unwrap();
    })
    .await;

    for (url, class, expected) in [
        (format!("http://{closed}/"), Class::Unavailable, "connect"),
        ("http://nowhere.invalid/".to_owned(), Class::Unavailable, "dns"),
        (format!("https://{babbles}/"), Class::Unavailable, "tls"),
        (format!("https://{silent}/"), Class::Unavailable, "connect"),
        (format!("http://{hangs_up}/"), Class::Retry, "transport"),
        (format!("http://{cuts_short}/"), Class::Retry, "transport"),
        (format!("http://{babbles}/"), Class::Retry, "transport"),
        (format!("http://{silent}/"), Class::Retry, "timeout"),
    ] {
        let sink = sink(&url, |config| {
            config.timeout = Some(Period(Duration::from_secs(2)));
            config.connect_timeout = Period(Duration::from_millis(300));
        });

        let error = sink.send(Message::new("x")).await.unwrap_err();

        assert_eq!(
            (error.class(), code(&error)),
            (class, expected),
            "{url}: {}",
            error.report()
        );
    }
}

#[tokio::test]
async fn one_connection_per_concurrent_call_is_kept() {
    let (url, connections) = worker(echo).await;
    let sink = sink(&url, |_| {});

    for _ in 0..20 {
        futures::future::join_all((0..4).map(|_| sink.send(Message::new("x")))).await;
    }

    assert_eq!(connections.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced_silently() {
    let hung_up = Arc::new(Notify::new());
    let signal = hung_up.clone();
    let address = raw(move |mut stream| {
        let signal = signal.clone();
        async move {
            read_request(&mut stream).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
            stream.shutdown().await.unwrap();
            drop(stream);
            signal.notify_one();
        }
    })
    .await;
    let sink = sink(&format!("http://{address}/"), |_| {});

    for _ in 0..5 {
        sink.send(Message::new("")).await.unwrap();
        hung_up.notified().await;
        // The runtime looks at its sockets between turns; the end of the stream is there already.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_worker_that_answers_without_reading_holds_nobody_up() {
    let address = raw(|mut stream| async move {
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let sink = sink(&format!("http://{address}/"), |_| {});

    for _ in 0..3 {
        let reply = sink.send(Message::new(vec![b'x'; 20_000_000])).await.unwrap();
        assert_eq!(&reply.payload[..], b"ok");
    }
}

#[tokio::test]
async fn a_dropped_send_is_seen_by_the_worker() {
    let (arrived, seen) = oneshot::channel();
    let (ended, end) = oneshot::channel();
    let signals = Arc::new(std::sync::Mutex::new(Some((arrived, ended))));
    let address = raw(move |mut stream| {
        let (arrived, ended) = signals.lock().unwrap().take().unwrap();
        async move {
            read_request(&mut stream).await;
            arrived.send(()).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.ok();
            ended.send(()).unwrap();
        }
    })
    .await;
    let sink = sink(&format!("http://{address}/"), |_| {});

    tokio::select! {
        outcome = sink.send(Message::new("x")) => panic!("{outcome:?}"),
        arrived = seen => arrived.unwrap(),
    }

    end.await.unwrap();
}

#[tokio::test]
async fn a_long_answer_is_cut_and_only_a_very_long_one_costs_the_connection() {
    for (length, kept, cut, connections_after) in [
        (10, 10, false, 1),
        (11, 10, true, 1),
        (20, 10, true, 1),
        (2_000_000, 10, true, 2),
    ] {
        let (url, connections) = worker(move |_| async move { Response::new(Full::from(vec![b'x'; length])) }).await;
        let sink = sink(&url, |config| config.max_response = "10B".parse().unwrap());

        let reply = sink.send(Message::new("x")).await.unwrap();
        sink.send(Message::new("x")).await.unwrap();

        assert_eq!(
            (reply.payload.len(), reply.headers.get("dispatch-truncated").is_some()),
            (kept, cut),
            "{length}"
        );
        assert_eq!(connections.load(Ordering::SeqCst), connections_after, "{length}");
    }
}

#[tokio::test]
async fn http2_shares_one_connection() {
    let (url, connections) = worker(echo).await;
    let sink = sink(&url, |config| config.http_version = HttpVersion::Two);

    let replies = futures::future::join_all((0..32).map(|_| sink.send(Message::new("hello")))).await;

    assert!(replies.into_iter().all(|reply| &reply.unwrap().payload[..] == b"hello"));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn a_socket_file_is_as_good_as_a_port() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, echo));
        }
    });
    let here = sink("http://worker/path", |config| config.unix_socket = Some(path));
    let gone = sink("http://worker/path", |config| {
        config.unix_socket = Some(dir.path().join("gone.sock"))
    });

    let reply = here.send(Message::new("hello")).await.unwrap();
    let error = gone.send(Message::new("hello")).await.unwrap_err();

    assert_eq!(
        (&reply.payload[..], reply.headers.get("host")),
        (&b"hello"[..], Some("worker"))
    );
    assert_eq!((error.class(), code(&error)), (Class::Unavailable, "connect"));
    assert!(error.to_string().contains("gone.sock"));
}

#[tokio::test]
async fn a_host_named_by_a_message_may_not_be_private() {
    let (url, connections) = worker(echo).await;
    let port = url.rsplit(':').next().unwrap();
    let template = format!("http://{{{{ header:host }}}}:{port}/");
    let guarded = sink(&template, |_| {});
    let trusting = sink(&template, |config| config.allow_private = true);
    let to = |host: &str| Message::new("x").header("host", host);

    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0.0.0.0",
        "169.254.169.254",
        "127.1",
        "0x7f000001",
        "2130706433",
    ] {
        let error = guarded.send(to(host)).await.unwrap_err();
        // Odd spellings are addresses to some resolvers and unknown names to others.
        assert!(
            ["private_address", "dns", "url"].contains(&code(&error)),
            "{host}: {error}"
        );
    }
    let error = guarded.send(to("localhost")).await.unwrap_err();
    assert_eq!((error.class(), code(&error)), (Class::Permanent, "private_address"));
    assert_eq!(connections.load(Ordering::SeqCst), 0);
    trusting.send(to("127.0.0.1")).await.unwrap();
}

#[tokio::test]
async fn a_probe_connects_and_sends_nothing() {
    let (url, connections) = worker(|_| async { panic!("a probe sends nothing") }).await;

    sink(&url, |_| {}).probe().await.unwrap();
    let error = sink("http://127.0.0.1:1/", |_| {}).probe().await.unwrap_err();

    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert_eq!(error.class(), Class::Unavailable);
}

#[tokio::test]
async fn tls_trusts_the_given_root_and_shows_the_given_certificate() {
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

    let dir = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        std::fs::write(dir.path().join(name), text).unwrap();
        name.into()
    };
    let (cert, key) = (
        file("cert.pem", own.cert.pem()),
        file("key.pem", own.signing_key.serialize_pem()),
    );
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![own.cert.der().clone()],
            PrivateKeyDer::from_pem_slice(own.signing_key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let address = raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, |request| async move {
                    Response::new(Full::from(format!("{:?}", request.version())))
                })
                .await;
            }
        }
    })
    .await;
    let url = format!("https://localhost:{}/", address.rsplit(':').next().unwrap());
    let mut config = HttpSinkConfig::new(url.parse().unwrap());

    let stranger = HttpSink::new(&config, dir.path()).unwrap();
    let error = stranger.send(Message::new("x")).await.unwrap_err();
    config.tls.ca_file = Some(cert);
    config.tls.cert_file = Some("cert.pem".into());
    config.tls.key_file = Some(key);
    let reply = HttpSink::new(&config, dir.path())
        .unwrap()
        .send(Message::new("x"))
        .await
        .unwrap();

    assert_eq!(
        (error.class(), code(&error)),
        (Class::Unavailable, "tls"),
        "{}",
        error.report()
    );
    assert_eq!(&reply.payload[..], b"HTTP/2.0");
}

#[tokio::test]
async fn the_battery_holds() {
    let arrived = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let ids = arrived.clone();
    let (url, _) = worker(move |request| {
        let id = request.headers()["idempotency-key"].to_str().unwrap().to_owned();
        let ids = ids.clone();
        async move {
            request.into_body().collect().await.unwrap();
            ids.lock().unwrap().insert(id);
            Response::default()
        }
    })
    .await;

    sink_battery(&sink(&url, |_| {}), async |id| arrived.lock().unwrap().contains(id)).await;
}
