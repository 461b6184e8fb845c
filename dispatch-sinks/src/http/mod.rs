//! Sends each message to a URL and reads the answer's status.
//!
//! The payload is the body, the message's headers go along, and the status decides:
//!
//! | answer | class |
//! |---|---|
//! | 2xx | success |
//! | 408, 425, other 5xx, connection lost midway, attempt timeout | `retry` |
//! | 429, 503 | `throttled`, by `Retry-After` up to `retry_after_max` |
//! | 401, 407, no connection (refused, unknown host, TLS) | `unavailable`: the worker is down or refuses *us*, not this message |
//! | other 4xx (403 and 404 too), 1xx, 3xx | `permanent`; redirects are not followed |
//! | a message that makes no valid request, a private address under a templated host | `permanent` |
//!
//! `statuses` overrides this by status or by hundred: `{ "404" = "permanent", "5xx" = "retry", "409" = "success" }`.
//!
//! # Guarantees
//! A message counts as done when the whole answer was read. A kept connection that turns out closed before a byte of
//! the request was written is replaced once, silently; anything later is a failed attempt, because the worker may
//! have begun. With `sqsd` the request is also repeated once, at once, when a kept connection was closed before a byte of the
//! answer. Dropping a send closes its connection (HTTP/2: resets its stream), so the worker can notice.
//!
//! # Connections
//! HTTP/1 keeps one connection per concurrent call, last used first; HTTP/2 shares one. Idle ones are closed after
//! `keep_alive` when the next call looks at them.
//!
//! # Configuration
//! ```toml
//! [sink]
//! type = "http"
//! url = "http://127.0.0.1:8080/work"
//! # method = "POST"                    # GET and HEAD send no body
//! # headers = { "x-tenant" = "{{ header:tenant }}" }
//! # timeout = "30s"                    # whole attempt; [layers] timeout is the usual place
//! # auth = { bearer = "${file:/run/secrets/token}" }
//! # statuses = { "409" = "success" }
//! # inactivity_timeout = "5m"         # no byte for so long
//! # hmac = { header = "x-signature", secret = "${WEBHOOK_SECRET}" }
//! # sqsd = { compat = "beanstalk" }   # X-Aws-Sqsd-* headers, periodic tasks
//! # health = { url = "http://127.0.0.1:8080/health" }
//! # signing = { secret = "${WEBHOOK_SECRET}" }   # Standard Webhooks
//! ```
//!
//! From Rust:
//! ```
//! use dispatch_sinks::http::{HttpSink, HttpSinkConfig};
//!
//! let mut config = HttpSinkConfig::new("http://127.0.0.1:8080/work".parse()?);
//! config.statuses.insert("409".into(), "success".parse()?);
//! let sink = HttpSink::new(&config, ".".as_ref())?;
//! # let _ = sink;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod body;
mod caller;
mod config;
mod connect;
mod counted;
mod error;
mod guard;
mod health;
mod hmac;
mod iso;
mod pool;
mod signing;
mod sink;
mod sqsd;
mod statuses;
#[cfg(test)]
mod tests;
mod tls;
mod url;
mod wire;

pub use config::{Auth, ForwardHeaders, HttpSinkConfig, HttpVersion, SigningConfig, TlsConfig};
pub use dispatch_core::config::Verdict;
pub use error::HttpSinkError;
pub use health::HealthConfig;
pub use hmac::HmacConfig;
pub use sink::HttpSink;
pub use sqsd::{BatchConfig, BinaryAttributes, Compat, SqsdConfig};
