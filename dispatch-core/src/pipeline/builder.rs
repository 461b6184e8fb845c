//! Putting a pipeline together, and running it.

use std::{
    fmt,
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use smol_str::{SmolStr, format_smolstr};
use tokio::{sync::Mutex, time::Instant};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use super::{
    control::{Handle, Phase, Shared, Stop},
    desk::Desk,
    driver::Driver,
    intake::Intake,
    keep::Keep,
    lanes::Lanes,
    work::{Plan, Work},
};
use crate::{
    Class, Error, MemoryStore, Message, Reply, ServiceSink, Sink, Source, Store,
    backoff::Backoff,
    layer::{Limit, MessageLayer, MessageService, RateLimitLayer, RetryPolicy, Stack, StackLayer},
    store::QueueSource,
    telemetry::Stats,
};

/// The queue in the Store that holds a pipeline's parked retries and replayed dead letters.
#[must_use]
pub fn parked_queue(pipeline: &str) -> String {
    format!("parked:{pipeline}")
}

/// A pipeline's parts, before they are put together.
///
/// Defaults: 64 messages at once, 30 s an attempt, 10 attempts with exponential backoff, a breaker at 50 %, a store in
/// memory, 25 s to drain, one shard.
#[must_use]
pub struct PipelineBuilder {
    name: SmolStr,
    sources: Vec<(SmolStr, Box<dyn Source>)>,
    sink: Option<Arc<dyn Sink>>,
    layers: Vec<MessageLayer>,
    stack: Stack,
    store: Option<Arc<dyn Store>>,
    prefetch: Option<usize>,
    drain_timeout: Duration,
    lanes: Option<Lanes>,
    shards: usize,
    cancel_on_lost_lease: bool,
    config_hash: SmolStr,
}

impl fmt::Debug for PipelineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineBuilder")
            .field("name", &self.name)
            .field("stack", &self.stack)
            .finish_non_exhaustive()
    }
}

impl PipelineBuilder {
    /// Adds a source; several take turns.
    pub fn source(self, source: impl Source) -> Self {
        let label = if self.sources.is_empty() {
            SmolStr::new_static("source")
        } else {
            format_smolstr!("source.{}", self.sources.len() + 1)
        };
        self.labelled_source(label, Box::new(source))
    }

    /// Adds a source under a label of its own.
    pub fn labelled_source(mut self, label: impl Into<SmolStr>, source: Box<dyn Source>) -> Self {
        self.sources.push((label.into(), source));
        self
    }

    /// Sets the sink.
    pub fn sink(mut self, sink: impl Sink) -> Self {
        self.sink = Some(Arc::new(sink));
        self
    }

    /// Sets any tower service as the sink.
    pub fn service<S>(self, service: S) -> Self
    where
        S: Service<Message> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Response: Into<Reply>,
        S::Error: Into<Error>,
    {
        self.sink(ServiceSink::new(service))
    }

    /// Adds a tower layer right around the sink, inside the built-in ones; the first added is outermost.
    pub fn layer<L>(self, layer: L) -> Self
    where
        L: Layer<MessageService> + Send + Sync + 'static,
        L::Service: Service<Message, Response = Reply> + Clone + Send + Sync + 'static,
        <L::Service as Service<Message>>::Future: Send,
        <L::Service as Service<Message>>::Error: Into<Error>,
    {
        self.message_layer(Arc::new(move |service| {
            BoxCloneSyncService::new(layer.layer(service).map_err(Into::into))
        }))
    }

    /// As [`layer`](Self::layer), for a layer whose type is forgotten already.
    pub fn message_layer(mut self, layer: MessageLayer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Changes the built-in layers' settings.
    pub fn stack(mut self, change: impl FnOnce(&mut Stack)) -> Self {
        change(&mut self.stack);
        self
    }

    /// At most so many messages at the sink at once; 64 by default.
    pub fn concurrency(self, limit: usize) -> Self {
        self.stack(|stack| stack.concurrency = Limit::Fixed(limit))
    }

    /// At most `count` attempts in each `per`; no limit by default.
    pub fn rate_limit(self, count: u32, per: Duration) -> Self {
        self.stack(|stack| stack.rate_limit = RateLimitLayer::new(count, per, None))
    }

    /// How long one attempt may take; 30 s by default.
    pub fn timeout(self, limit: Duration) -> Self {
        self.stack(|stack| stack.timeout = Some(limit))
    }

    /// How long all attempts may take; no bound by default.
    pub fn deadline(self, total: Duration) -> Self {
        self.stack(|stack| stack.deadline = Some(total))
    }

    /// How to try again; 10 attempts, from 1 s doubling to 5 min, by default.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.stack(|stack| stack.retry = Some(policy))
    }

