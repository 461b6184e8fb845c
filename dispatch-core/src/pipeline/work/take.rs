//! What the sources have brought, taken in.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tower::Service;

use super::{Work, entry::Entry};
use crate::{Attempt, Delivery, Error, Message, Reply, clock::Moment, message::Wall, pipeline::parking::restore};

impl<S> Work<S>
where
    S: Service<Message, Response = Reply, Error = Error>,
{
    /// Takes a batch in; its messages start at the next [`poll`](Self::poll).
    pub(in crate::pipeline) fn take(&mut self, source: usize, batch: Vec<Delivery>) {
        let stats = &self.shared.stats;
        let (now, wall) = (Instant::now(), SystemTime::now());
        let (received, wall_now) = (Moment::of(now), Wall::from(wall));
        let deadline = self.plan.deadline.map(|total| now + total);
        self.reach.look(now, self.plan.concurrency + self.reach.places(0));
        stats.received.fetch_add(batch.len() as u64, Relaxed);
        stats
            .in_flight
            .fetch_add(i64::try_from(batch.len()).unwrap_or(i64::MAX), Relaxed);
        let capabilities = &self.desks[source].capabilities;
        if let (true, Some(lease)) = (capabilities.extends, capabilities.lease) {
            let tick = now + lease / 4;
            self.keeper_at = Some(self.keeper_at.map_or(tick, |at| at.min(tick)));
        }
        let own_source = u16::try_from(source).unwrap_or(u16::MAX);
        // The last one is the pipeline's own.
        let from_store = source + 1 == self.desks.len();
        let may_queue_up = self.parking.is_some() && !from_store;
        let mut latest = 0;
        for Delivery {
            mut message,
            history,
            receipt,
        } in batch
        {
            let lag = message.age_at(wall_now);
            self.counts.queue.record(lag);
            latest = lag;
            if let (None, Some(deadline)) = (message.deadline, deadline) {
                // From the first receipt on, as far as the source remembers it.
                let spent = |first: &Attempt| wall.duration_since(first.at).unwrap_or_default();
                let spent = history.first().map_or(Duration::ZERO, spent);
                message.set_deadline(deadline.checked_sub(spent).map_or(now, |deadline| deadline.max(now)));
            }
            if let Some(age) = self.plan.max_age {
                message.end_by(now + age.saturating_sub(Duration::from_nanos(lag)));
            }
            let parked = from_store && restore(&mut message);
            let lane = match &self.plan.lanes {
                // The source's own order is not the pipeline's to choose.
                _ if self.desks[source].capabilities.needs_lanes => message.key().cloned(),
                lanes => lanes.as_ref().and_then(|lanes| (lanes.key)(&message)),
            };
            let lane = lane.map(Box::new);
            self.serial = self.serial.wrapping_add(1);
            let prior = u16::try_from(history.len()).unwrap_or(u16::MAX);
            let entry = Entry {
                message,
                history: (!history.is_empty()).then(|| Box::new(history)),
                // From here on the duty to settle is ours; `drop` sees to what is left.
                token: receipt.into_parts().0,
                open: true,
                source: own_source,
                lane,
                serial: self.serial,
                received,
                leased: 0,
                prior,
                started: false,
                waited: 0,
                aside: None,
                lost: false,
                parked,
                keeping: false,
                settling: None,
            };
            let slot = self.slots.insert(entry);
            if may_queue_up && self.is_behind_parked(slot) {
                self.queue_up(slot);
                continue;
            }
            let lane = self.slots.entry(slot).and_then(|entry| entry.lane.as_deref());
            self.backlog.push(slot, lane);
        }
        self.shared.stats.queue_lag_millis.store(latest / 1_000_000, Relaxed);
    }
}
