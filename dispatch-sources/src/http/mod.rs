//! Takes messages from HTTP requests.
//!
//! `POST` to `path`; the body is the payload, and the request's headers that `headers` lists go along. Metadata:
//! `http_path`, `http_query` and `http_remote` (the peer's address). Two modes:
//!
//! | `mode` | the answer means |
//! |---|---|
//! | `async` (default) | 202 and `{"id": "…"}`: the message is durable in the Store's queue `http:<pipeline>:<source>` |
//! | `sync` | the sink's own answer: 200 with its bytes and headers; 502 where it was given up on (and kept as a dead letter); 503 with `Retry-After` where it is the caller's to send again |
//!
//! | other answers | because |
//! |---|---|
//! | 400 | a line of a batch is not JSON; nothing of the batch was taken |
//! | 401 | the token is missing or wrong |
//! | 405 | another method than `POST` |
//! | 409 | the same `Idempotency-Key` is being taken right now |
//! | 413 | the body is larger than `max_body` |
//! | 415 | a batch in `sync` mode |
//! | 503 | the Store fails, or (`sync`) nobody works right now or too many wait; with `Retry-After` |
//!
//! # Batches
//! In `async` mode a body of the type `application/x-ndjson` is one message per line, all taken or none; the answer is
//! `{"accepted": n}`.
//!
//! # Idempotency
//! With an `Idempotency-Key` the message's id is that key, and in `async` mode a key that was taken in the last 24
//! hours is taken once: a repetition is answered 202 with `"duplicate": true`.
//!
//! # Guarantees
//! `async`: what was answered 202 is delivered at least once, over restarts. `sync`: the caller keeps the message until
//! it is answered; a caller that is gone is a lease that is lost.
//!
//! # Capabilities
//! `async`: redelivery, any delay, leases of 30 s that are extended, attempts counted. `sync`: replies; a nack goes
//! back to the caller.
//!
//! # Configuration
//! ```toml
//! [source]
//! type = "http"
//! listen = "127.0.0.1:8080"       # anything but loopback needs a token
//! path = "/"
//! # mode = "sync"
//! # token = "${file:/run/secrets/token}"
//! # max_body = "1MiB"
//! # headers = ["content-type", "traceparent", "tracestate", "x-*"]
//! ```
//!
//! From Rust:
//! ```
//! use dispatch_sources::http::{HttpSourceConfig, Mode};
//!
//! let mut config = HttpSourceConfig::default();
//! config.mode = Mode::Sync;
//! ```

mod config;
mod error;
mod intake;
mod server;
mod settler;
mod source;
mod waiting;
mod wire;

pub use config::{HttpSourceConfig, Mode};
pub use error::HttpSourceError;
pub use source::HttpSource;
