//! Running a pipeline: its stores opened, its drivers started, its house kept, until the end.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use futures::future::{BoxFuture, join_all};
use smol_str::{SmolStr, format_smolstr};
use tokio::{sync::Mutex, time::Instant};
use tower::{Layer, Service, ServiceExt, layer::util::Identity, util::BoxCloneSyncService};

use super::{
    builder::{Pipeline, PipelineBuilder, Summary, parked_queue},
    commands,
    control::{Phase, Shared, Stop},
    desk::Desk,
    driver::Driver,
    intake::Intake,
    keep::Keep,
    lanes::LanePolicy,
    parking::Parking,
    store_gauges, stuck,
    work::{Plan, Work},
};
use crate::{
    Class, Error, Message, Reply, Sink, Source, Store,
    backoff::Backoff,
    layer::{BreakerLayer, DedupeLayer, Limit, StackLayer, StackService, unless_panicked},
    own::Own,
    store::QueueSource,
    telemetry::Origin,
};

impl Pipeline {
    /// Runs until the input has ended, with everything parked done too, until [`Handle::drain`](super::Handle::drain), or until
    /// the sink is gone for good ([`Error::gone`]), which drains too and shows in [`Summary::sink_gone`].
    ///
    /// # Errors
    /// `Permanent` if the store cannot be used, and what [`Source::open`](crate::Source::open) says, before anything is
    /// received. Nothing later ends a run: what fails is tried again, for ever, and shows in
    /// [`Handle::status`](super::Handle::status).
    ///
    /// # Cancel safety
    /// Dropping it cancels what is started and releases it; better drain.
    pub async fn run(self) -> Result<Summary, Error> {
        let Self {
            mut parts,
            sink,
            store,
            shared,
        } = self;
        let began = Instant::now();
        let mut wanted = shared.wanted.subscribe();
        let opened = tokio::select! {
            opened = open_stores(&*store, parts.dedupe.as_ref(), &shared) => opened.map(|()| true)?,
            _ = wanted.wait_for(|wanted| wanted.stop != Stop::No) => false,
        };
        if !opened {
            // Nothing was received, so nothing is left undone.
            shared.set_phase(Phase::Ended);
            return Ok(summary(&shared, began.elapsed(), true));
        }
        for (label, source) in &mut parts.sources {
            let opened = tokio::select! {
                opened = unless_panicked(async { source.open().await }) => opened,
                _ = wanted.wait_for(|wanted| wanted.stop != Stop::No) => Ok(()),
            };
            if let Err(error) = opened {
                shared.failed(label, error.report());
                return Err(Error::new(error.class(), format!("{label}: {}", error.report())));
            }
        }
        shared.set_phase(Phase::Running);
        commands::answer(&shared);

        // They end with this run: dropped, the set aborts its tasks.
        let mut watches = watch_health(&*sink, &shared);
        if let Some(after) = parts.stuck_after {
            watches.spawn(stuck::watch(Arc::clone(&shared), after));
        }
        watches.spawn(store_gauges::watch(Arc::clone(&store), shared.meter.of("store")));
        let parked: Arc<str> = parked_queue(&parts.name).into();
        let advised = parts
            .sources
            .iter()
            .map(|(_, source)| source.capabilities().prefetch)
            .max()
            .unwrap_or(1);
        let prefetch = parts.prefetch.unwrap_or(advised);
        shared.add_component("parked".into());
        let by_key = parts
            .lanes
            .as_ref()
            .is_some_and(|lanes| lanes.policy == LanePolicy::ParkKey);
        let rest = QueueSource::new(Arc::clone(&store), Arc::clone(&parked))
            .ordered(by_key)
            .answering_again(&shared.commands, &shared.meter);
        parts.sources.push(("parked".into(), Box::new(rest)));
        if parts.prefetch.is_some() {
            let most = parts.stack.concurrency.most() + prefetch;
            parts
                .sources
                .iter_mut()
                .for_each(|(_, source)| source.hold_at_most(most));
        }

        let parking = match &parts.lanes {
            Some(lanes) if lanes.policy == LanePolicy::ParkKey => {
                let keys = tokio::select! {
                    keys = parked_keys(&*store, &parked, &shared) => keys,
                    _ = wanted.wait_for(|wanted| wanted.stop != Stop::No) => Vec::new(),
                };
                Parking::of(lanes, keys)
            }
            _ => None,
        };
        let runs = Runs {
            parking,
            parked,
            prefetch,
            store: Arc::clone(&store),
            shared: Arc::clone(&shared),
        };
        let dedupe = parts
            .dedupe
            .take()
            .map(|layer| layer.with_stats(Arc::clone(&shared.stats)));
        let swept: Vec<_> = std::iter::once(&store)
            .chain(
                dedupe
                    .as_ref()
                    .map(DedupeLayer::store)
                    .filter(|own| !Arc::ptr_eq(own, &store)),
            )
            .map(|store| keep_house(Arc::clone(store), parts.sweep))
            .collect();
        // One for each shard: they do not wait for each other to count references.
        let bare = {
            let sink = Arc::clone(&sink);
            move || sink_service(Own::of(&sink))
        };
        let run: BoxFuture<'static, bool> = if parts.layers.is_empty() && dedupe.is_none() {
            Box::pin(runs.run(parts, bare, Identity::new()))
        } else {
            let own = parts
                .layers
                .iter()
                .rev()
                .fold(BoxCloneSyncService::new(bare()), |service, layer| layer(service));
            // A layer that makes one wait must not be asked before there is a message.
            let own = tower::service_fn(move |message: Message| own.clone().oneshot(message));
            let own = move || own.clone();
            match dedupe {
                None => Box::pin(runs.run(parts, own, Identity::new())),
                Some(dedupe) => Box::pin(runs.run(parts, own, dedupe)),
            }
        };
        if let Err(error) = sink.open().await {
            tracing::warn!(pipeline = %shared.name, error = error.report(), "sink did not open");
        }
        let finished = tokio::select! {
            finished = run => finished,
            _ = join_all(swept) => false,
        };
        if let Err(error) = sink.close().await {
            tracing::warn!(pipeline = %shared.name, error = error.report(), "sink did not close");
        }
        // Who answers holds what it answers about, and may hold the list, too.
        shared.commands.clear();
        shared.set_phase(Phase::Ended);
        Ok(summary(&shared, began.elapsed(), finished))
    }
}

