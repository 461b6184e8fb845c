//! Everything received and not yet settled, driven forward in place: started in turn, judged, kept, settled.

mod end;
mod entry;
mod leases;
mod outcome;
mod park;
mod reach;
mod settled;
mod take;
#[cfg(test)]
mod tests;
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
use smol_str::SmolStr;
use tokio::time::{Instant, Sleep, sleep_until};
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
    parking::Parking,
    roll::InProgress,
    slots::Slots,
};
use crate::{
    Error, Message, Reply, SettleError, clock,
    layer::{BreakerHandle, expired},
    telemetry::{Origin, coming_from, till::Till},
};

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

    /// Drives everything as far as it goes. `waiting`: nothing new will come before this is polled again, so what is
    /// finished need not wait for company.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, waiting: bool) {
        let stats = Arc::clone(&self.shared.stats);
        let (_turn, _till) = (clock::Turn::begin(), Till::open(&stats.sink));
        let breaker = self.plan.breaker.clone();
        let _successes = breaker.as_ref().map(BreakerHandle::gather);
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
        entry.aside = None;
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
