//! Where the messages come from and go to, each on a thread of its own.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use dispatch_sources::sqs::fake::{Fake, QueueOptions};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    time::{Instant, sleep},
};

pub(crate) fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Runs `start` on a thread with a runtime of its own, for ever; gives what it says.
fn thread<T: Send + 'static>(start: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let (say, said) = mpsc::channel();
    drop(std::thread::spawn(move || {
        one_thread().block_on(async {
            say.send(start().await).unwrap();
            std::future::pending::<()>().await;
        });
    }));
    said.recv().unwrap()
}

pub(crate) struct Place {
    pub(crate) fake: Fake,
    pub(crate) endpoint: String,
    pub(crate) worker: SocketAddr,
    pub(crate) posts: Arc<AtomicU64>,
}

impl Place {
    /// A fake with an empty queue, and a worker that takes `work` for each message.
    pub(crate) fn new(work: Duration) -> Self {
        let fake = Fake::new();
        fake.create_queue("q", QueueOptions::default());
        let own = fake.clone();
        let endpoint = thread(async move || {
            let server = own.serve().await;
            let url = server.url();
            std::mem::forget(server);
            url
        });
        let posts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&posts);
        let worker = thread(async move || worker(work, counted).await);
        Self {
            fake,
            endpoint,
            worker,
            posts,
        }
    }

    pub(crate) fn fill(&self, count: usize) {
        (0..count).for_each(|n| drop(self.fake.send("q", format!("{{\"job\":{n:0240}}}"))));
    }

    /// Seconds until all are deleted.
    pub(crate) fn until_empty(&self, began: Instant, before: usize, count: usize) -> f64 {
        one_thread().block_on(async {
            while self.fake.deleted("q") - before < count {
                sleep(Duration::from_millis(1)).await;
            }
        });
        began.elapsed().as_secs_f64()
    }

    /// Until no receive of those before waits: one whose connection has ended may still take messages, and nobody would
    /// work on them.
    pub(crate) fn until_alone(&self) {
        one_thread().block_on(async {
            while self.fake.waiting("q") > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/work", self.worker)
    }
}

async fn worker(work: Duration, posts: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let posts = Arc::clone(&posts);
            let answer = service_fn(move |request: Request<Incoming>| {
                let posts = Arc::clone(&posts);
                async move {
                    drop(request.into_body().collect().await);
                    if !work.is_zero() {
                        sleep(work).await;
                    }
                    posts.fetch_add(1, Relaxed);
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}
