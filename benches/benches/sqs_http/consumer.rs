//! npm's sqs-consumer.

use std::process::{Child, Command, Stdio};

use tokio::time::Instant;

use crate::place::Place;

/// Ends its process when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// sqs-consumer, from its first delete on: what Node takes to start is not counted.
pub(crate) fn sqs_consumer(place: &Place, count: usize, mode: &[&str]) -> Option<f64> {
    let script = std::env::var_os("BENCH_SQS_CONSUMER")?;
    let before = place.fake.deleted("q");
    let child = Command::new("node")
        .arg(script)
        .args(mode)
        .env("QUEUE_URL", place.fake.queue_url("q"))
        .env("SQS_ENDPOINT_URL", &place.endpoint)
        .env("WORKER_URL", place.url())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let child = Ended(child.unwrap());
    // One to warm up with.
    place.fill(count / 10);
    place.until_empty(Instant::now(), before, count / 10);
    let before = place.fake.deleted("q");
    place.fill(count);
    let began = Instant::now();
    let seconds = place.until_empty(began, before, count);
    drop(child);
    place.until_alone();
    Some(count as f64 / seconds)
}
