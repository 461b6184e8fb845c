//! So many attempts at once, in all or by key.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use smol_str::SmolStr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tower::{Layer, Service};

use super::{
    keyed::{KeyFn, Keyed},
    step::Step,
};
use crate::{Error, Message};

/// Lets so many attempts run at once; the others wait in the order they came.
///
/// A permit is held for one attempt only, so this goes inside [`RetryLayer`](super::RetryLayer). All services of one
/// layer, and their clones, share the permits.
#[derive(Debug, Clone)]
pub struct ConcurrencyLayer {
    permits: Arc<Permits>,
}

#[derive(Debug)]
enum Permits {
    Unlimited,
    Global(Places),
    Keyed(KeyedPermits),
}

#[derive(Debug)]
struct KeyedPermits {
    semaphores: Keyed<Arc<Semaphore>>,
    limit: usize,
    limits: HashMap<SmolStr, usize>,
}

impl ConcurrencyLayer {
    /// At most `limit` attempts at once; at least 1.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            permits: Arc::new(Permits::Global(Places::new(clamp(limit)))),
        }
    }

    /// No limit.
    #[must_use]
    pub fn unlimited() -> Self {
        Self {
            permits: Arc::new(Permits::Unlimited),
        }
    }

    /// At most `limit` attempts at once for each key; keys without messages cost nothing.
    pub fn keyed(limit: usize, key: KeyFn) -> Self {
        Self::keyed_with(limit, HashMap::new(), key)
    }

    /// As [`keyed`](Self::keyed), with limits of their own for some keys.
    pub fn keyed_with(limit: usize, limits: HashMap<SmolStr, usize>, key: KeyFn) -> Self {
        Self {
            permits: Arc::new(Permits::Keyed(KeyedPermits {
                semaphores: Keyed::new(key),
                limit,
                limits,
            })),
        }
    }
}

/// Permits that cost no lock while nobody waits for one.
///
/// Free ones are `spare`. Whoever must wait says so first and moves them into the semaphore, which is fair; whoever gives
/// one back looks for waiters before and after, so that none is missed: one of the two sees the other.
#[derive(Debug)]
struct Places {
    spare: AtomicUsize,
    waiting: AtomicUsize,
    semaphore: Semaphore,
}

impl Places {
    fn new(limit: usize) -> Self {
        Self {
            spare: AtomicUsize::new(limit),
            waiting: AtomicUsize::new(0),
            semaphore: Semaphore::new(0),
        }
    }

    /// Takes one at once, unless others wait already.
    fn try_take(&self) -> bool {
        if self.waiting.load(SeqCst) > 0 {
            return false;
        }
        let spare = self.spare.fetch_update(SeqCst, SeqCst, |spare| spare.checked_sub(1));
        spare.is_ok() || self.semaphore.try_acquire().map(SemaphorePermit::forget).is_ok()
    }

    async fn take(&self) -> Result<(), Error> {
        let _waits = Waits::new(&self.waiting);
        self.move_spare();
        let permit = self.semaphore.acquire().await;
        permit
            .map(SemaphorePermit::forget)
            .map_err(|_| Error::retry("limit closed"))
    }

    fn give_back(&self) {
        if self.waiting.load(SeqCst) > 0 {
            self.semaphore.add_permits(1);
            return;
        }
        self.spare.fetch_add(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.move_spare();
        }
    }

    fn move_spare(&self) {
        self.semaphore.add_permits(self.spare.swap(0, SeqCst));
    }
}

/// Counts one as waiting for as long as it lives.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, SeqCst);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// The right to run one attempt.
#[derive(Debug)]
struct Permit {
    permits: Arc<Permits>,
    /// Where permits are by key; boxed, since most are not.
    _of_key: Option<Box<OwnedSemaphorePermit>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Permits::Global(places) = &*self.permits {
            places.give_back();
        }
    }
}

fn clamp(limit: usize) -> usize {
    limit.clamp(1, Semaphore::MAX_PERMITS)
}

impl KeyedPermits {
    fn semaphore(&self, message: &Message) -> Arc<Semaphore> {
        let key = self.semaphores.key(message);
        let limit = clamp(self.limits.get(&key).copied().unwrap_or(self.limit));
        let make = || Arc::new(Semaphore::new(limit));
        // Waiters and permits hold a clone of the semaphore itself.
        let idle = |semaphore: &Arc<Semaphore>| Arc::strong_count(semaphore) == 1;
        Arc::clone(&self.semaphores.get(&key, make, idle))
    }
}

