use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use smol_str::SmolStr;
use tokio::sync::Notify;

use crate::{Error, Message, Reply, Sink, lock::lock};

/// A sink that remembers what it took, answers as it is told, and can be waited for.
///
/// ```
/// use dispatch_core::{Error, testing::MemorySink};
///
/// // fails the first attempt of every message
/// let sink = MemorySink::answering(|message| if message.attempt == 1 { Err(Error::retry("not yet")) } else { Ok(()) });
/// assert_eq!(sink.count(), 0);
/// ```
#[derive(Clone)]
pub struct MemorySink(Arc<Inner>);

type Answer = dyn Fn(&Message) -> Result<(), Error> + Send + Sync;

struct Inner {
    answer: Box<Answer>,
    takes: Duration,
    taken: Mutex<Taken>,
    changed: Notify,
}

#[derive(Default)]
struct Taken {
    messages: Vec<Message>,
    calls: HashMap<SmolStr, u32>,
    now: usize,
    most: usize,
}

impl fmt::Debug for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySink").field("count", &self.count()).finish()
    }
}

impl Default for MemorySink {
    fn default() -> Self {
        Self::new()
    }
}

impl MemorySink {
    /// Takes everything at once.
    #[must_use]
    pub fn new() -> Self {
        Self::answering(|_| Ok(()))
    }

    /// Takes what `answer` says yes to.
    pub fn answering(answer: impl Fn(&Message) -> Result<(), Error> + Send + Sync + 'static) -> Self {
        Self::slow(Duration::ZERO, answer)
    }

    /// As [`answering`](Self::answering), after so long.
    pub fn slow(takes: Duration, answer: impl Fn(&Message) -> Result<(), Error> + Send + Sync + 'static) -> Self {
        let inner = Inner {
            answer: Box::new(answer),
            takes,
            taken: Mutex::default(),
            changed: Notify::new(),
        };
        Self(Arc::new(inner))
    }

    /// The messages it took, in order.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.0.taken).messages.clone()
    }

    /// The payloads it took, in order, as text.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.messages()
            .iter()
            .map(|message| String::from_utf8_lossy(&message.payload).into_owned())
            .collect()
    }

    /// How many it took.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.0.taken).messages.len()
    }

    /// How often it was called with each message, taken or not.
    #[must_use]
    pub fn calls(&self) -> HashMap<SmolStr, u32> {
        lock(&self.0.taken).calls.clone()
    }

    /// The most calls that ran at once.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        lock(&self.0.taken).most
    }

    /// Waits until it has taken `count`.
    pub async fn took(&self, count: usize) {
        loop {
            let changed = self.0.changed.notified();
            if self.count() >= count {
                return;
            }
            changed.await;
        }
    }

    /// Waits until it has been called `count` times in all.
    pub async fn called(&self, count: u32) {
        loop {
            let changed = self.0.changed.notified();
            if lock(&self.0.taken).calls.values().sum::<u32>() >= count {
                return;
            }
            changed.await;
        }
    }
}

/// Counts one call as running for as long as it lives.
struct Running<'a>(&'a Inner);

impl<'a> Running<'a> {
    fn new(inner: &'a Inner, message: &Message) -> Self {
        let mut taken = lock(&inner.taken);
        *taken.calls.entry(message.id().clone()).or_default() += 1;
        taken.now += 1;
        taken.most = taken.most.max(taken.now);
        drop(taken);
        inner.changed.notify_waiters();
        Self(inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.taken).now -= 1;
    }
}

#[async_trait]
impl Sink for MemorySink {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let _running = Running::new(&self.0, &message);
        if !self.0.takes.is_zero() {
            tokio::time::sleep(self.0.takes).await;
        }
        (self.0.answer)(&message)?;
        let reply = Reply::new(message.payload.clone());
        lock(&self.0.taken).messages.push(message);
        self.0.changed.notify_waiters();
        Ok(reply)
    }
}
