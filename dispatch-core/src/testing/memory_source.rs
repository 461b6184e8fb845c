use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use smol_str::SmolStr;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    Capabilities, Delivery, Disposition, Error, Message, NackDelay, Received, SettleError, Settlement, Settler, Source,
    Token, lock::lock,
};

/// A broker in memory: leases, fences, delays and redelivery counts like a real one, and a record of what was settled.
///
/// ```
/// use dispatch_core::{Message, testing::MemorySource};
///
/// let source = MemorySource::ending(["a", "b"].map(Message::new));
/// let queue = source.queue();
/// queue.push(Message::new("c"));
/// assert_eq!(queue.waiting(), 3);
/// ```
#[derive(Debug)]
pub struct MemorySource {
    queue: MemoryQueue,
    capabilities: Capabilities,
}

/// The queue behind a [`MemorySource`]: push into it, look into it.
#[derive(Debug, Clone)]
pub struct MemoryQueue(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<(Message, u64)>,
    /// Given back in the batch that is being settled; they go first again, in their order.
    released: Vec<(Message, u64)>,
    delayed: Vec<(Instant, Message, u64)>,
    /// What is out, by token number; its fence, and until when it is the receiver's.
    out: Vec<Option<Out>>,
    free: Vec<usize>,
    ends: bool,
    redelivers: bool,
    lease: Option<Duration>,
    settled: Option<Vec<(SmolStr, Disposition)>>,
    received: u64,
    most_out: usize,
    extended: u64,
    holds: u64,
}

#[derive(Debug)]
struct Out {
    /// Kept only where it may be wanted again.
    message: Option<Message>,
    fence: u64,
    until: Option<Instant>,
}

impl MemorySource {
    /// An input that goes on: messages come by [`MemoryQueue::push`].
    #[must_use]
    pub fn new() -> Self {
        let capabilities = Capabilities {
            nack_delay: NackDelay::Unlimited,
            redelivers: true,
            counts_redeliveries: true,
            ..Capabilities::default()
        };
        let inner = Inner::default();
        lock(&inner.state).redelivers = true;
        lock(&inner.state).settled = Some(Vec::new());
        Self {
            queue: MemoryQueue(Arc::new(inner)),
            capabilities,
        }
    }

    /// An input of these messages that then ends.
    pub fn ending(messages: impl IntoIterator<Item = Message>) -> Self {
        let source = Self::new().with(|capabilities| capabilities.bounded = true);
        lock(&source.queue.0.state).ends = true;
        messages.into_iter().for_each(|message| source.queue.push(message));
        source
    }

    /// The poorest kind of source: it cannot take a message back, delay it or count it.
    #[must_use]
    pub fn poor(self) -> Self {
        self.with(|capabilities| {
            capabilities.redelivers = false;
            capabilities.counts_redeliveries = false;
            capabilities.nack_delay = NackDelay::Unsupported;
        })
    }

    /// Hands deliveries out under a lease, which the driver must extend.
    #[must_use]
    pub fn leasing(self, lease: Duration) -> Self {
        self.with(|capabilities| (capabilities.lease, capabilities.extends) = (Some(lease), true))
    }

    /// Keeps no record of settlements; for benchmarks.
    #[must_use]
    pub fn without_record(self) -> Self {
        lock(&self.queue.0.state).settled = None;
        self
    }

    /// Changes what it says it can do.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Capabilities)) -> Self {
        change(&mut self.capabilities);
        let mut state = lock(&self.queue.0.state);
        state.redelivers = self.capabilities.redelivers;
        state.lease = self.capabilities.lease;
        drop(state);
        self
    }

    /// The queue, to push into and to look into.
    #[must_use]
    pub fn queue(&self) -> MemoryQueue {
        self.queue.clone()
    }
}

impl Default for MemorySource {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryQueue {
    /// Adds a message.
    pub fn push(&self, message: Message) {
        lock(&self.0.state).ready.push_back((message, 1));
        self.0.changed.notify_one();
    }

    /// Ends the input once what is in it has been settled.
    pub fn end(&self) {
        lock(&self.0.state).ends = true;
        self.0.changed.notify_one();
    }

    /// How many wait, delayed ones too.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let state = lock(&self.0.state);
        state.ready.len() + state.delayed.len()
    }

    /// How many are received and not settled.
    #[must_use]
    pub fn out(&self) -> usize {
        let state = lock(&self.0.state);
        state.out.len() - state.free.len()
    }

    /// The most that were ever received and not settled.
    #[must_use]
    pub fn most_out(&self) -> usize {
        lock(&self.0.state).most_out
    }

    /// How many deliveries there have been.
    #[must_use]
    pub fn received(&self) -> u64 {
        lock(&self.0.state).received
    }

    /// How many leases were made longer.
    #[must_use]
    pub fn extended(&self) -> u64 {
        lock(&self.0.state).extended
    }

    /// How often the source was told to hold.
    #[must_use]
    pub fn holds(&self) -> u64 {
        lock(&self.0.state).holds
    }

    /// What was settled, by message id, in order.
    #[must_use]
    pub fn settled(&self) -> Vec<(SmolStr, Disposition)> {
        lock(&self.0.state).settled.clone().unwrap_or_default()
    }

    /// Takes `message` away from whoever has it, as a broker does when a lease runs out.
    pub fn expire(&self, id: &str) {
        let mut state = lock(&self.0.state);
        for out in state
            .out
            .iter_mut()
            .flatten()
            .filter(|out| out.message.as_ref().is_some_and(|message| message.id() == id))
        {
            out.until = Some(Instant::now());
        }
        drop(state);
        self.0.changed.notify_one();
    }
}

