//! Reads our own durable queue, in the pipeline's Store.
//!
//! What the sink `queue` (or `dispatch send`, or a replay of dead letters) puts there, this takes out: at least once,
//! under a lease that is extended while the work goes on. A lease that its holder lost, by a crash or a pause, lets
//! nobody settle any more, and the message goes to whoever claims it next. The message keeps its id, headers, metadata
//! and key, and how often it was tried.
//!
//! # Capabilities
//! Nack with any delay; leases, which are extended; attempts and their errors are remembered with the message. Order by
//! key where `ordered` asks for it: a message that waits for its next attempt holds those behind it back.
//!
//! ```toml
//! [source]
//! type = "queue"
//! queue = "orders"
//! lease = "30s"        # how long a crash can hide a message
//! ordered = true       # one message a key at a time, oldest first
//! ```
//!
//! ```
//! use dispatch_sources::queue::QueueSourceConfig;
//!
//! let config: QueueSourceConfig = toml::from_str(r#"queue = "orders""#)?;
//! assert_eq!(config.lease.to_string(), "30s");
//! # Ok::<_, toml::de::Error>(())
//! ```

use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Source,
    config::{BuildContext, ConfigError, Period, SourceConfig},
    store::QueueSource,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which queue to read, and how.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct QueueSourceConfig {
    /// The queue's name; it exists by being used.
    pub queue: String,
    /// How long a message is ours unless the lease is extended, at least `1s`. Default `30s`.
    #[serde(default = "lease")]
    pub lease: Period,
    /// Whether messages under one key are worked one at a time, oldest first. Default: no.
    #[serde(default)]
    pub ordered: bool,
}

fn lease() -> Period {
    Period(Duration::from_secs(30))
}

impl QueueSourceConfig {
    /// Reads `queue` under leases of 30 s, in no order of keys.
    pub fn new(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            lease: lease(),
            ordered: false,
        }
    }
}

impl SourceConfig for QueueSourceConfig {
    const TYPE: &'static str = "queue";
    const SUMMARY: &'static str = "reads our own durable queue in the Store";

    fn build(self, context: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        if self.queue.is_empty() {
            return Err(ConfigError::at("queue", "the queue has no name").help("write one, such as \"orders\""));
        }
        if self.lease.0 < Duration::from_secs(1) {
            return Err(
                ConfigError::at("lease", format!("a lease of {} is too short", self.lease))
                    .help("write \"1s\" or more; the lease is extended while the work goes on"),
            );
        }
        let source = QueueSource::new(Arc::clone(&context.store), self.queue)
            .lease(self.lease.0)
            .ordered(self.ordered);
        Ok(Box::new(source))
    }
}

#[cfg(test)]
mod tests {
    use dispatch_core::{MemoryStore, Order};

    use super::*;

    fn build(toml: &str) -> Result<Box<dyn Source>, ConfigError> {
        let config: QueueSourceConfig = toml::from_str(toml).unwrap();
        config.build(&BuildContext {
            pipeline: "p".into(),
            component: "source".into(),
            store: Arc::new(MemoryStore::new()),
            base_dir: ".".into(),
            concurrency: 1,
            meter: dispatch_core::telemetry::Meter::default(),
        })
    }

    #[test]
    fn order_and_lease_are_as_configured() {
        let plain = build("queue = \"q\"").unwrap().capabilities();
        let ordered = build("queue = \"q\"\nlease = \"5s\"\nordered = true")
            .unwrap()
            .capabilities();

        assert_eq!((plain.order, plain.lease), (Order::None, Some(Duration::from_secs(30))));
        assert_eq!(
            (ordered.order, ordered.lease),
            (Order::Key, Some(Duration::from_secs(5)))
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (toml, field) in [("queue = \"\"", "queue"), ("queue = \"q\"\nlease = \"10ms\"", "lease")] {
            assert_eq!(
                build(toml).err().and_then(|error| error.field).as_deref(),
                Some(field),
                "{toml}"
            );
        }
    }
}
