//! Any tower service as the worker, and any tower layer around it.
//!
//! `cargo run -p dispatch-examples --example tower_service`

use std::time::Duration;

use dispatch_core::{BoxError, Class, Error, Message, Pipeline, Reply, RetryPolicy};
use dispatch_sources::startup::{StartupSource, StartupSourceConfig};
use tower::{ServiceBuilder, service_fn, util::MapRequestLayer};

/// Works on one message; the first attempt finds the far side busy.
async fn work(message: Message) -> Result<Reply, Error> {
    let payload = String::from_utf8_lossy(&message.payload).into_owned();
    if message.attempt == 1 && payload == "b" {
        return Err(Error::new(Class::Retry, "busy").with_code("busy"));
    }
    let by = message.headers().get("x-worker").unwrap_or("nobody");
    println!("{payload}: attempt {}, done by {by}", message.attempt);
    Ok(Reply::new(payload.to_uppercase()))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut letters = StartupSourceConfig::new(["a", "b", "c"]);
    letters.then_end = true;

    // A stack of your own around a service of your own: what goes in is a `Message`, what comes out turns into a `Reply`.
    let worker = ServiceBuilder::new()
        .map_request(|message: Message| message.header("x-worker", "tower"))
        .service(service_fn(work));

    let summary = Pipeline::builder("tower_service")
        .source(StartupSource::new(&letters)?)
        .service(worker)
        // One more layer, inside dispatch's own: it sees every attempt.
        .layer(MapRequestLayer::new(|message: Message| {
            println!("attempt {} of {}", message.attempt, message.id());
            message
        }))
        .rate_limit(100, Duration::from_secs(1))
        .retry(RetryPolicy::default())
        .run()
        .await?;

    assert_eq!((summary.delivered, summary.failed), (3, 1));
    Ok(())
}
