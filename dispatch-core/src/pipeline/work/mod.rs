//! Everything received and not yet settled, driven forward in place: started in turn, judged, kept, settled.

mod entry;
mod leases;
mod outcome;
mod park;
mod reach;
mod visit;

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
use rand::RngExt as _;
use smol_str::SmolStr;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tower::Service;

use self::{
    entry::{Counts, Entry},
    reach::Reach,
};
use super::{
    control::Shared,
    desk::Desk,
    keep::{Keep, Kept},
    lanes::{Backlog, Lanes},
    parking::{Parking, restore},
    roll::InProgress,
    slots::Slots,
};
use crate::{
    Attempt, Class, Delivery, Disposition, Error, Message, Reply, SettleError,
    clock::{self, Moment},
    layer::{BreakerHandle, expired},
    message::Wall,
    telemetry::{Origin, coming_from, till::Till},
};

/// So often a settlement that failed is tried again where there is no lease; where there is one, for as long as it is
/// ours. Then the message comes again.
const SETTLE_TRIES: u8 = 5;
/// The longest wait before such a try, in doublings of 100 ms; chance takes up to half of it.
const SETTLE_DOUBLINGS: u8 = 7;

/// So many lists of woken messages in one turn; then the runtime has its own.
const ROUNDS: u8 = 16;

/// What a driver is told about its pipeline.
pub(super) struct Plan {
    /// How many messages may be at the sink at once.
    pub(super) concurrency: usize,
    /// How many deliveries may be held at once: the concurrency and the prefetch.
    pub(super) window: usize,
    /// Whether that many are always held, however slowly they are worked off.
    pub(super) fixed: bool,
    pub(super) deadline: Option<Duration>,
    pub(super) max_age: Option<Duration>,
    pub(super) lanes: Option<Lanes>,
    /// The keys that wait in the Store, where that is the lanes' policy.
    pub(super) parking: Option<Parking>,
    /// Whether an attempt whose lease is lost is cancelled.
    pub(super) cancel_on_lost_lease: bool,
    pub(super) config_hash: SmolStr,
    pub(super) breaker: Option<BreakerHandle>,
    /// The retry layer's signs: how many messages wait there, and whether they are in the way.
    pub(super) resting: Arc<AtomicUsize>,
    pub(super) crowded: Arc<AtomicBool>,
    /// The sources' labels.
    pub(super) labels: Vec<SmolStr>,
    /// How spans name the sources.
    pub(super) origins: Vec<Arc<Origin>>,
}

/// The messages in flight of one driver.
pub(super) struct Work<S: Service<Message>> {
    service: S,
    plan: Plan,
    shared: Arc<Shared>,
    slots: Slots<S::Future, Entry>,
    reach: Reach,
    backlog: Backlog<usize>,
    parking: Option<Parking>,
    /// Whether the Store is asked now and then which keys it holds.
    looking: bool,
    desks: Vec<Desk>,
    keep: Keep,
    calls: FuturesUnordered<BoxFuture<'static, Returned>>,
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
    keeper_at: Option<Instant>,
    /// Tells entries of one slot apart.
    serial: u32,
    /// Whether nothing more is received.
    ending: bool,
    /// Whether nothing waits here for a further attempt.
    draining: bool,
    counts: Counts,
    /// Its number on the roll, and the last question that it answered.
    driver: u64,
    answered: u64,
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
        entries: Vec<(usize, u32)>,
        results: Vec<Result<(), SettleError>>,
        at: Instant,
    },
    /// The head of an ordered lane has waited for its next attempt.
    Rested {
        slot: usize,
        serial: u32,
    },
    SettleAgain {
        slot: usize,
        serial: u32,
    },
    /// It is time to ask the Store which keys it holds.
    Look,
    /// The Store's answer.
    Keys(Result<Vec<(SmolStr, u64)>, Error>),
}

