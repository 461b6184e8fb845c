//! Ordered lanes that wait in the Store, the policy `park_key`: a failed head, those behind it, and those that come later.

use std::time::Duration;

use tokio::time::sleep;
use tower::Service;

use super::{Returned, Work};
use crate::{Attempt, Disposition, Error, Message, Reply, pipeline::parking::LOOK};
use smol_str::SmolStr;
use std::sync::atomic::Ordering::Relaxed;

/// When a sender that waits for its answer may try again, where its key is parked.
const TRY_AGAIN: Duration = Duration::from_secs(1);

impl<S> Work<S>
where
    S: Service<Message, Response = Reply, Error = Error>,
{
    /// Whether a message goes into the Store with its lane; what a source puts into lanes itself does not.
    pub(super) fn parks(&mut self, slot: usize) -> bool {
        let desks = &self.desks;
        self.parking.is_some()
            && self
                .slots
                .entry(slot)
                .is_some_and(|entry| !desks[entry.source()].capabilities.needs_lanes)
    }

    /// Whether others of its lane are in the Store, before it.
    pub(super) fn is_behind_parked(&mut self, slot: usize) -> bool {
        if !self.parks(slot) {
            return false;
        }
        let lane = self.slots.entry(slot).and_then(|entry| entry.lane.as_deref());
        matches!((&self.parking, lane), (Some(parking), Some(lane)) if parking.holds(lane))
    }

    /// Parks the head of a lane and all that wait behind it.
    pub(super) fn park_key(&mut self, slot: usize, delay: Duration, attempts: Vec<Attempt>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        entry.remember(attempts);
        let Some(lane) = entry.lane.as_deref().cloned() else {
            return;
        };
        let followers = self.backlog.take_followers(&lane);
        self.park_now(slot, Some(delay));
        for follower in followers {
            self.queue_up(follower);
        }
    }

    /// Parks a message behind those of its lane that are in the Store.
    pub(super) fn queue_up(&mut self, slot: usize) {
        let from_store = self.desks.len() - 1;
        let Some(entry) = self.slots.entry(slot) else { return };
        if entry.source() == from_store {
            // It stands there already.
            return self.release(slot);
        }
        if self.desks[entry.source()].capabilities.wants_reply {
            self.shared.stats.nacked.fetch_add(1, Relaxed);
            let delay = Some(TRY_AGAIN);
            return self.settle(
                slot,
                Disposition::Nack {
                    delay,
                    attempts: Vec::new(),
                },
            );
        }
        self.park_now(slot, None);
    }

    /// A parked message is in the Store.
    pub(super) fn arrived_in_store(&mut self, slot: usize) {
        self.with_lane(slot, |parking, lane| parking.arrived(lane));
    }

    /// A message that was parked is done.
    pub(super) fn left_the_store(&mut self, slot: usize) {
        self.with_lane(slot, |parking, lane| parking.left(lane));
    }

    fn with_lane(&mut self, slot: usize, tell: impl FnOnce(&mut super::Parking, &SmolStr)) {
        if !self.parks(slot) {
            return;
        }
        let lane = self.slots.entry(slot).and_then(|entry| entry.lane.as_deref());
        if let (Some(parking), Some(lane)) = (&mut self.parking, lane) {
            tell(parking, lane);
        }
    }

    /// Looks now and then whether the Store still holds the keys that are thought to be parked: what others did there is
    /// not in the count.
    pub(super) fn look_at_keys(&mut self) {
        let any = self.parking.as_ref().is_some_and(|parking| !parking.is_empty());
        if any && !std::mem::replace(&mut self.looking, true) {
            self.calls.push(Box::pin(async {
                sleep(LOOK).await;
                Returned::Look
            }));
        }
    }

    pub(super) fn ask_for_keys(&mut self) {
        if let Some(parking) = &mut self.parking {
            parking.ask();
            let keys = self.keep.keys();
            self.calls.push(Box::pin(async { Returned::Keys(keys.await) }));
        }
    }

    pub(super) fn keys_known(&mut self, keys: Result<Vec<(SmolStr, u64)>, Error>) {
        self.looking = false;
        match (&mut self.parking, keys) {
            (Some(parking), Ok(keys)) => parking.answered(&keys),
            (_, Err(error)) => {
                tracing::warn!(error = error.report(), "store does not say which keys are parked");
            }
            (None, Ok(_)) => {}
        }
        self.look_at_keys();
    }
}