    /// Sets where dead letters and parked retries are kept; in memory by default, where they end with the process.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// How many deliveries to hold beyond the concurrency; what the sources advise by default.
    pub const fn prefetch(mut self, prefetch: usize) -> Self {
        self.prefetch = Some(prefetch);
        self
    }

    /// How long a drain waits for what is started; 25 s by default.
    pub const fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Sorts messages by key: fair turns, or order.
    pub fn lanes(mut self, lanes: Lanes) -> Self {
        self.lanes = Some(lanes);
        self
    }

    /// So many drivers over the same sources, each a task of its own; 1 by default. More only help on a runtime with
    /// as many threads, and where the engine rather than the sink is the limit.
    pub const fn shards(mut self, shards: usize) -> Self {
        self.shards = if shards == 0 { 1 } else { shards };
        self
    }

    /// Cancels an attempt whose lease is lost; by default it may finish.
    pub const fn cancel_on_lost_lease(mut self, cancel: bool) -> Self {
        self.cancel_on_lost_lease = cancel;
        self
    }

    /// Notes which configuration dead letters come from.
    pub fn config_hash(mut self, hash: impl Into<SmolStr>) -> Self {
        self.config_hash = hash.into();
        self
    }

    /// Puts the pipeline together. Connects to nothing.
    ///
    /// # Errors
    /// `Permanent` if there is no source or no sink, or lanes are ordered over several shards.
    pub fn build(self) -> Result<Pipeline, Error> {
        let missing = |what: &str| Error::permanent(format!("pipeline {}: no {what}", self.name));
        if self.sources.is_empty() {
            return Err(missing("source"));
        }
        let sink = self.sink.clone().ok_or_else(|| missing("sink"))?;
        let needs_lanes = |(_, source): &(_, Box<dyn Source>)| source.capabilities().needs_lanes;
        if self.shards > 1
            && (self.lanes.as_ref().is_some_and(|lanes| lanes.order) || self.sources.iter().any(needs_lanes))
        {
            return Err(Error::permanent(format!(
                "pipeline {}: order by key needs one shard, {} are set",
                self.name, self.shards
            )));
        }
        let stats = Arc::<Stats>::default();
        let shared = Arc::new(Shared::new(self.name.clone(), stats, self.stack.breaker.clone()));
        let store = self.store.clone().unwrap_or_else(|| Arc::new(MemoryStore::new()));
        for label in self
            .sources
            .iter()
            .map(|(label, _)| label.clone())
            .chain(["store".into()])
        {
            shared.add_component(label);
        }
        Ok(Pipeline {
            parts: self,
            sink,
            store,
            shared,
        })
    }

    /// Puts the pipeline together and runs it; see [`Pipeline::run`].
    ///
    /// # Errors
    /// As [`build`](Self::build) and [`Pipeline::run`].
    pub async fn run(self) -> Result<Summary, Error> {
        self.build()?.run().await
    }
}

/// A pipeline, ready to run.
#[derive(Debug)]
#[must_use]
pub struct Pipeline {
    parts: PipelineBuilder,
    sink: Arc<dyn Sink>,
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Summary {
    /// The pipeline.
    pub name: SmolStr,
    /// Deliveries taken from sources.
    pub received: u64,
    /// Messages that the sink took.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Messages put into the Store for a later attempt; each is received again then.
    pub parked: u64,
    /// Messages given back to their source with a delay.
    pub nacked: u64,
    /// Messages given back untried.
    pub released: u64,
    /// Messages given up on and kept.
    pub dead_lettered: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether everything that was started was finished; if not, the rest was cancelled and released.
    pub finished: bool,
}

impl Pipeline {
    /// Starts a pipeline under a name; dead letters and metrics carry it.
    pub fn builder(name: impl Into<SmolStr>) -> PipelineBuilder {
        PipelineBuilder {
            name: name.into(),
            sources: Vec::new(),
            sink: None,
            layers: Vec::new(),
            stack: Stack::default(),
            store: None,
            prefetch: None,
            drain_timeout: Duration::from_secs(25),
            lanes: None,
            shards: 1,
            cancel_on_lost_lease: false,
            config_hash: SmolStr::default(),
        }
    }

