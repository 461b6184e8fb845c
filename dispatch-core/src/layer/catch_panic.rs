//! A sink that panics fails one message, not the driver.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use futures::FutureExt;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{Error, Message};

/// Turns a panic of the inner service into an error of class `Retry` with the code `panic`. Goes innermost.
#[derive(Debug, Clone, Copy, Default)]
pub struct CatchPanicLayer;

/// The service of [`CatchPanicLayer`].
#[derive(Debug, Clone)]
pub struct CatchPanic<S>(S);

impl<S> Layer<S> for CatchPanicLayer {
    type Service = CatchPanic<S>;
    fn layer(&self, inner: S) -> CatchPanic<S> {
        CatchPanic(inner)
    }
}

/// What a panic said.
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
struct Panicked(String);

impl Panicked {
    fn of(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Self(text.unwrap_or_else(|| "with a value that is no text".to_owned()))
    }
}

/// The code of an error that was a panic.
pub(crate) const PANIC: &str = "panic";

fn caught(payload: &(dyn Any + Send)) -> Error {
    Error::retry(Panicked::of(payload)).with_code(PANIC)
}

/// What `call` says; a panic is an error of class `Unavailable` with the code [`PANIC`].
pub(crate) async fn unless_panicked<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(said) => said,
        Err(payload) => Err(Error::unavailable(Panicked::of(&*payload)).with_code(PANIC)),
    }
}

impl<S> Service<Message> for CatchPanic<S>
where
    S: Service<Message>,
    S::Error: Into<Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = CatchPanicFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, message: Message) -> Self::Future {
        match catch_unwind(AssertUnwindSafe(|| self.0.call(message))) {
            Ok(call) => CatchPanicFuture {
                call: Some(call),
                error: None,
            },
            Err(payload) => CatchPanicFuture {
                call: None,
                error: Some(caught(&*payload)),
            },
        }
    }
}

pin_project! {
    /// The call, or what its making threw.
    #[derive(Debug)]
    pub struct CatchPanicFuture<F> {
        #[pin]
        call: Option<F>,
        error: Option<Error>,
    }
}

impl<F, R, E> Future for CatchPanicFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Error>,
{
    type Output = Result<R, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(call) = this.call.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(this
                .error
                .take()
                .unwrap_or_else(|| Error::retry("polled after it ended"))));
        };
        match catch_unwind(AssertUnwindSafe(|| call.poll(cx))) {
            Ok(poll) => poll.map_err(Into::into),
            Err(payload) => {
                // The future must not be touched again, nor dropped late: its own drop runs here.
                this.call.set(None);
                Poll::Ready(Err(caught(&*payload)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Class, Reply};

    const fn false_of(_: u32) -> bool {
        false
    }

    #[tokio::test]
    async fn a_panic_while_calling_or_while_running_is_an_error() {
        let while_calling = tower::service_fn(|message: Message| {
            assert!(message.attempt > 1, "first");
            async { Ok::<_, Error>(Reply::default()) }
        });
        let while_running = tower::service_fn(|_: Message| async {
            assert!(false_of(2), "second {}", 2);
            Ok::<_, Error>(Reply::default())
        });

        let first = CatchPanicLayer
            .layer(while_calling)
            .call(Message::new("x"))
            .await
            .unwrap_err();
        let second = CatchPanicLayer
            .layer(while_running)
            .call(Message::new("x"))
            .await
            .unwrap_err();

        assert_eq!(
            (first.class(), first.to_string().as_str()),
            (Class::Retry, "panicked: first")
        );
        assert_eq!(second.to_string(), "panicked: second 2");
    }
}
