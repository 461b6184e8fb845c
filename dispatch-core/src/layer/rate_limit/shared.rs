//! A bucket that processes share through a Store.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use smol_str::SmolStr;
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

use super::limiter::{Limiter, Pace, Queued};
use crate::{
    Backoff, Error, Jitter, Store,
    clock::{self, Moment},
    lock::lock,
    store::Taken,
};

/// So much of the rate's time a process takes at once, while the store answers in a quarter of it; else four answers' worth.
const PIECE: Duration = Duration::from_millis(20);
/// However slow the store.
const LONGEST_PIECE: Duration = Duration::from_millis(200);
/// A store that takes longer counts as one that fails.
const PATIENCE: Duration = Duration::from_secs(1);
/// How much later than its burst a cell may pass, for a task that was not run in time.
const GRACE: Duration = Duration::from_millis(100);
/// After so many pieces that were all used in time, more are taken before those who wait need them.
const STREAK: u32 = 2;

/// A rate that processes share through a Store, for [`RateLimitLayer::shared`](super::RateLimitLayer::shared).
#[derive(Debug, Clone)]
pub struct SharedRate {
    pub(super) name: SmolStr,
    pub(super) pace: Pace,
    pub(super) on_error: OnStoreError,
    pub(super) store: Option<Arc<dyn Store>>,
}

/// What a shared rate does while its store fails.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum OnStoreError {
    /// Nothing is limited.
    Open,
    /// Nothing passes.
    Closed,
    /// This process keeps such a share of the rate, above 0 and at most 1.
    LocalShare(f64),
}

impl Default for OnStoreError {
    fn default() -> Self {
        Self::LocalShare(0.25)
    }
}

impl SharedRate {
    /// `count` attempts in each `per` by all who name it so, with the same numbers.
    pub fn new(name: impl Into<SmolStr>, count: u32, per: Duration) -> Self {
        Self {
            name: name.into(),
            pace: Pace::new(count, per, None),
            on_error: OnStoreError::default(),
            store: None,
        }
    }

    /// So many at once at most; 10 ms worth by default, at least 2.
    #[must_use]
    pub fn burst(mut self, burst: u32) -> Self {
        self.pace.tolerance = self.pace.interval.saturating_mul(burst.max(1) - 1);
        self
    }

    /// What to do while the store fails; a quarter of the rate by default.
    #[must_use]
    pub const fn on_error(mut self, then: OnStoreError) -> Self {
        self.on_error = then;
        self
    }

    /// Shares through `store`; in a pipeline, through the pipeline's by default.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }
}

/// The cells on hand of a bucket in the Store, and the queue before them.
#[derive(Debug)]
pub(super) struct SharedLimiter(Arc<Bucket>);

#[derive(Debug)]
struct Bucket {
    name: SmolStr,
    pace: Pace,
    on_error: OnStoreError,
    store: OnceLock<Arc<dyn Store>>,
    /// Used while the store fails.
    alone: Limiter,
    state: Mutex<State>,
    /// As in [`Limiter`].
    turn: tokio::sync::Mutex<()>,
    queued: AtomicUsize,
    /// The store has answered, for the head of the queue.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest first; two at most.
    pieces: VecDeque<Piece>,
    /// How many cells the last piece had, and whether some were lost since.
    size: u32,
    lost: bool,
    /// For how many pieces now more came whenever there were some.
    streak: u32,
    /// How long the store takes to answer, of late.
    round_trip: Duration,
    /// When the last cell passed.
    passed: Option<Instant>,
    /// Nothing passes before.
    held: Option<Instant>,
    fetching: bool,
    failing: Option<Failing>,
}

/// Cells that may pass one after the other.
#[derive(Debug)]
struct Piece {
    next: Instant,
    left: u32,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    since: Instant,
    calls: u32,
    /// When to ask again, if somebody waits.
    again: Instant,
}

/// What an attempt that asks does.
enum Next {
    Pass,
    /// Asks again then, or at news; none: at news.
    Wait(Option<Instant>),
}

impl State {
    /// Takes out the first cell if it is due.
    fn take(&mut self, now: Instant, pace: Pace) -> bool {
        while let Some(piece) = self.pieces.front_mut() {
            if piece.left == 0 {
                self.pieces.pop_front();
                continue;
            }
            if piece.next > now {
                return false;
            }
            let late = now - piece.next > pace.tolerance + GRACE;
            piece.left -= 1;
            piece.next += pace.interval;
            if !late {
                self.passed = Some(now);
                return true;
            }
            self.lost = true;
        }
        false
    }

    fn left(&self) -> u32 {
        self.pieces.iter().map(|piece| piece.left).sum()
    }

    fn due(&self) -> Option<Instant> {
        self.pieces.iter().find(|piece| piece.left > 0).map(|piece| piece.next)
    }

    /// How many cells to take next, if any. A process takes no more than who waits can use, so that others have the rest;
    /// unless more came whenever it had some: then twice as many as before, and in good time.
    fn wanted(&mut self, now: Instant, waiting: usize, interval: Duration) -> Option<u32> {
        let left = self.left();
        let wanted = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_sub(left);
        let asks = !self.fetching && self.failing.is_none_or(|failing| failing.again <= now);
        let ahead = self.streak >= STREAK && waiting > 0;
        if !asks || left > self.size / 2 || (wanted == 0 && !ahead) {
            return None;
        }
        let most = (self.round_trip * 4).clamp(PIECE, LONGEST_PIECE).as_nanos() / interval.as_nanos().max(1);
        let most = u32::try_from(most).unwrap_or(u32::MAX).max(1);
        let busy = left > 0 || self.passed.is_some_and(|passed| now - passed <= self.round_trip);
        let size = if busy && !self.lost {
            self.streak = self.streak.saturating_add(1);
            wanted.max(self.size.saturating_mul(2))
        } else {
            self.streak = 0;
            wanted
        };
        Some(size.min(most))
    }
}

