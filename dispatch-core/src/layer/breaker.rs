//! Stops calling a far side that fails, and stops fetching for it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use smol_str::SmolStr;
use tokio::{sync::watch, time::Instant};
use tower::{Layer, Service};

use super::{
    breaker_keyed::KeyedBreakers,
    breaker_window::{FIRST_WAIT, Window},
    keyed::KeyFn,
};
use crate::{Class, Error, Later, Message, lock::lock};

/// When a breaker opens and how it closes again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerSettings {
    /// The share of failed calls that opens it, from 0 to 1; 0.5.
    pub failures: f64,
    /// Fewer calls than this in the window say nothing; 20.
    pub min_calls: u32,
    /// How far back calls count; 30 s.
    pub window: Duration,
    /// How long it stays open; 30 s. After an `Unavailable` it asks again sooner: after 1 s, 2 s, 4 s, … up to this.
    pub open: Duration,
    /// How many calls must succeed in a row, half open, to close it; 3.
    pub probes: u32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 0.5,
            min_calls: 20,
            window: Duration::from_secs(30),
            open: Duration::from_secs(30),
            probes: 3,
        }
    }
}

/// What a breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// So many more calls, as probes.
    HalfOpen(u32),
    /// Nothing before this time.
    Open(Instant),
}

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
            Scope::All(handle) => Some(BreakerHandle::clone(handle)),
            Scope::Off | Scope::Key(_) => None,
        }
    }

    /// Whether each key has a breaker of its own.
    pub(crate) const fn is_keyed(&self) -> bool {
        matches!(self.0, Scope::Key(_))
    }
}

/// A breaker's state, shared by its layer and whoever must stop fetching while it is open.
#[derive(Debug, Clone)]
pub struct BreakerHandle(Arc<Shared>);

const CLOSED: u8 = 0;
const OTHER: u8 = 1;

#[derive(Debug)]
struct Shared {
    /// Tells one half-open time from the next: a straggler of the last one is no probe of this one.
    rounds: AtomicU64,
    settings: BreakerSettings,
    /// Lets calls pass without the lock while closed.
    mode: AtomicU8,
    window: Window,
    state: Mutex<State>,
    /// Made for who asks: of thousands of keys nobody does.
    changed: OnceLock<watch::Sender<()>>,
    /// Whose it is, if not everybody's.
    key: Option<SmolStr>,
}

#[derive(Debug)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        left: u32,
        succeeded: u32,
        round: u64,
        since: Instant,
    },
}