/// Starts the sink's health checks; until the first good answers the gate is closed.
fn watch_health(sink: &dyn Sink, shared: &Arc<Shared>) -> tokio::task::JoinSet<()> {
    let checks = sink.health();
    shared.wanted.send_modify(|wanted| wanted.ill = checks.len());
    let mut tasks = tokio::task::JoinSet::new();
    for (number, check) in checks.into_iter().enumerate() {
        let label = match number {
            0 => SmolStr::new_static("health"),
            _ => format_smolstr!("health.{}", number + 1),
        };
        shared.add_component(label.clone());
        tasks.spawn(check.watch(Arc::clone(shared), label));
    }
    tasks
}

/// What all shards share.
struct Runs {
    parking: Option<Parking>,
    parked: Arc<str>,
    prefetch: usize,
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

impl Runs {
    /// Runs each shard to its end; says whether all finished in time.
    async fn run<S, L>(mut self, mut parts: PipelineBuilder, service: impl Fn() -> S + Send, outermost: L) -> bool
    where
        S: Service<Message, Response = Reply, Error = Error> + Clone + Send + 'static,
        S::Future: Send,
        L: Layer<StackService<S>> + Send,
        L::Service: Service<Message, Response = Reply, Error = Error, Future: Send> + Send + 'static,
    {
        let concurrency = parts.stack.concurrency.most();
        let shards = parts.shards.min(concurrency);
        let fixed = matches!(parts.stack.concurrency, Limit::Fixed(_)) && shards > 1;
        let retry = parts.stack.retry.clone().unwrap_or_default();
        let breaker = parts.stack.breaker.as_ref().and_then(BreakerLayer::handle);
        let (deadline, max_age) = (parts.stack.deadline, parts.stack.max_age);
        let mut stack = parts.stack.clone();
        let leases = parts.sources.iter().map(|(_, source)| source.capabilities());
        if let Some(shortest) = leases.filter(|can| !can.extends).filter_map(|can| can.lease).min() {
            // What waits for longer is somebody else's.
            let half = shortest / 2;
            stack.max_hold = Some(stack.max_hold.map_or(half, |most| most.min(half)));
        }
        let layers: StackLayer = stack.layers(&self.shared.stats);
        let desks: Vec<_> = parts
            .sources
            .iter()
            .map(|(_, source)| {
                let keeps_letters = source.keeps_letters_in(&self.store);
                (source.settler(), source.capabilities(), keeps_letters)
            })
            .collect();
        let labels: Vec<_> = parts.sources.iter().map(|(label, _)| label.clone()).collect();
        let origin = |(label, source): &(SmolStr, Box<dyn Source>)| {
            let origin = source.origin();
            let origin = origin.unwrap_or_else(|| Origin::new("dispatch", parts.name.clone()));
            let label = label.clone();
            Arc::new(Origin { label, ..origin })
        };
        let origins: Vec<_> = parts.sources.iter().map(origin).collect();
        let sources = std::mem::take(&mut parts.sources);
        let intake = Arc::new(Mutex::new(Intake::new(sources, Arc::clone(&self.shared))));
        // Exact: the shares of all shards together are the whole.
        let share = |whole: usize, shard: usize| whole / shards + usize::from(shard < whole % shards);
        let running = Arc::new(std::sync::atomic::AtomicUsize::new(shards));
        let drivers: Vec<_> = (0..shards)
            .map(|shard| {
                let own = share(concurrency, shard);
                let layers = layers.clone();
                let layers = if fixed { layers.with_permits(own) } else { layers };
                let plan = Plan {
                    concurrency: own,
                    window: own + share(self.prefetch, shard),
                    fixed: parts.prefetch.is_some(),
                    deadline,
                    max_age,
                    lanes: parts.lanes.clone(),
                    // Order by key has one shard.
                    parking: self.parking.take(),
                    cancel_on_lost_lease: parts.cancel_on_lost_lease,
                    config_hash: parts.config_hash.clone(),
                    breaker: breaker.clone(),
                    resting: Arc::clone(&retry.resting),
                    crowded: Arc::clone(&retry.crowded),
                    labels: labels.clone(),
                    origins: origins.clone(),
                };
                let desks = desks
                    .iter()
                    .map(|(settler, can, keeps_letters)| {
                        let mut desk = Desk::new(Arc::clone(settler), can.clone());
                        desk.keeps_letters = *keeps_letters;
                        desk
                    })
                    .collect();
                let keep = Keep::new(Arc::clone(&self.store), Arc::clone(&self.parked));
                Driver {
                    work: Work::new(
                        outermost.layer(layers.layer(service())),
                        plan,
                        desks,
                        keep,
                        Arc::clone(&self.shared),
                    ),
                    intake: Arc::clone(&intake),
                    shared: Arc::clone(&self.shared),
                    breaker: breaker.clone(),
                    store: Arc::clone(&self.store),
                    parked: Arc::clone(&self.parked),
                    drain_timeout: parts.drain_timeout,
                    shards: Arc::clone(&running),
                }
            })
            .collect();
        if let [_] = drivers.as_slice() {
            let runs = drivers.into_iter().map(Driver::run);
            return join_all(runs).await.into_iter().all(|finished| finished);
        }
        let mut tasks = tokio::task::JoinSet::new();
        for driver in drivers {
            tasks.spawn(driver.run());
        }
        tasks.join_all().await.into_iter().all(|finished| finished)
    }
}

/// How long fired schedule slots are remembered.
const SLOTS_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Forgets expired reservations and old schedule slots, now and then, for ever.
async fn keep_house(store: Arc<dyn Store>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let forgotten = match store.reservations().expire().await {
            Ok(reservations) => store
                .slots()
                .prune(SystemTime::now() - SLOTS_KEPT)
                .await
                .map(|slots| reservations + slots),
            Err(error) => Err(error),
        };
        match forgotten {
            Ok(rows) => tracing::debug!(rows, "expired rows forgotten"),
            Err(error) => tracing::warn!(error = error.report(), "expired rows not forgotten"),
        }
    }
}

