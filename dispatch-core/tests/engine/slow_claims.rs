//! A queue whose claims wait until they are let through.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use dispatch_core::{
    Error, MemoryStore, Store,
    store::{
        Claim, Claimed, Completion, DeadLetters, Depth, Enqueued, Item, Lease, Look, Page, Place, Positions, Queue,
        Rates, Reservations, Slots, Stale,
    },
};
use tokio::sync::Semaphore;

/// A store that takes its time to claim.
#[derive(Debug)]
pub(super) struct SlowClaims {
    inner: MemoryStore,
    /// One is used up by each claim, and waited for.
    pub(super) permits: Semaphore,
    /// Claims that wait for one.
    pub(super) waiting: AtomicUsize,
}

impl SlowClaims {
    pub(super) fn new(permits: usize) -> Self {
        Self {
            inner: MemoryStore::new(),
            permits: Semaphore::new(permits),
            waiting: AtomicUsize::new(0),
        }
    }
}

#[async_trait::async_trait]
impl Store for SlowClaims {
    fn dead_letters(&self) -> &dyn DeadLetters {
        self.inner.dead_letters()
    }
    fn reservations(&self) -> &dyn Reservations {
        self.inner.reservations()
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
        self.inner.rates()
    }
    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Queue for SlowClaims {
    async fn enqueue(&self, queue: &str, items: Vec<Item>) -> Result<Vec<Enqueued>, Error> {
        self.inner.queue().enqueue(queue, items).await
    }
    async fn claim(&self, queue: &str, claim: Claim) -> Result<Vec<Claimed>, Error> {
        self.waiting.fetch_add(1, Relaxed);
        self.permits.acquire().await.unwrap().forget();
        self.waiting.fetch_sub(1, Relaxed);
        self.inner.queue().claim(queue, claim).await
    }
    async fn settle(&self, queue: &str, batch: Vec<Completion>) -> Result<Vec<Result<(), Stale>>, Error> {
        self.inner.queue().settle(queue, batch).await
    }
    async fn extend(&self, queue: &str, leases: Vec<Lease>, by: Duration) -> Result<Vec<Result<(), Stale>>, Error> {
        self.inner.queue().extend(queue, leases, by).await
    }
    async fn depth(&self, queue: &str) -> Result<Depth, Error> {
        self.inner.queue().depth(queue).await
    }
    async fn keys(&self, queue: &str) -> Result<Vec<(smol_str::SmolStr, u64)>, Error> {
        self.inner.queue().keys(queue).await
    }
    async fn waiting(&self, queue: &str, look: Look) -> Result<Page, Error> {
        self.inner.queue().waiting(queue, look).await
    }
    async fn withdraw(&self, queue: &str, places: &[Place]) -> Result<Vec<u64>, Error> {
        self.inner.queue().withdraw(queue, places).await
    }
    async fn purge(&self, queue: &str) -> Result<u64, Error> {
        self.inner.queue().purge(queue).await
    }
    async fn changed(&self, queue: &str) {
        self.inner.queue().changed(queue).await;
    }
}
