//! One bound over all attempts.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

use crate::{Error, Later, Message};

/// Ends all work on a message at its deadline: the message's own, or `total` from its first call; and in any case at its
/// greatest age.
///
/// Goes outside [`RetryLayer`](super::RetryLayer). A message past its deadline is not tried at all; either way the
/// error says [`Later::Expired`], and the driver makes a dead letter of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeadlineLayer {
    total: Option<Duration>,
    age: Option<Duration>,
    /// Whether somebody has looked already that the message is not late.
    seen: bool,
}

impl DeadlineLayer {
    /// Keeps to the message's own deadline, and to `total` where it has none.
    #[must_use]
    pub const fn new(total: Option<Duration>) -> Self {
        Self {
            total,
            age: None,
            seen: false,
        }
    }

    /// How old a message may be, from when it was [made](Message::created_at); none is any age.
    #[must_use]
    pub const fn max_age(mut self, age: Option<Duration>) -> Self {
        self.age = age;
        self
    }

    /// Leaves it to the driver to see that a message is late before it is tried; that saves a look at the clock.
    pub(super) const fn seen_by_driver(mut self) -> Self {
        self.seen = true;
        self
    }
}

/// The service of [`DeadlineLayer`].
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
    settings: DeadlineLayer,
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;
    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, settings: *self }
    }
}

/// Why a message was not worked on any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub(crate) struct DeadlinePassed;

/// The error for a message whose deadline has passed.
pub(crate) fn expired() -> Error {
    Error::permanent(DeadlinePassed)
        .with_code("deadline")
        .with_later(Later::Expired)
}

impl<S> Service<Message> for Deadline<S>
where
    S: Service<Message>,
    S::Error: Into<Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, mut message: Message) -> Self::Future {
        if let (None, Some(total)) = (message.deadline, self.settings.total) {
            message.deadline = Some(Instant::now() + total);
        }
        if let (Some(age), false) = (self.settings.age, self.settings.seen) {
            let spent = message.created_at().elapsed().unwrap_or_default();
            message.end_by(Instant::now() + age.saturating_sub(spent));
        }
        let deadline = message.deadline;
        // A passed deadline is seen at the first poll: the call is made, as services must be, but never polled.
        let late = !self.settings.seen && deadline.is_some_and(|deadline| deadline <= Instant::now());
        DeadlineFuture {
            call: self.inner.call(message),
            deadline,
            late,
            timer: None,
        }
    }
}

pin_project! {
    /// The call under its deadline. The timer is set only if the call does not end at once.
    #[derive(Debug)]
    pub struct DeadlineFuture<F> {
        #[pin]
        call: F,
        deadline: Option<Instant>,
        late: bool,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F, R, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Error>,
{
    type Output = Result<R, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if *this.late {
            return Poll::Ready(Err(expired()));
        }
        // The call goes first: a retry inside that sees the same deadline ends with its history.
        if let Poll::Ready(result) = this.call.poll(cx) {
            return Poll::Ready(result.map_err(Into::into));
        }
        let Some(deadline) = *this.deadline else {
            return Poll::Pending;
        };
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer.as_mut().poll(cx).map(|()| Err(expired()))
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready_err, task};
    use tower_test::mock;

    use super::*;
    use crate::Reply;

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_at_its_deadline_and_says_never_again() {
        let (service, mut handle) = mock::pair::<Message, Reply>();
        let mut service = DeadlineLayer::new(Some(Duration::from_secs(5))).layer(service);
        handle.allow(1);
        tower::ServiceExt::<Message>::ready(&mut service).await.unwrap();
        let mut call = task::spawn(service.call(Message::new("x")));
        assert_pending!(call.poll());

        tokio::time::advance(Duration::from_secs(6)).await;

        let error = assert_ready_err!(call.poll());
        assert_eq!(
            (error.later(), error.to_string().as_str()),
            (Some(Later::Expired), "deadline passed")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_message_is_not_tried() {
        let inner = tower::service_fn(|_: Message| async { panic!("tried") as Result<Reply, Error> });
        let mut service = DeadlineLayer::new(None).layer(inner);
        let mut message = Message::new("x");
        message.deadline = Some(Instant::now());

        let error = service.call(message).await.unwrap_err();

        assert_eq!(error.later(), Some(Later::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_has_become_too_old_is_not_tried() {
        let second = Duration::from_secs(1);
        let inner = tower::service_fn(|_: Message| async { Ok::<_, Error>(Reply::default()) });
        let layer = DeadlineLayer::new(Some(60 * second)).max_age(Some(10 * second));
        let mut service = layer.layer(inner);
        let mut made = async |ago| {
            let message = Message::with_id_at("1", "x", std::time::SystemTime::now() - ago);
            service.call(message).await.map_err(|error| error.later())
        };

        assert_eq!(made(11 * second).await, Err(Some(Later::Expired)));
        assert_eq!(made(5 * second).await, Ok(Reply::default()));
    }
}