/// Opens the pipeline's store, and that of the reservations if it is another.
async fn open_stores(store: &dyn Store, dedupe: Option<&DedupeLayer>, shared: &Shared) -> Result<(), Error> {
    open_store("store", store, shared).await?;
    if let Some(dedupe) = dedupe {
        open_store("dedupe", &**dedupe.store(), shared).await?;
    }
    Ok(())
}

/// Opens a store; waits for one that is merely not there yet.
async fn open_store(label: &'static str, store: &dyn Store, shared: &Shared) -> Result<(), Error> {
    let backoff = store_backoff();
    for attempt in 1.. {
        let error = match store.probe().await {
            Ok(()) => break,
            Err(error) => error,
        };
        shared.failed(label, error.report());
        match error.class() {
            Class::Permanent => return Err(error),
            Class::Retry | Class::Throttled(_) | Class::Unavailable => {
                tracing::warn!(pipeline = %shared.name, component = label, error = error.report(), "store is not there yet");
                let wait = backoff.delay(attempt, Duration::ZERO, &mut rand::rng());
                tokio::time::sleep(wait).await;
            }
        }
    }
    shared.connected(label);
    Ok(())
}

/// Which keys are parked; asks until the store says.
async fn parked_keys(store: &dyn Store, parked: &str, shared: &Shared) -> Vec<(SmolStr, u64)> {
    let backoff = store_backoff();
    let mut attempt = 1;
    loop {
        match store.queue().keys(parked).await {
            Ok(keys) => return keys,
            Err(error) => {
                shared.failed("store", error.report());
                tracing::warn!(pipeline = %shared.name, error = error.report(), "store does not say which keys are parked");
                let wait = backoff.delay(attempt, Duration::ZERO, &mut rand::rng());
                tokio::time::sleep(wait).await;
                attempt = attempt.saturating_add(1);
            }
        }
    }
}

