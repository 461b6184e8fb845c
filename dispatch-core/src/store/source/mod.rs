//! The Store's queue as a source.

mod landed;
mod steer;

use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    task::{JoinError, JoinHandle},
    time::Instant,
};

use self::{landed::Landed, steer::Steered};
use super::{Claim, Claimed, Completion, Lease, Outcome, Store, turns::Turns};
use crate::{
    Attempt, Capabilities, Commands, Delivery, Disposition, Error, NackDelay, Order, Received, SettleError, Settlement,
    Settler, Source, Token,
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
    /// Waits until there may be something, likewise.
    wait: Option<JoinHandle<()>>,
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

/// A claim under way.
struct Claiming {
    number: u64,
    /// When its leases begin, at the earliest.
    began: Instant,
    asked: usize,
    /// Puts what it brings where it waits, and says how much it was.
    task: JoinHandle<Result<(usize, Option<Turns>), Error>>,
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
            wait: None,
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

    fn start_claim(&mut self, max: usize) {
        let (store, queue) = (Arc::clone(&self.store), Arc::clone(&self.queue));
        let claim = Claim {
            max: max.max(self.ahead).min(MOST),
            lease: self.lease,
            ordered: self.ordered,
            below: None,
        };
        let mut turns = self.turns;
        let (landed, steered, settler) = (Arc::clone(&self.landed), self.steered.clone(), self.settler());
        let (began, number) = (Instant::now(), self.next_claim);
        self.next_claim += 1;
        let task = tokio::spawn(async move {
            let claimed = match &mut turns {
                None => store.queue().claim(&queue, claim).await?,
                Some(turns) => turns.claim(store.queue(), &queue, claim).await?,
            };
            let count = claimed.len();
            let deliveries = claimed.into_iter().map(|claimed| deliver(claimed, &settler));
            let withdrawn = landed.put(number, began, deliveries.collect());
            if let Some(steered) = steered.filter(|_| !withdrawn.is_empty()) {
                steered.end(withdrawn).await;
            }
            Ok((count, turns))
        });
        self.claims.push_back(Claiming {
            number,
            began,
            asked: claim.max,
            task,
        });
    }

    /// Takes in what a claim brought, and learns from it how much to claim at once.
    async fn finish_claim(&mut self) -> Result<(), Error> {
        let Some(claiming) = self.claims.front_mut() else {
            return Ok(());
        };
        let claimed = (&mut claiming.task).await;
        let (began, asked) = (claiming.began, claiming.asked);
        self.claims.pop_front();
        let (count, turns) = joined(claimed)?;
        self.turns = turns;
        if count == 0 && self.wait.is_none() {
            self.start_wait();
        }
        // A queue and a sink that are both quick are worked in larger and fewer claims. Where the sink is slow nothing is
        // held back from other processes.
        let quick = self.filled.is_some_and(|filled| began.duration_since(filled) < QUICK);
        let full = count == asked && asked >= WORTHWHILE;
        self.ahead = if full && quick && turns.is_none() && !self.exact {
            MOST.min(asked * 2)
        } else {
            0
        };
        self.filled = full.then_some(began);
        Ok(())
    }

    /// Claims on while the last ones are worked on.
    fn claim_ahead(&mut self) {
        if self.ahead == 0 || self.wait.is_some() {
            return;
        }
        let asked: usize = self.claims.iter().map(|claiming| claiming.asked).sum();
        let mut coming = self.landed.count(self.under_way()) + asked;
        while self.claims.len() < CLAIMS && coming + self.ahead <= CLAIMS * MOST {
            self.start_claim(self.ahead);
            coming += self.ahead;
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

    fn start_wait(&mut self) {
        let (store, queue) = (Arc::clone(&self.store), Arc::clone(&self.queue));
        self.wait = Some(tokio::spawn(async move { store.queue().changed(&queue).await }));
    }

    /// The oldest claim that is under way; those before it have ended.
    fn under_way(&self) -> u64 {
        self.claims.front().map_or(self.next_claim, |claiming| claiming.number)
    }

    /// What is ready and still ours for at least half its lease.
    fn take_ready(&mut self, max: usize) -> Vec<Delivery> {
        // One held too long goes back by being dropped.
        let since = Instant::now().checked_sub(self.lease / 2);
        let taken = self.landed.take(max, self.under_way(), since);
        if let Some(steered) = &self.steered {
            let is_new = |delivery: &&Delivery| delivery.history.is_empty() && delivery.message.attempt == 1;
            let new = taken.iter().filter(is_new).count();
            steered.received.fetch_add(new as u64, Relaxed);
        }
        taken
    }
}

fn deliver(claimed: Claimed, settler: &Arc<dyn Settler>) -> Delivery {
    let token = Token::new(claimed.lease.row, claimed.lease.fence);
    let (message, history) = claimed.item.into_message();
    Delivery::new(message, token, Arc::clone(settler)).with_history(history)
}

fn joined<T>(result: Result<Result<T, Error>, JoinError>) -> Result<T, Error> {
    result.unwrap_or_else(|error| Err(Error::retry(error)))
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
                if let Some(wait) = &mut self.wait {
                    let waited = wait.await;
                    self.wait = None;
                    waited.map_err(Error::retry)?;
                }
                self.start_claim(max);
            }
            self.finish_claim().await?;
        }
    }

    async fn hold(&mut self) -> Result<(), Error> {
        // Others may have them while we may not.
        drop(self.landed.take(usize::MAX, self.under_way(), None));
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
        self.returned().await
    }

    async fn probe(&mut self) -> Result<(), Error> {
        self.store.probe().await
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.closed = true;
        if let Some(wait) = self.wait.take() {
            wait.abort();
        }
        let ready = self.landed.take(usize::MAX, self.under_way(), None);
        let settler = self.queue_settler();
        settler.release(ready).await;
        let claims = std::mem::take(&mut self.claims);
        let given_back = settler.give_back(claims, &self.landed).await;
        self.returned().await.and(given_back)
    }
}