impl BreakerHandle {
    /// A closed breaker.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Self {
        Self::of(settings, None)
    }

    /// What one takes.
    #[cfg(test)]
    pub(super) const SIZE: usize = size_of::<Shared>();

    /// That of one key.
    pub(super) fn of(settings: BreakerSettings, key: Option<SmolStr>) -> Self {
        Self(Arc::new(Shared {
            rounds: AtomicU64::new(0),
            settings,
            mode: AtomicU8::new(CLOSED),
            window: Window::new(settings.window),
            state: Mutex::new(State::Closed),
            changed: OnceLock::new(),
            key,
        }))
    }

    /// What it lets through now.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        if self.0.mode.load(Relaxed) == CLOSED {
            return BreakerState::Closed;
        }
        match &*lock(&self.0.state) {
            State::Closed => BreakerState::Closed,
            State::Open { until } if *until > Instant::now() => BreakerState::Open(*until),
            State::Open { .. } => BreakerState::HalfOpen(self.0.settings.probes),
            State::HalfOpen { left, .. } => BreakerState::HalfOpen(*left),
        }
    }

    /// Marked as changed whenever the state changes, except that an open breaker falls half open by the clock alone.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.changed.get_or_init(|| watch::Sender::new(())).subscribe()
    }

    fn tell(&self) {
        if let Some(changed) = self.0.changed.get() {
            changed.send_replace(());
        }
    }

    /// Whether one made anew would do the same: nothing counts any more, and nobody has called for a whole window. What was
    /// open that long ago has been probed by nobody since.
    pub(super) fn is_idle(&self) -> bool {
        let (now, window) = (Instant::now(), self.0.settings.window);
        match &*lock(&self.0.state) {
            State::Closed => self.0.window.is_empty(now),
            State::Open { until: since } | State::HalfOpen { since, .. } => now >= *since + window,
        }
    }

    /// What a call is told that may not pass for so long. The gate waits for the breaker of all; for that of a key the message
    /// does.
    fn refused(&self, wait: Duration) -> Error {
        match self.0.key {
            None => refused(),
            Some(_) => refused().with_later(Later::After(wait)),
        }
    }

    /// Lets one call pass, or says why not.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Admitted, Error> {
        if self.0.mode.load(Relaxed) == CLOSED {
            return Ok(Admitted {
                breaker: Some(Arc::clone(self)),
                probe: None,
            });
        }
        let mut state = lock(&self.0.state);
        match &mut *state {
            State::Closed => Ok(Admitted {
                breaker: Some(Arc::clone(self)),
                probe: None,
            }),
            State::Open { until } if *until > Instant::now() => Err(self.refused(*until - Instant::now())),
            State::Open { .. } => {
                // open -> half open: time passed, and this is the first probe.
                let round = self.0.rounds.fetch_add(1, Relaxed) + 1;
                let left = self.0.settings.probes.max(1) - 1;
                *state = State::HalfOpen {
                    left,
                    succeeded: 0,
                    round,
                    since: Instant::now(),
                };
                drop(state);
                tracing::info!(key = self.0.key.as_deref(), "breaker half open");
                self.tell();
                Ok(Admitted {
                    breaker: Some(Arc::clone(self)),
                    probe: Some(round),
                })
            }
            State::HalfOpen { left: 0, .. } => Err(self.refused(FIRST_WAIT)),
            State::HalfOpen { left, round, .. } => {
                *left -= 1;
                let round = *round;
                Ok(Admitted {
                    breaker: Some(Arc::clone(self)),
                    probe: Some(round),
                })
            }
        }
    }

    fn succeeded(&self, probe: Option<u64>) {
        let Some(probe) = probe else {
            return self.0.window.succeeded();
        };
        let mut state = lock(&self.0.state);
        if let State::HalfOpen { succeeded, round, .. } = &mut *state
            && *round == probe
        {
            *succeeded += 1;
            if *succeeded >= self.0.settings.probes.max(1) {
                // half open -> closed: every probe succeeded.
                *state = State::Closed;
                self.0.window.clear();
                self.0.mode.store(CLOSED, Relaxed);
                drop(state);
                tracing::info!(key = self.0.key.as_deref(), "breaker closed");
                self.tell();
            }
        }
    }

    pub(super) fn failed(&self, probe: Option<u64>, unavailable: bool) {
        if probe.is_some() {
            // half open -> open: a probe failed.
            self.open(unavailable, probe);
        } else if unavailable {
            // closed -> open: the far side is down; no need for statistics.
            self.open(true, None);
        } else {
            let (calls, failures) = self.0.window.failed(Instant::now());
            if calls >= self.0.settings.min_calls && f64::from(failures) >= self.0.settings.failures * f64::from(calls)
            {
                // closed -> open: too large a share failed.
                self.open(false, None);
            }
        }
    }

    fn open(&self, unavailable: bool, probe: Option<u64>) {
        let mut state = lock(&self.0.state);
        match &*state {
            // Calls that began before it opened may fail after; a straggler says nothing new.
            State::Open { .. } => return,
            State::HalfOpen { round, .. } if probe != Some(*round) => return,
            // A probe of a time that has passed says nothing new either.
            State::Closed if probe.is_some() => return,
            State::HalfOpen { .. } | State::Closed => {}
        }
        let wait = if unavailable {
            self.0.window.next_wait(self.0.settings.open)
        } else {
            self.0.settings.open
        };
        *state = State::Open {
            until: Instant::now() + wait,
        };
        self.0.mode.store(OTHER, Relaxed);
        drop(state);
        tracing::warn!(key = self.0.key.as_deref(), ?wait, unavailable, "breaker open");
        self.tell();
    }

    /// A probe ended without a word: somebody else may make it.
    fn give_back(&self, probe: u64) {
        if let State::HalfOpen { left, round, .. } = &mut *lock(&self.0.state)
            && *round == probe
        {
            *left += 1;
        }
        self.tell();
    }
}

