//! The layers in their right order, around one service.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use smol_str::SmolStr;
use tower::Layer;

use super::{
    AdaptiveConcurrency, AdaptiveConcurrencyLayer, AdaptiveSettings, Breaker, BreakerLayer, CatchPanic,
    CatchPanicLayer, Concurrency, ConcurrencyLayer, Deadline, DeadlineLayer, Measure, MeasureLayer, RateLimit,
    RateLimitLayer, Retry, RetryLayer, RetryPolicy, Timeout, TimeoutLayer, Trace, TraceLayer, keyed::KeyFn,
    witness::Witnesses,
};
use crate::telemetry::Stats;

/// The whole stack around `S`: one concrete type whichever layers are on, so that nothing in it is boxed.
pub type StackService<S> =
    Trace<Deadline<Retry<Breaker<RateLimit<Concurrency<AdaptiveConcurrency<Measure<Timeout<CatchPanic<S>>>>>>>>>>;

/// How long a throttled attempt may hold the others with retries off, where it is mostly the sink's own bound that counts. SQS
/// lets a message be held for 12 h in all.
const UNBOUNDED: Duration = Duration::from_secs(6 * 3_600);

/// How many attempts run at once.
#[derive(Clone)]
pub enum Limit {
    /// So many.
    Fixed(usize),
    /// So many for each key, with other numbers for some; and so many in all.
    Keyed {
        /// In all: the size of the driver's window.
        total: usize,
        /// For a key without a number of its own.
        limit: usize,
        /// Numbers of their own for some keys.
        limits: HashMap<SmolStr, usize>,
        /// Reads a message's key.
        key: KeyFn,
    },
    /// As many as latency allows.
    Adaptive(AdaptiveSettings),
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(limit) => write!(f, "Fixed({limit})"),
            Self::Keyed {
                total, limit, limits, ..
            } => write!(f, "Keyed({total}, {limit}, {limits:?})"),
            Self::Adaptive(settings) => write!(f, "Adaptive({settings:?})"),
        }
    }
}

impl Limit {
    /// The most attempts that can ever run at once.
    #[must_use]
    pub const fn most(&self) -> usize {
        match self {
            Self::Fixed(limit) | Self::Keyed { total: limit, .. } => *limit,
            Self::Adaptive(settings) => settings.max,
        }
    }
}

/// Settings for the layers; [`Stack::layers`] puts them in order.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Over all attempts; none by default.
    pub deadline: Option<Duration>,
    /// How old a message may be, from when it was made; any age by default.
    pub max_age: Option<Duration>,
    /// None turns retries off.
    pub retry: Option<RetryPolicy>,
    /// None turns the breaker off.
    pub breaker: Option<BreakerLayer>,
    /// Unlimited by default.
    pub rate_limit: RateLimitLayer,
    /// How long a throttled attempt may hold the others at most, besides the retry policy's own bound; none by default. A pipeline
    /// whose source has leases that nobody extends sets half of one.
    pub max_hold: Option<Duration>,
    /// 64 by default.
    pub concurrency: Limit,
    /// Per attempt; 30 s by default, none means for ever.
    pub timeout: Option<Duration>,
}

impl Default for Stack {
    fn default() -> Self {
        Self {
            deadline: None,
            max_age: None,
            retry: Some(RetryPolicy::default()),
            breaker: Some(BreakerLayer::new(super::BreakerSettings::default())),
            rate_limit: RateLimitLayer::unlimited(),
            max_hold: None,
            concurrency: Limit::Fixed(64),
            timeout: Some(Duration::from_secs(30)),
        }
    }
}

impl Stack {
    /// The layers, made once: every service they wrap shares the limits. Counts go to `stats`.
    #[must_use]
    pub fn layers(self, stats: &Arc<Stats>) -> StackLayer {
        let (concurrency, adaptive) = match self.concurrency {
            Limit::Fixed(limit) => (ConcurrencyLayer::new(limit), AdaptiveConcurrencyLayer::off()),
            Limit::Keyed { limit, limits, key, .. } => (
                ConcurrencyLayer::keyed_with(limit, limits, key),
                AdaptiveConcurrencyLayer::off(),
            ),
            Limit::Adaptive(settings) => (ConcurrencyLayer::unlimited(), AdaptiveConcurrencyLayer::new(settings)),
        };
        let longest_hold = self.retry.as_ref().map_or(UNBOUNDED, |policy| policy.throttle_max);
        let longest_hold = self.max_hold.map_or(longest_hold, |most| most.min(longest_hold));
        let mut rate_limit = self.rate_limit.longest_hold(longest_hold);
        let mut breaker = self.breaker.unwrap_or_else(BreakerLayer::off);
        let witnesses = Witnesses::take(&mut breaker, &mut rate_limit);
        let retry = self.retry.map(|policy| RetryPolicy {
            stats: Arc::clone(stats),
            ..policy
        });
        StackLayer {
            deadline: DeadlineLayer::new(self.deadline).max_age(self.max_age).seen_by_driver(),
            retry: retry.map_or_else(RetryLayer::off, RetryLayer::new),
            breaker,
            concurrency,
            adaptive,
            measure: MeasureLayer::before(Arc::clone(stats), witnesses),
            timeout: TimeoutLayer::new(self.timeout),
            rate_limit: rate_limit.with_stats(Arc::clone(stats)),
        }
    }
}

/// The layers in order, made by [`Stack::layers`].
#[derive(Debug, Clone)]
pub struct StackLayer {
    deadline: DeadlineLayer,
    retry: RetryLayer,
    breaker: BreakerLayer,
    rate_limit: RateLimitLayer,
    concurrency: ConcurrencyLayer,
    adaptive: AdaptiveConcurrencyLayer,
    measure: MeasureLayer,
    timeout: TimeoutLayer,
}

impl StackLayer {
    /// The same layers with permits of their own: one shard's part of a fixed limit, so that shards never wait for each
    /// other's.
    pub(crate) fn with_permits(mut self, limit: usize) -> Self {
        self.concurrency = ConcurrencyLayer::new(limit);
        self
    }
}

impl<S: Clone> Layer<S> for StackLayer {
    type Service = StackService<S>;

    fn layer(&self, sink: S) -> StackService<S> {
        let attempt = self.measure.layer(self.timeout.layer(CatchPanicLayer.layer(sink)));
        let limited = self
            .rate_limit
            .layer(self.concurrency.layer(self.adaptive.layer(attempt)));
        TraceLayer.layer(self.deadline.layer(self.retry.layer(self.breaker.layer(limited))))
    }
}