/// Settles what was claimed from one queue.
#[derive(Debug)]
struct QueueSettler {
    store: Arc<dyn Store>,
    queue: Arc<str>,
}

impl QueueSettler {
    /// Gives back what claims bring that are still under way, each of them, whatever becomes of the others.
    async fn give_back(&self, claims: VecDeque<Claiming>, landed: &Landed) -> Result<(), Error> {
        let mut given_back = Ok(());
        for claiming in claims {
            match joined(claiming.task.await) {
                Ok(_) => self.release(landed.remove(claiming.number)).await,
                Err(error) => given_back = Err(error),
            }
        }
        given_back
    }

    /// A lease that cannot be given back runs out.
    async fn release(&self, deliveries: Vec<Delivery>) {
        let release = |delivery: Delivery| Settlement {
            token: delivery.receipt.into_parts().0,
            disposition: Disposition::Release,
        };
        drop(self.settle(deliveries.into_iter().map(release).collect()).await);
    }
}

const fn lease_of(token: &Token) -> Lease {
    Lease {
        row: token.number,
        fence: token.fence,
    }
}

/// The most that one claim takes: a store holds rows twice while it reads them, and a window of thousands must not.
const MOST: usize = 500;
/// So many claims at once from a queue that is worked off quickly: while one comes, the server looks for the next.
const CLAIMS: usize = 2;
/// A claim of fewer is the wish of a small window.
const WORTHWHILE: usize = 32;
/// Claims that follow each other faster than this grow.
const QUICK: Duration = Duration::from_millis(20);

/// The waits before a message comes again whose nack says none: after its first attempt, and at most.
const DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// Twice as long after each attempt: what never works must not come for ever in quick succession.
fn default_delay(attempts: &[Attempt]) -> Duration {
    let [first, most] = DELAYS;
    let tried = attempts.last().map_or(1, |attempt| attempt.number.max(1));
    first.saturating_mul(1 << (tried - 1).min(16)).min(most)
}

fn answers(count: usize, result: Result<Vec<Result<(), super::Stale>>, Error>) -> Vec<Result<(), SettleError>> {
    match result {
        Ok(results) => results
            .into_iter()
            .map(|result| result.map_err(|super::Stale| SettleError::Stale))
            .collect(),
        Err(error) => {
            let (class, text) = (error.class(), error.report());
            (0..count)
                .map(|_| Err(SettleError::Failed(Error::new(class, text.clone()))))
                .collect()
        }
    }
}

#[async_trait]
impl Settler for QueueSettler {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let count = batch.len();
        let complete = |settlement: Settlement| Completion {
            lease: lease_of(&settlement.token),
            outcome: match settlement.disposition {
                Disposition::Ack(_) | Disposition::DeadLetter(_) | Disposition::Parked => Outcome::Done,
                Disposition::Nack { delay, attempts } => Outcome::Retry {
                    delay: delay.unwrap_or_else(|| default_delay(&attempts)),
                    attempts,
                },
                Disposition::Release => Outcome::Release,
            },
        };
        let batch = batch.into_iter().map(complete).collect();
        answers(count, self.store.queue().settle(&self.queue, batch).await)
    }

    async fn extend(&self, batch: Vec<Token>, by: Duration) -> Vec<Result<(), SettleError>> {
        let count = batch.len();
        let leases = batch.iter().map(lease_of).collect();
        answers(count, self.store.queue().extend(&self.queue, leases, by).await)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_fails_for_ever_comes_ever_more_seldom() {
        let after = |number| {
            let attempt = Attempt::failed(number, SystemTime::now(), Duration::ZERO, &Error::retry("no"));
            default_delay(&[attempt]).as_secs()
        };

        assert_eq!([1, 2, 3, 9, 10, u32::MAX].map(after), [1, 2, 4, 256, 300, 300]);
        assert_eq!(default_delay(&[]).as_secs(), 1);
    }
}
