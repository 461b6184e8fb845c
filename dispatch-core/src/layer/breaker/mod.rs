//! Stops calling a far side that fails, and stops fetching for it.

mod gather;
mod handle;
mod keyed;
#[cfg(test)]
mod tests;
mod window;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

pub use self::handle::{BreakerHandle, BreakerSettings, BreakerState};
use self::{
    handle::{Admitted, refused},
    keyed::KeyedBreakers,
};
use super::keyed::KeyFn;
use crate::{Error, Message};

/// The share of failures opens it, one `Unavailable` opens it at once; refused calls fail as `Unavailable` with the code
/// `breaker`, untried and uncounted.
///
/// Failures are errors of the classes `Retry` and `Unavailable`; `Permanent` says that the far side works, `Throttled`
/// says nothing. The driver closes its gate while the breaker is open (see [`BreakerHandle`]), so that nothing is
/// fetched that would only be refused. With a [`key`](Self::keyed) each key has a breaker of its own: the gate stays open, and
/// the messages of a key whose breaker is open leave the process for as long as it stays so. Goes inside
/// [`RetryLayer`](super::RetryLayer).
#[derive(Debug, Clone)]
pub struct BreakerLayer(Scope);

/// Whom a breaker is for.
#[derive(Debug, Clone)]
enum Scope {
    Off,
    /// Twice counted: each call counts a reference, and shards must not wait for each other to do so.
    All(Arc<BreakerHandle>),
    /// The same, told of each end by somebody else while it is closed.
    Told(Arc<BreakerHandle>),
    Key(Arc<KeyedBreakers>),
}

impl BreakerLayer {
    /// A breaker of its own.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Self {
        Self::with(BreakerHandle::new(settings))
    }

    /// One for each key, made when it is first seen and forgotten when it says nothing any more.
    #[must_use]
    pub fn keyed(settings: BreakerSettings, key: KeyFn) -> Self {
        Self(Scope::Key(Arc::new(KeyedBreakers::new(settings, key))))
    }

    /// A breaker that others watch too.
    #[must_use]
    pub fn with(handle: BreakerHandle) -> Self {
        Self(Scope::All(Arc::new(handle)))
    }

    /// None.
    #[must_use]
    pub const fn off() -> Self {
        Self(Scope::Off)
    }

    /// The breaker for all messages, if it is one.
    #[must_use]
    pub fn handle(&self) -> Option<BreakerHandle> {
        match &self.0 {
            Scope::All(handle) | Scope::Told(handle) => Some(BreakerHandle::clone(handle)),
            Scope::Off | Scope::Key(_) => None,
        }
    }

    /// The breaker that is to be told of each end; from here on its services tell it of probes alone. None where each key has
    /// its own.
    pub(super) fn told_elsewhere(&mut self) -> Option<BreakerHandle> {
        let Scope::All(handle) = &self.0 else { return None };
        let own = BreakerHandle::clone(handle);
        self.0 = Scope::Told(Arc::clone(handle));
        Some(own)
    }

    /// Whether each key has a breaker of its own.
    pub(crate) const fn is_keyed(&self) -> bool {
        matches!(self.0, Scope::Key(_))
    }
}

/// The service of [`BreakerLayer`].
#[derive(Debug, Clone)]
pub struct Breaker<S> {
    inner: S,
    scope: Scope,
}

impl<S> Layer<S> for BreakerLayer {
    type Service = Breaker<S>;
    fn layer(&self, inner: S) -> Breaker<S> {
        Breaker {
            inner,
            scope: match &self.0 {
                Scope::All(handle) => Scope::All(Arc::new(BreakerHandle::clone(handle))),
                Scope::Told(handle) => Scope::Told(Arc::new(BreakerHandle::clone(handle))),
                other => other.clone(),
            },
        }
    }
}

impl<S> Service<Message> for Breaker<S>
where
    S: Service<Message>,
    S::Error: Into<Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = BreakerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, message: Message) -> Self::Future {
        let admitted = match &self.scope {
            Scope::Off => Ok(None),
            Scope::Told(breaker) if breaker.is_closed() => Ok(None),
            Scope::Told(breaker) => breaker.admit().map(Admitted::if_probe),
            Scope::All(breaker) => breaker.admit().map(Some),
            Scope::Key(breakers) => breakers.of(&message).admit().map(Some),
        };
        match admitted {
            Ok(admitted) => BreakerFuture {
                call: Some(self.inner.call(message)),
                admitted,
                refused: None,
            },
            Err(error) => BreakerFuture {
                call: None,
                admitted: None,
                refused: Some(error),
            },
        }
    }
}

pin_project! {
    /// The call, or the refusal.
    #[derive(Debug)]
    pub struct BreakerFuture<F> {
        #[pin]
        call: Option<F>,
        admitted: Option<Admitted>,
        refused: Option<Error>,
    }
}

impl<F, R, E> Future for BreakerFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Error>,
{
    type Output = Result<R, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(call) = this.call.as_pin_mut() else {
            return Poll::Ready(Err(this.refused.take().unwrap_or_else(refused)));
        };
        let result = ready!(call.poll(cx)).map_err(Into::into);
        Poll::Ready(match this.admitted.take() {
            Some(admitted) => admitted.end(result),
            None => result,
        })
    }
}
