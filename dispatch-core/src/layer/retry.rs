//! Tries again while that is short, and says when it is not.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, Service, retry::budget::Budget};

use super::{
    deadline::expired,
    retry_policy::{Course, Next, RetryPolicy},
};
use crate::{Attempt, Error, Later, Message, clock, lock::lock, telemetry};

/// Tries again after failures that may pass, as [`RetryPolicy`] says.
///
/// The last error carries every failed attempt, and where the message goes next: [`Later::After`] where the next wait
/// is too long to be spent here, [`Later::Exhausted`] or [`Later::Expired`] where there is none, nothing where the
/// class says it all.
#[derive(Debug, Clone)]
pub struct RetryLayer(Option<Arc<RetryPolicy>>);

impl RetryLayer {
    /// Retries by `policy`.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self(Some(Arc::new(policy)))
    }

    /// No retries here: each failure is the source's.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }
}

/// The service of [`RetryLayer`].
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    more: Option<Arc<More<S>>>,
}

/// What further attempts share: the policy, and where they take their service from, since to clone one for each
/// message would cost more than the rest.
#[derive(Debug)]
struct More<S> {
    policy: Arc<RetryPolicy>,
    spare: Mutex<S>,
}

impl<S: Clone> Layer<S> for RetryLayer {
    type Service = Retry<S>;
    fn layer(&self, inner: S) -> Retry<S> {
        let more = self.0.as_ref().map(|policy| {
            Arc::new(More {
                policy: Arc::clone(policy),
                spare: Mutex::new(inner.clone()),
            })
        });
        Retry { inner, more }
    }
}

impl<S> Service<Message> for Retry<S>
where
    S: Service<Message> + Clone,
    S::Error: Into<Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = RetryFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, message: Message) -> Self::Future {
        let again = self.more.as_ref().map(|more| {
            if let Some(budget) = &more.policy.budget {
                budget.0.deposit();
            }
            (Arc::clone(more), message.clone())
        });
        // The service that was made ready makes the first call; a clone makes the later ones.
        let call = Some(self.inner.call(message));
        RetryFuture {
            call,
            began: None,
            again,
            past: None,
        }
    }
}

pin_project! {
    /// The attempt under way, in place, and what the failed ones left behind.
    pub struct RetryFuture<S: Service<Message>> {
        #[pin]
        call: Option<S::Future>,
        began: Option<Instant>,
        again: Option<(Arc<More<S>>, Message)>,
        past: Option<Box<Past<S>>>,
    }
}

impl<S: Service<Message>> fmt::Debug for RetryFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RetryFuture")
    }
}

/// What is kept of a message that has failed here.
struct Past<S> {
    /// What the next attempt is called on, made for it.
    service: Option<Box<S>>,
    course: Course,
    attempts: Vec<Attempt>,
    /// The wait for the next attempt, if there is none under way.
    rest: Option<Rest>,
}

/// A wait; the message counts as resting for as long as it lives.
struct Rest {
    sleep: Pin<Box<Sleep>>,
    resting: Arc<AtomicUsize>,
}

