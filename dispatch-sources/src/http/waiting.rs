//! Requests of `sync` mode: they wait for a worker, then for its outcome.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use dispatch_core::{Disposition, Message};
use tokio::sync::{mpsc, oneshot};

/// A request that waits for a worker.
#[derive(Debug)]
struct Request {
    message: Message,
    outcome: oneshot::Sender<Disposition>,
}

/// Who waits: first for a worker, in a queue; then for the outcome, by number.
#[derive(Debug)]
pub(super) struct Waiting {
    queue: mpsc::Sender<Request>,
    taken: tokio::sync::Mutex<mpsc::Receiver<Request>>,
    outcomes: Mutex<HashMap<u64, oneshot::Sender<Disposition>>>,
    next: AtomicU64,
    held: AtomicBool,
}

/// Why a request may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Nobody works right now.
    Held,
    /// Too many wait already.
    Full,
}

impl Waiting {
    pub(super) fn new(max: usize) -> Self {
        let (queue, taken) = mpsc::channel(max);
        Self {
            queue,
            taken: tokio::sync::Mutex::new(taken),
            outcomes: Mutex::default(),
            next: AtomicU64::new(1),
            held: AtomicBool::new(false),
        }
    }

    /// Waits for a worker and its outcome. Dropped, the request leaves the queue.
    pub(super) async fn enter(&self, message: Message) -> Result<Disposition, Refused> {
        if self.held.load(Ordering::Relaxed) {
            return Err(Refused::Held);
        }
        let (outcome, settled) = oneshot::channel();
        self.queue
            .try_send(Request { message, outcome })
            .map_err(|_| Refused::Full)?;
        settled.await.map_err(|_| Refused::Held)
    }

    /// The next requests whose callers are still there, and the numbers to settle them by.
    ///
    /// # Cancel safety
    /// Dropping it takes nobody out of the queue.
    pub(super) async fn take(&self, max: usize) -> Vec<(u64, Message)> {
        self.held.store(false, Ordering::Relaxed);
        let mut taken = self.taken.lock().await;
        let mut batch = Vec::new();
        while batch.is_empty() {
            let mut request = taken.recv().await;
            while let Some(Request { message, outcome }) = request {
                if !outcome.is_closed() {
                    let number = self.next.fetch_add(1, Ordering::Relaxed);
                    self.outcomes().insert(number, outcome);
                    batch.push((number, message));
                }
                request = if batch.len() < max { taken.try_recv().ok() } else { None };
            }
        }
        batch
    }

    /// Sends away who waits for a worker, and who comes until the next `take`.
    pub(super) async fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
        let mut taken = self.taken.lock().await;
        while taken.try_recv().is_ok() {}
    }

    /// Tells who waits under this number; false where nobody does any more.
    pub(super) fn tell(&self, number: u64, outcome: Disposition) -> bool {
        let waiting = self.outcomes().remove(&number);
        waiting.is_some_and(|waiting| waiting.send(outcome).is_ok())
    }

    fn outcomes(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Disposition>>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
