//! Putting a pipeline together.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use smol_str::{SmolStr, format_smolstr};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use super::{
    control::{Handle, Shared},
    lanes::{LanePolicy, Lanes},
    stuck::STUCK_AFTER,
};
use crate::{
    Commands, Error, MemoryStore, Message, Reply, ServiceSink, Sink, Source, Store,
    layer::{
        BreakerLayer, DedupeLayer, Limit, MessageLayer, MessageService, RateLimitLayer, RetryPolicy, SharedRate, Stack,
    },
    telemetry::{Meter, Stats},
};

/// How often the stores are told to forget what has expired, unless told otherwise.
const SWEEP: Duration = Duration::from_secs(3_600);

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
    pub(super) name: SmolStr,
    pub(super) sources: Vec<(SmolStr, Box<dyn Source>)>,
    pub(super) sink: Option<Arc<dyn Sink>>,
    pub(super) layers: Vec<MessageLayer>,
    pub(super) stack: Stack,
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) prefetch: Option<usize>,
    pub(super) drain_timeout: Duration,
    pub(super) stuck_after: Option<Duration>,
    pub(super) lanes: Option<Lanes>,
    pub(super) shards: usize,
    pub(super) cancel_on_lost_lease: bool,
    pub(super) config_hash: SmolStr,
    meter: Meter,
    commands: Commands,
    pub(super) dedupe: Option<DedupeLayer>,
    pub(super) sweep: Duration,
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

    /// At most so many attempts by all pipelines and processes that share `rate`, through this pipeline's store.
    pub fn shared_rate(self, rate: SharedRate) -> Self {
        self.stack(|stack| stack.rate_limit = RateLimitLayer::shared(rate))
    }

    /// How long one attempt may take; 30 s by default.
    pub fn timeout(self, limit: Duration) -> Self {
        self.stack(|stack| stack.timeout = Some(limit))
    }

    /// How long all attempts may take; no bound by default.
    pub fn deadline(self, total: Duration) -> Self {
        self.stack(|stack| stack.deadline = Some(total))
    }

    /// How old a message may be, from when it was made; any age by default.
    pub fn max_age(self, age: Duration) -> Self {
        self.stack(|stack| stack.max_age = Some(age))
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

    /// How many deliveries to hold beyond the concurrency. By default what the sources advise, and beyond 16 only as many as
    /// are worked off in a moment.
    pub const fn prefetch(mut self, prefetch: usize) -> Self {
        self.prefetch = Some(prefetch);
        self
    }

    /// How long a drain waits for what is started; 25 s by default.
    pub const fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// How long a message may be in work, waits for a rate or a place included, before that is logged, once, and counted as
    /// [stuck](crate::telemetry::Stats::stuck); 10 min by default, none never. Nothing is done to the message.
    pub const fn stuck_after(mut self, after: Option<Duration>) -> Self {
        self.stuck_after = after;
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

    /// Works on each message once, however often it is delivered; by default every delivery is worked on.
    pub fn dedupe(mut self, layer: DedupeLayer) -> Self {
        self.dedupe = Some(layer);
        self
    }

    /// How often what has expired is swept out of the stores; 1 h by default.
    pub const fn sweep(mut self, every: Duration) -> Self {
        self.sweep = every;
        self
    }

    /// Where the components count what only they can count; [`Handle::meter`] shows it.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }

    /// The commands that the components answer; [`Handle::commands`] asks them.
    pub fn commands(mut self, commands: Commands) -> Self {
        self.commands = commands;
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
    /// `Permanent` if there is no source or no sink, more than 65 535 sources, lanes are ordered over several shards, or have a
    /// policy and no order, or an attempt may outlast a lease that nobody extends.
    pub fn build(self) -> Result<Pipeline, Error> {
        let missing = |what: &str| Error::permanent(format!("pipeline {}: no {what}", self.name));
        if self.sources.is_empty() {
            return Err(missing("source"));
        }
        if self.sources.len() > usize::from(u16::MAX) {
            return Err(Error::permanent(format!(
                "pipeline {}: more than {} sources",
                self.name,
                u16::MAX
            )));
        }
        let sink = self.sink.clone().ok_or_else(|| missing("sink"))?;
        if self
            .lanes
            .as_ref()
            .is_some_and(|lanes| lanes.policy == LanePolicy::ParkKey && !lanes.order)
        {
            return Err(Error::permanent(format!(
                "pipeline {}: a policy for lanes without order",
                self.name
            )));
        }
        let needs_lanes = |(_, source): &(_, Box<dyn Source>)| source.capabilities().needs_lanes;
        if self.shards > 1
            && (self.lanes.as_ref().is_some_and(|lanes| lanes.order) || self.sources.iter().any(needs_lanes))
        {
            return Err(Error::permanent(format!(
                "pipeline {}: order by key needs one shard, {} are set",
                self.name, self.shards
            )));
        }
        for (label, source) in &self.sources {
            let capabilities = source.capabilities();
            let fits = |lease| self.stack.timeout.is_some_and(|timeout| timeout <= lease);
            if let Some(lease) = capabilities
                .lease
                .filter(|lease| !capabilities.extends && !fits(*lease))
            {
                let timeout = self
                    .stack
                    .timeout
                    .map_or("off".to_owned(), |timeout| format!("{timeout:?}"));
                return Err(Error::permanent(format!(
                    "pipeline {}: {label} has leases of {lease:?} that nobody extends, and an attempt may take longer (timeout \
                     {timeout}), so that messages would be worked on twice: extend them, make them longer, or the timeout shorter",
                    self.name
                )));
            }
        }
        let stats = Arc::<Stats>::default();
        let shared = Arc::new(Shared::new(
            self.name.clone(),
            stats,
            self.meter.clone(),
            self.commands.clone(),
            self.stack.breaker.as_ref().and_then(BreakerLayer::handle),
            self.stack.breaker.as_ref().is_some_and(BreakerLayer::is_keyed),
            self.stack.concurrency.most(),
        ));
        let store = self.store.clone().unwrap_or_else(|| Arc::new(MemoryStore::new()));
        self.stack.rate_limit.over(&store);
        for label in self
            .sources
            .iter()
            .map(|(label, _)| label.clone())
            .chain(["store".into()])
            .chain(self.dedupe.as_ref().map(|_| "dedupe".into()))
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
    pub(super) parts: PipelineBuilder,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) store: Arc<dyn Store>,
    pub(super) shared: Arc<Shared>,
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
    /// Messages given back untried, or because the sink is gone.
    pub released: u64,
    /// Messages given up on and kept.
    pub dead_lettered: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether everything that was started was finished; if not, the rest was cancelled and released.
    pub finished: bool,
    /// Why the sink could not go on, where that ended the run ([`Error::gone`]); what it did not take was given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink_gone: Option<String>,
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
            stuck_after: Some(STUCK_AFTER),
            lanes: None,
            shards: 1,
            cancel_on_lost_lease: false,
            config_hash: SmolStr::default(),
            meter: Meter::default(),
            commands: Commands::default(),
            dedupe: None,
            sweep: SWEEP,
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
        if let Some(dedupe) = &self.parts.dedupe {
            results.push(("dedupe".into(), within(dedupe.store().probe()).await));
        }
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
}