impl Rest {
    fn new(wait: Duration, resting: &Arc<AtomicUsize>) -> Self {
        resting.fetch_add(1, Relaxed);
        Self {
            sleep: Box::pin(sleep(wait)),
            resting: Arc::clone(resting),
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.resting.fetch_sub(1, Relaxed);
    }
}

impl<S> Past<S> {
    /// The error of the last attempt, with every attempt in it.
    fn end(&mut self, error: Error, later: Option<Later>) -> Error {
        let error = error.with_attempts(std::mem::take(&mut self.attempts));
        match later {
            Some(later) => error.with_later(later),
            None => error,
        }
    }
}

impl<S> Future for RetryFuture<S>
where
    S: Service<Message> + Clone,
    S::Error: Into<Error>,
{
    type Output = Result<S::Response, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let (Some(past), Some((more, message))) = (&mut *this.past, &mut *this.again)
                && let Some(rest) = &mut past.rest
            {
                ready!(rest.sleep.as_mut().poll(cx));
                let service = past.service.get_or_insert_with(|| Box::new(lock(&more.spare).clone()));
                ready!(service.poll_ready(cx)).map_err(Into::into)?;
                past.rest = None;
                message.attempt = past.course.attempt;
                more.policy.stats.retried.fetch_add(1, Relaxed);
                *this.began = Some(Instant::now());
                this.call
                    .set(past.service.take().map(|mut service| service.call(message.clone())));
            }
            let result = match this.call.as_mut().as_pin_mut().map(|call| call.poll(cx)) {
                Some(Poll::Ready(result)) => result.map_err(Into::into),
                Some(Poll::Pending) => {
                    // An attempt that ends at once took no time worth a look at the clock.
                    this.began.get_or_insert_with(|| clock::recent().instant);
                    // The deadline layer outside wakes us in time: so the history is not lost with the attempt.
                    let late = |past: &&mut Box<Past<S>>| past.course.deadline.is_some_and(|at| at <= Instant::now());
                    match this.past.as_mut().filter(late) {
                        None => return Poll::Pending,
                        Some(_) => Err(expired()),
                    }
                }
                None => return Poll::Pending,
            };
            let mut error = match result {
                Ok(reply) => return Poll::Ready(Ok(reply)),
                Err(error) => error,
            };
            this.call.set(None);
            let Some((more, message)) = &*this.again else {
                return Poll::Ready(Err(error));
            };
            let took = this.began.take().map(|began| began.elapsed()).unwrap_or_default();
            let past = this.past.get_or_insert_with(|| {
                Box::new(Past {
                    service: None,
                    course: Course::of(message),
                    attempts: Vec::new(),
                    rest: None,
                })
            });
            // Most fail once or twice: room for four would be the larger part of what a message costs that waits.
            past.attempts.reserve_exact(1);
            past.course.tries += 1;
            past.attempts.append(&mut error.take_attempts());
            let attempt = Attempt::failed(past.course.attempt, SystemTime::now() - took, took, &error);
            // What the breaker refused was not tried.
            if error.code().is_none_or(|code| code != "breaker") {
                telemetry::attempt_failed(&attempt);
                past.attempts.push(attempt);
            }
            Attempt::shorten(&mut past.attempts);
            let next = match error.later() {
                Some(later) => Next::Stop(Some(later)),
                None => more.policy.next(&error, &past.course),
            };
            match next {
                Next::Attempt(wait) => {
                    tracing::debug!(attempt = past.course.attempt, ?wait, %error, "backing off");
                    past.course.waited = wait;
                    past.course.stayed += wait;
                    past.course.attempt += u32::from(error.class().counts());
                    past.rest = Some(Rest::new(wait, &more.policy.resting));
                }
                Next::Leave(wait) => return Poll::Ready(Err(past.end(error, Some(Later::After(wait))))),
                Next::Stop(later) => return Poll::Ready(Err(past.end(error, later))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        Backoff, Class, Jitter, Reply,
        layer::{RetryBudget, RetryRule},
    };

    /// Fails `failures` times with what `error` makes, then answers; counts its calls.
    fn failing(
        failures: u32,
        error: impl Fn(u32) -> Error + Clone + Send + 'static,
    ) -> (
        impl Service<Message, Response = Reply, Error = Error, Future: Send> + Clone + Send + 'static,
        Arc<AtomicU32>,
    ) {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let service = tower::service_fn(move |_: Message| {
            let call = counted.fetch_add(1, Relaxed) + 1;
            let result = if call <= failures {
                Err(error(call))
            } else {
                Ok(Reply::default())
            };
            async move { result }
        });
        (service, calls)
    }

    fn policy() -> RetryPolicy {
        RetryPolicy {
            backoff: Backoff::constant(Duration::from_millis(500)).jitter(Jitter::None),
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_passing_failure_is_tried_again_here() {
        let (inner, calls) = failing(2, |_| Error::retry("not yet"));
        let started = Instant::now();

        RetryLayer::new(policy())
            .layer(inner)
            .call(Message::new("x"))
            .await
            .unwrap();

        assert_eq!((calls.load(Relaxed), started.elapsed().as_millis()), (3, 1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_too_long_for_here_leaves_with_its_history() {
        let (inner, calls) = failing(100, |call| Error::retry(format!("failure {call}")).with_code("500"));

        let error = RetryLayer::new(policy())
            .layer(inner)
            .call(Message::new("x"))
            .await
            .unwrap_err();

        assert_eq!(
            (calls.load(Relaxed), error.later()),
            (7, Some(Later::After(Duration::from_millis(500))))
        );
        let history: Vec<_> = error
            .attempts()
            .iter()
            .map(|attempt| (attempt.number, attempt.text.as_str()))
            .collect();
        assert_eq!((history[0], history[6]), ((1, "failure 1"), (7, "failure 7")));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_of_earlier_deliveries_count() {
        let (inner, calls) = failing(100, |_| Error::retry("no"));

        let error = RetryLayer::new(policy())
            .layer(inner)
            .call(Message::new("x").with_attempt(8))
            .await
            .unwrap_err();

        assert_eq!(
            (calls.load(Relaxed), error.later(), error.attempts().len()),
            (3, Some(Later::Exhausted), 3)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_attempt_waits_as_asked_and_is_not_counted() {
        let (inner, _) = failing(2, |_| Error::throttled(Some(Duration::from_secs(1)), "slow down"));
        let policy = RetryPolicy {
            max_attempts: 1,
            ..policy()
        };
        let started = Instant::now();

        RetryLayer::new(policy)
            .layer(inner)
            .call(Message::new("x"))
            .await
            .unwrap();

        assert_eq!(started.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn permanent_and_unavailable_failures_are_not_tried_again() {
        for class in [Class::Permanent, Class::Unavailable] {
            let (inner, calls) = failing(1, move |_| Error::new(class, "no"));

            let error = RetryLayer::new(policy())
                .layer(inner)
                .call(Message::new("x"))
                .await
                .unwrap_err();

            assert_eq!(
                (calls.load(Relaxed), error.later(), error.attempts().len()),
                (1, None, 1)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rule_for_a_code_goes_before_the_rule_for_its_class() {
        let rule = |most| RetryRule {
            max_attempts: Some(most),
            backoff: None,
        };
        let rules = vec![("retry".into(), rule(5)), ("418".into(), rule(2))];
        for (code, expected) in [("418", 2), ("500", 5)] {
            let (inner, calls) = failing(100, move |_| Error::retry("no").with_code(code));
            let policy = RetryPolicy {
                rules: rules.clone(),
                ..policy()
            };

            RetryLayer::new(policy)
                .layer(inner)
                .call(Message::new("x"))
                .await
                .unwrap_err();

            assert_eq!(calls.load(Relaxed), expected, "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_budget_and_a_crowd_send_messages_out() {
        let crowd = RetryPolicy {
            crowded: Arc::new(AtomicBool::new(true)),
            ..policy()
        };
        let broke = RetryPolicy {
            budget: Some(RetryBudget::new(0.0, 0)),
            ..policy()
        };
        for policy in [crowd, broke] {
            let (inner, calls) = failing(1, |_| Error::retry("no"));

            let error = RetryLayer::new(policy)
                .layer(inner)
                .call(Message::new("x"))
                .await
                .unwrap_err();

            assert_eq!(
                (calls.load(Relaxed), error.later()),
                (1, Some(Later::After(Duration::from_millis(500))))
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_reaches_past_the_deadline() {
        let (inner, calls) = failing(100, |_| Error::retry("no"));
        let mut message = Message::new("x");
        message.deadline = Some(Instant::now() + Duration::from_millis(1_200));

        let error = RetryLayer::new(policy()).layer(inner).call(message).await.unwrap_err();

        assert_eq!(
            (calls.load(Relaxed), error.later(), error.attempts().len()),
            (3, Some(Later::Expired), 3)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_far_side_that_asks_for_no_time_is_given_some() {
        let (inner, calls) = failing(1_000_000, |_| Error::throttled(Some(Duration::ZERO), "slow down"));

        let error = RetryLayer::new(RetryPolicy::default())
            .layer(inner)
            .call(Message::new("x"))
            .await
            .unwrap_err();

        assert!(
            matches!(error.later(), Some(Later::After(_))) && calls.load(Relaxed) <= 31,
            "{}",
            calls.load(Relaxed)
        );
    }

    proptest! {
        #[test]
        fn the_number_of_attempts_is_exact(most in 1u32..20, failures in 0u32..30) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let calls = runtime.block_on(async {
                let (inner, calls) = failing(failures, |_| Error::retry("no"));
                let policy = RetryPolicy { max_attempts: most, stay: Duration::MAX, ..policy() };
                drop(RetryLayer::new(policy).layer(inner).call(Message::new("x")).await);
                calls.load(Relaxed)
            });
            prop_assert_eq!(calls, most.min(failures + 1));
        }
    }
}
