//! The Store's queue as a source.

mod claims;
mod landed;
mod settler;
mod steer;

use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{task::JoinHandle, time::Instant};

use self::{
    claims::{CLAIMS, Claiming, MOST, joined},
    landed::{GoingBack, Landed},
    settler::QueueSettler,
    steer::Steered,
};
use super::{Store, turns::Turns};
use crate::{
    Capabilities, Commands, Delivery, Error, NackDelay, Order, Received, Settler, Source,
    telemetry::{Meter, Origin},
};

/// Claims the items of one durable queue; a pipeline reads its parked retries with it, and the source `queue` is its
/// configuration.
///
/// ```
/// use dispatch_core::{MemoryStore, Pipeline, BoxError, Message, sink_fn, store::QueueSource};
/// use std::sync::Arc;
///
/// let store = Arc::new(MemoryStore::new());
/// let pipeline = Pipeline::builder("work")
///     .source(QueueSource::new(store.clone(), "work"))
///     .sink(sink_fn(|_: Message| async { Ok::<_, BoxError>(()) }))
///     .store(store)
///     .build()
///     .unwrap();
/// # let _ = pipeline;
/// ```
pub struct QueueSource {
    store: Arc<dyn Store>,
    queue: Arc<str>,
    lease: Duration,
    ordered: bool,
    /// How lower priorities get their turns; none where the highest goes first always.
    turns: Option<Turns>,
    /// Claims under way, each in a task of its own, so that dropping `receive` cannot lose what it brings.
    claims: VecDeque<Claiming>,
    /// Whether a claim found nothing: the next one waits until there may be something.
    idle: bool,
    /// The number of the next claim.
    next_claim: u64,
    /// Claimed and not yet asked for.
    landed: Arc<Landed>,
    /// Who answers for it, if anybody is to.
    steered: Option<Arc<Steered>>,
    /// How many to claim at once, though fewer may be asked for: what is worked off in a few milliseconds.
    ahead: usize,
    /// Whether no more may be claimed than is asked for.
    exact: bool,
    /// When the latest claim was made that got all it asked for.
    filled: Option<Instant>,
    /// A claim that a hold overtook, on its way back.
    returning: Option<JoinHandle<Result<(), Error>>>,
    closed: bool,
}

impl fmt::Debug for QueueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueSource")
            .field("queue", &self.queue)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl QueueSource {
    /// Reads `queue` under leases of 30 s, in no order of keys.
    pub fn new(store: Arc<dyn Store>, queue: impl Into<Arc<str>>) -> Self {
        Self {
            store,
            queue: queue.into(),
            lease: Duration::from_secs(30),
            ordered: false,
            turns: None,
            claims: VecDeque::new(),
            idle: false,
            next_claim: 0,
            landed: Arc::default(),
            steered: None,
            ahead: 0,
            exact: false,
            filled: None,
            returning: None,
            closed: false,
        }
    }

    /// How long a claimed item is ours unless the lease is extended; at least 1 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_secs(1));
        self
    }

    /// Whether items of one key go out one at a time, in order.
    #[must_use]
    pub const fn ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// Takes one message in `every` from the priorities below the highest that waits, 2 at least; they take turns. Then a
    /// claim brings `every` messages at most, and none is made ahead.
    #[must_use]
    pub fn serve_lower_every(mut self, every: NonZeroU32) -> Self {
        self.turns = Some(Turns::new(every));
        self
    }

    /// Answers commands about what waits in the queue: `waiting` and `withdraw` about the tasks in it, of all its processes,
    /// and `received`, how many this source has handed out. The source `pg_notify` asks so for what its clients call
    /// `running`, `cancel` and `main`. Comes last: what it answers is of the source as it is now.
    #[must_use]
    pub fn answering(self, commands: &Commands, meter: &Meter) -> Self {
        self.steered(commands, meter, true)
    }

    /// As [`answering`](Self::answering), of messages that were received before and so are not counted in `received`: retries,
    /// what a source has put into the store itself.
    #[must_use]
    pub fn answering_again(self, commands: &Commands, meter: &Meter) -> Self {
        self.steered(commands, meter, false)
    }

    fn steered(mut self, commands: &Commands, meter: &Meter, counts: bool) -> Self {
        let (store, queue) = (Arc::clone(&self.store), Arc::clone(&self.queue));
        let steered = Arc::new(Steered::new(
            store,
            queue,
            self.ordered,
            Arc::clone(&self.landed),
            meter,
        ));
        steered.answer(commands, counts);
        self.steered = Some(steered);
        self
    }

    fn queue_settler(&self) -> QueueSettler {
        QueueSettler {
            store: Arc::clone(&self.store),
            queue: Arc::clone(&self.queue),
        }
    }

    /// Gives deliveries back untried that [`receive`](Source::receive) has brought at this time or later. A `withdraw`
    /// misses none of them on its way, as it may where a delivery is dropped. Returns when they are back.
    ///
    /// # Cancel safety
    /// Dropped, it gives them back all the same.
    pub async fn give_back(&self, deliveries: Vec<Delivery>, received: Instant) {
        let (withdrawn, going) = self.landed.give_back(deliveries, received);
        if let Some(steered) = self.steered.clone().filter(|_| !withdrawn.is_empty()) {
            tokio::spawn(async move { steered.end(withdrawn).await });
        }
        if going.is_some() {
            self.send_back(going);
            self.landed.all_back().await;
        }
    }

    /// In a task of its own: nobody waits for it.
    fn send_back(&self, going: Option<GoingBack>) {
        if going.is_some() {
            let settler = self.queue_settler();
            tokio::spawn(async move { settler.release(going).await });
        }
    }

    /// Waits until what a hold sends back has gone.
    async fn returned(&mut self) -> Result<(), Error> {
        let Some(returning) = &mut self.returning else {
            return Ok(());
        };
        let returned = returning.await;
        self.returning = None;
        joined(returned)
    }

    /// What is ready and still ours for at least half its lease.
    fn take_ready(&mut self, max: usize) -> Vec<Delivery> {
        // One held too long goes back.
        let since = Instant::now().checked_sub(self.lease / 2);
        let (taken, late) = self.landed.take(max, self.under_way(), since);
        self.send_back(late);
        if let Some(steered) = &self.steered {
            let is_new = |delivery: &&Delivery| delivery.history.is_empty() && delivery.message.attempt == 1;
            let new = taken.iter().filter(is_new).count();
            steered.received.fetch_add(new as u64, Relaxed);
        }
        taken
    }
}

