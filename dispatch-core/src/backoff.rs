//! How long to wait before the next attempt.

use std::{fmt, sync::Arc, time::Duration};

use rand::{Rng, RngExt};

/// The wait before attempt `n + 1`, once attempt `n` has failed.
///
/// ```
/// use dispatch_core::{Backoff, Jitter};
/// use std::time::Duration;
///
/// let backoff = Backoff::exponential(Duration::from_secs(1), 2.0).max(Duration::from_secs(300)).jitter(Jitter::None);
/// assert_eq!(backoff.delay(4, Duration::ZERO, &mut rand::rng()), Duration::from_secs(8));
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    curve: Curve,
    min: Duration,
    max: Duration,
    jitter: Jitter,
}

/// How the wait grows with the attempts.
#[derive(Clone)]
enum Curve {
    Constant(Duration),
    Linear { base: Duration, step: Duration },
    Exponential { base: Duration, factor: f64 },
    Fibonacci(Duration),
    Decorrelated(Duration),
    Schedule(Arc<[Duration]>),
    Custom(Arc<dyn Fn(u32) -> Duration + Send + Sync>),
}

impl fmt::Debug for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(base) => write!(f, "Constant({base:?})"),
            Self::Linear { base, step } => write!(f, "Linear({base:?} + {step:?})"),
            Self::Exponential { base, factor } => write!(f, "Exponential({base:?} * {factor})"),
            Self::Fibonacci(base) => write!(f, "Fibonacci({base:?})"),
            Self::Decorrelated(base) => write!(f, "Decorrelated({base:?})"),
            Self::Schedule(waits) => write!(f, "Schedule({waits:?})"),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// How chance spreads the waits, so that what failed together does not come back together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Jitter {
    /// The exact wait.
    None,
    /// Anything from nothing up to the wait.
    #[default]
    Full,
    /// Anything from half the wait up to the wait.
    Equal,
}

/// The longest wait unless told otherwise: 5 minutes.
const DEFAULT_MAX: Duration = Duration::from_secs(300);

impl Default for Backoff {
    /// Exponential: 1 s, doubled, at most 5 min, full jitter.
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1), 2.0)
    }
}

impl Backoff {
    const fn of(curve: Curve) -> Self {
        Self {
            curve,
            min: Duration::ZERO,
            max: DEFAULT_MAX,
            jitter: Jitter::Full,
        }
    }

    /// Always the same wait.
    #[must_use]
    pub const fn constant(wait: Duration) -> Self {
        Self::of(Curve::Constant(wait))
    }

    /// `base`, then `step` more each time.
    #[must_use]
    pub const fn linear(base: Duration, step: Duration) -> Self {
        Self::of(Curve::Linear { base, step })
    }

    /// `base`, then `factor` times as long each time.
    #[must_use]
    pub const fn exponential(base: Duration, factor: f64) -> Self {
        Self::of(Curve::Exponential { base, factor })
    }

    /// `base` times 1, 1, 2, 3, 5, 8, …
    #[must_use]
    pub const fn fibonacci(base: Duration) -> Self {
        Self::of(Curve::Fibonacci(base))
    }

    /// By chance between `base` and three times the wait before ("decorrelated jitter").
    #[must_use]
    pub const fn decorrelated(base: Duration) -> Self {
        Self::of(Curve::Decorrelated(base))
    }

    /// These waits in turn, and the last one from then on. Without jitter unless it is asked for.
    pub fn schedule(waits: impl Into<Arc<[Duration]>>) -> Self {
        Self::of(Curve::Schedule(waits.into())).jitter(Jitter::None)
    }

    /// Whatever the function says for the number of the attempt that failed, from 1.
    pub fn custom(wait: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        Self::of(Curve::Custom(Arc::new(wait)))
    }

    /// No wait is shorter than this, jitter or not.
    #[must_use]
    pub const fn min(mut self, min: Duration) -> Self {
        self.min = min;
        self
    }

    /// No wait is longer than this; 5 min by default.
    #[must_use]
    pub const fn max(mut self, max: Duration) -> Self {
        self.max = max;
        self
    }

    /// How chance spreads the waits; full by default.
    #[must_use]
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// The wait after failed attempt `attempt`, from 1; `previous` is the wait before that attempt, zero if none.
    pub fn delay(&self, attempt: u32, previous: Duration, rng: &mut impl Rng) -> Duration {
        let wait = self.center(attempt, previous, rng).min(self.max);
        let wait = match self.jitter {
            // Decorrelated waits are drawn by chance already.
            _ if matches!(self.curve, Curve::Decorrelated(_)) => wait,
            Jitter::None => wait,
            Jitter::Full => wait.mul_f64(rng.random_range(0.0..=1.0)),
            Jitter::Equal => wait.mul_f64(rng.random_range(0.5..=1.0)),
        };
        wait.clamp(self.min.min(self.max), self.max)
    }

