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
//! # serve_lower_every = 10   # one message in ten is of a lower priority; without it the highest goes first always
//! ```
//!
//! ```
//! use dispatch_sources::queue::QueueSourceConfig;
//!
//! let config: QueueSourceConfig = toml::from_str(r#"queue = "orders""#)?;
//! assert_eq!(config.lease.to_string(), "30s");
//! # Ok::<_, toml::de::Error>(())
//! ```

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use dispatch_core::{
    Source,
    config::{BuildContext, ConfigError, Period, SourceConfig, Stability},
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
    /// Of so many messages one is of a priority below the highest that waits, 2 at least; the lower ones take turns.
    /// Default: none, the highest priority goes first always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub serve_lower_every: Option<NonZeroU32>,
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
            serve_lower_every: None,
        }
    }
}

impl SourceConfig for QueueSourceConfig {
    const TYPE: &'static str = "queue";
    const SUMMARY: &'static str = "reads our own durable queue in the Store";
    const STABILITY: Stability = Stability::Stable;

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
        if self.serve_lower_every == Some(NonZeroU32::MIN) {
            let error = ConfigError::at("serve_lower_every", "no message would be of the highest priority");
            return Err(error.help("write 2 or more, such as 10"));
        }
        let source = QueueSource::new(Arc::clone(&context.store), self.queue)
            .lease(self.lease.0)
            .ordered(self.ordered);
        let source = match self.serve_lower_every {
            Some(every) => source.serve_lower_every(every),
            None => source,
        };
        Ok(Box::new(source.answering(&context.commands, &context.meter)))
    }
}

#[cfg(test)]
mod tests {
    use dispatch_core::{MemoryStore, Message, Order, Received, Store as _, store::Item};

    use super::*;

    fn build(toml: &str) -> Result<Box<dyn Source>, ConfigError> {
        build_over(Arc::new(MemoryStore::new()), toml)
    }

    fn build_over(store: Arc<MemoryStore>, toml: &str) -> Result<Box<dyn Source>, ConfigError> {
        let config: QueueSourceConfig = toml::from_str(toml).unwrap();
        config.build(&BuildContext {
            pipeline: "p".into(),
            component: "source".into(),
            store,
            base_dir: ".".into(),
            concurrency: 1,
            meter: dispatch_core::telemetry::Meter::default(),
            commands: dispatch_core::Commands::default(),
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

    #[tokio::test]
    async fn lower_priorities_are_served_as_configured() {
        for (config, expected) in [("", "99991"), ("\nserve_lower_every = 2", "91999")] {
            let store = Arc::new(MemoryStore::new());
            let items = [1, 9, 9, 9, 9].map(|priority: i16| {
                let mut item = Item::of(&Message::new(priority.to_string()));
                item.priority = priority;
                item
            });
            store.queue().enqueue("q", items.into()).await.unwrap();
            let mut source = build_over(store, &format!("queue = \"q\"{config}")).unwrap();

            let (mut order, mut held) = (String::new(), Vec::new());
            while held.len() < 5 {
                let Received::Batch(batch) = source.receive(5).await.unwrap() else {
                    panic!("a queue has no end")
                };
                for delivery in batch {
                    order.push_str(std::str::from_utf8(&delivery.message.payload).unwrap());
                    held.push(delivery);
                }
            }

            assert_eq!(order, expected, "{config}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (toml, field) in [
            ("queue = \"\"", "queue"),
            ("queue = \"q\"\nlease = \"10ms\"", "lease"),
            ("queue = \"q\"\nserve_lower_every = 1", "serve_lower_every"),
        ] {
            assert_eq!(
                build(toml).err().and_then(|error| error.field).as_deref(),
                Some(field),
                "{toml}"
            );
        }
    }
}