/// How long to wait for a store that is not there.
fn store_backoff() -> Backoff {
    Backoff::exponential(Duration::from_millis(200), 2.0).max(Duration::from_secs(10))
}

fn summary(shared: &Shared, took: Duration, finished: bool) -> Summary {
    let stats = &shared.stats;
    let sink_gone = shared.gone();
    Summary {
        name: shared.name.clone(),
        received: stats.received.load(Relaxed),
        delivered: stats.delivered.load(Relaxed),
        failed: stats.failed.get().iter().map(|(_, count)| count).sum(),
        parked: stats.parked.load(Relaxed),
        nacked: stats.nacked.load(Relaxed),
        released: stats.released.load(Relaxed),
        dead_lettered: stats.dead_lettered.load(Relaxed),
        seconds: took.as_secs_f64(),
        // What has met a sink that is gone was started, and not finished.
        finished: finished && sink_gone.is_none(),
        sink_gone,
    }
}

/// A sink as a service whose future is no more than the sink's own.
fn sink_service(
    sink: Own<dyn Sink>,
) -> impl Service<Message, Response = Reply, Error = Error, Future: Send> + Clone + Send + Sync + 'static {
    tower::service_fn(move |message: Message| {
        let sink = sink.clone();
        // The sink's own `send`, not that of the `Arc`: one box less.
        async move { Sink::send(&*sink, message).await }
    })
}
