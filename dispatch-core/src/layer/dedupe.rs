//! One message, one piece of work, however often a broker delivers it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use smol_str::{SmolStr, format_smolstr};
use tower::{Layer, Service};

use super::{alarms::Alarms, keyed::KeyFn};
use crate::{
    Error, Later, Message, Reply, Store,
    id::random_id,
    store::Reservation,
    telemetry::{self, Stats},
};

/// The code of the error that sends a delivery back because another one of the same message is being worked on.
pub(crate) const IN_PROGRESS: &str = "in_progress";

/// Reserves a message's key in a [`Store`] before the work and marks it done after it, so that a second delivery of the
/// same message does not work again. Goes outside everything else.
///
/// | the key is | what happens |
/// |---|---|
/// | absent | it is taken under a lease, which is renewed at half its length while the work goes on |
/// | in progress elsewhere | no work: the delivery goes back to its source until the lease ends; no attempt is counted |
/// | in progress under a lease that ran out | it is taken over |
/// | done | no work: answered with an empty reply, so the delivery is acked; this is how a lost ack heals |
///
/// Work that fails, is cancelled or drained gives its key back, so a failed message is never locked out; a process that
/// is killed leaves a lease that runs out. A store that cannot be asked sends the delivery back, since working without
/// knowing might be working twice; one that cannot be told of a success costs no more than the duplicate it could not
/// prevent.
#[derive(Clone)]
pub struct DedupeLayer(Arc<Settings>);

struct Settings {
    store: Arc<dyn Store>,
    /// Stands before each key, so that several queues can share a store.
    scope: SmolStr,
    key: Option<KeyFn>,
    lease: Duration,
    keep: Duration,
    stats: Arc<Stats>,
}

impl DedupeLayer {
    /// How long a finished message is remembered, unless told otherwise: 24 hours.
    pub const KEEP: Duration = Duration::from_secs(24 * 3_600);
    /// How long a killed process locks what it was working on, unless told otherwise: 30 seconds.
    pub const LEASE: Duration = Duration::from_secs(30);

    /// Tells messages apart by their id, under `scope`: the name of the queue or the pipeline.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, scope: impl Into<SmolStr>) -> Self {
        Self(Arc::new(Settings {
            store,
            scope: scope.into(),
            key: None,
            lease: Self::LEASE,
            keep: Self::KEEP,
            stats: Arc::default(),
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        let settings = Arc::make_mut(&mut self.0);
        change(settings);
        self
    }

    /// Tells messages apart by what `key` reads; those without it are not told apart at all.
    #[must_use]
    pub fn key(self, key: KeyFn) -> Self {
        self.with(|settings| settings.key = Some(key))
    }

    /// How long a finished message is remembered.
    #[must_use]
    pub fn keep(self, keep: Duration) -> Self {
        self.with(|settings| settings.keep = keep)
    }

    /// How long a killed process locks what it was working on; at least 10 ms.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        self.with(|settings| settings.lease = lease.max(Duration::from_millis(10)))
    }

    /// Counts duplicates in `stats`, as [`names::DUPLICATES`](crate::telemetry::names::DUPLICATES).
    #[must_use]
    pub fn with_stats(self, stats: Arc<Stats>) -> Self {
        self.with(|settings| settings.stats = stats)
    }

    /// The store the keys are in.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }
}

impl Clone for Settings {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            scope: self.scope.clone(),
            key: self.key.clone(),
            lease: self.lease,
            keep: self.keep,
            stats: Arc::clone(&self.stats),
        }
    }
}

impl std::fmt::Debug for DedupeLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DedupeLayer")
            .field("scope", &self.0.scope)
            .field("lease", &self.0.lease)
            .field("keep", &self.0.keep)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for DedupeLayer {
    type Service = Dedupe<S>;
    fn layer(&self, inner: S) -> Dedupe<S> {
        Dedupe {
            inner,
            settings: Arc::clone(&self.0),
            renewals: Arc::new(Alarms::new(self.0.lease / 2)),
        }
    }
}

