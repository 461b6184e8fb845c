//! As many attempts at once as the far side bears, found out by its latency.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tower::{Layer, Service};

use super::step::{Step, ready_call};
use crate::{Class, Error, Message, lock::lock};

/// How fast the limit moves. The defaults are the parameters Vector publishes for its adaptive request concurrency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveSettings {
    /// The limit at the start; 1.
    pub initial: usize,
    /// The limit's own limit; 200.
    pub max: usize,
    /// How much the newest mean latency weighs, from 0 to 1; 0.4.
    pub ewma_alpha: f64,
    /// What the limit is multiplied by when the far side slows down; 0.9.
    pub decrease_ratio: f64,
    /// How many deviations above the mean count as slowing down; 2.5.
    pub deviation_scale: f64,
}

impl Default for AdaptiveSettings {
    fn default() -> Self {
        Self {
            initial: 1,
            max: 200,
            ewma_alpha: 0.4,
            decrease_ratio: 0.9,
            deviation_scale: 2.5,
        }
    }
}

/// Lets as many attempts run at once as latency allows: one more when the limit was reached and latency held, a tenth
/// fewer when it rose or attempts failed; looked at once a mean round trip (additive increase, multiplicative decrease).
///
/// Errors of the classes `Retry`, `Throttled` and `Unavailable` count as the far side pushing back, a `Permanent` one
/// and a cancelled attempt as nothing; only successes feed the latency. Goes where
/// [`ConcurrencyLayer`](super::ConcurrencyLayer) goes.
#[derive(Debug, Clone)]
pub struct AdaptiveConcurrencyLayer {
    control: Option<Arc<Control>>,
}

impl AdaptiveConcurrencyLayer {
    /// Starts at `settings.initial`.
    #[must_use]
    pub fn new(settings: AdaptiveSettings) -> Self {
        let initial = settings.initial.clamp(1, settings.max.max(1));
        let state = State {
            limit: initial,
            to_forget: 0,
            past: None,
            current: Window::default(),
            reached: false,
            pushed_back: false,
            look_at: None,
        };
        let semaphore = Arc::new(Semaphore::new(initial));
        Self {
            control: Some(Arc::new(Control {
                settings,
                semaphore,
                state: Mutex::new(state),
            })),
        }
    }

    /// No limit.
    #[must_use]
    pub const fn off() -> Self {
        Self { control: None }
    }

    /// The limit right now; none if off.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        self.control.as_ref().map(|control| lock(&control.state).limit)
    }
}

#[derive(Debug)]
struct Control {
    settings: AdaptiveSettings,
    semaphore: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Permits to be taken out as running attempts end.
    to_forget: usize,
    past: Option<Ewma>,
    current: Window,
    reached: bool,
    pushed_back: bool,
    look_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Window {
    sum: f64,
    count: f64,
}

#[derive(Debug, Clone, Copy)]
struct Ewma {
    mean: f64,
    variance: f64,
}

/// What one attempt says about the far side.
enum Sign {
    Answered(Duration),
    PushedBack,
    Nothing,
}

impl Control {
    fn ended(&self, permit: OwnedSemaphorePermit, sign: Sign) {
        let mut state = lock(&self.state);
        match sign {
            Sign::Answered(latency) => {
                state.current.sum += latency.as_secs_f64();
                state.current.count += 1.0;
            }
            Sign::PushedBack => state.pushed_back = true,
            Sign::Nothing => {}
        }
        state.reached |= self.semaphore.available_permits() == 0;
        let now = Instant::now();
        if state.look_at.is_none_or(|at| now >= at) {
            self.look(&mut state, now);
        }
        if state.to_forget > 0 {
            state.to_forget -= 1;
            permit.forget();
        }
    }

    /// Moves the limit, at most once a mean round trip.
    fn look(&self, state: &mut State, now: Instant) {
        let mean = (state.current.count > 0.0).then(|| state.current.sum / state.current.count);
        let Some(past) = state.past else {
            if let Some(mean) = mean {
                state.past = Some(Ewma { mean, variance: 0.0 });
                state.next(now, mean);
            }
            return;
        };
        let slow = mean.is_some_and(|mean| {
            past.variance > 0.0 && mean >= past.mean + self.settings.deviation_scale * past.variance.sqrt()
        });
        if state.pushed_back || slow {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a fraction of a small whole number"
            )]
            let lower = ((state.limit as f64 * self.settings.decrease_ratio) as usize).max(1);
            // Those that are free go at once, the others as their attempts end.
            let fewer = state.limit - lower;
            state.to_forget += fewer - self.semaphore.forget_permits(fewer);
            state.limit = lower;
        } else if state.reached && mean.is_some_and(|mean| mean <= past.mean) && state.limit < self.settings.max {
            state.limit += 1;
            if state.to_forget > 0 {
                state.to_forget -= 1
            } else {
                self.semaphore.add_permits(1)
            }
        }
        let alpha = self.settings.ewma_alpha;
        let next = mean.map_or(past, |mean| {
            let off = mean - past.mean;
            Ewma {
                mean: past.mean + alpha * off,
                variance: (1.0 - alpha) * (past.variance + alpha * off * off),
            }
        });
        state.past = Some(next);
        state.next(now, next.mean);
    }
}

