//! Keeps the leases of everything in flight, from its receipt until its settlement is confirmed.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::time::Instant;
use tower::Service;

use super::{Returned, Work};
use crate::{Error, Message, Reply, SettleError};

impl<S> Work<S>
where
    S: Service<Message, Response = Reply, Error = Error>,
{
    /// Makes every lease longer that has come to its half; looks each quarter.
    pub(super) fn extend_leases(&mut self, now: Instant) {
        self.keeper_at = None;
        for (source, desk) in self.desks.iter().enumerate() {
            let Some(lease) = desk.capabilities.lease.filter(|_| desk.capabilities.extends) else {
                continue;
            };
            let tick = lease / 4;
            let (mut entries, mut tokens, mut any) = (Vec::new(), Vec::new(), false);
            for (slot, entry) in self
                .slots
                .entries()
                // What is on its way back must not be made to stay: the source has been told when it comes again.
                .filter(|(_, entry)| entry.source() == source && !entry.lost && !entry.goes_back())
            {
                any = true;
                if now + tick / 4 >= entry.leased_at() + lease / 2 {
                    entries.push((slot, entry.serial));
                    tokens.push(entry.token.clone());
                }
            }
            if any {
                self.keeper_at = Some(self.keeper_at.map_or(now + tick, |at| at.min(now + tick)));
            }
            if !tokens.is_empty() {
                let settler = Arc::clone(&desk.settler);
                self.calls.push(Box::pin(async move {
                    let results = settler.extend(tokens, lease).await;
                    Returned::Extended {
                        entries,
                        results,
                        at: now,
                    }
                }));
            }
        }
    }

    pub(super) fn extended(&mut self, entries: Vec<(usize, u32)>, results: Vec<Result<(), SettleError>>, at: Instant) {
        let stats = &self.shared.stats;
        let mut cancelled = Vec::new();
        for ((slot, serial), result) in entries.into_iter().zip(results) {
            let Some(entry) = self.slots.entry(slot).filter(|entry| entry.serial == serial) else {
                continue;
            };
            match result {
                Ok(()) => {
                    entry.lease_began(at);
                    stats.lease_extended.fetch_add(1, Relaxed);
                }
                Err(SettleError::Stale) => {
                    entry.lost = true;
                    stats.lease_lost.fetch_add(1, Relaxed);
                    tracing::warn!(id = %entry.message.id(), "lease lost: somebody else has the message");
                    if self.plan.cancel_on_lost_lease {
                        cancelled.push(slot);
                    }
                }
                Err(SettleError::Withdrawn) => {
                    entry.lost = true;
                    tracing::info!(id = %entry.message.id(), "withdrawn by its source");
                    cancelled.push(slot);
                }
                // The next look tries again; half the lease is left.
                Err(SettleError::Failed(error)) => tracing::warn!(error = error.report(), "lease not extended"),
            }
        }
        for slot in cancelled {
            if self.slots.cancel(slot) {
                self.release(slot);
            }
        }
    }
}
