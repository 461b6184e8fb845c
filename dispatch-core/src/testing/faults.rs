use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use smol_str::SmolStr;
use tokio::sync::Notify;

use crate::{
    Capabilities, Class, Error, Received, SettleError, Settlement, Settler, Source, Store, Token,
    lock::lock,
    store::{
        Claim, Claimed, Completion, DeadLetter, DeadLetterFilter, DeadLetters, Depth, Enqueued, Item, Lease, Look,
        Page, Place, Positions, Queue, Rates, Reservation, Reservations, Slots, Stale, Taken,
    },
    telemetry::Origin,
};

/// Faults to come, by the name of the call they strike: `receive`, `settle`, `bury`, `enqueue`, …; and how often each was
/// called.
///
/// ```
/// use dispatch_core::{Class, testing::Faults};
///
/// let faults = Faults::default();
/// faults.fail("bury", 2, Class::Unavailable); // the next two calls
/// ```
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Calls>);

#[derive(Debug, Default)]
struct Calls {
    by_name: Mutex<HashMap<&'static str, Call>>,
    let_go: Notify,
}

#[derive(Debug, Default)]
struct Call {
    faults: VecDeque<Class>,
    made: usize,
    held: bool,
}

impl Faults {
    /// The next `times` calls of `call` fail so.
    pub fn fail(&self, call: &'static str, times: usize, class: Class) {
        lock(&self.0.by_name)
            .entry(call)
            .or_default()
            .faults
            .extend(std::iter::repeat_n(class, times));
    }

    /// Whether all that was asked for has struck.
    #[must_use]
    pub fn are_spent(&self) -> bool {
        lock(&self.0.by_name).values().all(|call| call.faults.is_empty())
    }

    /// How often `call` was made, struck or not.
    #[must_use]
    pub fn calls(&self, call: &str) -> usize {
        lock(&self.0.by_name).get(call).map_or(0, |call| call.made)
    }

    /// Calls of `call` wait from now on, until they are [let go](Self::let_go).
    pub fn hold(&self, call: &'static str) {
        lock(&self.0.by_name).entry(call).or_default().held = true;
    }

    /// Those that wait go on, and none waits any more.
    pub fn let_go(&self, call: &'static str) {
        lock(&self.0.by_name).entry(call).or_default().held = false;
        self.0.let_go.notify_waiters();
    }

    async fn strike(&self, call: &'static str) -> Result<(), Error> {
        {
            let mut calls = lock(&self.0.by_name);
            let this = calls.entry(call).or_default();
            this.made += 1;
            if let Some(class) = this.faults.pop_front() {
                return Err(Error::new(class, format!("injected: {call}")));
            }
        }
        loop {
            let mut let_go = std::pin::pin!(self.0.let_go.notified());
            let_go.as_mut().enable();
            if lock(&self.0.by_name).get(call).is_none_or(|this| !this.held) {
                return Ok(());
            }
            let_go.await;
        }
    }
}

/// A source whose `probe`, `receive`, `settle` and `extend` can be made to fail.
#[derive(Debug)]
pub struct FaultySource<S> {
    inner: S,
    faults: Faults,
}

impl<S: Source> FaultySource<S> {
    /// Wraps `inner`.
    pub const fn new(inner: S, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

struct FaultySettler {
    inner: Arc<dyn Settler>,
    faults: Faults,
}

#[async_trait]
impl<S: Source> Source for FaultySource<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn origin(&self) -> Option<Origin> {
        self.inner.origin()
    }
    fn keeps_letters_in(&self, store: &Arc<dyn Store>) -> bool {
        self.inner.keeps_letters_in(store)
    }
    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(FaultySettler {
            inner: self.inner.settler(),
            faults: self.faults.clone(),
        })
    }
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        self.faults.strike("receive").await?;
        self.inner.receive(max).await
    }
    async fn hold(&mut self) -> Result<(), Error> {
        self.inner.hold().await
    }
    fn rejected(&self) -> u64 {
        self.inner.rejected()
    }
    fn parked(&self) -> u64 {
        self.inner.parked()
    }
    async fn probe(&mut self) -> Result<(), Error> {
        self.faults.strike("probe").await?;
        self.inner.probe().await
    }
    async fn close(&mut self) -> Result<(), Error> {
        self.inner.close().await
    }
}

#[async_trait]
impl Settler for FaultySettler {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        match self.faults.strike("settle").await {
            Ok(()) => self.inner.settle(batch).await,
            Err(error) => batch
                .iter()
                .map(|_| Err(SettleError::Failed(Error::new(error.class(), "injected"))))
                .collect(),
        }
    }
    async fn extend(&self, batch: Vec<Token>, by: Duration) -> Vec<Result<(), SettleError>> {
        match self.faults.strike("extend").await {
            Ok(()) => self.inner.extend(batch, by).await,
            Err(error) => batch
                .iter()
                .map(|_| Err(SettleError::Failed(Error::new(error.class(), "injected"))))
                .collect(),
        }
    }
}

