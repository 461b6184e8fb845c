//! The future most layers return: the inner call as it is, or a boxed wait before it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use pin_project_lite::pin_project;
use tower::Service;

use crate::{Error, Message};

pin_project! {
    /// The inner call polled in place, or, where the layer must wait first, a boxed future that waits and then calls.
    #[derive(Debug)]
    pub struct Step<F, R> {
        #[pin]
        way: Way<F, R>,
    }
}

pin_project! {
    #[project = WayProj]
    #[derive(Debug)]
    enum Way<F, R> {
        Direct { #[pin] call: F },
        Slow { call: Boxed<R> },
    }
}

/// A wait and a call, boxed.
struct Boxed<R>(BoxFuture<'static, Result<R, Error>>);

impl<R> std::fmt::Debug for Boxed<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Boxed")
    }
}

impl<F, R> Step<F, R> {
    pub(super) const fn direct(call: F) -> Self {
        Self {
            way: Way::Direct { call },
        }
    }

    pub(super) fn slow(call: impl Future<Output = Result<R, Error>> + Send + 'static) -> Self {
        Self {
            way: Way::Slow {
                call: Boxed(Box::pin(call)),
            },
        }
    }
}

/// Calls `service` once it is ready; for calls that come after a wait.
pub(super) async fn ready_call<S>(service: &mut S, message: Message) -> Result<S::Response, Error>
where
    S: Service<Message>,
    S::Error: Into<Error>,
{
    std::future::poll_fn(|cx| service.poll_ready(cx))
        .await
        .map_err(Into::into)?;
    service.call(message).await.map_err(Into::into)
}

impl<F, R, E> Future for Step<F, R>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Error>,
{
    type Output = Result<R, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().way.project() {
            WayProj::Direct { call } => call.poll(cx).map_err(Into::into),
            WayProj::Slow { call } => call.0.as_mut().poll(cx),
        }
    }
}