impl<S> Work<S>
where
    S: Service<Message, Response = Reply, Error = Error>,
{
    pub(super) fn new(service: S, mut plan: Plan, desks: Vec<Desk>, keep: Keep, shared: Arc<Shared>) -> Self {
        // More than this is seldom held, and then grown into.
        let expected = plan.window.min(100_000);
        let backlog = Backlog::new(match &plan.lanes {
            _ if desks.iter().any(|desk| desk.capabilities.needs_lanes) => Some(true),
            lanes => lanes.as_ref().map(|lanes| lanes.order),
        });
        let slots = Slots::with_capacity(expected);
        // In lanes what is held is what can be chosen from.
        let fixed = plan.fixed || backlog.has_lanes();
        let reach = Reach::new(plan.window - plan.concurrency, fixed);
        let (answered, driver) = (shared.roll.question(), shared.roll.enter(slots.bell()));
        let mut work = Self {
            parking: plan.parking.take(),
            looking: false,
            service,
            plan,
            shared,
            slots,
            reach,
            backlog,
            desks,
            keep,
            calls: FuturesUnordered::new(),
            timer: None,
            keeper_at: None,
            serial: 0,
            ending: false,
            draining: false,
            counts: Counts::default(),
            driver,
            answered,
        };
        work.look_at_keys();
        work
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// How many places of the window are taken.
    pub(super) fn taken(&self) -> usize {
        let lent: usize = self.desks.iter().map(Desk::lent).sum();
        self.slots.len().saturating_sub(lent)
    }

    /// Nothing more is received: what is finished waits for no company.
    pub(super) const fn end(&mut self) {
        self.ending = true;
    }

    /// How many deliveries may be held now.
    pub(super) fn window(&self) -> usize {
        self.plan.concurrency + self.reach.places(self.resting())
    }

    /// Whether everything that was received is settled, and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.slots.len() == 0 && self.keep.is_idle() && self.desks.iter().all(Desk::is_idle)
    }

    /// Takes a batch in; its messages start at the next [`poll`](Self::poll).
    pub(super) fn take(&mut self, source: usize, batch: Vec<Delivery>) {
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
                pause: None,
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

    /// Drives everything as far as it goes. `waiting`: nothing new will come before this is polled again, so what is
    /// finished need not wait for company.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, waiting: bool) {
        let stats = Arc::clone(&self.shared.stats);
        let (_turn, _till) = (clock::Turn::begin(), Till::open(&stats.sink));
        if self.shared.roll.question() != self.answered {
            self.tell();
        }
        let mut rounds = ROUNDS;
        loop {
            let mut moved = false;
            while let Poll::Ready((slot, outcome)) = self.slots.poll_next(cx, &mut rounds) {
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
            let crowded = self.taken() >= self.plan.window && self.resting() > self.plan.window - self.plan.concurrency;
            self.plan.crowded.store(crowded, Relaxed);
            moved |= self.send(waiting);
            moved |= self.poll_timer(cx);
            if !moved {
                self.counts.flush(&self.shared.stats);
                return;
            }
        }
    }

    /// Says what is at the sink.
    fn tell(&mut self) {
        self.answered = self.shared.roll.question();
        let (now, wall) = (Instant::now(), SystemTime::now());
        let all: Vec<_> = self
            .slots
            .at_work()
            .map(|entry| {
                let began = entry.received.instant() + Duration::from_millis(entry.waited.into());
                InProgress {
                    message: entry.message.clone(),
                    source: self.plan.labels[entry.source()].clone(),
                    token: entry.token.clone(),
                    started_at: wall - now.saturating_duration_since(began),
                }
            })
            .collect();
        self.shared.roll.answer(self.driver, &all);
        self.visited();
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
        entry.started = true;
        let now = clock::recent();
        entry.waited = u32::try_from(now.moment.nanos_since(entry.received) / 1_000_000).unwrap_or(u32::MAX);
        entry.pause = None;
        if entry.lost {
            // Somebody else has it, and here nothing was done yet.
            return self.release(slot);
        }
        if entry.message.deadline.is_some_and(|deadline| deadline <= now.instant) {
            return self.finished(slot, Err(expired()));
        }
        let (message, source) = (entry.message.clone(), entry.source());
        // The stack is always ready: its waits are in its futures. Services must be asked all the same.
        let outcome = match self.service.poll_ready(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => {
                coming_from(|| Arc::clone(&self.plan.origins[source]));
                self.slots.start(slot, self.service.call(message))
            }
        };
        if let Poll::Ready(outcome) = outcome {
            self.finished(slot, outcome);
        }
    }

    /// Sends what is due to sources and Store.
    fn send(&mut self, waiting: bool) -> bool {
        let now = clock::look().instant;
        let mut sent = false;
        if let Some(batch) = self.keep.take(now) {
            self.calls
                .push(Box::pin(async move { Returned::Kept(batch.send().await) }));
            sent = true;
        }
        let nothing_more = waiting && self.slots.running() == 0;
        for (desk, own) in self.desks.iter_mut().enumerate() {
            while let Some(parcel) = own.take(now, nothing_more, self.ending) {
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
                // A rest that a drain has ended, or a cancel, starts nothing any more.
                let rests = |entry: &mut Entry| entry.serial == serial && entry.open && entry.rests_until().is_some();
                if self.slots.entry(slot).is_some_and(rests) {
                    self.start(slot, cx);
                }
            }
            Returned::Look => self.ask_for_keys(),
            Returned::Keys(keys) => self.keys_known(keys),
            Returned::SettleAgain { slot, serial } => {
                if let Some(entry) = self.slots.entry(slot).filter(|entry| entry.serial == serial) {
                    let (token, source) = (entry.token.clone(), entry.source());
                    if let Some(disposition) = entry.settled() {
                        self.desks[source].put(slot, token, disposition);
                    }
                }
            }
        }
    }

    fn settled(&mut self, slot: usize, result: Result<(), SettleError>) {
        let Some(entry) = self.slots.entry(slot) else { return };
        let stats = &self.shared.stats;
        match result {
            Ok(()) => {
                if entry.parked && !entry.goes_back() {
                    self.left_the_store(slot);
                }
            }
            Err(SettleError::Stale | SettleError::Withdrawn) => {
                stats.lease_lost.fetch_add(u64::from(!entry.lost), Relaxed);
                tracing::warn!(id = %entry.message.id(), "lease lost before the settlement: the message may be worked on twice");
            }
            Err(SettleError::Failed(error)) => {
                let source = &self.plan.labels[entry.source()];
                let lease = self.desks[entry.source()].capabilities.lease;
                let ours = lease.is_some_and(|lease| Instant::now() < entry.leased_at() + lease) && !entry.lost;
                if let Some((settled, tries)) = &mut entry.settling
                    // What goes back does so with the end of its lease, too.
                    && (*tries < SETTLE_TRIES || (ours && !settled.goes_back()))
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
                stats.settle_failed.fetch_add(1, Relaxed);
                tracing::error!(%source, id = %entry.message.id(), error = error.report(), "settlement failed: the message may come again");
            }
        }
        self.counts.settled += 1;
        if let Some(entry) = self.slots.remove(slot) {
            self.desks[entry.source()].confirmed();
            self.reach.settled();
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
        self.shared.roll.leave(self.driver);
        for (_, entry) in self.slots.entries().filter(|(_, entry)| entry.open) {
            self.desks[entry.source()].put(0, entry.token.clone(), Disposition::Release);
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
#[cfg(test)]
mod tests {
    use tower::Layer as _;

    use super::*;
    use crate::{layer::Stack, message::Envelope};

    fn size_of_call<S: Service<Message>>(_: &S) -> usize {
        size_of::<S::Future>()
    }

    /// What the figure of `benches/memory.rs` is made of: who adds a word to one of these sees it here first.
    #[test]
    fn a_message_in_flight_stays_small() {
        let sink = tower::service_fn(|_: Message| std::future::ready(Ok::<_, Error>(Reply::default())));
        let bare = size_of_val(&sink.clone().call(Message::new("x")));

        let stack = size_of_call(&Stack::default().layers(&Arc::default()).layer(sink)) - bare;

        assert!(
            stack <= 208,
            "the layers take {stack} bytes around the sink's own future"
        );
        assert!(size_of::<Entry>() <= 120, "an entry takes {}", size_of::<Entry>());
        assert!(
            size_of::<Envelope>() <= 104,
            "a bare message takes {}",
            size_of::<Envelope>()
        );
    }
}
