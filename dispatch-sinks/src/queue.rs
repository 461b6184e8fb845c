//! Puts each message into our own durable queue, in the pipeline's Store.
//!
//! A message is done when it is on disk. What a batch has for one queue is one transaction: all or none. The message keeps its id, headers,
//! metadata and key; the source `queue` of this or another pipeline takes it out.
//!
//! With `dedupe`, at most one message with the same text in that field waits in the queue; a second one counts as done
//! and its reply says so in the header `dispatch-duplicate: true`. Once the first is being worked on, the next may wait.
//!
//! ```toml
//! [sink]
//! type = "queue"
//! queue = "orders"               # or by each message: "{{ header:queue | default \"orders\" }}"
//! priority = 5                   # higher goes first; 0 by default
//! delay = "10m"                  # not before; at once by default
//! dedupe = "header:order-id"     # a field of the message: id, key, header:NAME, meta:NAME, payload:/json/pointer
//! key = "payload:/customer"      # the key to keep order under; the message's own by default
//! # tasks = true                 # named tasks: what each asks for itself goes before the keys above
//! ```
//!
//! A task that a [`Publisher`](crate::tasks::Publisher) starts waits and is told from its like as it asks itself, by `delay` and
//! `on_duplicate`; with `tasks` so is each message, which must then be a task. In the store's terms that is what
//! `dispatch_enqueue` makes of the same task: what is published from Python and from here has one meaning.
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

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use dispatch_core::{
    Error, Message, Reply, Selector, Sink, Store,
    config::{BuildContext, ConfigError, Period, SinkConfig, Stability, Template},
    store::{Enqueued, Item},
    tasks::{ASKS, heed},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which queue to fill, and how.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct QueueSinkConfig {
    /// The queue's name; it exists by being used. With `{{ … }}` of each message's own.
    pub queue: Template,
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
    /// Whether each message is a named task, whose own `delay` and `on_duplicate` are heeded. Not behind a source
    /// `pg_notify`, which has heeded them. Default: no.
    #[serde(default)]
    pub tasks: bool,
}

impl QueueSinkConfig {
    /// Fills `queue`, at once and with priority 0.
    pub fn new(queue: impl Into<String>) -> Self {
        Self::by(Template::literal(queue))
    }

    /// As [`new`](Self::new), the queue that the template makes of each message: `{{ header:queue | default "jobs" }}` heeds what
    /// [`Options::queue`](crate::tasks::Options::queue) says.
    #[must_use]
    pub const fn by(queue: Template) -> Self {
        Self {
            queue,
            priority: 0,
            delay: None,
            dedupe: None,
            key: None,
            tasks: false,
        }
    }
}

impl SinkConfig for QueueSinkConfig {
    const TYPE: &'static str = "queue";
    const SUMMARY: &'static str = "puts each message into our own durable queue in the Store";
    const STABILITY: Stability = Stability::Stable;

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
        if config.queue.as_literal() == Some("") {
            return Err(ConfigError::at("queue", "the queue has no name").help("write one, such as \"orders\""));
        }
        Ok(Self { config, store })
    }

    fn item(&self, message: &Message) -> Result<Item, Error> {
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
        if self.config.tasks || message.metadata().get(ASKS).is_some() {
            item.metadata.remove(ASKS);
            heed(&mut item)?;
        }
        Ok(item)
    }

    fn queue<'m>(&'m self, message: &'m Message) -> Result<Cow<'m, str>, Error> {
        let queue = self.config.queue.render(message)?;
        if queue.is_empty() {
            return Err(Error::permanent("the queue's name is empty for this message").with_code("no_queue"));
        }
        Ok(queue)
    }

    async fn enqueue(&self, queue: &str, items: Vec<Item>) -> Result<Vec<Reply>, Error> {
        let answers = self.store.queue().enqueue(queue, items).await?;
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
        let queue = self.queue(&message)?;
        let replies = self.enqueue(&queue, vec![self.item(&message)?]).await?;
        Ok(replies.into_iter().next().unwrap_or_default())
    }

    async fn send_batch(&self, messages: Vec<Message>) -> Vec<Result<Reply, Error>> {
        let mut answers: Vec<Result<Reply, Error>> = messages.iter().map(|_| Ok(Reply::default())).collect();
        let mut queues: BTreeMap<Cow<'_, str>, (Vec<usize>, Vec<Item>)> = BTreeMap::new();
        for (place, message) in messages.iter().enumerate() {
            match self.queue(message).and_then(|queue| Ok((queue, self.item(message)?))) {
                Ok((queue, item)) => {
                    let (places, items) = queues.entry(queue).or_default();
                    places.push(place);
                    items.push(item);
                }
                Err(error) => answers[place] = Err(error),
            }
        }
        for (queue, (places, items)) in queues {
            let mut stored = self.enqueue(&queue, items).await.map(Vec::into_iter);
            for place in places {
                answers[place] = match &mut stored {
                    Ok(replies) => Ok(replies.next().unwrap_or_default()),
                    // One transaction: what failed for one failed for all.
                    Err(error) => {
                        let again = Error::new(error.class(), error.report());
                        Err(match error.code() {
                            Some(code) => again.with_code(code.clone()),
                            None => again,
                        })
                    }
                };
            }
        }
        answers
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
    async fn each_message_may_name_its_queue() {
        let (sink, store) = sink("queue = '{{ header:queue }}'");
        let to = |queue: &str| Message::new(queue.to_owned()).header("queue", queue);

        let answers = sink
            .send_batch(vec![to("q"), Message::new("nowhere"), to("r"), to("q")])
            .await;
        sink.send(to("r")).await.unwrap();

        assert_eq!(
            answers.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, false, true, true]
        );
        let (q, r) = (
            store.queue().depth("q").await.unwrap(),
            store.queue().depth("r").await.unwrap(),
        );
        assert_eq!((q.ready, r.ready), (2, 2));
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

    #[tokio::test]
    async fn a_task_waits_and_is_told_from_its_like_as_it_asks() {
        let task = |members: &str| Message::new(format!(r#"{{"task": "a.b", "args": [1]{members}}}"#));
        for (policy, kept) in [("parallel", 3), ("serial", 3), ("queue_one", 1), ("discard", 1)] {
            let (sink, store) = sink("queue = \"q\"\ntasks = true\nkey = \"id\"");
            for uuid in 0..3 {
                let message = task(&format!(r#", "uuid": "{uuid}", "on_duplicate": "{policy}""#));
                sink.send(message).await.unwrap();
            }

            let items = claim(&store).await;

            assert_eq!(items.len(), kept, "{policy}");
            // The identity as Python has it.
            let identity = "795fb81df766d570b2e7b6f534eabb7db8a57d2366b8365cd30aa50fa9fcef02";
            let of_task = items.iter().all(|item| item.key.as_deref() == Some(identity));
            assert_eq!(of_task, policy != "parallel", "{policy}: {items:?}");
            sink.send(task(&format!(r#", "on_duplicate": "{policy}""#)))
                .await
                .unwrap();
            let more = if policy == "discard" { 0 } else { 1 };
            assert_eq!(claim(&store).await.len(), more, "{policy}, while its like is at work");
        }
        let (sink, _) = sink("queue = \"q\"\ntasks = true");
        let answers = sink
            .send_batch(vec![
                Message::new("no task"),
                task(""),
                task(r#", "delay": "soon""#),
                Message::new(r#"{"control": "alive"}"#),
                task(""),
            ])
            .await;
        let codes: Vec<_> = answers
            .iter()
            .map(|answer| answer.as_ref().err().and_then(|error| error.code()).map(|code| &**code))
            .collect();
        assert_eq!(codes, [Some("no_task"), None, Some("no_task"), Some("no_task"), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_that_a_task_asks_for_goes_before_the_sinks_and_is_asked_for_once() {
        let (first, store) = sink("queue = \"q\"\ndelay = \"10m\"");
        let asks = Message::new(r#"{"task": "a.b", "delay": 60}"#).meta(ASKS, "1");
        first.send(asks).await.unwrap();
        first
            .send(Message::new(r#"{"task": "a.b", "delay": 60}"#))
            .await
            .unwrap();

        tokio::time::advance(Duration::from_secs(61)).await;
        let items = claim(&store).await;

        assert_eq!(items.len(), 1, "what nobody asks is as the sink has it");
        assert_eq!(items[0].metadata.get(ASKS), None);
    }
}
