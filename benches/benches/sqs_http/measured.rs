//! One run of a client, and what it took.

use std::{
    sync::{atomic::Ordering::Relaxed, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use tokio::time::Instant;

use crate::place::Place;

/// What one run took: seconds until the last delete, and the client's own processor time for each message, in µs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    pub(crate) seconds: f64,
    pub(crate) cpu: f64,
    /// Requests for each message, by operation.
    pub(crate) requests: [f64; 3],
}

const OPERATIONS: [&str; 3] = ["ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"];

impl Took {
    pub(crate) fn rate(self, count: usize) -> f64 {
        count as f64 / self.seconds
    }
}

/// Fills the queue, runs `client` on one thread until the queue is empty, and ends it.
pub(crate) fn measured(
    place: &Place,
    count: usize,
    client: impl FnOnce(mpsc::Receiver<()>) -> JoinHandle<Duration>,
) -> Took {
    place.fill(count);
    let (before, posts) = (place.fake.deleted("q"), place.posts.load(Relaxed));
    let requests = OPERATIONS.map(|operation| place.fake.requests(operation));
    let (end, ended) = mpsc::channel();
    let began = Instant::now();
    let client = client(ended);
    let seconds = place.until_empty(began, before, count);
    end.send(()).unwrap();
    let cpu = client.join().unwrap();
    place.until_alone();
    assert_eq!(place.posts.load(Relaxed) - posts, count as u64, "each is posted once");
    Took {
        seconds,
        cpu: cpu.as_secs_f64() * 1e6 / count as f64,
        requests: std::array::from_fn(|which| {
            (place.fake.requests(OPERATIONS[which]) - requests[which]) as f64 / count as f64
        }),
    }
}

/// Tells a runtime that a channel has spoken.
pub(crate) async fn told(ended: mpsc::Receiver<()>) {
    tokio::task::spawn_blocking(move || ended.recv().unwrap())
        .await
        .unwrap();
}