    /// Steers and watches the pipeline while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Connects to every component, each for at most `limit`, and says for each, by label, what is wrong with it if
    /// anything is. Moves nothing.
    pub async fn probe(&mut self, limit: Duration) -> Vec<(SmolStr, Result<(), Error>)> {
        let within = async |probe: BoxFuture<'_, Result<(), Error>>| match tokio::time::timeout(limit, probe).await {
            Ok(result) => result,
            Err(_) => Err(Error::unavailable(format!("no answer within {limit:?}"))),
        };
        let mut results = vec![("store".into(), within(self.store.probe()).await)];
        for (label, source) in &mut self.parts.sources {
            results.push((label.clone(), within(source.probe()).await));
        }
        results.push(("sink".into(), within(self.sink.probe()).await));
        results
    }

    /// Drains when `shutdown` ends; otherwise as [`run`](Self::run).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> Result<Summary, Error> {
        let handle = self.handle();
        let run = self.run();
        let shutdown = async {
            shutdown.await;
            handle.drain();
            std::future::pending().await
        };
        tokio::select! {
            summary = run => summary,
            () = shutdown => unreachable!("pending"),
        }
    }

    /// Runs until the input has ended, with everything parked done too, or until [`Handle::drain`].
    ///
    /// # Errors
    /// `Permanent` if the store cannot be used, and what [`Source::open`] says, before anything is received. Nothing later ends a run: what fails is
    /// tried again, for ever, and shows in [`Handle::status`].
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
            opened = open_store(&*store, &shared) => opened.map(|()| true)?,
            _ = wanted.wait_for(|wanted| wanted.stop != Stop::No) => false,
        };
        if !opened {
            // Nothing was received, so nothing is left undone.
            shared.set_phase(Phase::Ended);
            return Ok(summary(&shared, began.elapsed(), true));
        }
        for (label, source) in &mut parts.sources {
            let opened = tokio::select! {
                opened = source.open() => opened,
                _ = wanted.wait_for(|wanted| wanted.stop != Stop::No) => Ok(()),
            };
            if let Err(error) = opened {
                shared.failed(label, error.report());
                return Err(Error::new(error.class(), format!("{label}: {}", error.report())));
            }
        }
        shared.set_phase(Phase::Running);

        let parked: Arc<str> = parked_queue(&parts.name).into();
        let advised = parts
            .sources
            .iter()
            .map(|(_, source)| source.capabilities().prefetch)
            .max()
            .unwrap_or(1);
        let prefetch = parts.prefetch.unwrap_or(advised);
        shared.add_component("parked".into());
        let rest = QueueSource::new(Arc::clone(&store), Arc::clone(&parked));
        parts.sources.push(("parked".into(), Box::new(rest)));

        let runs = Runs {
            parked,
            prefetch,
            store: Arc::clone(&store),
            shared: Arc::clone(&shared),
        };
        let run: BoxFuture<'static, bool> = if parts.layers.is_empty() {
            Box::pin(runs.run(parts, sink_service(Arc::clone(&sink))))
        } else {
            let own = parts.layers.iter().rev().fold(
                BoxCloneSyncService::new(sink_service(Arc::clone(&sink))),
                |service, layer| layer(service),
            );
            // A layer that makes one wait must not be asked before there is a message.
            Box::pin(runs.run(
                parts,
                tower::service_fn(move |message: Message| own.clone().oneshot(message)),
            ))
        };
        let finished = tokio::select! {
            finished = run => finished,
            () = keep_house(&*store) => false,
        };
        if let Err(error) = sink.close().await {
            tracing::warn!(pipeline = %shared.name, error = error.report(), "sink did not close");
        }
        shared.set_phase(Phase::Ended);
        Ok(summary(&shared, began.elapsed(), finished))
    }
}

