//! `examples/sqsd.toml`, as it is, between a real SQS server and a worker.

use std::process::Stdio;

use rustix::process::Signal;

use crate::{
    sqsd_server::{Queue, scoreboard},
    support::{Running, Worker, command, dir, get, until},
};

const EXAMPLE: &str = include_str!("../../../examples/sqsd.toml");

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_sqsd_runs() {
    let Some(queue) = Queue::new("example").await else {
        return;
    };
    let worker = Worker::start().await;
    // To Elastic Beanstalk no success; it comes again after 2 s.
    worker.answer(204);
    let dir = dir(&[("sqsd.toml", EXAMPLE)]);
    // Ports of its own may be taken on this machine.
    let ports = [
        "--set",
        "monitoring.listen=127.0.0.1:0",
        "--set",
        "admin.listen=127.0.0.1:0",
    ];
    let mut run = command(dir.path(), &[&["run", "sqsd.toml"][..], &ports].concat());
    run.env("QUEUE_URL", &queue.url)
        .env("INVOKER_URL", format!("{}/work", worker.url))
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .stdin(Stdio::null());
    queue.send("{}", &[("Tenant", "a7")]).await;

    let mut running = Running::spawn(&mut run);
    let board = scoreboard(&running).await;
    until("it came twice", async || worker.ids().values().sum::<u32>() >= 2).await;
    worker.answer(200);
    for number in 0..20 {
        queue.send(&number.to_string(), &[]).await;
    }
    until("all is deleted", async || {
        worker.count() == 21 && queue.depth().await == (0, 0)
    })
    .await;

    let (status, stats) = get(&format!("{board}/worker/stats")).await;
    assert_eq!(status, 200);
    assert!(
        stats.contains("\"total_succeeded\":21") && stats.contains("\"max_worker\":16"),
        "{stats}"
    );
    let told = worker.headers();
    let told = |name: &str| told[0].get(name).map(|value| value.to_str().unwrap());
    assert_eq!(told("x-aws-sqsd-attr-tenant"), Some("a7"));
    assert_eq!(told("idempotency-key"), None);
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    assert!(dir.path().join("sqsd.db").exists());
}
