//! The loop: ask the sources for what the window has free, drive what came, end in order.

use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower::Service;

use super::{
    control::{Phase, Shared, Stop, Wanted},
    gate::Gate,
    intake::{Intake, Taken},
    work::Work,
};
use crate::{
    Error, Message, Reply, Store,
    layer::{BreakerHandle, BreakerState},
};

/// How often a bounded run that waits for parked retries looks whether any are left.
const LOOK: Duration = Duration::from_secs(1);

/// What is left to do for a message once a drain's time is up: cancel, release, flush.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Drives one pipeline, or one shard of it.
pub(super) struct Driver<S: Service<Message>> {
    pub(super) work: Work<S>,
    pub(super) intake: Arc<Mutex<Intake>>,
    pub(super) shared: Arc<Shared>,
    pub(super) breaker: Option<BreakerHandle>,
    pub(super) store: Arc<dyn Store>,
    /// The queue of parked retries.
    pub(super) parked: Arc<str>,
    pub(super) drain_timeout: Duration,
    /// How many shards have not begun to end.
    pub(super) shards: Arc<AtomicUsize>,
}

/// Why a wait ended.
enum Turn {
    Took(Taken),
    /// Demand, gate or wishes may have changed.
    Again,
    /// The input has ended and everything is settled.
    Idle,
}

