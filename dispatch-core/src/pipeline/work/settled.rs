//! What a source says to a settlement.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use rand::RngExt as _;
use tokio::time::{Instant, sleep};
use tower::Service;

use super::{Returned, Work, entry::Settled, outcome::note_dead_letter};
use crate::{Class, Error, Message, Reply, SettleError, pipeline::keep::Keepsake, store::DeadLetter};

/// So often a settlement that failed is tried again where there is no lease; where there is one, for as long as it is
/// ours. Then the message comes again.
const SETTLE_TRIES: u8 = 5;
/// The longest wait before such a try, in doublings of 100 ms; chance takes up to half of it.
const SETTLE_DOUBLINGS: u8 = 7;

impl<S> Work<S>
where
    S: Service<Message, Response = Reply, Error = Error>,
{
    /// The delivery is gone from here, unless its source is to be told again.
    pub(super) fn settled(&mut self, slot: usize, result: Result<(), SettleError>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let stats = &self.shared.stats;
        match result {
            Ok(()) => {
                let (left, buried) = (entry.parked && !entry.goes_back(), entry.is_buried());
                if buried {
                    self.buried(slot);
                }
                if left {
                    self.left_the_store(slot);
                }
            }
            Err(SettleError::Stale | SettleError::Withdrawn) => {
                // No letter was kept: it is with somebody else.
                stats.released.fetch_add(u64::from(entry.is_buried()), Relaxed);
                stats.lease_lost.fetch_add(u64::from(!entry.lost), Relaxed);
                tracing::warn!(id = %entry.message.id(), "lease lost before the settlement: the message may be worked on twice");
            }
            Err(SettleError::Failed(error)) => {
                if entry.is_buried() {
                    self.shared.failed("store", error.report());
                }
                let source = &self.plan.labels[entry.source()];
                let lease = self.desks[entry.source()].capabilities.lease;
                let ours = lease.is_some_and(|lease| Instant::now() < entry.leased_at() + lease) && !entry.lost;
                if let Some((settled, tries)) = &mut entry.settling
                    // What goes back does so with the end of its lease, too; what cannot be buried goes back.
                    && (*tries < SETTLE_TRIES || (ours && !settled.goes_back() && !matches!(settled, Settled::Bury)))
                    // What the source refuses for good is refused again.
                    && error.class() != Class::Permanent
                {
                    *tries = tries.saturating_add(1);
                    let wait = Duration::from_millis(100) * (1 << (*tries).min(SETTLE_DOUBLINGS));
                    // What failed together need not come back together.
                    let wait = wait.mul_f64(rand::rng().random_range(0.5..1.0));
                    stats.settle_retried.fetch_add(1, Relaxed);
                    let serial = entry.serial;
                    tracing::warn!(%source, id = %entry.message.id(), error = error.report(), ?wait, "settlement failed, trying again");
                    self.calls.push(Box::pin(async move {
                        sleep(wait).await;
                        Returned::SettleAgain { slot, serial }
                    }));
                    return;
                }
                if let Some(letter) = entry.letter() {
                    return self.not_buried(slot, letter, &error);
                }
                stats.settle_failed.fetch_add(1, Relaxed);
                tracing::error!(%source, id = %entry.message.id(), error = error.report(), "settlement failed: the message may come again");
            }
        }
        self.counts.settled += 1;
        if let Some(entry) = self.slots.remove(slot) {
            if let (true, Some(lane)) = (entry.is_buried(), &entry.lane) {
                self.backlog.done(lane);
            }
            self.desks[entry.source()].confirmed();
            self.reach.settled();
        }
    }

    /// The source has kept the letter, and forgotten the message.
    #[cold]
    fn buried(&mut self, slot: usize) {
        let Some(letter) = self.slots.entry(slot).and_then(|entry| entry.letter()) else {
            return;
        };
        self.shared.connected("store");
        self.shared.stats.dead_lettered.fetch_add(1, Relaxed);
        note_dead_letter(&letter);
    }

    /// The source has neither kept the letter nor forgotten the message: as with a Store that takes no letter.
    #[cold]
    fn not_buried(&mut self, slot: usize, letter: Arc<DeadLetter>, error: &Error) {
        let Some(entry) = self.slots.entry(slot) else { return };
        tracing::error!(id = %letter.id, error = error.report(), "store did not take the dead letter: nothing is acked");
        entry.reopen();
        entry.keeping = true;
        self.desks[entry.source()].confirmed();
        let refused = self.not_kept(slot, Keepsake::Letter(letter));
        self.keep.put_back(refused.into_iter().collect());
    }
}
