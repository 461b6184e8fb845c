//! So many attempts in so long: in all, by key, or by all processes that share a rate. Delays, never drops.

mod limiter;
mod shared;

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use limiter::{Limiter, Pace};
use shared::SharedLimiter;
pub use shared::{OnStoreError, SharedRate};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{
    hold::Hold,
    keyed::{KeyFn, Keyed},
    step::{Step, ready_call},
};
use crate::{Class, Error, Message, Store, own::Own, telemetry::Stats};

/// Lets attempts through at a steady rate with a small burst (GCRA: a bucket that leaks evenly, no window's edge).
///
/// In any span of time at most `rate * span + burst` attempts pass. Those that must wait do so in the order they came;
/// dropping one that waits costs nothing. An error of class `Throttled(after)` holds its key, not only its message,
/// for that long, 5 min at most ([`longest_hold`](Self::longest_hold)). All services of one layer, and their clones, share the rate.
///
/// Timers tick each millisecond: above 1000 a second, attempts pass in small groups, at the same rate.
#[derive(Debug, Clone)]
pub struct RateLimitLayer {
    limits: Arc<Limits>,
    stats: Arc<Stats>,
    longest_hold: Duration,
    /// Whether somebody else tells the one bucket of throttled attempts.
    told: bool,
}

/// What the services of one layer have in common.
#[derive(Debug)]
struct Shared {
    limits: Arc<Limits>,
    stats: Arc<Stats>,
    longest_hold: Duration,
    told: bool,
}

#[derive(Debug)]
enum Limits {
    /// Without a rate: all wait while the far side has asked for time.
    Unlimited(Hold),
    Global(Limiter),
    Shared(SharedLimiter),
    Keyed {
        limiters: Keyed<Limiter>,
        pace: Pace,
        paces: HashMap<smol_str::SmolStr, Pace>,
    },
}

impl Limits {
    /// The one bucket, where there is one.
    const fn bucket(&self) -> Option<Bucket<'_>> {
        match self {
            Self::Global(limiter) => Some(Bucket::Own(limiter)),
            Self::Shared(limiter) => Some(Bucket::Shared(limiter)),
            Self::Unlimited(hold) => Some(Bucket::Hold(hold)),
            Self::Keyed { .. } => None,
        }
    }
}

/// The one bucket of a layer, to be told of throttled attempts.
#[derive(Debug)]
pub(super) struct Throttled {
    limits: Arc<Limits>,
    longest_hold: Duration,
}

impl Throttled {
    pub(super) fn hear(&self, error: &Error) {
        if let (Some(bucket), Class::Throttled(Some(after))) = (self.limits.bucket(), error.class()) {
            bucket.hold(after.min(self.longest_hold));
        }
    }
}

impl RateLimitLayer {
    /// `count` attempts in each `per`; `burst` at once at most (none: 10 ms worth, at least 2).
    #[must_use]
    pub fn new(count: u32, per: Duration, burst: Option<u32>) -> Self {
        Self::of(Limits::Global(Limiter::new(Pace::new(count, per, burst))))
    }

