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
mod tests;