fn refused() -> Error {
    Error::unavailable(Refused).with_code("breaker")
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("breaker open: not tried")]
struct Refused;

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
            Scope::Off => Ok(Admitted {
                breaker: None,
                probe: None,
            }),
            Scope::All(breaker) => breaker.admit(),
            Scope::Key(breakers) => breakers.of(&message).admit(),
        };
        match admitted {
            Ok(admitted) => BreakerFuture {
                call: Some(self.inner.call(message)),
                admitted: Some(admitted),
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

/// One call's pass; dropped without an outcome it is given back.
#[derive(Debug)]
pub(super) struct Admitted {
    breaker: Option<Arc<BreakerHandle>>,
    /// The half-open time whose probe it is.
    probe: Option<u64>,
}

impl Admitted {
    /// Counts the outcome. A message that its key's breaker now stands before is told how long.
    fn end<R>(mut self, result: Result<R, Error>) -> Result<R, Error> {
        let Some(breaker) = self.breaker.take() else {
            return result;
        };
        match result.as_ref().err().map(Error::class) {
            None | Some(Class::Permanent) => breaker.succeeded(self.probe),
            Some(Class::Retry) => breaker.failed(self.probe, false),
            Some(Class::Unavailable) => breaker.failed(self.probe, true),
            Some(Class::Throttled(_)) => {
                if let Some(probe) = self.probe {
                    breaker.give_back(probe);
                }
            }
        }
        match result {
            Err(error) if breaker.0.key.is_some() && error.class() == Class::Unavailable && error.later().is_none() => {
                let wait = match breaker.state() {
                    BreakerState::Open(until) => until - Instant::now(),
                    BreakerState::Closed | BreakerState::HalfOpen(_) => FIRST_WAIT,
                };
                Err(error.with_later(Later::After(wait)))
            }
            result => result,
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let (Some(breaker), Some(probe)) = (self.breaker.take(), self.probe) {
            breaker.give_back(probe);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Reply;

    const SETTINGS: BreakerSettings = BreakerSettings {
        failures: 0.5,
        min_calls: 4,
        window: Duration::from_secs(30),
        open: Duration::from_secs(30),
        probes: 2,
    };

    /// Answers as the payload says.
    fn worker(
        breaker: &BreakerHandle,
    ) -> impl Service<Message, Response = Reply, Error = Error, Future = impl Future<Output = Result<Reply, Error>>> + Clone
    {
        BreakerLayer::with(breaker.clone()).layer(tower::service_fn(|message: Message| async move {
            match &message.payload[..] {
                b"ok" => Ok(Reply::default()),
                b"permanent" => Err(Error::permanent("bad")),
                b"down" => Err(Error::unavailable("down")),
                _ => Err(Error::retry("failed")),
            }
        }))
    }

    async fn send(breaker: &BreakerHandle, payload: &'static str) -> Result<Reply, Error> {
        worker(breaker).call(Message::new(payload)).await
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_the_calls_failing_opens_it_and_probes_close_it() {
        let breaker = BreakerHandle::new(SETTINGS);
        for payload in ["ok", "permanent", "fail"] {
            drop(send(&breaker, payload).await);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);

        drop(send(&breaker, "fail").await);
        let refused = send(&breaker, "ok").await.unwrap_err();
        assert_eq!(
            (refused.class(), refused.code().map(|code| &**code)),
            (Class::Unavailable, Some("breaker"))
        );

        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen(2));
        send(&breaker, "ok").await.unwrap();
        assert_eq!(breaker.state(), BreakerState::HalfOpen(1));
        send(&breaker, "ok").await.unwrap();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unavailable_far_side_is_asked_again_after_one_two_four_seconds() {
        let breaker = BreakerHandle::new(SETTINGS);
        let mut waits = Vec::new();

        for _ in 0..7 {
            drop(send(&breaker, "down").await);
            let BreakerState::Open(until) = breaker.state() else {
                panic!("open")
            };
            waits.push((until - Instant::now()).as_secs());
            tokio::time::advance(until - Instant::now()).await;
        }

        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_probe_may_be_made_again() {
        let breaker = BreakerHandle::new(SETTINGS);
        drop(send(&breaker, "down").await);
        tokio::time::advance(Duration::from_secs(1)).await;

        let mut service = worker(&breaker);
        let (first, second) = (service.call(Message::new("ok")), service.call(Message::new("ok")));
        assert_eq!(breaker.state(), BreakerState::HalfOpen(0));
        drop((first, second));

        assert_eq!(breaker.state(), BreakerState::HalfOpen(2));
    }

    #[tokio::test(start_paused = true)]
    async fn old_failures_are_forgotten() {
        let breaker = BreakerHandle::new(SETTINGS);
        for _ in 0..3 {
            drop(send(&breaker, "fail").await);
        }
        tokio::time::advance(Duration::from_secs(60)).await;

        drop(send(&breaker, "fail").await);

        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    /// The state machine as a table, to hold the real one against.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Model {
        Closed { calls: u32, failures: u32 },
        Open,
        HalfOpen { succeeded: u32 },
    }

    proptest! {
        #[test]
        fn it_follows_its_model(steps in prop::collection::vec(0u8..5, 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let breaker = BreakerHandle::new(SETTINGS);
                let mut model = Model::Closed { calls: 0, failures: 0 };
                for step in steps {
                    let (payload, ok, down) = match step { 0 => ("ok", true, false), 1 => ("fail", false, false), 2 => ("down", false, true), 3 => ("permanent", true, false), _ => {
                        // Time passes: an open breaker falls half open, a closed one forgets.
                        tokio::time::advance(Duration::from_secs(61)).await;
                        model = match model { Model::Closed { .. } => Model::Closed { calls: 0, failures: 0 }, Model::Open => Model::HalfOpen { succeeded: 0 }, half => half };
                        if matches!(model, Model::Closed { .. }) { breaker.0.window.advance(Instant::now()); }
                        continue;
                    } };
                    let refused = send(&breaker, payload).await.err().and_then(|error| error.code().cloned()).is_some();
                    prop_assert_eq!(refused, model == Model::Open, "{:?}", model);
                    model = match model {
                        Model::Open => Model::Open,
                        _ if down => Model::Open,
                        Model::Closed { calls, failures } => {
                            let (calls, failures) = (calls + 1, failures + u32::from(!ok));
                            if !ok && calls >= 4 && failures * 2 >= calls { Model::Open } else { Model::Closed { calls, failures } }
                        }
                        Model::HalfOpen { .. } if !ok => Model::Open,
                        Model::HalfOpen { succeeded: 1 } => Model::Closed { calls: 0, failures: 0 },
                        Model::HalfOpen { .. } => Model::HalfOpen { succeeded: 1 },
                    };
                    let same = matches!((breaker.state(), model), (BreakerState::Closed, Model::Closed { .. }) | (BreakerState::Open(_), Model::Open) | (BreakerState::HalfOpen(_), Model::HalfOpen { .. }));
                    prop_assert!(same, "{:?} is not {:?}", breaker.state(), model);
                }
                Ok(())
            })?;
        }
    }
}