/// The service of [`ConcurrencyLayer`].
#[derive(Debug, Clone)]
pub struct Concurrency<S> {
    inner: S,
    permits: Arc<Permits>,
}

impl<S> Layer<S> for ConcurrencyLayer {
    type Service = Concurrency<S>;
    fn layer(&self, inner: S) -> Concurrency<S> {
        Concurrency {
            inner,
            permits: Arc::clone(&self.permits),
        }
    }
}

impl<S> Service<Message> for Concurrency<S>
where
    S: Service<Message> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ConcurrencyFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, message: Message) -> Self::Future {
        let permit = |of_key: Option<OwnedSemaphorePermit>| Permit {
            permits: Arc::clone(&self.permits),
            _of_key: of_key.map(Box::new),
        };
        let semaphore = match &*self.permits {
            Permits::Unlimited => return ConcurrencyFuture::direct(self.inner.call(message), None),
            Permits::Global(places) if places.try_take() => {
                let permit = Some(permit(None));
                return ConcurrencyFuture::direct(self.inner.call(message), permit);
            }
            Permits::Global(_) => None,
            Permits::Keyed(keyed) => {
                let semaphore = keyed.semaphore(&message);
                if let Ok(of_key) = Arc::clone(&semaphore).try_acquire_owned() {
                    let permit = Some(permit(Some(of_key)));
                    return ConcurrencyFuture::direct(self.inner.call(message), permit);
                }
                Some(semaphore)
            }
        };
        let (mut inner, permits) = (self.inner.clone(), Arc::clone(&self.permits));
        let call = Step::slow(async move {
            let of_key = match (&*permits, semaphore) {
                (Permits::Global(places), _) => places.take().await.map(|()| None)?,
                (_, Some(semaphore)) => {
                    let of_key = semaphore.acquire_owned().await;
                    Some(of_key.map_err(|_| Error::retry("limit closed"))?)
                }
                (_, None) => None,
            };
            let _permit = Permit {
                permits,
                _of_key: of_key.map(Box::new),
            };
            super::step::ready_call(&mut inner, message).await
        });
        ConcurrencyFuture { call, permit: None }
    }
}

pin_project! {
    /// The attempt, with its permit for as long as it runs.
    #[derive(Debug)]
    pub struct ConcurrencyFuture<F, R> {
        #[pin]
        call: Step<F, R>,
        permit: Option<Permit>,
    }
}

impl<F, R> ConcurrencyFuture<F, R> {
    const fn direct(call: F, permit: Option<Permit>) -> Self {
        Self {
            call: Step::direct(call),
            permit,
        }
    }
}

impl<F, R, E> Future for ConcurrencyFuture<F, R>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Error>,
{
    type Output = Result<R, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = std::task::ready!(this.call.poll(cx));
        // Now, not when the future is dropped: the next one may start before that.
        *this.permit = None;
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::Reply;

    /// A service that says how many of its calls ran at once, at most.
    #[derive(Debug, Clone, Default)]
    struct Gauge {
        now: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
    }

    impl Gauge {
        async fn run(self) -> Result<Reply, Error> {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            Ok(Reply::default())
        }
    }

    #[tokio::test]
    async fn never_more_at_once_than_the_limit() {
        let gauge = Gauge::default();
        let inner = tower::service_fn({
            let gauge = gauge.clone();
            move |_: Message| gauge.clone().run()
        });
        let service = ConcurrencyLayer::new(7).layer(inner);

        let calls = (0..1_000).map(|_| service.clone().call(Message::new("x")));
        futures::future::join_all(calls.collect::<Vec<_>>()).await;

        assert_eq!(gauge.most.load(Ordering::SeqCst), 7);
    }

    /// E16: on two threads, some attempts dropped midway; no permit is lost, none is made.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn permits_are_neither_lost_nor_made_when_waits_are_dropped() {
        let gauge = Gauge::default();
        let inner = tower::service_fn({
            let gauge = gauge.clone();
            move |_: Message| gauge.clone().run()
        });
        let layer = ConcurrencyLayer::new(3);
        let service = layer.layer(inner);