/// What all shards share.
struct Runs {
    parked: Arc<str>,
    prefetch: usize,
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

impl Runs {
    /// Runs each shard to its end; says whether all finished in time.
    async fn run<S>(self, mut parts: PipelineBuilder, service: S) -> bool
    where
        S: Service<Message, Response = Reply, Error = Error> + Clone + Send + 'static,
        S::Future: Send,
    {
        let (concurrency, shards) = (parts.stack.concurrency.most(), parts.shards);
        let retry = parts.stack.retry.clone().unwrap_or_default();
        let breaker = parts.stack.breaker.clone();
        let deadline = parts.stack.deadline;
        let layers: StackLayer = parts.stack.clone().layers(&self.shared.stats);
        let desks: Vec<_> = parts
            .sources
            .iter()
            .map(|(_, source)| (source.settler(), source.capabilities()))
            .collect();
        let labels: Vec<_> = parts.sources.iter().map(|(label, _)| label.clone()).collect();
        let sources = std::mem::take(&mut parts.sources);
        let intake = Arc::new(Mutex::new(Intake::new(sources, Arc::clone(&self.shared))));
        let share = |whole: usize| whole.div_ceil(shards).max(1);
        let running = Arc::new(std::sync::atomic::AtomicUsize::new(shards));
        let drivers: Vec<_> = (0..shards)
            .map(|_| {
                let plan = Plan {
                    concurrency: share(concurrency),
                    window: share(concurrency + self.prefetch),
                    deadline,
                    lanes: parts.lanes.clone(),
                    cancel_on_lost_lease: parts.cancel_on_lost_lease,
                    config_hash: parts.config_hash.clone(),
                    breaker: breaker.clone(),
                    resting: Arc::clone(&retry.resting),
                    crowded: Arc::clone(&retry.crowded),
                    labels: labels.clone(),
                };
                let desks = desks
                    .iter()
                    .map(|(settler, can)| Desk::new(Arc::clone(settler), can.clone()))
                    .collect();
                let keep = Keep::new(Arc::clone(&self.store), Arc::clone(&self.parked));
                Driver {
                    work: Work::new(
                        layers.layer(service.clone()),
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
            return futures::future::join_all(runs)
                .await
                .into_iter()
                .all(|finished| finished);
        }
        let mut tasks = tokio::task::JoinSet::new();
        for driver in drivers {
            tasks.spawn(driver.run());
        }
        tasks.join_all().await.into_iter().all(|finished| finished)
    }
}

/// How often the store is told to forget what has expired.
const HOUSEKEEPING: Duration = Duration::from_secs(3_600);

/// How long fired schedule slots are remembered.
const SLOTS_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Forgets expired reservations and old schedule slots, now and then, for ever.
async fn keep_house(store: &dyn Store) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
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

/// Opens the store; waits for one that is merely not there yet.
async fn open_store(store: &dyn Store, shared: &Shared) -> Result<(), Error> {
    let backoff = Backoff::exponential(Duration::from_millis(200), 2.0).max(Duration::from_secs(10));
    for attempt in 1.. {
        let error = match store.probe().await {
            Ok(()) => break,
            Err(error) => error,
        };
        shared.failed("store", error.report());
        match error.class() {
            Class::Permanent => return Err(error),
            Class::Retry | Class::Throttled(_) | Class::Unavailable => {
                tracing::warn!(pipeline = %shared.name, error = error.report(), "store is not there yet");
                let wait = backoff.delay(attempt, Duration::ZERO, &mut rand::rng());
                tokio::time::sleep(wait).await;
            }
        }
    }
    shared.connected("store");
    Ok(())
}

fn summary(shared: &Shared, took: Duration, finished: bool) -> Summary {
    let stats = &shared.stats;
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
        finished,
    }
}

/// A sink as a service whose future is no more than the sink's own.
fn sink_service(
    sink: Arc<dyn Sink>,
) -> impl Service<Message, Response = Reply, Error = Error, Future: Send> + Clone + Send + Sync + 'static {
    tower::service_fn(move |message: Message| {
        let sink = Arc::clone(&sink);
        // The sink's own `send`, not that of the `Arc`: one box less.
        async move { Sink::send(&*sink, message).await }
    })
}
