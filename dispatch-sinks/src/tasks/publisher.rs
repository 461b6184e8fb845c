//! Starting tasks, over whatever sink carries their messages.

use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Error, Message, Sink, random_id,
    tasks::{ASKS, OnDuplicate},
};
use smol_str::SmolStr;

use super::{Task, wire};

/// How a task is published, beside what its type says.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// The queue or channel; the task's own, else the publisher's.
    pub queue: Option<SmolStr>,
    /// How long it waits before it may run.
    pub delay: Option<Duration>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// What happens if its like runs or waits; it runs beside it by default.
    pub on_duplicate: Option<OnDuplicate>,
    /// Its id; random by default.
    pub uuid: Option<SmolStr>,
    /// Whether a Python task gets the object that it talks to its worker with.
    pub bind: bool,
}

impl Options {
    /// To this queue or channel.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<SmolStr>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Not before so long.
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// To be ended after so long.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// If its like runs or waits, this happens.
    #[must_use]
    pub const fn on_duplicate(mut self, on_duplicate: OnDuplicate) -> Self {
        self.on_duplicate = Some(on_duplicate);
        self
    }

    /// Under this id.
    #[must_use]
    pub fn uuid(mut self, uuid: impl Into<SmolStr>) -> Self {
        self.uuid = Some(uuid.into());
        self
    }

    /// These, and those of `defaults` where these say nothing.
    fn over(self, defaults: Self) -> Self {
        Self {
            queue: self.queue.or(defaults.queue),
            delay: self.delay.or(defaults.delay),
            timeout: self.timeout.or(defaults.timeout),
            on_duplicate: self.on_duplicate.or(defaults.on_duplicate),
            uuid: self.uuid.or(defaults.uuid),
            bind: self.bind || defaults.bind,
        }
    }
}

/// Starts tasks: each becomes a message that a sink takes to where they are worked on. The message has the header
/// `queue` where a queue is named.
///
/// ```
/// # use dispatch_core::{Error, testing::MemorySink};
/// # use dispatch_sinks::tasks::{Options, Publisher, Task};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Hello { name: String }
/// # impl Task for Hello { const NAME: &'static str = "app.hello"; }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
/// # let sink = MemorySink::new();
/// let publisher = Publisher::over(sink); // a pg_notify, sqs, queue, … sink
/// publisher.delay(&Hello { name: "you".to_owned() }).await?;
/// let later = Options::default().delay(std::time::Duration::from_secs(60));
/// publisher.apply_async(&Hello { name: "me".to_owned() }, later).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Publisher(Arc<dyn Sink>);

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher")
    }
}

impl Publisher {
    /// Publishes over `sink`.
    pub fn over(sink: impl Sink) -> Self {
        Self(Arc::new(sink))
    }

    /// Starts `task` as its type says; its id.
    ///
    /// # Errors
    /// What the sink said; `Permanent` if the task cannot be written as JSON.
    pub async fn delay<T: Task>(&self, task: &T) -> Result<SmolStr, Error> {
        self.apply_async(task, Options::default()).await
    }

    /// Starts `task` with `options` over those of its type; its id, also where a queue drops it as a duplicate.
    ///
    /// # Errors
    /// As [`delay`](Self::delay).
    pub async fn apply_async<T: Task>(&self, task: &T, options: Options) -> Result<SmolStr, Error> {
        let options = options.over(T::options());
        let uuid = options.uuid.clone().unwrap_or_else(random_id);
        let text = wire::message(task, &uuid, &options).map_err(Error::permanent)?;
        let mut message = Message::with_id(uuid.clone(), text).meta("task", T::NAME);
        if let Some(queue) = options.queue.as_deref().or(T::QUEUE) {
            message = message.header("queue", queue);
        }
        if options.delay.is_some()
            || options
                .on_duplicate
                .is_some_and(|policy| policy != OnDuplicate::Parallel)
        {
            message = message.meta(ASKS, "1");
        }
        self.0.send(message).await?;
        Ok(uuid)
    }
}
