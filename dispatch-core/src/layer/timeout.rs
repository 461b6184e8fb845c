//! A bound on each attempt.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::alarms::{Alarm, Alarms};
use crate::{Error, Message};

/// Ends an attempt after so long; the error is of class `Retry` with the code `timeout`.
///
/// Goes inside [`RetryLayer`](super::RetryLayer), so that each attempt has the whole time, and inside the limits, so
/// that waiting for them is not timed. Unlike tower's own, an attempt that ends at once sets no timer, and all others of
/// one service share one.
#[derive(Debug, Clone, Copy, Default)]
pub struct TimeoutLayer {
    limit: Option<Duration>,
}

impl TimeoutLayer {
    /// Each attempt may take `limit`; none means for ever.
    #[must_use]
    pub const fn new(limit: Option<Duration>) -> Self {
        Self { limit }
    }
}

/// The service of [`TimeoutLayer`].
#[derive(Debug, Clone)]
pub struct Timeout<S> {
    inner: S,
    alarms: Option<Arc<Alarms>>,
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;
    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout {
            inner,
            alarms: self.limit.map(|limit| Arc::new(Alarms::new(limit))),
        }
    }
}

/// An attempt took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
struct TimedOut(Duration);

impl<S> Service<Message> for Timeout<S>
where
    S: Service<Message>,
    S::Error: Into<Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = TimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, message: Message) -> Self::Future {
        TimeoutFuture {
            call: self.inner.call(message),
            alarm: self.alarms.as_ref().map(Alarms::alarm),
        }
    }
}

pin_project! {
    /// The attempt under its bound.
    #[derive(Debug)]
    pub struct TimeoutFuture<F> {
        #[pin]
        call: F,
        alarm: Option<Alarm>,
    }
}

impl<F, R, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Error>,
{
    type Output = Result<R, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.call.poll(cx) {
            return Poll::Ready(result.map_err(Into::into));
        }
        let Some(alarm) = this.alarm else { return Poll::Pending };
        alarm
            .poll(cx)
            .map(|()| Err(Error::retry(TimedOut(alarm.limit())).with_code("timeout")))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::{Class, Reply};

    #[tokio::test(start_paused = true)]
    async fn a_slow_attempt_ends_as_a_retry() {
        let inner = tower::service_fn(|_: Message| std::future::pending::<Result<Reply, Error>>());
        let mut service = TimeoutLayer::new(Some(Duration::from_secs(30))).layer(inner);
        let started = Instant::now();

        let error = service.call(Message::new("x")).await.unwrap_err();

        assert_eq!(
            (started.elapsed(), error.class(), error.code().map(|code| &**code)),
            (Duration::from_secs(30), Class::Retry, Some("timeout"))
        );
    }
}