impl State {
    /// Makes ready what is due, and what is out past its lease.
    fn refresh(&mut self, now: Instant) {
        let due: Vec<_> = self.delayed.extract_if(.., |(at, ..)| *at <= now).collect();
        self.ready
            .extend(due.into_iter().map(|(_, message, fence)| (message, fence)));
        if self.lease.is_some() {
            for index in 0..self.out.len() {
                if self.out[index]
                    .as_ref()
                    .is_some_and(|out| out.until.is_some_and(|until| until <= now))
                    && let Some(out) = self.take(index)
                {
                    let Some(message) = out.message else { continue };
                    let attempt = message.attempt + 1;
                    self.ready.push_back((message.with_attempt(attempt), out.fence + 1));
                }
            }
        }
    }

    /// When something falls due by the clock alone.
    fn next(&self) -> Option<Instant> {
        let leases = self.out.iter().flatten().filter_map(|out| out.until);
        self.delayed.iter().map(|(at, ..)| *at).chain(leases).min()
    }

    fn take(&mut self, index: usize) -> Option<Out> {
        let out = self.out.get_mut(index)?.take()?;
        self.free.push(index);
        Some(out)
    }

    fn hand_out(&mut self, max: usize, now: Instant) -> Vec<(Message, Token)> {
        let count = max.min(self.ready.len());
        let until = self.lease.map(|lease| now + lease);
        let keep = self.redelivers || self.settled.is_some() || self.lease.is_some();
        let mut batch = Vec::with_capacity(count);
        for (message, fence) in self.ready.drain(..count) {
            let out = Some(Out {
                message: keep.then(|| message.clone()),
                fence,
                until,
            });
            let index = if let Some(index) = self.free.pop() {
                self.out[index] = out;
                index
            } else {
                self.out.push(out);
                self.out.len() - 1
            };
            batch.push((message, Token::new(index as u64, fence)));
        }
        self.received += batch.len() as u64;
        self.most_out = self.most_out.max(self.out.len() - self.free.len());
        batch
    }

    /// The place of a token that still holds.
    fn held(&self, token: &Token) -> Result<usize, SettleError> {
        let index = usize::try_from(token.number).map_err(|_| SettleError::Stale)?;
        match self.out.get(index) {
            Some(Some(out)) if out.fence == token.fence && out.until.is_none_or(|until| until > Instant::now()) => {
                Ok(index)
            }
            _ => Err(SettleError::Stale),
        }
    }

    fn settle(&mut self, settlement: Settlement) -> Result<(), SettleError> {
        let index = self.held(&settlement.token)?;
        let Some(out) = self.take(index) else {
            return Err(SettleError::Stale);
        };
        let (Some(message), fence) = (out.message, out.fence) else {
            return Ok(());
        };
        if let Some(settled) = &mut self.settled {
            settled.push((message.id().clone(), settlement.disposition.clone()));
        }
        if !self.redelivers {
            return Ok(());
        }
        match settlement.disposition {
            Disposition::Ack(_) | Disposition::DeadLetter(_) | Disposition::Parked => {}
            Disposition::Release | Disposition::Bury(_) => self.released.push((message, fence + 1)),
            Disposition::Nack { delay, attempts } => {
                let counted = attempts.iter().filter(|attempt| attempt.class == "retry").count();
                let attempt = message.attempt + u32::try_from(counted).unwrap_or(u32::MAX);
                let at = Instant::now() + delay.unwrap_or_default();
                self.delayed.push((at, message.with_attempt(attempt), fence + 1));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Source for MemorySource {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    fn settler(&self) -> Arc<dyn Settler> {
        // Of its own for each batch: threads that settle need not wait for each other to count references.
        Arc::new(Settling(Arc::clone(&self.queue.0)))
    }

    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        loop {
            let next = {
                let mut state = lock(&self.queue.0.state);
                let now = Instant::now();
                state.refresh(now);
                if !state.ready.is_empty() {
                    let batch = state.hand_out(max, now);
                    drop(state);
                    let settler = self.settler();
                    let deliver = |(message, token)| Delivery::new(message, token, Arc::clone(&settler));
                    return Ok(Received::Batch(batch.into_iter().map(deliver).collect()));
                }
                if state.ends && state.delayed.is_empty() && state.out.len() == state.free.len() {
                    return Ok(Received::End);
                }
                state.next()
            };
            tokio::select! {
                () = self.queue.0.changed.notified() => {}
                () = async { match next { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {}
            }
        }
    }

    async fn hold(&mut self) -> Result<(), Error> {
        lock(&self.queue.0.state).holds += 1;
        Ok(())
    }
}

struct Settling(Arc<Inner>);

#[async_trait]
impl Settler for Settling {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        let mut state = lock(&self.0.state);
        let results = batch.into_iter().map(|settlement| state.settle(settlement)).collect();
        while let Some(released) = state.released.pop() {
            state.ready.push_front(released);
        }
        drop(state);
        self.0.changed.notify_one();
        results
    }

    async fn extend(&self, batch: Vec<Token>, by: Duration) -> Vec<Result<(), SettleError>> {
        let mut state = lock(&self.0.state);
        let mut extend = |token: &Token| {
            let index = state.held(token)?;
            if let Some(out) = &mut state.out[index] {
                out.until = Some(Instant::now() + by);
            }
            state.extended += 1;
            Ok(())
        };
        batch.iter().map(&mut extend).collect()
    }
}
