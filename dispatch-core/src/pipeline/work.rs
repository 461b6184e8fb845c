//! Everything received and not yet settled, driven forward in place: started in turn, judged, kept, settled.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use smol_str::SmolStr;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tower::Service;

use super::{
    control::Shared,
    desk::Desk,
    keep::{Keep, Keepsake, Kept},
    lanes::{Backlog, Lanes},
    slots::Slots,
    verdict::{Verdict, verdict},
};
use crate::{
    Attempt, Class, Delivery, Disposition, Error, Message, Order, Reply, SettleError, Token, clock,
    layer::{BreakerHandle, BreakerState, expired},
    store::{DeadLetter, Item},
    telemetry::{Stats, Tally},
};

/// So often a settlement that failed is tried again, while its lease is kept; then the message comes again.
const SETTLE_TRIES: u8 = 5;

/// What a driver is told about its pipeline.
pub(super) struct Plan {
    /// How many messages may be at the sink at once.
    pub(super) concurrency: usize,
    /// How many deliveries may be held at once: the concurrency and the prefetch.
    pub(super) window: usize,
    pub(super) deadline: Option<Duration>,
    pub(super) lanes: Option<Lanes>,
    /// Whether an attempt whose lease is lost is cancelled.
    pub(super) cancel_on_lost_lease: bool,
    pub(super) config_hash: SmolStr,
    pub(super) breaker: Option<BreakerHandle>,
    /// The retry layer's signs: how many messages wait there, and whether they are in the way.
    pub(super) resting: Arc<AtomicUsize>,
    pub(super) crowded: Arc<AtomicBool>,
    /// The sources' labels.
    pub(super) labels: Vec<SmolStr>,
}

/// The messages in flight of one driver.
pub(super) struct Work<S: Service<Message>> {
    service: S,
    plan: Plan,
    shared: Arc<Shared>,
    slots: Slots<S::Future, Entry>,
    backlog: Backlog<usize>,
    desks: Vec<Desk>,
    keep: Keep,
    calls: FuturesUnordered<BoxFuture<'static, Returned>>,
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
    keeper_at: Option<Instant>,
    /// Tells entries of one slot apart.
    serial: u64,
    /// The time, as of the last look at the clock: close enough for what is counted.
    now: Instant,
    counts: Counts,
}

/// What was counted since the last turn, by this driver alone.
#[derive(Default)]
struct Counts {
    delivered: u64,
    settled: i64,
    queue: Tally,
    total: Tally,
}

impl Counts {
    fn flush(&mut self, stats: &Stats) {
        if self.delivered > 0 {
            stats.delivered.fetch_add(std::mem::take(&mut self.delivered), Relaxed);
        }
        if self.settled > 0 {
            stats.in_flight.fetch_sub(std::mem::take(&mut self.settled), Relaxed);
        }
        self.queue.flush(&stats.queue);
        self.total.flush(&stats.total);
    }
}

/// One delivery on its way.
struct Entry {
    message: Message,
    /// The attempts of earlier deliveries, and of this one once it has been kept or has rested; usually none.
    #[expect(clippy::box_collection, reason = "one word in each entry, for what few entries have")]
    history: Option<Box<Vec<Attempt>>>,
    token: Token,
    source: usize,
    lane: Option<SmolStr>,
    serial: u64,
    received: Instant,
    leased: Instant,
    lost: bool,
    /// On its way into the Store.
    keeping: bool,
    /// Whether it is still to be settled: from its receipt until the settlement is on the desk.
    open: bool,
    /// Once settled: how, if for good, and how often the source could not be told.
    settling: Option<(Option<Final>, u8)>,
}

/// An outcome that the source is told again if it could not be told.
#[derive(Clone, Copy)]
enum Final {
    Ack,
    DeadLetter,
    Parked,
}

impl Final {
    const fn of(disposition: &Disposition) -> Option<Self> {
        match disposition {
            Disposition::Ack(_) => Some(Self::Ack),
            Disposition::DeadLetter(_) => Some(Self::DeadLetter),
            Disposition::Parked => Some(Self::Parked),
            Disposition::Nack { .. } | Disposition::Release => None,
        }
    }

    /// Without what came with it: the answer or the history went with the first telling.
    fn again(self) -> Disposition {
        match self {
            Self::Ack => Disposition::Ack(Reply::default()),
            Self::DeadLetter => Disposition::DeadLetter(Vec::new()),
            Self::Parked => Disposition::Parked,
        }
    }
}

impl Entry {
    fn take_history(&mut self) -> Vec<Attempt> {
        self.history.take().map(|history| *history).unwrap_or_default()
    }
}

