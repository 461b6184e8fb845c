//! Puts each message into our own durable queue, in the pipeline's Store.
//!
//! A message is done when it is on disk. A batch is one transaction: all or none. The message keeps its id, headers,
//! metadata and key; the source `queue` of this or another pipeline takes it out.
//!
//! With `dedupe`, at most one message with the same text in that field waits in the queue; a second one counts as done
//! and its reply says so in the header `dispatch-duplicate: true`. Once the first is being worked on, the next may wait.
//!
//! ```toml
//! [sink]
//! type = "queue"
//! queue = "orders"
//! priority = 5                   # higher goes first; 0 by default
//! delay = "10m"                  # not before; at once by default
//! dedupe = "header:order-id"     # a field of the message: id, key, header:NAME, meta:NAME, payload:/json/pointer
//! key = "payload:/customer"      # the key to keep order under; the message's own by default
//! ```
//!
//! ```
//! use dispatch_sinks::queue::QueueSinkConfig;
//!
//! let config: QueueSinkConfig = toml::from_str(r#"
//!     queue = "orders"
//!     dedupe = "header:order-id"
//! "#)?;
//! # let _ = config;
//! # Ok::<_, toml::de::Error>(())
//! ```

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use dispatch_core::{
    Error, Message, Reply, Selector, Sink, Store,
    config::{BuildContext, ConfigError, Period, SinkConfig},
    store::{Enqueued, Item},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which queue to fill, and how.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct QueueSinkConfig {
    /// The queue's name; it exists by being used.
    pub queue: String,
    /// Higher goes first. Default 0.
    #[serde(default)]
    pub priority: i16,
    /// How long to wait before a message may be claimed. Default: not at all.
    #[serde(default)]
    pub delay: Option<Period>,
    /// The field that must be unique among what waits.
    #[serde(default)]
    pub dedupe: Option<Selector>,
    /// The field to keep order under; by default the message's own key.
    #[serde(default)]
    pub key: Option<Selector>,
}

impl QueueSinkConfig {
    /// Fills `queue`, at once and with priority 0.
    pub fn new(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            ..Self::default()
        }
    }
}

impl SinkConfig for QueueSinkConfig {
    const TYPE: &'static str = "queue";
    const SUMMARY: &'static str = "puts each message into our own durable queue in the Store";

    fn build(self, context: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError> {
        Ok(Arc::new(QueueSink::new(self, Arc::clone(&context.store))?))
    }
}

/// Puts each message into a durable queue. The module's page says how.
#[derive(Debug, Clone)]
pub struct QueueSink {
    config: QueueSinkConfig,
    store: Arc<dyn Store>,
}

impl QueueSink {
    /// Checks `config` and makes the sink.
    ///
    /// # Errors
    /// A queue without a name.
    pub fn new(config: QueueSinkConfig, store: Arc<dyn Store>) -> Result<Self, ConfigError> {
        if config.queue.is_empty() {
            return Err(ConfigError::at("queue", "the queue has no name").help("write one, such as \"orders\""));
        }
        Ok(Self { config, store })
    }

    fn item(&self, message: &Message) -> Item {
        let mut item = Item::of(message);
        item.priority = self.config.priority;
        item.run_at = self
            .config
            .delay
            .and_then(|delay| SystemTime::now().checked_add(delay.0));
        item.dedupe = self.config.dedupe.as_ref().and_then(|field| field.select(message));
        if let Some(field) = &self.config.key {
            item.key = field.select(message);
        }
        item
    }

    async fn enqueue(&self, items: Vec<Item>) -> Result<Vec<Reply>, Error> {
        let answers = self.store.queue().enqueue(&self.config.queue, items).await?;
        Ok(answers.into_iter().map(reply).collect())
    }
}

fn reply(answer: Enqueued) -> Reply {
    let mut reply = Reply::default();
    if answer == Enqueued::Duplicate {
        reply.headers.insert("dispatch-duplicate", "true");
    }
    reply
}

#[async_trait]
impl Sink for QueueSink {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let replies = self.enqueue(vec![self.item(&message)]).await?;
        Ok(replies.into_iter().next().unwrap_or_default())
    }

    async fn send_batch(&self, messages: Vec<Message>) -> Vec<Result<Reply, Error>> {
        let items = messages.iter().map(|message| self.item(message)).collect();
        match self.enqueue(items).await {
            Ok(replies) => replies.into_iter().map(Ok).collect(),
            // One transaction: what failed for one failed for all.
            Err(error) => {
                let (class, code, text) = (error.class(), error.code().cloned(), error.report());
                let failed = |_| {
                    let error = Error::new(class, text.clone());
                    Err(match &code {
                        Some(code) => error.with_code(code.clone()),
                        None => error,
                    })
                };
                messages.iter().map(failed).collect()
            }
        }
    }

    async fn probe(&self) -> Result<(), Error> {
        self.store.probe().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dispatch_core::{MemoryStore, store::Claim, testing::sink::sink_battery};

    use super::*;

    fn sink(toml: &str) -> (QueueSink, Arc<dyn Store>) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        (
            QueueSink::new(toml::from_str(toml).unwrap(), Arc::clone(&store)).unwrap(),
            store,
        )
    }

    async fn claim(store: &Arc<dyn Store>) -> Vec<Item> {
        let claim = Claim {
            max: 100,
            lease: Duration::from_secs(60),
            ordered: false,
            below: None,
        };
        let claimed = store.queue().claim("q", claim).await.unwrap();
        claimed.into_iter().map(|claimed| claimed.item).collect()
    }

    #[tokio::test]
    async fn it_passes_the_battery() {
        let (sink, store) = sink("queue = \"q\"");
        let seen = std::sync::Mutex::new(Vec::new());

        sink_battery(&sink, async |id| {
            let claimed = claim(&store).await;
            let mut seen = seen.lock().unwrap();
            seen.extend(claimed.into_iter().map(|item| item.id));
            seen.iter().any(|seen| seen == id)
        })
        .await;
    }

    #[tokio::test]
    async fn what_waits_already_is_not_put_there_twice() {
        let (sink, store) = sink("queue = \"q\"\ndedupe = \"header:order\"\nkey = \"payload:/customer\"\npriority = 3");
        let message = Message::new(r#"{"customer":"c7"}"#).header("order", "o1");

        let first = sink.send(message.clone()).await.unwrap();
        let second = sink.send(message).await.unwrap();
        let items = claim(&store).await;

        assert_eq!(first.headers.get("dispatch-duplicate"), None);
        assert_eq!(second.headers.get("dispatch-duplicate"), Some("true"));
        assert_eq!(items.len(), 1);
        assert_eq!((items[0].key.as_deref(), items[0].priority), (Some("c7"), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_message_is_there_after_its_delay() {
        let (sink, store) = sink("queue = \"q\"\ndelay = \"10m\"");
        sink.send(Message::new("later")).await.unwrap();

        let before = claim(&store).await.len();
        tokio::time::advance(Duration::from_secs(601)).await;
        let after = claim(&store).await.len();

        assert_eq!((before, after), (0, 1));
    }
}