/// The service of [`DedupeLayer`].
#[derive(Clone)]
pub struct Dedupe<S> {
    inner: S,
    settings: Arc<Settings>,
    /// When a lease is to be renewed: one timer for all that are held.
    renewals: Arc<Alarms>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Dedupe<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dedupe")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S> Service<Message> for Dedupe<S>
where
    S: Service<Message, Response = Reply> + Clone + Send + 'static,
    S::Error: Into<Error>,
    S::Future: Send,
{
    type Response = Reply;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, message: Message) -> Self::Future {
        // The one that was made ready goes; its likeness stays.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let (settings, renewals) = (Arc::clone(&self.settings), Arc::clone(&self.renewals));
        // Told now, and to be told on when the reservation is there.
        let origin = telemetry::tracer().map(|_| telemetry::origin());
        let mut work = move |message| {
            if let Some(origin) = &origin {
                telemetry::coming_from(|| Arc::clone(origin));
            }
            inner.call(message)
        };
        Box::pin(async move {
            let id = match &settings.key {
                None => Some(message.id().clone()),
                Some(key) => key(&message),
            };
            let Some(id) = id else {
                return work(message).await.map_err(Into::into);
            };
            let hold = match Hold::take(settings, &id).await? {
                Taken::Ours(hold) => hold,
                Taken::Done => {
                    tracing::debug!(%id, "duplicate: its work is done");
                    return Ok(Reply::default());
                }
            };
            let work = work(message);
            let outcome: Result<Reply, Error> = hold.renewed_while(work, &renewals).await.map_err(Into::into);
            match outcome {
                Ok(reply) => {
                    hold.commit().await;
                    Ok(reply)
                }
                Err(error) => {
                    // Before the source is told: the next delivery may be quick.
                    hold.give_back().await;
                    Err(error)
                }
            }
        })
    }
}

enum Taken {
    Ours(Hold),
    Done,
}

/// A key that is ours; dropped uncommitted, it is given back.
struct Hold {
    settings: Arc<Settings>,
    key: SmolStr,
    owner: SmolStr,
    open: bool,
}

impl Hold {
    async fn take(settings: Arc<Settings>, id: &str) -> Result<Taken, Error> {
        let key = format_smolstr!("{}:{id}", settings.scope);
        // Each delivery is an owner of its own: two of one message can be in one process.
        let owner = random_id();
        // Armed before the store is asked: a call dropped midway may have taken the key.
        let mut hold = Self {
            settings,
            key,
            owner,
            open: true,
        };
        let reservations = hold.settings.store.reservations();
        let found = reservations.reserve(&hold.key, &hold.owner, hold.settings.lease).await;
        match found? {
            Reservation::Reserved => Ok(Taken::Ours(hold)),
            Reservation::Done(_) => {
                hold.open = false;
                hold.settings.stats.duplicates.fetch_add(1, Relaxed);
                Ok(Taken::Done)
            }
            Reservation::InProgress(until) => {
                hold.open = false;
                let wait = until.duration_since(SystemTime::now()).unwrap_or_default();
                Err(
                    Error::throttled(Some(wait), "another delivery of this message is being worked on")
                        .with_code(IN_PROGRESS)
                        .with_later(Later::After(wait)),
                )
            }
        }
    }

    /// Renews the lease at half its length until the work is done.
    async fn renewed_while<F: Future>(&self, work: F, renewals: &Arc<Alarms>) -> F::Output {
        let Settings { store, lease, .. } = &*self.settings;
        let renew = async {
            loop {
                let mut half = renewals.alarm();
                poll_fn(|cx| half.poll(cx)).await;
                // By the same owner it is a renewal; a failed one has the other half of the lease to be made good.
                match store.reservations().reserve(&self.key, &self.owner, *lease).await {
                    Ok(Reservation::Reserved) => {}
                    Ok(Reservation::InProgress(_) | Reservation::Done(_)) => {
                        tracing::warn!(key = %self.key, "reservation lost: another delivery of this message is worked on too");
                        return std::future::pending().await;
                    }
                    Err(error) => {
                        tracing::warn!(key = %self.key, error = error.report(), "reservation not renewed");
                    }
                }
            }
        };
        tokio::select! {
            biased;
            output = work => output,
            () = renew => unreachable!("renewing never ends"),
        }
    }

    async fn commit(mut self) {
        let Settings { store, keep, .. } = &*self.settings;
        match store.reservations().commit(&self.key, &self.owner, *keep).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(key = %self.key, "reservation lost before it was done"),
            Err(error) => {
                tracing::warn!(key = %self.key, error = error.report(), "not remembered as done: a duplicate would be worked on");
            }
        }
        self.open = false;
    }

    async fn give_back(mut self) {
        self.open = false;
        cancel(&self.settings, &self.key, &self.owner).await;
    }
}

async fn cancel(settings: &Settings, key: &str, owner: &str) {
    if let Err(error) = settings.store.reservations().cancel(key, owner).await {
        tracing::warn!(%key, error = error.report(), "reservation not given back: it runs out");
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        // Without a runtime there is nobody to ask; the lease runs out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (settings, key, owner) = (
                Arc::clone(&self.settings),
                std::mem::take(&mut self.key),
                std::mem::take(&mut self.owner),
            );
            runtime.spawn(async move { cancel(&settings, &key, &owner).await });
        }
    }
}