#[async_trait]
impl Source for QueueSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            nack_delay: NackDelay::Unlimited,
            redelivers: true,
            lease: Some(self.lease),
            extends: true,
            settle_batch: MOST,
            order: if self.ordered { Order::Key } else { Order::None },
            counts_redeliveries: true,
            // With the default concurrency of 64 a window of what two claims take: while one lease ends whole, in one
            // settlement, the next is at work.
            prefetch: CLAIMS * MOST - 64,
            ..Capabilities::default()
        }
    }

    fn origin(&self) -> Option<Origin> {
        Some(Origin::new("dispatch", &*self.queue))
    }

    fn keeps_letters_in(&self, store: &Arc<dyn Store>) -> bool {
        Arc::ptr_eq(&self.store, store)
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(self.queue_settler())
    }

    fn hold_at_most(&mut self, _: usize) {
        self.exact = true;
    }

    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        if self.closed {
            return Ok(Received::End);
        }
        loop {
            let ready = self.take_ready(max);
            if !ready.is_empty() {
                self.claim_ahead();
                return Ok(Received::Batch(ready));
            }
            if self.claims.is_empty() {
                self.start_claim(max);
            }
            self.finish_claim(max).await?;
        }
    }

    async fn hold(&mut self) -> Result<(), Error> {
        // Others may have them while we may not.
        self.send_back(self.landed.clear(self.under_way()));
        (self.ahead, self.filled) = (0, None);
        let claims = std::mem::take(&mut self.claims);
        if !claims.is_empty() {
            // In a task of its own: what a slow Store brings goes back though nobody waits here any more.
            let (settler, before) = (self.queue_settler(), self.returning.take());
            let landed = Arc::clone(&self.landed);
            self.returning = Some(tokio::spawn(async move {
                let given_back = settler.give_back(claims, &landed).await;
                match before {
                    Some(before) => joined(before.await).and(given_back),
                    None => given_back,
                }
            }));
        }
        let returned = self.returned().await;
        self.landed.all_back().await;
        returned
    }

    async fn probe(&mut self) -> Result<(), Error> {
        self.store.probe().await
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.closed = true;
        let ready = self.landed.clear(self.under_way());
        let settler = self.queue_settler();
        settler.release(ready).await;
        let claims = std::mem::take(&mut self.claims);
        let given_back = settler.give_back(claims, &self.landed).await;
        self.returned().await.and(given_back)
    }
}
