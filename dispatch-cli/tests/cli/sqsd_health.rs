//! `HEALTHCHECK_URL` of the preset.

use std::process::Stdio;

use dispatch_sources::sqs::fake::{Fake, QueueOptions};
use rustix::process::Signal;

use crate::support::{Running, Worker, command, dir, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_not_well_gets_nothing_at_the_start_nor_later() {
    let fake = Fake::new();
    fake.create_queue("q", QueueOptions::default());
    let server = fake.serve().await;
    let (worker, health) = (Worker::start().await, Worker::start().await);
    let asked = || health.paths().len();
    health.answer(500);
    fake.send("q", "first");
    let dir = dir(&[]);
    // The variables have no name for how often it is asked; each 10 s would be long here.
    let mut preset = command(dir.path(), &["sqsd", "--set", "sink.health.every=100ms"]);
    preset
        .env("QUEUE_URL", fake.queue_url("q"))
        .env("SQS_ENDPOINT_URL", server.url())
        .env("INVOKER_URL", format!("{}/work", worker.url))
        .env("HEALTHCHECK_URL", format!("{}/health", health.url))
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("MONITORING_PORT", "-1")
        .stdin(Stdio::null());

    let mut running = Running::spawn(&mut preset);
    running.says("far side is not well yet").await;
    until("it is asked again", async || asked() >= 3).await;
    assert_eq!((worker.count(), fake.requests("ReceiveMessage")), (0, 0));

    health.answer(200);
    until("the first is worked on", async || worker.count() == 1).await;

    // Asked again while it runs: ill.
    health.answer(503);
    running.says("far side is not well: nothing is received").await;
    // A receive that was under way gives back what it brings.
    fake.send("q", "second");
    let before = asked();
    until("it is asked again", async || asked() >= before + 30).await;
    until("nobody has it", async || fake.visible("q") == 1).await;
    assert_eq!(worker.count(), 1);

    // And well again; a redirect is an answer.
    health.answer(302);
    until("both are done", async || fake.deleted("q") == 2).await;
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    assert!(health.paths().iter().all(|path| path == "/health"));
    assert_eq!(worker.ids().values().sum::<u32>(), 2, "each once");
}