impl State {
    fn next(&mut self, now: Instant, mean: f64) {
        self.current = Window::default();
        (self.reached, self.pushed_back) = (false, false);
        self.look_at = Some(now + Duration::try_from_secs_f64(mean).unwrap_or_default());
    }
}

/// The service of [`AdaptiveConcurrencyLayer`].
#[derive(Debug, Clone)]
pub struct AdaptiveConcurrency<S> {
    inner: S,
    control: Option<Arc<Control>>,
}

impl<S> Layer<S> for AdaptiveConcurrencyLayer {
    type Service = AdaptiveConcurrency<S>;
    fn layer(&self, inner: S) -> AdaptiveConcurrency<S> {
        AdaptiveConcurrency {
            inner,
            control: self.control.clone(),
        }
    }
}

impl<S> Service<Message> for AdaptiveConcurrency<S>
where
    S: Service<Message> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Into<Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = Step<Judged<S::Future>, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, message: Message) -> Self::Future {
        let Some(control) = self.control.clone() else {
            return Step::direct(Judged {
                call: self.inner.call(message),
                watch: None,
            });
        };
        if let Ok(permit) = Arc::clone(&control.semaphore).try_acquire_owned() {
            let watch = Some(Box::new(Watch {
                control,
                permit: Some(permit),
                began: Instant::now(),
            }));
            return Step::direct(Judged {
                call: self.inner.call(message),
                watch,
            });
        }
        let mut inner = self.inner.clone();
        Step::slow(async move {
            let permit = Arc::clone(&control.semaphore)
                .acquire_owned()
                .await
                .map_err(|_| Error::retry("limit closed"))?;
            let watch = Some(Box::new(Watch {
                control,
                permit: Some(permit),
                began: Instant::now(),
            }));
            Judged {
                call: Box::pin(ready_call(&mut inner, message)),
                watch,
            }
            .await
        })
    }
}

/// Gives the permit back however the attempt ends.
#[derive(Debug)]
struct Watch {
    control: Arc<Control>,
    permit: Option<OwnedSemaphorePermit>,
    began: Instant,
}

impl Watch {
    fn end(&mut self, sign: Sign) {
        if let Some(permit) = self.permit.take() {
            self.control.ended(permit, sign);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end(Sign::Nothing);
    }
}

pin_project! {
    /// The attempt, looked at when it ends.
    #[derive(Debug)]
    pub struct Judged<F> {
        #[pin]
        call: F,
        watch: Option<Box<Watch>>,
    }
}

impl<F, R, E> Future for Judged<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Error>,
{
    type Output = Result<R, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.call.poll(cx)).map_err(Into::into);
        if let Some(mut watch) = this.watch.take() {
            let sign = match &result {
                Ok(_) => Sign::Answered(watch.began.elapsed()),
                Err(error) => match error.class() {
                    Class::Retry | Class::Throttled(_) | Class::Unavailable => Sign::PushedBack,
                    Class::Permanent => Sign::Nothing,
                },
            };
            watch.end(sign);
        }
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::Reply;

    /// A worker that takes 10 ms for each of up to `capacity` at once and slows down in proportion beyond.
    async fn run(layer: &AdaptiveConcurrencyLayer, capacity: usize, messages: usize) {
        let now = Arc::new(AtomicUsize::new(0));
        let inner = tower::service_fn(move |_: Message| {
            let now = Arc::clone(&now);
            async move {
                let load = now.fetch_add(1, SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(10 * load.div_ceil(capacity) as u64)).await;
                now.fetch_sub(1, SeqCst);
                Ok::<_, Error>(Reply::default())
            }
        });
        let service = layer.layer(inner);
        futures::future::join_all(
            (0..messages)
                .map(|_| service.clone().call(Message::new("x")))
                .collect::<Vec<_>>(),
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_rises_to_what_the_worker_bears_and_not_far_beyond() {
        let layer = AdaptiveConcurrencyLayer::new(AdaptiveSettings::default());

        run(&layer, 20, 10_000).await;

        let limit = layer.limit().unwrap();
        assert!((10..=40).contains(&limit), "{limit}");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_bring_it_down_and_no_permit_is_lost() {
        let layer = AdaptiveConcurrencyLayer::new(AdaptiveSettings {
            initial: 50,
            ..Default::default()
        });
        let inner = tower::service_fn(|message: Message| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if message.attempt == 2 {
                Err(Error::retry("no"))
            } else {
                Ok(Reply::default())
            }
        });
        let service = layer.layer(inner);
        service.clone().call(Message::new("x")).await.unwrap();

        for _ in 0..200 {
            let calls = (0..50).map(|_| service.clone().call(Message::new("x").with_attempt(2)));
            futures::future::join_all(calls.collect::<Vec<_>>()).await;
        }

        let control = layer.control.as_ref().unwrap();
        let state = lock(&control.state);
        assert_eq!(
            (state.limit, control.semaphore.available_permits(), state.to_forget),
            (1, 1, 0)
        );
    }
}
