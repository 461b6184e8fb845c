//! So many attempts at once, in all or by key.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use smol_str::SmolStr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
    Global(Arc<Semaphore>),
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
            permits: Arc::new(Permits::Global(Arc::new(Semaphore::new(clamp(limit))))),
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

    #[inline]
    fn call(&mut self, message: Message) -> Self::Future {
        let taken = match &*self.permits {
            Permits::Unlimited => return ConcurrencyFuture::direct(self.inner.call(message), None),
            Permits::Global(semaphore) => Arc::clone(semaphore)
                .try_acquire_owned()
                .map_err(|_| Arc::clone(semaphore)),
            Permits::Keyed(keyed) => {
                let semaphore = keyed.semaphore(&message);
                Arc::clone(&semaphore).try_acquire_owned().map_err(|_| semaphore)
            }
        };
        match taken {
            Ok(permit) => ConcurrencyFuture::direct(self.inner.call(message), Some(permit)),
            Err(semaphore) => {
                let mut inner = self.inner.clone();
                let call = Step::slow(async move {
                    let _permit = semaphore
                        .acquire_owned()
                        .await
                        .map_err(|_| Error::retry("limit closed"))?;
                    super::step::ready_call(&mut inner, message).await
                });
                ConcurrencyFuture { call, permit: None }
            }
        }
    }
}

pin_project! {
    /// The attempt, with its permit for as long as it runs.
    #[derive(Debug)]
    pub struct ConcurrencyFuture<F, R> {
        #[pin]
        call: Step<F, R>,
        permit: Option<OwnedSemaphorePermit>,
    }
}

impl<F, R> ConcurrencyFuture<F, R> {
    const fn direct(call: F, permit: Option<OwnedSemaphorePermit>) -> Self {
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Reply;

    /// A service that says how many of its calls ran at once, at most.
    #[derive(Clone, Default)]
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
