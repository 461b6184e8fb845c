//! When to try again, and for how long.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use smol_str::SmolStr;
use tokio::time::Instant;
use tower::retry::budget::{Budget, TpsBudget};

use crate::{Backoff, Class, Error, Later, Message, telemetry::Stats};

/// When to try again, and for how long.
///
/// | class | counted | wait |
/// |---|---|---|
/// | `Retry` | yes | the backoff |
/// | `Throttled` | no | what the far side asks for, else the backoff; at most `throttle_max` |
/// | `Unavailable` | no | none here: the breaker and the driver wait |
/// | `Permanent` | yes | none: never again |
#[derive(Clone)]
pub struct RetryPolicy {
    /// The wait before each further attempt.
    pub backoff: Backoff,
    /// So many attempts in all, over every delivery of a message; 10. 0 means without end.
    pub max_attempts: u32,
    /// No attempt starts later than this after the message was created; none by default.
    pub max_elapsed: Option<Duration>,
    /// The most a message waits here, all waits of one delivery together; what is longer leaves the stack with
    /// [`Later::After`], so that it holds neither memory nor a lease; 3 s.
    pub stay: Duration,
    /// The longest wait that a far side can ask for; 5 min.
    pub throttle_max: Duration,
    /// Rules of their own for some classes (by name) or codes; the code's goes first.
    pub rules: Vec<(SmolStr, RetryRule)>,
    /// At most such a share of retries; beyond it messages leave the stack. None by default.
    pub budget: Option<RetryBudget>,
    /// Set while others wait for the room: then only waits of up to 50 ms are spent here.
    pub crowded: Arc<AtomicBool>,
    /// How many messages wait here right now; they hold no permit.
    pub resting: Arc<AtomicUsize>,
    /// Where attempts are counted.
    pub stats: Arc<Stats>,
}

/// What is different for one class or code.
#[derive(Debug, Clone, Default)]
pub struct RetryRule {
    /// In the place of the policy's.
    pub max_attempts: Option<u32>,
    /// In the place of the policy's.
    pub backoff: Option<Backoff>,
}

/// A share of retries, counted over 10 s: each call earns a part of a retry, and a reserve is always there.
#[derive(Clone)]
pub struct RetryBudget(pub(super) Arc<TpsBudget>);

impl RetryBudget {
    /// `percent` retries to 100 calls, and `reserve` a second besides (tower's own defaults: 0.2 and 10).
    #[must_use]
    pub fn new(percent: f32, reserve: u32) -> Self {
        Self(Arc::new(TpsBudget::new(Duration::from_secs(10), reserve, percent)))
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RetryBudget")
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("backoff", &self.backoff)
            .field("max_attempts", &self.max_attempts)
            .field("max_elapsed", &self.max_elapsed)
            .field("stay", &self.stay)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            max_attempts: 10,
            max_elapsed: None,
            stay: Duration::from_secs(3),
            throttle_max: Duration::from_secs(300),
            rules: Vec::new(),
            budget: None,
            crowded: Arc::default(),
            resting: Arc::default(),
            stats: Arc::default(),
        }
    }
}

/// The shortest wait for a far side that asks for time.
const LEAST_THROTTLE: Duration = Duration::from_millis(100);

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another attempt, after this long.
    Attempt(Duration),
    /// Another attempt outside, after this long.
    Leave(Duration),
    /// No other attempt.
    Stop(Option<Later>),
}

/// How far one delivery has come.
pub(super) struct Course {
    /// The number of the attempt that failed.
    pub(super) attempt: u32,
    /// How often it was tried under this delivery, counted or not.
    pub(super) tries: u32,
    /// The wait before it.
    pub(super) waited: Duration,
    /// All waits of this delivery.
    pub(super) stayed: Duration,
    pub(super) created_at: SystemTime,
    pub(super) deadline: Option<Instant>,
}

impl Course {
    pub(super) fn of(message: &Message) -> Self {
        Self {
            attempt: message.attempt,
            tries: 0,
            waited: Duration::ZERO,
            stayed: Duration::ZERO,
            created_at: message.created_at(),
            deadline: message.deadline,
        }
    }
}

impl RetryPolicy {
    fn rule(&self, error: &Error) -> Option<&RetryRule> {
        let find = |name: &str| self.rules.iter().find(|(own, _)| own == name).map(|(_, rule)| rule);
        error
            .code()
            .and_then(|code| find(code))
            .or_else(|| find(error.class().name()))
    }

    pub(super) fn next(&self, error: &Error, course: &Course) -> Next {
        let rule = self.rule(error);
        let backoff = || {
            let backoff = rule.and_then(|rule| rule.backoff.as_ref()).unwrap_or(&self.backoff);
            backoff.delay(course.attempt.max(course.tries), course.waited, &mut rand::rng())
        };
        let wait = match error.class() {
            Class::Permanent | Class::Unavailable => return Next::Stop(None),
            // A far side that asks for no time at all is given some, and more each time.
            Class::Throttled(after) => {
                let after = after.filter(|after| *after >= LEAST_THROTTLE).unwrap_or_else(backoff);
                after.max(LEAST_THROTTLE).min(self.throttle_max)
            }
            Class::Retry => {
                let most = rule.and_then(|rule| rule.max_attempts).unwrap_or(self.max_attempts);
                if most > 0 && course.attempt >= most {
                    return Next::Stop(Some(Later::Exhausted));
                }
                backoff()
            }
        };
        let age = SystemTime::now().duration_since(course.created_at).unwrap_or_default();
        if self.max_elapsed.is_some_and(|most| age + wait > most) {
            return Next::Stop(Some(Later::Exhausted));
        }
        if course
            .deadline
            .is_some_and(|deadline| Instant::now() + wait >= deadline)
        {
            return Next::Stop(Some(Later::Expired));
        }
        let crowded = self.crowded.load(Relaxed) && wait > Duration::from_millis(50);
        if crowded || course.stayed + wait > self.stay {
            return Next::Leave(wait);
        }
        match &self.budget {
            Some(budget) if !budget.0.withdraw() => Next::Leave(wait),
            _ => Next::Attempt(wait),
        }
    }
}