impl<S> Driver<S>
where
    S: Service<Message, Response = Reply, Error = Error>,
{
    /// Runs until told to stop or the input has ended and all is done; says whether everything was finished in time.
    pub(super) async fn run(mut self) -> bool {
        let mut wanted = self.shared.wanted.subscribe();
        let mut breaker = self.breaker.as_ref().map(BreakerHandle::subscribe);
        let (mut ended, mut held) = (false, false);
        // Whether it is known since the last message that something is parked.
        let mut looked = false;
        loop {
            // A source that is always ready must not keep the thread for itself.
            tokio::task::consume_budget().await;
            let wishes = *wanted.borrow_and_update();
            if wishes.stop != Stop::No {
                break;
            }
            let gate = Gate::of(wishes, self.breaker.as_ref());
            self.note_breaker();
            if matches!(gate, Gate::Closed(_)) {
                if !std::mem::replace(&mut held, true) {
                    self.work.release_backlog();
                    self.hold(gate).await;
                }
            } else {
                held = false;
            }
            match self.turn(gate, ended, looked, &mut wanted, breaker.as_mut()).await {
                Turn::Took(Taken::Batch(source, batch)) => {
                    looked = false;
                    self.work.take(source, batch);
                }
                Turn::Took(Taken::Ended) => {
                    ended = true;
                    self.work.end();
                }
                Turn::Again => {}
                Turn::Idle => {
                    if nothing_parked(&*self.store, &self.parked).await {
                        break;
                    }
                    looked = true;
                }
            }
        }
        self.drain(wanted).await
    }

    /// Polls everything until something changes what should be asked for.
    async fn turn(
        &mut self,
        gate: Gate,
        ended: bool,
        looked: bool,
        wanted: &mut watch::Receiver<Wanted>,
        breaker: Option<&mut watch::Receiver<()>>,
    ) -> Turn {
        let Self { work, intake, .. } = self;
        let demand = gate.demand(work.window(), work.taken());
        let wish = async {
            drop(wanted.changed().await);
        };
        let breaker = async {
            match breaker {
                // The sender lives as long as the driver.
                Some(breaker) => drop(breaker.changed().await),
                None => pending().await,
            }
        };
        let reopen = async {
            match gate {
                Gate::Closed(Some(until)) => sleep_until(until).await,
                _ => pending().await,
            }
        };
        let receive = async {
            match demand {
                0 => pending().await,
                _ if ended => intake.lock().await.receive_rest(demand).await,
                _ => intake.lock().await.receive(demand).await,
            }
        };
        let look = async {
            match (ended, looked) {
                (false, _) => pending().await,
                (true, false) => {}
                (true, true) => sleep(LOOK).await,
            }
        };
        let (mut wish, mut breaker, mut reopen) = (pin!(wish), pin!(breaker), pin!(reopen));
        let (mut receive, mut look) = (pin!(receive), pin!(look));
        poll_fn(|cx| {
            work.poll(cx, false);
            let bell = wish.as_mut().poll(cx).is_ready()
                || breaker.as_mut().poll(cx).is_ready()
                || reopen.as_mut().poll(cx).is_ready();
            if bell || has_grown(demand, gate.demand(work.window(), work.taken())) {
                return Poll::Ready(Turn::Again);
            }
            if let Poll::Ready(taken) = receive.as_mut().poll(cx) {
                return Poll::Ready(Turn::Took(taken));
            }
            // Nothing comes for now: what is finished need not wait for company.
            work.poll(cx, true);
            if has_grown(demand, gate.demand(work.window(), work.taken())) {
                return Poll::Ready(Turn::Again);
            }
            if ended && work.is_idle() && look.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Turn::Idle);
            }
            Poll::Pending
        })
        .await
    }

    /// Shows the breaker's state in the counters.
    fn note_breaker(&self) {
        let state = match self.breaker.as_ref().map(BreakerHandle::state) {
            None | Some(BreakerState::Closed) => 0,
            Some(BreakerState::HalfOpen(_)) => 1,
            Some(BreakerState::Open(_)) => 2,
        };
        self.shared.stats.breaker_state.store(state, Relaxed);
    }

    /// Tells the sources that nothing is asked for, while the work goes on.
    async fn hold(&mut self, gate: Gate) {
        let opens_in = match gate {
            Gate::Closed(Some(until)) => Some(until.saturating_duration_since(Instant::now())),
            _ => None,
        };
        tracing::info!(pipeline = %self.shared.name, ?opens_in, "gate closed");
        let intake = Arc::clone(&self.intake);
        let hold = async { timeout(LAST_WORDS, async { intake.lock().await.hold().await }).await };
        if self.work_while(hold).await.is_err() {
            tracing::warn!(pipeline = %self.shared.name, "a source did not hold in time");
        }
    }

    /// Drives the work for as long as `future` takes.
    async fn work_while<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let work = &mut self.work;
        poll_fn(|cx| {
            work.poll(cx, true);
            future.as_mut().poll(cx)
        })
        .await
    }

    async fn until_idle(&mut self) {
        let work = &mut self.work;
        poll_fn(|cx| {
            work.poll(cx, true);
            if work.is_idle() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Ends in order: stop receiving, release what was not started, finish what was, cancel what takes too long, flush.
    async fn drain(mut self, mut wanted: watch::Receiver<Wanted>) -> bool {
        self.shared.set_phase(Phase::Draining);
        let deadline = Instant::now() + self.drain_timeout;
        self.work.end();
        self.work.release_backlog();
        self.work.end_rests();
        // The last shard to end closes what all share.
        let last = self.shards.fetch_sub(1, Ordering::AcqRel) == 1;
        let intake = Arc::clone(&self.intake);
        let close = async { timeout(LAST_WORDS, async { intake.lock().await.close().await }).await };
        // A source that cannot close may hold what it has read: that is not a clean end.
        let closed = !last
            || match self.work_while(close).await {
                Ok(closed) => closed,
                Err(_) => {
                    tracing::error!(pipeline = %self.shared.name, "a source did not close in time");
                    false
                }
            };
        let hurry = async {
            tokio::select! {
                _ = wanted.wait_for(|wanted| wanted.stop == Stop::Now) => {}
                () = sleep_until(deadline) => {}
            }
        };
        let finished = tokio::select! {
            biased;
            () = self.until_idle() => true,
            () = hurry => false,
        };
        if finished {
            return closed;
        }
        tracing::warn!(pipeline = %self.shared.name, in_flight = self.work.in_flight(), "drain takes too long: cancelling");
        self.work.cancel();
        if timeout(LAST_WORDS, self.until_idle()).await.is_err() {
            tracing::error!(pipeline = %self.shared.name, in_flight = self.work.in_flight(), "not released: leases run out");
        }
        false
    }
}

async fn nothing_parked(store: &dyn Store, parked: &str) -> bool {
    match timeout(LAST_WORDS, store.queue().depth(parked)).await {
        Err(_) => {
            tracing::warn!("store does not say what is parked");
            false
        }
        Ok(Ok(depth)) => depth.ready + depth.delayed + depth.leased == 0,
        Ok(Err(error)) => {
            tracing::warn!(error = error.report(), "store does not say what is parked");
            false
        }
    }
}

/// Whether asking again for more is worth dropping the present question: it has doubled.
const fn has_grown(asked: usize, free: usize) -> bool {
    free >= 2 * asked && free > asked
}