impl Bucket {
    /// Lets one pass that is in the queue, or says what it waits for; asks the store for more in good time.
    fn check(self: &Arc<Self>, now: Instant) -> Next {
        let mut state = lock(&self.state);
        if let Some(held) = state.held.filter(|held| *held > now) {
            return Next::Wait(Some(held));
        }
        let passes = state.take(now, self.pace);
        let waiting = self.queued.load(Relaxed).saturating_sub(usize::from(passes));
        if let Some(cells) = state.wanted(now, waiting, self.pace.interval) {
            state.fetching = true;
            let fetching = Fetching(Arc::clone(self));
            tokio::spawn(fetching.run(cells));
        }
        if passes {
            return Next::Pass;
        }
        if let Some(due) = state.due() {
            return Next::Wait(Some(due));
        }
        let Some(failing) = state.failing else {
            return Next::Wait(None);
        };
        let again = (!state.fetching).then_some(failing.again);
        match self.on_error {
            OnStoreError::Open => Next::Pass,
            OnStoreError::Closed => Next::Wait(again),
            OnStoreError::LocalShare(_) => match self.alone.check(Moment::of(now)) {
                Ok(()) => Next::Pass,
                Err(at) => Next::Wait(Some(again.map_or(at, |again| again.min(at)))),
            },
        }
    }

    /// Takes so many cells out of the store's bucket.
    async fn ask(&self, cells: u32) -> Result<Taken, Error> {
        let Some(store) = self.store.get() else {
            return Err(Error::permanent("the shared rate has no store"));
        };
        let span = self.pace.interval.saturating_mul(cells);
        let take = store.rates().take(&self.name, span, self.pace.tolerance);
        let late = |_| Error::unavailable(format!("no answer within {PATIENCE:?}"));
        timeout(PATIENCE, take).await.map_err(late)?
    }

    fn fetched(&self, cells: u32, asked: Instant, answer: Result<Taken, Error>) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        match answer {
            Ok(Taken { wait, late }) => {
                state.round_trip = (state.round_trip * 3 + (now - asked)) / 4;
                (state.size, state.lost) = (cells, false);
                let next = now.checked_sub(late).unwrap_or(now) + wait;
                state.pieces.push_back(Piece { next, left: cells });
                if let Some(failing) = state.failing.take() {
                    let lasted = now - failing.since;
                    tracing::warn!(rate = %self.name, ?lasted, "shared rate has its store again");
                }
            }
            Err(error) => {
                let before = state.failing;
                if before.is_none() {
                    let (on_error, error) = (self.on_error, error.report());
                    tracing::warn!(rate = %self.name, ?on_error, error, "shared rate has lost its store");
                }
                let calls = before.map_or(0, |failing| failing.calls) + 1;
                let backoff = Backoff::exponential(Duration::from_millis(100), 2.0).max(Duration::from_secs(2));
                let wait = backoff
                    .jitter(Jitter::Equal)
                    .delay(calls, Duration::ZERO, &mut rand::rng());
                state.failing = Some(Failing {
                    since: before.map_or(now, |failing| failing.since),
                    calls,
                    again: now + wait,
                });
            }
        }
    }
}

/// A question to the store that is under way; there is one at most, whatever becomes of it.
struct Fetching(Arc<Bucket>);

impl Fetching {
    async fn run(self, cells: u32) {
        let asked = Instant::now();
        let answer = self.0.ask(cells).await;
        self.0.fetched(cells, asked, answer);
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        lock(&self.0.state).fetching = false;
        self.0.news.notify_one();
    }
}

impl SharedLimiter {
    pub(super) fn new(rate: SharedRate) -> Self {
        let SharedRate {
            name,
            pace,
            on_error,
            store,
        } = rate;
        let share = match on_error {
            OnStoreError::LocalShare(share) if share > 0.0 => share.min(1.0),
            _ => 1.0,
        };
        let alone = Pace {
            interval: Duration::try_from_secs_f64(pace.interval.as_secs_f64() / share).unwrap_or(Duration::MAX),
            ..pace
        };
        Self(Arc::new(Bucket {
            name,
            pace,
            on_error,
            store: store.map_or_else(OnceLock::new, OnceLock::from),
            alone: Limiter::new(alone),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            queued: AtomicUsize::new(0),
            news: Notify::new(),
        }))
    }

    /// Shares through `store`, unless another was named.
    pub(super) fn over(&self, store: &Arc<dyn Store>) {
        self.0.store.get_or_init(|| Arc::clone(store));
    }

    /// Takes a cell that is on hand, unless others wait already.
    pub(super) fn try_take(&self) -> bool {
        let bucket = &self.0;
        if bucket.queued.load(Relaxed) > 0 {
            return false;
        }
        let (mut state, now) = (lock(&bucket.state), clock::recent().instant);
        state.held.is_none_or(|held| held <= now) && state.take(now, bucket.pace)
    }

    pub(super) async fn take(&self) {
        let bucket = &self.0;
        let _queued = Queued::new(&bucket.queued);
        let _turn = bucket.turn.lock().await;
        loop {
            match bucket.check(Instant::now()) {
                Next::Pass => return,
                Next::Wait(None) => bucket.news.notified().await,
                // Whichever comes first, the next look tells.
                Next::Wait(Some(until)) => drop(timeout_at(until, bucket.news.notified()).await),
            }
        }
    }

    /// Nothing of this process passes before `until`.
    pub(super) fn hold(&self, until: Instant) {
        let mut state = lock(&self.0.state);
        state.held = state.held.max(Some(until));
    }
}

#[cfg(test)]
mod tests;