    /// One rate for all processes that name it so, through a Store: see [`SharedRate`].
    ///
    /// Who waits is served a few milliseconds' worth of the rate at a time, which the process takes out of the Store ahead of its
    /// need; one where nobody waits takes nothing. In any span of time at most `rate * span + burst` attempts pass, and what
    /// each process has at hand, at most two such pieces. A throttled attempt holds its own process.
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    /// use dispatch_core::{MemoryStore, layer::{OnStoreError, RateLimitLayer, SharedRate}};
    ///
    /// let rate = SharedRate::new("api.example.com", 100, Duration::from_secs(1))
    ///     .on_error(OnStoreError::Closed)
    ///     .store(Arc::new(MemoryStore::new())); // left out: the pipeline's
    /// let layer = RateLimitLayer::shared(rate);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn shared(rate: SharedRate) -> Self {
        Self::of(Limits::Shared(SharedLimiter::new(rate)))
    }

    /// Shares a shared rate through `store`, unless another was named.
    pub(crate) fn over(&self, store: &Arc<dyn Store>) {
        if let Limits::Shared(limiter) = &*self.limits {
            limiter.over(store);
        }
    }

    /// No limit. In a [`Stack`](super::Stack) a throttled attempt holds all of them nevertheless.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::of(Limits::Unlimited(Hold::default()))
    }

    /// Who is to be told of throttled attempts; from here on its services tell it no more. None where there are many, which are
    /// told here as before.
    pub(super) fn told_elsewhere(&mut self) -> Option<Throttled> {
        self.told = !matches!(&*self.limits, Limits::Keyed { .. });
        self.told.then(|| Throttled {
            limits: Arc::clone(&self.limits),
            longest_hold: self.longest_hold,
        })
    }

    /// As [`new`](Self::new) for each key; idle keys are forgotten.
    pub fn keyed(count: u32, per: Duration, burst: Option<u32>, key: KeyFn) -> Self {
        Self::keyed_with(count, per, burst, [], key)
    }

    /// As [`keyed`](Self::keyed), with rates of their own for some keys: key, count, time.
    pub fn keyed_with(
        count: u32,
        per: Duration,
        burst: Option<u32>,
        own: impl IntoIterator<Item = (smol_str::SmolStr, u32, Duration)>,
        key: KeyFn,
    ) -> Self {
        let paces = own
            .into_iter()
            .map(|(key, count, per)| (key, Pace::new(count, per, None)))
            .collect();
        Self::of(Limits::Keyed {
            limiters: Keyed::new(key),
            pace: Pace::new(count, per, burst),
            paces,
        })
    }

    fn of(limits: Limits) -> Self {
        Self {
            limits: Arc::new(limits),
            stats: Arc::default(),
            longest_hold: LONGEST_HOLD,
            told: false,
        }
    }

    /// Counts waits in `stats`.
    #[must_use]
    pub fn with_stats(self, stats: Arc<Stats>) -> Self {
        Self { stats, ..self }
    }

    /// How long a throttled attempt may hold its key at most, in whole seconds; 5 min.
    #[must_use]
    pub const fn longest_hold(mut self, most: Duration) -> Self {
        self.longest_hold = most;
        self
    }
}

/// The limiter that one attempt passes.
#[derive(Debug)]
enum Passing {
    Global(Own<Shared>),
    /// With the longest hold, in seconds.
    Key(Arc<Limiter>, u32),
}

impl Passing {
    /// None where nothing is in the way, nor will be told of the attempt's end.
    fn of(shared: &Own<Shared>, message: &Message) -> Option<Self> {
        match &*shared.limits {
            Limits::Unlimited(hold) => hold.is_on().then(|| Self::Global(shared.clone())),
            Limits::Global(_) | Limits::Shared(_) => Some(Self::Global(shared.clone())),
            Limits::Keyed { limiters, pace, paces } => {
                let key = limiters.key(message);
                let pace = paces.get(&key).copied().unwrap_or(*pace);
                let limiter = limiters.get(&key, || Limiter::new(pace), Limiter::is_idle);
                let longest = u32::try_from(shared.longest_hold.as_secs()).unwrap_or(u32::MAX);
                Some(Self::Key(limiter, longest))
            }
        }
    }

    fn bucket(&self) -> Option<Bucket<'_>> {
        match self {
            Self::Key(limiter, _) => Some(Bucket::Own(limiter)),
            Self::Global(shared) => shared.limits.bucket(),
        }
    }

    fn longest_hold(&self) -> Duration {
        match self {
            Self::Key(_, seconds) => Duration::from_secs((*seconds).into()),
            Self::Global(shared) => shared.longest_hold,
        }
    }
}

