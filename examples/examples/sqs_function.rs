//! Invokes a function for each message of an SQS queue, and shows on a port what it is working on.
use std::{env, time::Duration};

use dispatch_core::{BoxError, Message, Pipeline, sink_fn};
use dispatch_monitoring::Server;
use dispatch_sources::sqs::{SqsSource, SqsSourceConfig};
use tokio::signal::unix::{SignalKind, signal};

async fn job(message: Message) -> Result<(), BoxError> {
    println!("{}: {}", message.id(), std::str::from_utf8(&message.payload)?);
    Ok(())
}
#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut queue = SqsSourceConfig::new(env::var("QUEUE_URL")?);
    queue.pollers = 4;
    let jobs = Pipeline::builder("jobs")
        .source(SqsSource::new(queue)?)
        .sink(sink_fn(job));
    let jobs = jobs
        .concurrency(16)
        .prefetch(0)
        .timeout(Duration::from_secs(60))
        .stack(|stack| stack.retry = None)
        .build()?;
    let port = env::var("MONITORING_PORT").unwrap_or_else(|_| "6969".to_owned());
    let _monitoring = Server::start(([127, 0, 0, 1], port.parse()?).into(), [jobs.handle()])?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    let ended = jobs.run_until(told).await?;
    println!("{ended:?}");
    Ok(())
}
