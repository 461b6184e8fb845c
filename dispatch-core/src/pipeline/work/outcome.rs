//! From an outcome to the source's desk or the Store's.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use smol_str::SmolStr;
use tokio::time::{Instant, sleep};
use tower::Service;

use super::{Returned, Work, entry::Aside};
use crate::{
    Attempt, Disposition, Error, Message, Order, Reply, clock,
    layer::{BreakerHandle, BreakerState},
    pipeline::{
        keep::{Keepsake, Kept},
        verdict::{Verdict, verdict},
    },
    store::{DeadLetter, Item},
};
use std::sync::atomic::Ordering::Relaxed;

/// The metadata of a parked message that names the source it came from.
const ORIGIN: &str = "dispatch_source";

impl<S> Work<S>
where
    S: Service<Message, Response = Reply, Error = Error>,
{
    pub(super) fn finished(&mut self, slot: usize, mut outcome: Result<Reply, Error>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let took = clock::recent().moment.nanos_since(entry.received);
        self.counts.total.record(took);
        let source = &self.desks[entry.source()].capabilities;
        let breaker = &self.plan.breaker;
        let reopens = || match breaker.as_ref().map(BreakerHandle::state) {
            Some(BreakerState::Open(until)) => Some(until - Instant::now()),
            _ => None,
        };
        let attempt_of = |error: &Error| {
            let took = Duration::from_nanos(took);
            Attempt::failed(entry.message.attempt, SystemTime::now() - took, took, error)
        };
        // Of the delivery, where a tracer followed it: the message that is kept here may have come with none.
        let trace_id = outcome.as_mut().err().and_then(Error::take_trace_id);
        match verdict(outcome, attempt_of, source, reopens) {
            Verdict::Settle(disposition @ Disposition::Ack(_)) => {
                self.counts.delivered += 1;
                self.settle(slot, disposition);
            }
            Verdict::Settle(Disposition::Nack { delay, attempts }) => self.nack(slot, delay, attempts),
            Verdict::Settle(disposition) => self.settle(slot, disposition),
            Verdict::Bury { reason, attempts } => self.bury(slot, reason, attempts, trace_id),
            Verdict::Park { delay, attempts } => self.park(slot, delay, attempts),
            Verdict::Gone(why) => self.sink_is_gone(slot, why),
        }
    }

    /// Gives the message back, and those behind it, and has the pipeline drain.
    #[cold]
    fn sink_is_gone(&mut self, slot: usize, why: String) {
        self.shared.sink_is_gone(why);
        self.release(slot);
        // At once: each would find the same, and open the breaker, which parks what it refuses.
        self.release_backlog();
    }

    /// Gives a message back with its delay. In an ordered lane its followers go back behind it where the source keeps
    /// their order; else it waits here and its lane with it.
    pub(super) fn nack(&mut self, slot: usize, delay: Option<Duration>, attempts: Vec<Attempt>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let mut followers = VecDeque::new();
        if let (true, Some(lane)) = (self.backlog.is_ordered(), entry.lane.as_deref().cloned()) {
            let can = &self.desks[entry.source()].capabilities;
            let wait = delay.unwrap_or(Duration::from_secs(1));
            let parks = self.parking.is_some() && !can.needs_lanes;
            if can.order == Order::None && parks && !can.wants_reply {
                return self.park_key(slot, wait, attempts);
            }
            // Where lanes are parked, a sender that waits for the answer is told now: it is behind nobody when it sends again.
            if can.order == Order::None && !parks && !self.draining {
                return self.rest(slot, wait, attempts);
            }
            if can.order != Order::None && !self.draining {
                followers = self.take_own_followers(slot, &lane);
            }
            if let Some(parking) = &mut self.parking {
                parking.waits(&lane, Instant::now() + wait);
            }
        }
        self.shared.stats.nacked.fetch_add(1, Relaxed);
        self.settle(slot, Disposition::Nack { delay, attempts });
        // After their head, or the source could give them before it.
        for follower in followers {
            self.release(follower);
        }
    }

    /// Takes out those behind the head that are of its own source: those of another are not behind it there.
    fn take_own_followers(&mut self, head: usize, lane: &SmolStr) -> VecDeque<usize> {
        let source = self.slots.entry(head).map(|entry| entry.source);
        let mut own = VecDeque::new();
        for follower in self.backlog.take_followers(lane) {
            if self.slots.entry(follower).map(|entry| entry.source) == source {
                own.push_back(follower);
            } else {
                self.backlog.push(follower, Some(lane));
            }
        }
        own
    }

    pub(super) fn park(&mut self, slot: usize, delay: Duration, attempts: Vec<Attempt>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        if entry.lane.is_some() && self.backlog.is_ordered() {
            if self.parks(slot) {
                return self.park_key(slot, delay, attempts);
            }
            if !self.draining {
                return self.rest(slot, delay, attempts);
            }
        }
        let Some(entry) = self.slots.entry(slot) else { return };
        entry.remember(attempts);
        self.park_now(slot, Some(delay));
    }

    /// Puts the message, with all that is remembered of it, into the Store. `delay` is its own, or it waits for its turn
    /// alone.
    pub(super) fn park_now(&mut self, slot: usize, delay: Option<Duration>) {
        let parks = self.parks(slot);
        let Some(entry) = self.slots.entry(slot) else { return };
        let mut item = Item::of(&entry.message);
        item.attempts = entry.message.attempt - 1;
        item.run_at = delay.map(|delay| SystemTime::now() + delay);
        if let (true, Some(parking)) = (parks, &mut self.parking) {
            let due = delay.map(|delay| Instant::now() + delay);
            parking.park(&mut item, entry.lane.as_deref(), due);
        }
        item.deadline = entry.message.deadline.map(clock::system_time_at);
        item.history = entry.take_history();
        if item.metadata.get(ORIGIN).is_none() {
            item.metadata.insert(ORIGIN, self.plan.labels[entry.source()].as_str());
        }
        entry.keeping = true;
        self.keep.put(slot, Keepsake::Retry(Box::new(item)));
        self.look_at_keys();
    }

    /// Waits here for the next attempt, at the head of its lane.
    pub(super) fn rest(&mut self, slot: usize, delay: Duration, attempts: Vec<Attempt>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        entry.remember(attempts);
        entry.keeping = false;
        entry.aside = Some(Box::new(Aside::Until(Instant::now() + delay)));
        let serial = entry.serial;
        self.calls.push(Box::pin(async move {
            sleep(delay).await;
            Returned::Rested { slot, serial }
        }));
    }

    /// Ends every rest, and lets none begin: a drain does not wait for them. The source keeps what was tried, or the
    /// Store does.
    pub(in crate::pipeline) fn end_rests(&mut self) {
        self.draining = true;
        let now = Instant::now();
        let resting: Vec<_> = self
            .slots
            .entries()
            .filter_map(|(slot, entry)| Some((slot, entry.rests_until().filter(|_| entry.open)?)))
            .collect();
        for (slot, until) in resting {
            let Some(entry) = self.slots.entry(slot) else { continue };
            entry.aside = None;
            let delay = until.saturating_duration_since(now);
            let source = &self.desks[entry.source()].capabilities;
            if source.wants_reply
                || (source.redelivers && source.counts_redeliveries && source.nack_delay.allows(delay))
            {
                let history = entry.take_history();
                let attempts = entry.own(history);
                self.shared.stats.nacked.fetch_add(1, Relaxed);
                self.settle(
                    slot,
                    Disposition::Nack {
                        delay: Some(delay),
                        attempts,
                    },
                );
            } else {
                self.park_now(slot, Some(delay));
            }
        }
    }

    fn bury(&mut self, slot: usize, reason: &'static str, attempts: Vec<Attempt>, trace_id: Option<SmolStr>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let mut history = entry.take_history();
        history.extend(attempts);
        let message = &entry.message;
        let letter = DeadLetter {
            number: 0,
            pipeline: self.shared.name.clone(),
            source: message
                .metadata()
                .get(ORIGIN)
                .map_or_else(|| self.plan.labels[entry.source()].clone(), SmolStr::new),
            id: message.id().clone(),
            payload: message.payload.clone(),
            headers: message.headers().clone(),
            metadata: message.metadata().clone(),
            key: message.key().cloned(),
            reason: SmolStr::new_static(reason),
            attempts: history,
            trace_id: trace_id.or_else(|| crate::layer::trace_id(message).map(SmolStr::new)),
            config_hash: self.plan.config_hash.clone(),
            created_at: message.created_at(),
            died_at: SystemTime::now(),
            replayed_at: None,
        };
        let letter = Arc::new(letter);
        if self.desks[entry.source()].keeps_letters {
            return self.settle(slot, Disposition::Bury(letter));
        }
        entry.keeping = true;
        self.keep.put(slot, Keepsake::Letter(letter));
    }

    /// Gives back what was not tried.
    pub(super) fn release(&mut self, slot: usize) {
        self.shared.stats.released.fetch_add(1, Relaxed);
        self.settle(slot, Disposition::Release);
    }

    /// Puts the outcome on the source's desk; the slot stays taken until the source has confirmed it.
    #[inline(always)]
    pub(super) fn settle(&mut self, slot: usize, disposition: Disposition) {
        let Some(entry) = self.slots.entry(slot) else { return };
        if !std::mem::replace(&mut entry.open, false) {
            return;
        }
        entry.settle(&disposition);
        // Only who had its turn may end it: what goes back untried leaves its lane to the one at work. And who may yet
        // have to be tried again keeps it.
        if let (true, Some(lane)) = (entry.started, &entry.lane)
            && !entry.is_buried()
        {
            self.backlog.done(lane);
        }
        let token = entry.token.clone();
        let desk = &mut self.desks[entry.source()];
        let lease = desk.capabilities.lease;
        let nearly_over = lease.is_some_and(|lease| clock::recent().instant > entry.leased_at() + lease * 3 / 4);
        desk.decided();
        desk.put(slot, token, disposition);
        if nearly_over {
            desk.hurry();
        }
    }

    pub(super) fn kept(&mut self, kept: Kept) {
        self.keep.returned();
        let (letters, retries) = (kept.letters, kept.retries);
        for ((batch, result), is_letter) in [(letters, true), (retries, false)] {
            if batch.is_empty() {
                continue;
            }
            match result {
                Ok(()) => {
                    self.shared.connected("store");
                    let stats = &self.shared.stats;
                    let counter = if is_letter { &stats.dead_lettered } else { &stats.parked };
                    counter.fetch_add(batch.len() as u64, Relaxed);
                    for (slot, keepsake) in batch {
                        let disposition = match keepsake {
                            Keepsake::Letter(letter) => {
                                note_dead_letter(&letter);
                                Disposition::DeadLetter(Arc::unwrap_or_clone(letter).attempts)
                            }
                            Keepsake::Retry(_) => {
                                self.arrived_in_store(slot);
                                Disposition::Parked
                            }
                        };
                        self.settle(slot, disposition);
                    }
                }
                Err(error) => {
                    self.shared.failed("store", error.report());
                    tracing::error!(
                        error = error.report(),
                        messages = batch.len(),
                        "store did not take them: nothing is acked"
                    );
                    let refused = batch
                        .into_iter()
                        .filter_map(|(slot, keepsake)| self.not_kept(slot, keepsake));
                    let refused = refused.collect();
                    self.keep.put_back(refused);
                }
            }
        }
    }

    /// Not in the Store, so not acked: back to the source where it takes messages back and their order does not matter, else
    /// held and tried again.
    pub(super) fn not_kept(&mut self, slot: usize, keepsake: Keepsake) -> Option<(usize, Keepsake)> {
        let stays = self.parks(slot);
        let entry = self.slots.entry(slot)?;
        let source = &self.desks[entry.source()].capabilities;
        let stays = stays && entry.lane.is_some() && !source.wants_reply;
        if !stays && (source.redelivers || source.wants_reply) {
            let delay = Duration::from_secs(5);
            let delay = (source.wants_reply || source.nack_delay.allows(delay)).then_some(delay);
            let attempts = entry.own(keepsake.into_attempts());
            entry.keeping = false;
            self.nack(slot, delay, attempts);
            None
        } else {
            Some((slot, keepsake))
        }
    }
}

/// Says that a letter is kept.
pub(super) fn note_dead_letter(letter: &DeadLetter) {
    let error = letter.attempts.last().map(|attempt| attempt.text.as_str());
    tracing::warn!(id = %letter.id, reason = %letter.reason, attempts = letter.attempts.len(), error, "dead letter");
}
