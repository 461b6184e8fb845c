//! Claims under way: how many, of how much, and what they bring.

use std::{sync::Arc, time::Duration};

use tokio::{
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

/// A claim under way.
pub(super) struct Claiming {
    pub(super) number: u64,
    /// When its leases begin, at the earliest.
    began: Instant,
    asked: usize,
    /// Puts what it brings where it waits, and says how much it was.
    pub(super) task: JoinHandle<Result<(usize, Option<Turns>), Error>>,
}

impl QueueSource {
    pub(super) fn start_claim(&mut self, max: usize) {
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
    pub(super) async fn finish_claim(&mut self) -> Result<(), Error> {
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
    pub(super) fn claim_ahead(&mut self) {
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

    fn start_wait(&mut self) {
        let (store, queue) = (Arc::clone(&self.store), Arc::clone(&self.queue));
        self.wait = Some(tokio::spawn(async move { store.queue().changed(&queue).await }));
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
