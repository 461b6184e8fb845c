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
mod tests;