/// A store whose writes can be made to fail: `bury`, `enqueue`, `claim`, `queue_settle`, `queue_extend`, `depth`,
/// `keys`, `waiting`, `withdraw`, `reserve`, `commit`, `cancel`, `take_rate`, `probe`.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Faults,
}

impl FaultyStore {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }
    fn reservations(&self) -> &dyn Reservations {
        self
    }
    fn slots(&self) -> &dyn Slots {
        self.inner.slots()
    }
    fn queue(&self) -> &dyn Queue {
        self
    }
    fn positions(&self) -> &dyn Positions {
        self.inner.positions()
    }
    fn rates(&self) -> &dyn Rates {
        self
    }
    async fn probe(&self) -> Result<(), Error> {
        self.faults.strike("probe").await?;
        self.inner.probe().await
    }
    async fn bloat(&self) -> Result<Option<crate::store::Bloat>, Error> {
        self.inner.bloat().await
    }
    async fn nodes(&self) -> Result<Option<Vec<crate::store::Node>>, Error> {
        self.inner.nodes().await
    }
}

#[async_trait]
impl DeadLetters for FaultyStore {
    async fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), Error> {
        self.faults.strike("bury").await?;
        self.inner.dead_letters().bury(letters).await
    }
    async fn list(&self, filter: &DeadLetterFilter, after: u64, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        self.inner.dead_letters().list(filter, after, limit).await
    }
    async fn count(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        self.inner.dead_letters().count(filter).await
    }
    async fn replay(&self, numbers: &[u64], queue: &str) -> Result<u64, Error> {
        self.inner.dead_letters().replay(numbers, queue).await
    }
    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        self.inner.dead_letters().purge(filter).await
    }
}

#[async_trait]
impl Reservations for FaultyStore {
    async fn reserve(&self, key: &str, owner: &str, lease: Duration) -> Result<Reservation, Error> {
        self.faults.strike("reserve").await?;
        self.inner.reservations().reserve(key, owner, lease).await
    }
    async fn commit(&self, key: &str, owner: &str, keep: Duration) -> Result<bool, Error> {
        self.faults.strike("commit").await?;
        self.inner.reservations().commit(key, owner, keep).await
    }
    async fn cancel(&self, key: &str, owner: &str) -> Result<(), Error> {
        self.faults.strike("cancel").await?;
        self.inner.reservations().cancel(key, owner).await
    }
    async fn expire(&self) -> Result<u64, Error> {
        self.inner.reservations().expire().await
    }
}

#[async_trait]
impl Rates for FaultyStore {
    async fn take(&self, name: &str, span: Duration, burst: Duration) -> Result<Taken, Error> {
        self.faults.strike("take_rate").await?;
        self.inner.rates().take(name, span, burst).await
    }
}

#[async_trait]
impl Queue for FaultyStore {
    async fn enqueue(&self, queue: &str, items: Vec<Item>) -> Result<Vec<Enqueued>, Error> {
        self.faults.strike("enqueue").await?;
        self.inner.queue().enqueue(queue, items).await
    }
    async fn claim(&self, queue: &str, claim: Claim) -> Result<Vec<Claimed>, Error> {
        self.faults.strike("claim").await?;
        self.inner.queue().claim(queue, claim).await
    }
    async fn settle(&self, queue: &str, batch: Vec<Completion>) -> Result<Vec<Result<(), Stale>>, Error> {
        self.faults.strike("queue_settle").await?;
        self.inner.queue().settle(queue, batch).await
    }
    async fn extend(&self, queue: &str, leases: Vec<Lease>, by: Duration) -> Result<Vec<Result<(), Stale>>, Error> {
        self.faults.strike("queue_extend").await?;
        self.inner.queue().extend(queue, leases, by).await
    }
    async fn depth(&self, queue: &str) -> Result<Depth, Error> {
        self.faults.strike("depth").await?;
        self.inner.queue().depth(queue).await
    }
    async fn keys(&self, queue: &str) -> Result<Vec<(SmolStr, u64)>, Error> {
        self.faults.strike("keys").await?;
        self.inner.queue().keys(queue).await
    }
    async fn waiting(&self, queue: &str, look: Look) -> Result<Page, Error> {
        self.faults.strike("waiting").await?;
        self.inner.queue().waiting(queue, look).await
    }
    async fn withdraw(&self, queue: &str, places: &[Place]) -> Result<Vec<u64>, Error> {
        self.faults.strike("withdraw").await?;
        self.inner.queue().withdraw(queue, places).await
    }
    async fn purge(&self, queue: &str) -> Result<u64, Error> {
        self.inner.queue().purge(queue).await
    }
    async fn changed(&self, queue: &str) {
        self.inner.queue().changed(queue).await;
    }
}
