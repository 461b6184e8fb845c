//! So many attempts in so long, in all or by key. Delays, never drops.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tower::{Layer, Service};

use super::{
    keyed::{KeyFn, Keyed},
    step::{Step, ready_call},
};
use crate::{Class, Error, Message, clock, own::Own, telemetry::Stats};

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
}

/// What the services of one layer have in common.
#[derive(Debug)]
struct Shared {
    limits: Arc<Limits>,
    stats: Arc<Stats>,
    longest_hold: Duration,
}

#[derive(Debug)]
enum Limits {
    Unlimited,
    Global(Limiter),
    Keyed {
        limiters: Keyed<Limiter>,
        pace: Pace,
        paces: HashMap<smol_str::SmolStr, Pace>,
    },
}

/// A rate as GCRA wants it.
#[derive(Debug, Clone, Copy)]
struct Pace {
    interval: Duration,
    tolerance: Duration,
}

impl Pace {
    fn new(count: u32, per: Duration, burst: Option<u32>) -> Self {
        let interval = (per / count.max(1)).max(Duration::from_nanos(1));
        let burst = burst.unwrap_or_else(|| default_burst(interval)).max(1);
        Self {
            interval,
            tolerance: interval.saturating_mul(burst - 1),
        }
    }
}

/// Ten milliseconds' worth, at least 2: with a burst of 1, each tick of lateness would be lost for good.
fn default_burst(interval: Duration) -> u32 {
    let worth = Duration::from_millis(10).as_nanos() / interval.as_nanos().max(1);
    u32::try_from(worth).unwrap_or(u32::MAX).max(2)
}

/// Five hundred years of them fit.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One bucket and its queue.
#[derive(Debug)]
struct Limiter {
    pace: Pace,
    /// What times are counted from.
    epoch: Instant,
    /// When the bucket will be empty again (GCRA's theoretical arrival time), in nanoseconds.
    empty_at: AtomicU64,
    /// Whoever holds it is next; the lock is fair, so only the head of the queue sets a timer.
    turn: tokio::sync::Mutex<()>,
    /// How many want the turn or have it.
    queued: AtomicUsize,
}

impl Limiter {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            epoch: Instant::now(),
            empty_at: AtomicU64::new(0),
            turn: tokio::sync::Mutex::new(()),
            queued: AtomicUsize::new(0),
        }
    }

    /// Takes one out now, or says when to ask again.
    fn check(&self, now: Instant) -> Result<(), Instant> {
        let (interval, tolerance) = (nanos(self.pace.interval), nanos(self.pace.tolerance));
        let now = nanos(now.saturating_duration_since(self.epoch));
        let taken = self.empty_at.fetch_update(Relaxed, Relaxed, |empty_at| {
            let from = empty_at.max(now);
            (from <= now.saturating_add(tolerance)).then(|| from.saturating_add(interval))
        });
        match taken {
            Ok(_) => Ok(()),
            Err(empty_at) => Err(self.epoch + Duration::from_nanos(empty_at - tolerance)),
        }
    }

    /// Takes one out now, unless others wait already.
    fn try_take(&self) -> bool {
        self.queued.load(Relaxed) == 0 && self.check(clock::recent()).is_ok()
    }

    async fn take(&self) {
        let _queued = Queued::new(&self.queued);
        let _turn = self.turn.lock().await;
        while let Err(again) = self.check(Instant::now()) {
            sleep_until(again).await;
        }
    }

    /// Nothing passes before `until`.
    fn hold(&self, until: Instant) {
        let until = nanos((until + self.pace.tolerance).saturating_duration_since(self.epoch));
        self.empty_at.fetch_max(until, Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.empty_at.load(Relaxed) <= nanos(self.epoch.elapsed())
    }
}

/// Counts one as waiting for as long as it lives.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl RateLimitLayer {
    /// `count` attempts in each `per`; `burst` at once at most (none: 10 ms worth, at least 2).
    #[must_use]
    pub fn new(count: u32, per: Duration, burst: Option<u32>) -> Self {
        Self::of(Limits::Global(Limiter::new(Pace::new(count, per, burst))))
    }

    /// No limit.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::of(Limits::Unlimited)
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
    /// None where there is no limit.
    fn of(shared: &Own<Shared>, message: &Message) -> Option<Self> {
        match &*shared.limits {
            Limits::Unlimited => None,
            Limits::Global(_) => Some(Self::Global(shared.clone())),
            Limits::Keyed { limiters, pace, paces } => {
                let key = limiters.key(message);
                let pace = paces.get(&key).copied().unwrap_or(*pace);
                let limiter = limiters.get(&key, || Limiter::new(pace), Limiter::is_idle);
                let longest = u32::try_from(shared.longest_hold.as_secs()).unwrap_or(u32::MAX);
                Some(Self::Key(limiter, longest))
            }
        }
    }

    fn limiter(&self) -> Option<&Limiter> {
        match self {
            Self::Key(limiter, _) => Some(limiter),
            Self::Global(shared) => match &*shared.limits {
                Limits::Global(limiter) => Some(limiter),
                Limits::Unlimited | Limits::Keyed { .. } => None,
            },
        }
    }

    fn longest_hold(&self) -> Duration {
        match self {
            Self::Key(_, seconds) => Duration::from_secs((*seconds).into()),
            Self::Global(shared) => shared.longest_hold,
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
        let passing = Passing::of(&self.shared, &message);
        if passing
            .as_ref()
            .and_then(Passing::limiter)
            .is_none_or(Limiter::try_take)
        {
            return future::RateLimitFuture::new(Step::direct(self.inner.call(message)), passing);
        }
        let mut inner = self.inner.clone();
        let (queue, shared) = (Passing::of(&self.shared, &message), self.shared.clone());
        let call = Step::slow(async move {
            let began = Instant::now();
            if let Some(limiter) = queue.as_ref().and_then(Passing::limiter) {
                limiter.take().await;
            }
            shared.stats.rate_limited_wait.record(began.elapsed());
            ready_call(&mut inner, message).await
        });
        future::RateLimitFuture::new(call, passing)
    }
}

