//! Counts attempts and how long they take.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::witness::Witnesses;
use crate::{
    Error, Message,
    clock::{self, Moment},
    own::Own,
    telemetry::{Stats, till},
};

/// Records each attempt's duration and, if it failed, its class. Goes inside the limits, so that waiting is not counted.
#[derive(Debug, Clone, Default)]
pub struct MeasureLayer(Arc<Shared>);

/// What the attempts of one layer have in common.
#[derive(Debug, Default)]
struct Shared {
    stats: Arc<Stats>,
    witnesses: Witnesses,
}

impl MeasureLayer {
    /// Counts in `stats`.
    #[must_use]
    pub fn new(stats: Arc<Stats>) -> Self {
        Self::before(stats, Witnesses::default())
    }

    /// Tells `witnesses` of each end, too.
    pub(super) fn before(stats: Arc<Stats>, witnesses: Witnesses) -> Self {
        Self(Arc::new(Shared { stats, witnesses }))
    }
}

/// The service of [`MeasureLayer`].
#[derive(Debug, Clone)]
pub struct Measure<S> {
    inner: S,
    shared: Own<Shared>,
}

impl<S> Layer<S> for MeasureLayer {
    type Service = Measure<S>;
    fn layer(&self, inner: S) -> Measure<S> {
        Measure {
            inner,
            shared: Own::of(&self.0),
        }
    }
}

impl<S> Service<Message> for Measure<S>
where
    S: Service<Message>,
    S::Error: Into<Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = MeasureFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, message: Message) -> Self::Future {
        MeasureFuture {
            began: clock::recent().moment,
            call: self.inner.call(message),
            shared: self.shared.clone(),
        }
    }
}

pin_project! {
    /// The attempt, timed.
    #[derive(Debug)]
    pub struct MeasureFuture<F> {
        began: Moment,
        #[pin]
        call: F,
        shared: Own<Shared>,
    }
}

impl<F, R, E> Future for MeasureFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Error>,
{
    type Output = Result<R, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.call.poll(cx)).map_err(Into::into);
        let stats = &this.shared.stats;
        till::record(&stats.sink, clock::look().moment.nanos_since(*this.began));
        if let Err(error) = &result {
            stats.failed.count(error.class());
        }
        this.shared.witnesses.hear(&result);
        Poll::Ready(result)
    }
}
