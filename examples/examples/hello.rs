//! A whole pipeline: two messages at its start, an async function as the worker.
use dispatch_core::{BoxError, Message, Pipeline, sink_fn};
use dispatch_sources::startup::{StartupSource, StartupSourceConfig};

async fn greet(message: Message) -> Result<String, BoxError> {
    Ok(format!("hello, {}", std::str::from_utf8(&message.payload)?))
}
#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut names = StartupSourceConfig::new(["Ada", "Grace"]);
    names.then_end = true;
    let hello = Pipeline::builder("hello").source(StartupSource::new(&names)?);
    println!("{:?}", hello.sink(sink_fn(greet)).concurrency(8).run().await?);
    Ok(())
}