/// The longest hold unless another is chosen.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// Holds the key of a throttled attempt.
fn hold_if_throttled(passing: Option<&Passing>, error: &Error) {
    if let (Some(passing), Class::Throttled(Some(after))) = (passing, error.class())
        && let Some(limiter) = passing.limiter()
    {
        limiter.hold(Instant::now() + after.min(passing.longest_hold()));
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

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            let this = self.project();
            let result = ready!(this.call.poll(cx));
            Poll::Ready(result.inspect_err(|error| hold_if_throttled(this.passing.as_ref(), error)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{Reply, lock::lock};

    async fn arrivals(layer: RateLimitLayer, keys: &[&'static str], span: Duration) -> Vec<(Duration, &'static str)> {
        let started = Instant::now();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let inner = tower::service_fn({
            let seen = Arc::clone(&seen);
            move |message: Message| {
                let key = message
                    .headers()
                    .get("k")
                    .and_then(|key| ["a", "b"].into_iter().find(|own| *own == key))
                    .unwrap_or("");
                lock(&seen).push((started.elapsed(), key));
                async { Ok::<_, Error>(Reply::default()) }
            }
        });
        let service = layer.layer(inner);
        let callers = keys.iter().flat_map(|key| std::iter::repeat_n(*key, 40)).map(|key| {
            let service = service.clone();
            async move {
                while started.elapsed() < span {
                    service.clone().call(Message::new("x").header("k", key)).await.unwrap();
                }
            }
        });
        drop(tokio::time::timeout_at(started + span, futures::future::join_all(callers.collect::<Vec<_>>())).await);
        std::mem::take(&mut *lock(&seen))
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_within_one_percent_and_no_span_holds_more_than_rate_and_burst() {
        for (rate, burst) in [(10, 2), (100, 2), (10_000, 100)] {
            let span = Duration::from_secs(if rate > 1_000 { 6 } else { 60 });
            let times: Vec<_> = arrivals(RateLimitLayer::new(rate, Duration::from_secs(1), None), &[""], span).await;

            let expected = f64::from(rate) * span.as_secs_f64();
            let count = times.len() as f64;
            assert!(
                (count - expected).abs() <= expected * 0.01 + f64::from(burst),
                "{count} of {expected} at {rate}/s"
            );
            for width in [1, 7, 50, 400] {
                for window in times.windows(width + 1) {
                    let lasted = (window[width].0 - window[0].0).as_secs_f64();
                    assert!(
                        width as f64 + 1.0 <= f64::from(rate) * lasted + f64::from(burst) + 1e-6,
                        "{width} in {lasted}s at {rate}/s"
                    );
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_stream_has_no_gap_longer_than_two_intervals() {
        let times = arrivals(
            RateLimitLayer::new(100, Duration::from_secs(1), None),
            &[""],
            Duration::from_secs(10),
        )
        .await;

        let longest = times.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();

        assert!(longest <= Duration::from_millis(20), "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_do_not_share_their_rates() {
        let key: KeyFn = Arc::new(|message| message.headers().get("k").map(Into::into));
        let layer = RateLimitLayer::keyed_with(
            10,
            Duration::from_secs(1),
            None,
            [("b".into(), 50, Duration::from_secs(1))],
            key,
        );

        let times = arrivals(layer, &["a", "b"], Duration::from_secs(10)).await;

        let count = |key| times.iter().filter(|(_, own)| *own == key).count();
        assert!(
            (99..=102).contains(&count("a")) && (498..=502).contains(&count("b")),
            "{} {}",
            count("a"),
            count("b")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_answer_holds_the_key_for_everybody() {
        let inner = tower::service_fn(|message: Message| async move {
            if message.payload == "first" {
                Err(Error::throttled(Some(Duration::from_secs(9)), "slow down"))
            } else {
                Ok(Reply::default())
            }
        });
        let mut service = RateLimitLayer::new(1_000, Duration::from_secs(1), None).layer(inner);
        let started = Instant::now();
        service.call(Message::new("first")).await.unwrap_err();

        service.call(Message::new("second")).await.unwrap();

        assert_eq!(started.elapsed().as_secs(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_waiter_costs_nothing() {
        let mut service =
            RateLimitLayer::new(1, Duration::from_secs(1), Some(1)).layer(tower::service_fn(|_: Message| async {
                Ok::<_, Error>(Reply::default())
            }));
        let started = Instant::now();
        service.call(Message::new("x")).await.unwrap();
        let mut dropped = tokio_test::task::spawn(service.call(Message::new("x")));
        assert!(dropped.poll().is_pending());
        drop(dropped);

        service.call(Message::new("x")).await.unwrap();

        assert_eq!(started.elapsed().as_millis(), 1_000);
    }

    #[test]
    fn an_idle_key_costs_at_most_256_bytes() {
        // Its value, the Arc's two counts, and the map's slot with an inline key.
        let bytes = size_of::<Limiter>() + 16 + size_of::<(smol_str::SmolStr, Arc<Limiter>)>() + 1;

        assert!(bytes <= 256, "{bytes}");
    }
}