    fn center(&self, attempt: u32, previous: Duration, rng: &mut impl Rng) -> Duration {
        let steps = attempt.max(1) - 1;
        match &self.curve {
            Curve::Constant(base) => *base,
            Curve::Linear { base, step } => base.saturating_add(step.saturating_mul(steps)),
            Curve::Exponential { base, factor } => {
                let times = factor.max(1.0).powi(i32::try_from(steps).unwrap_or(i32::MAX));
                Duration::try_from_secs_f64(base.as_secs_f64() * times).unwrap_or(Duration::MAX)
            }
            Curve::Fibonacci(base) => {
                // Past 90 steps the sum outgrows every possible maximum.
                let (mut wait, mut next) = (*base, *base);
                for _ in 0..steps.min(90) {
                    (wait, next) = (next, wait.saturating_add(next));
                }
                wait
            }
            Curve::Decorrelated(base) => {
                let upper = previous.max(*base).saturating_mul(3).min(self.max.max(*base));
                Duration::from_secs_f64(rng.random_range(base.as_secs_f64()..=upper.as_secs_f64()))
            }
            Curve::Schedule(waits) => {
                let place = usize::try_from(steps)
                    .unwrap_or(usize::MAX)
                    .min(waits.len().saturating_sub(1));
                waits.get(place).copied().unwrap_or_default()
            }
            Curve::Custom(wait) => wait(attempt.max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn any_backoff() -> impl Strategy<Value = Backoff> {
        let base = (1u64..100_000).prop_map(Duration::from_millis);
        let curve = prop_oneof![
            base.clone().prop_map(Backoff::constant),
            (base.clone(), base.clone()).prop_map(|(base, step)| Backoff::linear(base, step)),
            (base.clone(), 1.0f64..10.0).prop_map(|(base, factor)| Backoff::exponential(base, factor)),
            base.clone().prop_map(Backoff::fibonacci),
            base.clone().prop_map(Backoff::decorrelated),
            prop::collection::vec(base.clone(), 1..5).prop_map(Backoff::schedule),
        ];
        let jitter = prop_oneof![Just(Jitter::None), Just(Jitter::Full), Just(Jitter::Equal)];
        (curve, jitter, 0u64..1_000, 1_000u64..1_000_000).prop_map(|(curve, jitter, min, max)| {
            curve
                .jitter(jitter)
                .min(Duration::from_millis(min))
                .max(Duration::from_millis(max))
        })
    }

    proptest! {
        #[test]
        fn every_delay_lies_between_its_bounds(backoff in any_backoff(), attempt in 0u32..=u32::MAX, previous in 0u64..10_000_000) {
            let delay = backoff.delay(attempt, Duration::from_millis(previous), &mut rand::rng());

            prop_assert!(delay >= backoff.min && delay <= backoff.max, "{delay:?} outside {backoff:?}");
        }

        #[test]
        fn without_jitter_a_growing_curve_never_shrinks(base in 1u64..100_000, attempt in 1u32..200) {
            let base = Duration::from_millis(base);
            for backoff in [Backoff::constant(base), Backoff::linear(base, base), Backoff::exponential(base, 1.7), Backoff::fibonacci(base)] {
                let backoff = backoff.jitter(Jitter::None);
                let mut rng = rand::rng();

                prop_assert!(backoff.delay(attempt + 1, base, &mut rng) >= backoff.delay(attempt, base, &mut rng));
            }
        }
    }

    #[test]
    fn each_curve_follows_its_table() {
        let table = [
            (Backoff::constant(secs(2)), [2, 2, 2, 2, 2]),
            (Backoff::linear(secs(1), secs(3)), [1, 4, 7, 10, 13]),
            (Backoff::exponential(secs(1), 3.0), [1, 3, 9, 27, 81]),
            (Backoff::fibonacci(secs(2)), [2, 2, 4, 6, 10]),
            (Backoff::schedule([secs(5), secs(300), secs(7)]), [5, 300, 7, 7, 7]),
            (
                Backoff::custom(|attempt| secs(u64::from(attempt) * 10)),
                [10, 20, 30, 40, 50],
            ),
        ];
        for (backoff, expected) in table {
            let backoff = backoff.jitter(Jitter::None);

            let waits =
                [1, 2, 3, 4, 5].map(|attempt| backoff.delay(attempt, Duration::ZERO, &mut rand::rng()).as_secs());

            assert_eq!(waits, expected, "{backoff:?}");
        }
    }

    #[test]
    fn full_jitter_halves_the_wait_on_average() {
        let backoff = Backoff::constant(secs(10));
        let mut rng = rand::rng();

        let total: f64 = (0..4_000)
            .map(|_| backoff.delay(1, Duration::ZERO, &mut rng).as_secs_f64())
            .sum();

        assert!((total / 4_000.0 - 5.0).abs() < 0.3, "mean {}", total / 4_000.0);
    }
}
