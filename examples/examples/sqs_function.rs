//! Invokes a function for each message of an SQS queue, and shows on a port what it is working on.
use std::{env, time::Duration};

use dispatch_core::{BoxError, Message, Pipeline, asked_to_end, sink_fn};
use dispatch_monitoring::Server;
use dispatch_sources::sqs::{SqsSource, SqsSourceConfig};

async fn job(message: Message) -> Result<(), BoxError> {
    println!("{}: {}", message.id(), std::str::from_utf8(&message.payload)?);
    Ok(())
}
#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let queue = SqsSource::new(SqsSourceConfig::new(env::var("QUEUE_URL")?))?;
    let jobs = Pipeline::builder("jobs").source(queue).sink(sink_fn(job));
    let jobs = jobs.concurrency(16).prefetch(0).timeout(Duration::from_secs(60));
    let jobs = jobs.stack(|stack| stack.retry = None).build()?;
    let port = env::var("MONITORING_PORT").unwrap_or_else(|_| "6969".to_owned());
    let _monitoring = Server::start(([127, 0, 0, 1], port.parse()?).into(), [jobs.handle()])?;
    println!("{:?}", jobs.run_until(asked_to_end()).await?);
    Ok(())
}