        let workers = (0..16).map(|worker| {
            let mut service = service.clone();
            tokio::spawn(async move {
                for number in 0..2_000 {
                    let mut call = Box::pin(service.call(Message::new("x")));
                    if (worker + number) % 5 == 0 {
                        // Polled once, then dropped: running or waiting.
                        drop(futures::poll!(&mut call));
                    } else {
                        call.await.unwrap();
                    }
                }
            })
        });
        futures::future::join_all(workers)
            .await
            .into_iter()
            .for_each(Result::unwrap);

        assert!(gauge.most.load(Ordering::SeqCst) >= 2, "{gauge:?}");
        let Permits::Global(places) = &*layer.permits else {
            unreachable!()
        };
        assert_eq!(places.spare.load(SeqCst) + places.semaphore.available_permits(), 3);
        assert_eq!(places.waiting.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn each_key_has_its_own_limit_and_idle_keys_are_forgotten() {
        let key: KeyFn = Arc::new(|message| message.key().cloned());
        let layer = ConcurrencyLayer::keyed_with(1, [("load".into(), 2)].into(), key);
        let gauge = Gauge::default();
        let inner = tower::service_fn({
            let gauge = gauge.clone();
            move |_: Message| gauge.clone().run()
        });
        let service = layer.layer(inner);

        let calls = (0..30).map(|n| {
            service
                .clone()
                .call(Message::new("x").with_key(if n % 3 == 0 { "query" } else { "load" }))
        });
        futures::future::join_all(calls.collect::<Vec<_>>()).await;
        for n in 0..5_000 {
            service
                .clone()
                .call(Message::new("x").with_key(format!("once-{n}")))
                .await
                .unwrap();
        }

        assert_eq!(gauge.most.load(Ordering::SeqCst), 3);
        let Permits::Keyed(KeyedPermits { semaphores, .. }) = &*layer.permits else {
            panic!("keyed")
        };
        assert!(semaphores.len() <= 1_025, "{} keys kept", semaphores.len());
    }

    /// E16: a million calls, by two threads.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_million_calls_never_exceed_the_limit_of_all_or_of_a_key() {
        const KEYS: [&str; 4] = ["a", "b", "c", "d"];
        let by_key: KeyFn = Arc::new(|message| message.key().cloned());
        for (layer, most) in [
            (ConcurrencyLayer::new(5), [5, 0, 0, 0]),
            (
                ConcurrencyLayer::keyed_with(2, [("d".into(), 4)].into(), by_key),
                [2, 2, 2, 4],
            ),
        ] {
            let keyed = most[1] > 0;
            let gauges: Arc<[Gauge; 4]> = Arc::default();
            let inner = tower::service_fn({
                let gauges = Arc::clone(&gauges);
                move |message: Message| {
                    let key = KEYS.iter().position(|own| message.key().is_some_and(|key| key == own));
                    gauges[key.filter(|_| keyed).unwrap_or(0)].clone().run()
                }
            });
            let service = layer.layer(inner);
            let callers = (0..40).map(|caller| {
                let mut service = service.clone();
                let message = Message::new("x").with_key(KEYS[caller % 4]);
                tokio::spawn(async move {
                    for _ in 0..25_000 / 2 {
                        service.call(message.clone()).await.unwrap();
                    }
                })
            });

            let ended = futures::future::join_all(callers.collect::<Vec<_>>()).await;

            ended.into_iter().for_each(Result::unwrap);
            for (key, most) in most.into_iter().enumerate().filter(|(_, most)| *most > 0) {
                let seen = gauges[key].most.load(Ordering::SeqCst);
                assert!((2..=most).contains(&seen), "{seen} of {most} at once, {}", KEYS[key]);
            }
        }
    }

    #[tokio::test]
    async fn a_dropped_waiter_and_a_dropped_call_give_their_permits_back() {
        let inner = tower::service_fn(|message: Message| async move {
            if message.attempt > 1 {
                std::future::pending::<()>().await
            }
            Ok::<_, Error>(Reply::default())
        });
        let mut service = ConcurrencyLayer::new(1).layer(inner);
        let mut running = tokio_test::task::spawn(service.call(Message::new("x").with_attempt(2)));
        assert!(running.poll().is_pending());
        let mut waiting = tokio_test::task::spawn(service.call(Message::new("x")));
        assert!(waiting.poll().is_pending());

        drop(waiting);
        drop(running);

        service.call(Message::new("x")).await.unwrap();
    }
}
