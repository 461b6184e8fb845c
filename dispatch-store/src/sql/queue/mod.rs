//! The queue on three tables: `dispatch_item` has every live message, `dispatch_ready` the unleased ones in the order of
//! claims, `dispatch_lease` one row a claimed batch. Nothing wide is ever updated on the way from enqueue to done.

mod bury;
mod claim;
mod columns;
mod enqueue;
mod held;
mod packed;
mod returns;
mod settle;
mod take;
mod wait;
mod waiting;
mod watch;

use std::time::Duration;

use async_trait::async_trait;
use dispatch_core::{
    Error,
    store::{Claim, Claimed, Completion, Depth, Enqueued, Item, Lease, Look, Outcome, Page, Place, Queue, Stale},
};
use smol_str::SmolStr;

#[cfg(feature = "postgres")]
pub(super) use enqueue::Along;
pub(super) use enqueue::insert;
pub(super) use returns::give_back;

use super::SqlStore;

#[async_trait]
impl Queue for SqlStore {
    async fn enqueue(&self, queue: &str, items: Vec<Item>) -> Result<Vec<Enqueued>, Error> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        #[cfg(feature = "postgres")]
        let enqueuing = self.database.enqueuing(queue);
        #[cfg(feature = "postgres")]
        let along = enqueuing.as_ref().and_then(|enqueuing| enqueuing.along.clone());
        #[cfg(not(feature = "postgres"))]
        let along = None;
        // What some of are dropped as duplicates is told apart first, in other statements.
        let along = along.filter(|_| items.iter().all(|item| !item.alone && item.dedupe.is_none()));
        let announced = along.is_some();
        let queue = queue.to_owned();
        let work = enqueue::Enqueue {
            queue: queue.clone(),
            items,
            along,
        };
        let answers = self.database.perform(work).await?;
        if announced {
            self.database.hints.of(&queue).bump();
        } else {
            self.database.announce(&queue);
        }
        Ok(answers)
    }

    async fn claim(&self, queue: &str, claim: Claim) -> Result<Vec<Claimed>, Error> {
        let hint = self.database.hints.of(queue);
        // Only who may take all can see the end of it.
        let takes_all = claim.below.is_none();
        let quick = takes_all && hint.was_announced();
        let begun = hint.begin(claim.ordered);
        let (claimed, looked) = self.claim_all(queue, claim, quick).await?;
        if !claimed.is_empty() {
            hint.found();
        }
        if looked && takes_all && claimed.len() < claim.max {
            hint.emptied(begun);
        }
        Ok(claimed)
    }

    async fn settle(&self, queue: &str, batch: Vec<Completion>) -> Result<Vec<Result<(), Stale>>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let ends = |completion: &Completion| matches!(completion.outcome, Outcome::Done | Outcome::Bury(_));
        let done = batch.iter().all(ends);
        let answers = self.database.perform(settle::Settle::new(queue, batch)).await?;
        // What is done frees its key; what comes back may be claimed.
        if !done || self.database.hints.of(queue).is_ordered() {
            self.database.announce(queue);
        }
        Ok(answers)
    }

    async fn extend(&self, queue: &str, leases: Vec<Lease>, by: Duration) -> Result<Vec<Result<(), Stale>>, Error> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let work = settle::Extend {
            queue: queue.to_owned(),
            leases,
            by,
            node: self.node.number(),
        };
        Ok(self.database.perform(work).await?)
    }

    async fn depth(&self, queue: &str) -> Result<Depth, Error> {
        let queue = queue.to_owned();
        Ok(self.database.perform(watch::Count { queue }).await?)
    }

    async fn keys(&self, queue: &str) -> Result<Vec<(SmolStr, u64)>, Error> {
        let queue = queue.to_owned();
        Ok(self.database.perform(watch::Keys { queue }).await?)
    }

    async fn waiting(&self, queue: &str, look: Look) -> Result<Page, Error> {
        self.see(queue, look).await
    }

    async fn withdraw(&self, queue: &str, places: &[Place]) -> Result<Vec<u64>, Error> {
        self.take_out(queue, places).await
    }

    async fn purge(&self, queue: &str) -> Result<u64, Error> {
        let queue = queue.to_owned();
        Ok(self.database.perform(watch::Purge { queue }).await?)
    }

    async fn changed(&self, queue: &str) {
        self.wait_for_change(queue).await;
    }
}
