//! Claims under way: how many, of how much, and what they bring.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
    time::Instant,
};

use super::QueueSource;
use crate::{
    Delivery, Error, Settler, Source as _, Token,
    store::{Claim, Claimed, turns::Turns},
};

/// The most that one claim takes: a store holds rows twice while it reads them, and a window of thousands must not.
pub(super) const MOST: usize = 500;
/// So many claims at once from a queue that is worked off quickly: while one comes, the server looks for the next.
pub(super) const CLAIMS: usize = 2;
/// A claim of fewer is the wish of a small window.
const WORTHWHILE: usize = 32;
/// Claims that follow each other faster than this grow.
const QUICK: Duration = Duration::from_millis(20);

/// A claim under way, or to be made once there may be something.
pub(super) struct Claiming {
    pub(super) number: u64,
    asked: Arc<Asked>,
    /// Dropped while the claim still waits, it is not made.
    waits: Option<oneshot::Sender<Infallible>>,
    /// Puts what it brings where it waits.
    task: JoinHandle<Result<Brought, Error>>,
}

/// What is asked of a claim by the time it is made.
struct Asked {
    /// How much it may take.
    max: AtomicUsize,
    /// Whether anybody waits for it.
    wanted: AtomicBool,
}

/// While it lives, somebody waits for what a claim brings.
struct Wanting(Arc<Asked>);

impl Wanting {
    fn new(asked: &Arc<Asked>) -> Self {
        asked.wanted.store(true, Relaxed);
        Self(Arc::clone(asked))
    }
}

impl Drop for Wanting {
    fn drop(&mut self) {
        self.0.wanted.store(false, Relaxed);
    }
}

/// What a claim brought.
pub(super) struct Brought {
    /// When its leases began, at the earliest; none where it was not made.
    began: Option<Instant>,
    count: usize,
    turns: Option<Turns>,
}

impl Claiming {
    /// Waits for the end of a claim that is not wanted any more: one that has not begun is not made.
    pub(super) async fn called_off(self) -> Result<(), Error> {
        drop(self.waits);
        joined(self.task.await).map(drop)
    }
}

impl QueueSource {
    /// Claims `max`; where the last claim found nothing, as soon as there may be something. Both are one task: who waits for a
    /// message waits for no one but the Store.
    pub(super) fn start_claim(&mut self, max: usize) {
        let (store, queue) = (Arc::clone(&self.store), Arc::clone(&self.queue));
        let asked = Arc::new(Asked {
            max: AtomicUsize::new(self.at_once(max)),
            wanted: AtomicBool::new(true),
        });
        let (waits, mut called_off) = match self.idle.then(oneshot::channel) {
            Some((waits, called_off)) => (Some(waits), Some(called_off)),
            None => (None, None),
        };
        let (lease, ordered, mut turns) = (self.lease, self.ordered, self.turns);
        let (landed, steered, settler) = (Arc::clone(&self.landed), self.steered.clone(), self.settler());
        let number = self.next_claim;
        self.next_claim += 1;
        let room = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            if let Some(called_off) = &mut called_off {
                let comes = tokio::select! {
                    _ = called_off => false,
                    () = store.queue().changed(&queue) => true,
                };
                // What nobody has room for by now is left to others.
                if !comes || !room.wanted.load(Relaxed) {
                    let (began, count) = (None, 0);
                    return Ok(Brought { began, count, turns });
                }
            }
            let began = Instant::now();
            let claim = Claim {
                max: room.max.load(Relaxed),
                lease,
                ordered,
                below: None,
            };
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
            let began = Some(began);
            Ok(Brought { began, count, turns })
        });
        self.claims.push_back(Claiming {
            number,
            asked,
            waits,
            task,
        });
    }

    /// How much a claim takes where `max` is asked for.
    fn at_once(&self, max: usize) -> usize {
        max.max(self.ahead).min(MOST)
    }

    /// Takes in what a claim brought, and learns from it how much to claim at once. One that still waits takes `max`.
    pub(super) async fn finish_claim(&mut self, max: usize) -> Result<(), Error> {
        let at_once = self.at_once(max);
        let Some(claiming) = self.claims.front_mut() else {
            return Ok(());
        };
        let waited = claiming.waits.is_some();
        if waited {
            claiming.asked.max.store(at_once, Relaxed);
        }
        let wanting = Wanting::new(&claiming.asked);
        let claimed = (&mut claiming.task).await;
        drop(wanting);
        let asked = claiming.asked.max.load(Relaxed);
        self.claims.pop_front();
        if waited {
            self.idle = false;
        }
        let Brought { began, count, turns } = joined(claimed)?;
        self.turns = turns;
        let Some(began) = began else { return Ok(()) };
        self.idle |= count == 0;
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
    pub(super) fn claim_ahead(&mut self) {
        if self.ahead == 0 || self.idle {
            return;
        }
        let asked: usize = self
            .claims
            .iter()
            .map(|claiming| claiming.asked.max.load(Relaxed))
            .sum();
        let mut coming = self.landed.count(self.under_way()) + asked;
        while self.claims.len() < CLAIMS && coming + self.ahead <= CLAIMS * MOST {
            self.start_claim(self.ahead);
            coming += self.ahead;
        }
    }

    /// The oldest claim that is under way; those before it have ended.
    pub(super) fn under_way(&self) -> u64 {
        self.claims.front().map_or(self.next_claim, |claiming| claiming.number)
    }
}

fn deliver(claimed: Claimed, settler: &Arc<dyn Settler>) -> Delivery {
    let token = Token::new(claimed.lease.row, claimed.lease.fence);
    let (message, history) = claimed.item.into_message();
    Delivery::new(message, token, Arc::clone(settler)).with_history(history)
}

pub(super) fn joined<T>(result: Result<Result<T, Error>, JoinError>) -> Result<T, Error> {
    result.unwrap_or_else(|error| Err(Error::retry(error)))
}