/// A bucket of this process, or one that others take from, too.
#[derive(Debug, Clone, Copy)]
enum Bucket<'a> {
    Own(&'a Limiter),
    Shared(&'a SharedLimiter),
    /// No bucket: it may be shut all the same.
    Hold(&'a Hold),
}

impl Bucket<'_> {
    fn try_take(self) -> bool {
        match self {
            Self::Own(limiter) => limiter.try_take(),
            Self::Shared(limiter) => limiter.try_take(),
            Self::Hold(hold) => !hold.is_on(),
        }
    }

    async fn take(self) {
        match self {
            Self::Own(limiter) => limiter.take().await,
            // Boxed, so that a wait for an own one is no larger for it.
            Self::Shared(limiter) => Box::pin(limiter.take()).await,
            Self::Hold(hold) => hold.over().await,
        }
    }

    fn hold(self, by: Duration) {
        match self {
            Self::Own(limiter) => limiter.hold(Instant::now() + by),
            Self::Shared(limiter) => limiter.hold(Instant::now() + by),
            Self::Hold(hold) => hold.extend(by),
        }
    }
}

/// The service of [`RateLimitLayer`].
#[derive(Debug, Clone)]
pub struct RateLimit<S> {
    inner: S,
    shared: Own<Shared>,
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;
    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit {
            inner,
            shared: Own::of(&Arc::new(Shared {
                limits: Arc::clone(&self.limits),
                stats: Arc::clone(&self.stats),
                longest_hold: self.longest_hold,
                told: self.told,
            })),
        }
    }
}

impl<S> Service<Message> for RateLimit<S>
where
    S: Service<Message> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = future::RateLimitFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, message: Message) -> Self::Future {
        let shared = &self.shared;
        if shared.told && shared.limits.bucket().is_none_or(Bucket::try_take) {
            return future::RateLimitFuture::new(Step::direct(self.inner.call(message)), None);
        }
        let passing = Passing::of(&self.shared, &message);
        if passing.as_ref().and_then(Passing::bucket).is_none_or(Bucket::try_take) {
            return future::RateLimitFuture::new(Step::direct(self.inner.call(message)), passing);
        }
        let mut inner = self.inner.clone();
        let (queue, shared) = (Passing::of(&self.shared, &message), self.shared.clone());
        let call = Step::slow(async move {
            let began = Instant::now();
            if let Some(bucket) = queue.as_ref().and_then(Passing::bucket) {
                bucket.take().await;
            }
            shared.stats.rate_limited_wait.record(began.elapsed());
            ready_call(&mut inner, message).await
        });
        future::RateLimitFuture::new(call, passing.filter(|_| !self.shared.told))
    }
}

/// The longest hold unless another is chosen.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// Holds the key of a throttled attempt.
fn hold_if_throttled(passing: Option<&Passing>, error: &Error) {
    if let (Some(passing), Class::Throttled(Some(after))) = (passing, error.class())
        && let Some(bucket) = passing.bucket()
    {
        bucket.hold(after.min(passing.longest_hold()));
    }
}

mod future {
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, ready},
    };

    use pin_project_lite::pin_project;

    use super::{Passing, Step, hold_if_throttled};
    use crate::Error;

    pin_project! {
        /// The attempt at its pace; a throttled one holds its key.
        #[derive(Debug)]
        pub struct RateLimitFuture<F, R> {
            #[pin]
            call: Step<F, R>,
            passing: Option<Passing>,
        }
    }

    impl<F, R> RateLimitFuture<F, R> {
        pub(super) const fn new(call: Step<F, R>, passing: Option<Passing>) -> Self {
            Self { call, passing }
        }
    }

    impl<F, R, E> Future for RateLimitFuture<F, R>
    where
        F: Future<Output = Result<R, E>>,
        E: Into<Error>,
    {
        type Output = Result<R, Error>;

        #[inline(always)]
        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            let this = self.project();
            let result = ready!(this.call.poll(cx));
            Poll::Ready(result.inspect_err(|error| hold_if_throttled(this.passing.as_ref(), error)))
        }
    }
}

#[cfg(test)]
mod tests;