/// A call of the driver's own that has come back.
enum Returned {
    Settled {
        desk: usize,
        slots: Vec<usize>,
        results: Vec<Result<(), SettleError>>,
        took: Duration,
    },
    Kept(Kept),
    Extended {
        entries: Vec<(usize, u64)>,
        results: Vec<Result<(), SettleError>>,
        at: Instant,
    },
    /// The head of an ordered lane has waited for its next attempt.
    Rested {
        slot: usize,
        serial: u64,
    },
    SettleAgain {
        slot: usize,
        serial: u64,
    },
}

impl<S> Work<S>
where
    S: Service<Message, Response = Reply, Error = Error>,
{
    pub(super) fn new(service: S, plan: Plan, desks: Vec<Desk>, keep: Keep, shared: Arc<Shared>) -> Self {
        // More than this is seldom held, and then grown into.
        let expected = plan.window.min(100_000);
        let backlog = Backlog::new(plan.lanes.as_ref().map(|lanes| lanes.order));
        Self {
            service,
            plan,
            shared,
            slots: Slots::with_capacity(expected),
            backlog,
            desks,
            keep,
            calls: FuturesUnordered::new(),
            timer: None,
            keeper_at: None,
            serial: 0,
            now: Instant::now(),
            counts: Counts::default(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len()
    }

    pub(super) const fn window(&self) -> usize {
        self.plan.window
    }

    /// Whether everything that was received is settled, and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.slots.len() == 0 && self.keep.is_idle() && self.desks.iter().all(Desk::is_idle)
    }

    /// Takes a batch in; its messages start at the next [`poll`](Self::poll).
    pub(super) fn take(&mut self, source: usize, batch: Vec<Delivery>) {
        let stats = &self.shared.stats;
        let (now, wall) = (Instant::now(), SystemTime::now());
        stats.received.fetch_add(batch.len() as u64, Relaxed);
        stats
            .in_flight
            .fetch_add(i64::try_from(batch.len()).unwrap_or(i64::MAX), Relaxed);
        let capabilities = &self.desks[source].capabilities;
        if let (true, Some(lease)) = (capabilities.extends, capabilities.lease) {
            let tick = now + lease / 4;
            self.keeper_at = Some(self.keeper_at.map_or(tick, |at| at.min(tick)));
        }
        for Delivery {
            mut message,
            history,
            receipt,
        } in batch
        {
            let lag = wall.duration_since(message.created_at()).unwrap_or_default();
            self.counts.queue.record(lag);
            stats
                .queue_lag_millis
                .store(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX), Relaxed);
            if let (None, Some(total)) = (message.deadline, self.plan.deadline) {
                message.deadline = Some(now + total);
            }
            let lane = self.plan.lanes.as_ref().and_then(|lanes| (lanes.key)(&message));
            self.serial += 1;
            let entry = Entry {
                message,
                history: (!history.is_empty()).then(|| Box::new(history)),
                // From here on the duty to settle is ours; `drop` sees to what is left.
                token: receipt.into_parts().0,
                open: true,
                source,
                lane,
                serial: self.serial,
                received: now,
                leased: now,
                lost: false,
                keeping: false,
                settling: None,
            };
            let slot = self.slots.insert(entry);
            let lane = self.slots.entry(slot).and_then(|entry| entry.lane.as_ref());
            self.backlog.push(slot, lane);
        }
    }

    /// Drives everything as far as it goes. `waiting`: nothing new will come before this is polled again, so what is
    /// finished need not wait for company.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, waiting: bool) {
        self.now = Instant::now();
        loop {
            let mut moved = false;
            while let Poll::Ready((slot, outcome)) = self.slots.poll_next(cx) {
                self.finished(slot, outcome);
                moved = true;
            }
            while let Poll::Ready(Some(returned)) = self.calls.poll_next_unpin(cx) {
                self.returned(returned, cx);
                moved = true;
            }
            while self.may_start()
                && let Some(slot) = self.backlog.pop()
            {
                self.start(slot, cx);
                moved = true;
            }
            let crowded =
                self.slots.len() >= self.plan.window && self.resting() > self.plan.window - self.plan.concurrency;
            self.plan.crowded.store(crowded, Relaxed);
            moved |= self.send(waiting);
            moved |= self.poll_timer(cx);
            if !moved {
                self.counts.flush(&self.shared.stats);
                return;
            }
        }
    }

    fn resting(&self) -> usize {
        self.plan.resting.load(Relaxed)
    }

    /// A message that rests between attempts holds no place at the sink.
    fn may_start(&self) -> bool {
        self.slots.running().saturating_sub(self.resting()) < self.plan.concurrency
    }

    fn start(&mut self, slot: usize, cx: &mut Context<'_>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        if entry.lost {
            // Somebody else has it, and here nothing was done yet.
            return self.release(slot);
        }
        if entry.message.deadline.is_some_and(|deadline| deadline <= self.now) {
            return self.finished(slot, Err(expired()));
        }
        let message = entry.message.clone();
        // The stack is always ready: its waits are in its futures. Services must be asked all the same.
        let outcome = match self.service.poll_ready(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => {
                let call = self.service.call(message);
                self.slots.start(slot, call)
            }
        };
        if let Poll::Ready(outcome) = outcome {
            self.finished(slot, outcome);
        }
    }

    fn finished(&mut self, slot: usize, outcome: Result<Reply, Error>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let took = self.now - entry.received;
        self.counts.total.record(took);
        let source = &self.desks[entry.source].capabilities;
        let reopens = match self.plan.breaker.as_ref().map(BreakerHandle::state) {
            Some(BreakerState::Open(until)) => Some(until - Instant::now()),
            _ => None,
        };
        let attempt_of = |error: &Error| Attempt::failed(entry.message.attempt, SystemTime::now() - took, took, error);
        match verdict(outcome, attempt_of, source, reopens) {
            Verdict::Settle(disposition @ Disposition::Ack(_)) => {
                self.counts.delivered += 1;
                self.settle(slot, disposition);
            }
            Verdict::Settle(Disposition::Nack { delay, attempts }) => self.nack(slot, delay, attempts),
            Verdict::Settle(disposition) => self.settle(slot, disposition),
            Verdict::Bury { reason, attempts } => self.bury(slot, reason, attempts),
            Verdict::Park { delay, attempts } => self.park(slot, delay, attempts),
        }
    }

    /// Gives a message back with its delay. In an ordered lane its followers go back behind it where the source keeps
    /// their order; else it waits here and its lane with it.
    fn nack(&mut self, slot: usize, delay: Option<Duration>, attempts: Vec<Attempt>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let ordered = self.plan.lanes.as_ref().is_some_and(|lanes| lanes.order);
        if let (true, Some(lane)) = (ordered, entry.lane.clone()) {
            if self.desks[entry.source].capabilities.order == Order::None {
                return self.rest(slot, delay.unwrap_or(Duration::from_secs(1)), attempts);
            }
            for follower in self.backlog.take_followers(&lane) {
                self.release(follower);
            }
        }
        self.shared.stats.nacked.fetch_add(1, Relaxed);
        self.settle(slot, Disposition::Nack { delay, attempts });
    }

    fn park(&mut self, slot: usize, delay: Duration, attempts: Vec<Attempt>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        if entry.lane.is_some() && self.plan.lanes.as_ref().is_some_and(|lanes| lanes.order) {
            return self.rest(slot, delay, attempts);
        }
        let counted = attempts.iter().filter(|attempt| counts(attempt)).count();
        let mut item = Item::of(&entry.message);
        item.attempts = (entry.message.attempt - 1).saturating_add(u32::try_from(counted).unwrap_or(u32::MAX));
        item.run_at = Some(SystemTime::now() + delay);
        item.deadline = entry.message.deadline.map(clock::system_time_at);
        item.history = entry.take_history();
        item.history.extend(attempts);
        entry.keeping = true;
        self.keep.put(slot, Keepsake::Retry(Box::new(item)));
    }

    /// Waits here for the next attempt, at the head of its lane.
    fn rest(&mut self, slot: usize, delay: Duration, attempts: Vec<Attempt>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let counted = attempts.iter().filter(|attempt| counts(attempt)).count();
        entry.message.attempt = entry
            .message
            .attempt
            .saturating_add(u32::try_from(counted).unwrap_or(u32::MAX));
        entry.history.get_or_insert_default().extend(attempts);
        let serial = entry.serial;
        self.calls.push(Box::pin(async move {
            sleep(delay).await;
            Returned::Rested { slot, serial }
        }));
    }

    fn bury(&mut self, slot: usize, reason: &'static str, attempts: Vec<Attempt>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let mut history = entry.take_history();
        history.extend(attempts);
        let message = &entry.message;
        let letter = DeadLetter {
            number: 0,
            pipeline: self.shared.name.clone(),
            source: self.plan.labels[entry.source].clone(),
            id: message.id().clone(),
            payload: message.payload.clone(),
            headers: message.headers().clone(),
            metadata: message.metadata().clone(),
            key: message.key().cloned(),
            reason: SmolStr::new_static(reason),
            attempts: history,
            trace_id: crate::layer::trace_id(message).map(SmolStr::new),
            config_hash: self.plan.config_hash.clone(),
            created_at: message.created_at(),
            died_at: SystemTime::now(),
            replayed_at: None,
        };
        entry.keeping = true;
        self.keep.put(slot, Keepsake::Letter(Box::new(letter)));
    }

    /// Gives back what was not tried.
    fn release(&mut self, slot: usize) {
        self.shared.stats.released.fetch_add(1, Relaxed);
        self.settle(slot, Disposition::Release);
    }

    /// Puts the outcome on the source's desk; the slot stays taken until the source has confirmed it.
    fn settle(&mut self, slot: usize, disposition: Disposition) {
        let Some(entry) = self.slots.entry(slot) else { return };
        if !std::mem::replace(&mut entry.open, false) {
            return;
        }
        entry.settling = Some((Final::of(&disposition), 0));
        if let Some(lane) = &entry.lane {
            self.backlog.done(lane);
        }
        let token = entry.token.clone();
        self.desks[entry.source].put(slot, token, disposition);
    }

    /// Sends what is due to sources and Store.
    fn send(&mut self, waiting: bool) -> bool {
        let now = Instant::now();
        self.now = now;
        let mut sent = false;
        if let Some(batch) = self.keep.take(now) {
            self.calls
                .push(Box::pin(async move { Returned::Kept(batch.send().await) }));
            sent = true;
        }
        let nothing_more = waiting && self.slots.running() == 0;
        for (desk, own) in self.desks.iter_mut().enumerate() {
            while let Some(parcel) = own.take(now, nothing_more) {
                self.calls.push(Box::pin(async move {
                    let (slots, results) = parcel.send().await;
                    Returned::Settled {
                        desk,
                        slots,
                        results,
                        took: now.elapsed(),
                    }
                }));
                sent = true;
            }
        }
        if self.keeper_at.is_some_and(|at| now >= at) {
            self.extend_leases(now);
            sent = true;
        }
        sent
    }

    /// Makes every lease longer that has come to its half; looks each quarter.
    fn extend_leases(&mut self, now: Instant) {
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
                .filter(|(_, entry)| entry.source == source && !entry.lost)
            {
                any = true;
                if now + tick / 4 >= entry.leased + lease / 2 {
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

    fn returned(&mut self, returned: Returned, cx: &mut Context<'_>) {
        match returned {
            Returned::Settled {
                desk,
                slots,
                results,
                took,
            } => {
                self.shared.stats.ack.record(took);
                self.desks[desk].returned();
                for (slot, result) in slots.into_iter().zip(results) {
                    self.settled(slot, result);
                }
            }
            Returned::Kept(kept) => self.kept(kept),
            Returned::Extended { entries, results, at } => self.extended(entries, results, at),
            Returned::Rested { slot, serial } => {
                if self
                    .slots
                    .entry(slot)
                    .is_some_and(|entry| entry.serial == serial && entry.settling.is_none())
                {
                    self.start(slot, cx);
                }
            }
            Returned::SettleAgain { slot, serial } => {
                if let Some(entry) = self.slots.entry(slot).filter(|entry| entry.serial == serial) {
                    let (token, source) = (entry.token.clone(), entry.source);
                    if let Some((Some(how), _)) = entry.settling {
                        self.desks[source].put(slot, token, how.again());
                    }
                }
            }
        }
    }

    fn settled(&mut self, slot: usize, result: Result<(), SettleError>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let stats = &self.shared.stats;
        match result {
            Ok(()) => {}
            Err(SettleError::Stale) => {
                stats.lease_lost.fetch_add(u64::from(!entry.lost), Relaxed);
                tracing::warn!(id = %entry.message.id(), "lease lost before the settlement: the message may be worked on twice");
            }
            Err(SettleError::Failed(error)) => {
                let source = &self.plan.labels[entry.source];
                if let Some((Some(_), tries)) = &mut entry.settling
                    && *tries < SETTLE_TRIES
                {
                    *tries += 1;
                    let (wait, serial) = (Duration::from_millis(100) * (1 << *tries), entry.serial);
                    tracing::warn!(%source, id = %entry.message.id(), error = error.report(), ?wait, "settlement failed, trying again");
                    self.calls.push(Box::pin(async move {
                        sleep(wait).await;
                        Returned::SettleAgain { slot, serial }
                    }));
                    return;
                }
                stats.settle_failed.fetch_add(1, Relaxed);
                tracing::error!(%source, id = %entry.message.id(), error = error.report(), "settlement failed: the message may come again");
            }
        }
        self.counts.settled += 1;
        self.slots.remove(slot);
    }

    fn kept(&mut self, kept: Kept) {
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
                        if is_letter {
                            self.note_dead_letter(slot, &keepsake);
                        }
                        let disposition = if is_letter {
                            Disposition::DeadLetter(keepsake.into_attempts())
                        } else {
                            Disposition::Parked
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
                    for (slot, keepsake) in batch {
                        self.not_kept(slot, keepsake);
                    }
                }
            }
        }
    }

    fn note_dead_letter(&mut self, slot: usize, keepsake: &Keepsake) {
        if let (Some(entry), Keepsake::Letter(letter)) = (self.slots.entry(slot), keepsake) {
            let error = letter.attempts.last().map(|attempt| attempt.text.as_str());
            tracing::warn!(id = %entry.message.id(), reason = %letter.reason, attempts = letter.attempts.len(), error, "dead letter");
        }
    }

    /// Not in the Store, so not acked: back to the source where it takes messages back, else held and tried again.
    fn not_kept(&mut self, slot: usize, keepsake: Keepsake) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let source = &self.desks[entry.source].capabilities;
        if source.redelivers || source.wants_reply {
            let delay = Duration::from_secs(5);
            let delay = (source.wants_reply || source.nack_delay.allows(delay)).then_some(delay);
            self.nack(slot, delay, keepsake.into_attempts());
        } else {
            self.keep.put_back(slot, keepsake);
        }
    }

    fn extended(&mut self, entries: Vec<(usize, u64)>, results: Vec<Result<(), SettleError>>, at: Instant) {
        let stats = &self.shared.stats;
        let mut lost = Vec::new();
        for ((slot, serial), result) in entries.into_iter().zip(results) {
            let Some(entry) = self.slots.entry(slot).filter(|entry| entry.serial == serial) else {
                continue;
            };
            match result {
                Ok(()) => {
                    entry.leased = at;
                    stats.lease_extended.fetch_add(1, Relaxed);
                }
                Err(SettleError::Stale) => {
                    entry.lost = true;
                    stats.lease_lost.fetch_add(1, Relaxed);
                    tracing::warn!(id = %entry.message.id(), "lease lost: somebody else has the message");
                    lost.push(slot);
                }
                // The next look tries again; half the lease is left.
                Err(SettleError::Failed(error)) => tracing::warn!(error = error.report(), "lease not extended"),
            }
        }
        if self.plan.cancel_on_lost_lease {
            for slot in lost {
                if self.slots.cancel(slot) {
                    self.release(slot);
                }
            }
        }
    }

    /// Gives back what was not started.
    pub(super) fn release_backlog(&mut self) {
        for slot in self.backlog.drain() {
            self.release(slot);
        }
    }

    /// Cancels what is started, and gives it back with everything else that is not settled.
    pub(super) fn cancel(&mut self) {
        self.release_backlog();
        let kept_waiting = self.keep.abandon();
        let unsettled: Vec<_> = self
            .slots
            .entries()
            // What is on its way into the Store right now is settled when that comes back.
            .filter(|(slot, entry)| entry.open && (!entry.keeping || kept_waiting.contains(slot)))
            .map(|(slot, _)| slot)
            .collect();
        for slot in unsettled {
            self.slots.cancel(slot);
            self.release(slot);
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let due = self
            .desks
            .iter()
            .filter_map(Desk::due)
            .chain(self.keep.due())
            .chain(self.keeper_at)
            .min();
        let Some(due) = due else { return false };
        let (armed, timer) = self.timer.get_or_insert_with(|| (due, Box::pin(sleep_until(due))));
        if *armed > due || timer.is_elapsed() {
            *armed = due;
            timer.as_mut().reset(due);
        }
        // True only once for each time that falls due: what is due is then sent.
        timer.as_mut().poll(cx).is_ready()
    }
}

impl<S: Service<Message>> Drop for Work<S> {
    /// A driver that is dropped (its future cancelled, or a panic) gives back what it holds, and tells what it knows.
    fn drop(&mut self) {
        for (_, entry) in self.slots.entries().filter(|(_, entry)| entry.open) {
            self.desks[entry.source].put(0, entry.token.clone(), Disposition::Release);
        }
        // Without a runtime there is nobody to send it; leases and connections end by themselves.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        for desk in &mut self.desks {
            if let Some(parcel) = desk.take_all() {
                runtime.spawn(parcel.send());
            }
        }
    }
}

/// Whether a failed attempt counts, by its class's name.
fn counts(attempt: &Attempt) -> bool {
    attempt.class == Class::Retry.name() || attempt.class == Class::Permanent.name()
}
