//! How much the HTTP sink costs over a bare hyper connection per slot: 1 KiB bodies, a trivial worker in the same process.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dispatch_core::{Message, Sink as _};
use dispatch_sinks::http::{HttpSink, HttpSinkConfig};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    time::Instant,
};

async fn worker() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let answer = service_fn(|request: Request<Incoming>| async move {
                request.into_body().collect().await.unwrap();
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            });
            tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

/// Each slot takes the next number until `total` are taken.
fn next(taken: &AtomicU64, total: u64) -> bool {
    taken.fetch_add(1, Ordering::Relaxed) < total
}

async fn bare(address: SocketAddr, slots: usize, total: u64) -> Duration {
    let body = Bytes::from(vec![b'x'; 1024]);
    let mut senders = Vec::new();
    for _ in 0..slots {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        senders.push(sender);
    }
    let taken = AtomicU64::new(0);
    let begin = Instant::now();
    futures::future::join_all(senders.iter_mut().map(|sender| async {
        while next(&taken, total) {
            sender.ready().await.unwrap();
            let request = Request::post("/work")
                .header("host", "127.0.0.1")
                .header("content-type", "application/octet-stream")
                .body(Full::new(body.clone()))
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert!(response.status().is_success());
            response.into_body().collect().await.unwrap();
        }
    }))
    .await;
    begin.elapsed()
}

async fn through_the_sink(sink: &HttpSink, slots: usize, total: u64) -> Duration {
    let body = Bytes::from(vec![b'x'; 1024]);
    let taken = AtomicU64::new(0);
    let begin = Instant::now();
    futures::future::join_all((0..slots).map(|_| async {
        while next(&taken, total) {
            sink.send(Message::new(body.clone())).await.unwrap();
        }
    }))
    .await;
    begin.elapsed()
}

fn benches(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let address = runtime.block_on(worker());
    let config = HttpSinkConfig::new(format!("http://{address}/work").parse().unwrap());
    let sink = Arc::new(HttpSink::new(&config, ".".as_ref()).unwrap());

    let mut group = criterion.benchmark_group("http_sink");
    group.throughput(Throughput::Elements(1));
    for slots in [16, 64] {
        group.bench_function(BenchmarkId::new("bare", slots), |bencher| {
            bencher
                .to_async(&runtime)
                .iter_custom(|total| bare(address, slots, total));
        });
        group.bench_function(BenchmarkId::new("sink", slots), |bencher| {
            bencher.to_async(&runtime).iter_custom(|total| {
                let sink = sink.clone();
                async move { through_the_sink(&sink, slots, total).await }
            });
        });
    }
    group.finish();
}

criterion_group!(http_sink, benches);
criterion_main!(http_sink);
