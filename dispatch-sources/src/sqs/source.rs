use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use aws_sdk_sqs::config::SharedHttpClient;
use dispatch_core::{
    Capabilities, Delivery, Disposition, Error, NackDelay, Order, Received, Reply, Settlement, Settler, Source, Token,
    config::ConfigError, telemetry::Meter,
};
use dispatch_sqs_client::SqsError;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    SqsSourceConfig,
    client::Client,
    config::LONGEST,
    meters::Meters,
    pace::Pace,
    poll::{Poll, poll},
    settler::SqsSettler,
    wire::Offsets,
};

/// How long a close waits for receives under way; what they bring is released. While messages come no receive waits
/// longer; those that do are cut off then.
const GRACE: Duration = Duration::from_millis(2_500);
/// The same where all of them ask an empty queue: what is handed to a cut one comes again in a moment.
const SHORT_GRACE: Duration = Duration::from_millis(500);
/// How seldom a queue is asked how many of its messages are out, and from how many on that is said.
const LOOK: Duration = Duration::from_secs(600);
const MANY_OUT: u64 = 100_000;
/// How seldom it is said that SQS refuses.
const TELL: Duration = Duration::from_secs(60);
/// The wait after a short receive that brought nothing.
const SHORT_REST: Duration = Duration::from_millis(500);

/// Takes messages from one queue of Amazon SQS. The module's page says how.
pub struct SqsSource {
    shared: Arc<Shared>,
    settler: Arc<SqsSettler>,
    pace: Pace,
    /// Receives under way, each in a task of its own, so that dropping `receive` loses nothing.
    polls: JoinSet<Poll>,
    /// How much they may bring.
    reserved: usize,
    /// How many of the receives under way hold what they bring for the whole visibility.
    firm: usize,
    /// The most that was ever asked for at once: the window, as far as it is known here.
    widest: usize,
    /// Received and not yet asked for, and since when.
    ready: VecDeque<(Instant, Delivery)>,
    /// Nothing is asked before this.
    rest_until: Option<Instant>,
    closed: bool,
}

/// What source, settler and receives share.
pub(super) struct Shared {
    pub(super) config: SqsSourceConfig,
    pub(super) fifo: bool,
    /// Receives give back what they bring: the gate is closed, or the source.
    pub(super) held: AtomicBool,
    pub(super) meters: Meters,
    /// When the queue was last asked how many messages are out, and whether they were too many.
    asked_in_flight: Mutex<Option<(Instant, bool)>>,
    /// When a refusal was last told of.
    told_refusal: Mutex<Option<Instant>>,
    http: Option<SharedHttpClient>,
    client: tokio::sync::Mutex<Option<Arc<Client>>>,
    /// Cuts receives off that have brought nothing.
    pub(super) cut: watch::Sender<bool>,
    offsets: Mutex<Offsets>,
    /// The beginning of the source's own clock.
    epoch: Instant,
    #[cfg(feature = "sqs-s3")]
    pub(super) payloads: Option<super::s3::Payloads>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("queue", &self.label())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SqsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsSource")
            .field("queue", &self.shared.label())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The queue as the file names it.
    pub(super) fn label(&self) -> &str {
        self.config.place().label()
    }

    /// The client, connected at the first call; a call that fails leaves it to the next.
    pub(super) async fn client(&self) -> Result<Arc<Client>, SqsError> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        // Loading asks the disk or the network; its future is a large one.
        let fresh = Arc::new(Box::pin(Client::connect(&self.config, self.http.clone())).await?);
        *client = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Counts and tells what an operator must know. After credentials were refused the next call loads them anew: they
    /// may have been changed.
    pub(super) async fn heard(&self, error: &SqsError) {
        if let SqsError::Misuse { .. } = error {
            self.meters.misuse.add(1);
            tracing::error!(%error, "a request of ours is wrong: please report this");
            debug_assert!(false, "{error}");
        }
        if let SqsError::Refused { .. } = error {
            self.tell_refusal(error);
        }
        if let SqsError::Throttled { code, queue, .. } = error {
            self.meters.throttled.add(1);
            if code == "OverLimit" {
                tracing::error!(%queue, "too many messages of this queue are out: nothing is received until some are deleted");
            }
        }
        if error.is_about_credentials() {
            self.client.lock().await.take();
        }
    }

    /// No waiting mends it, and yet it is asked again: that must not go unseen, nor fill the log.
    fn tell_refusal(&self, error: &SqsError) {
        let mut told = self.told_refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= TELL) {
            *told = Some(Instant::now());
            tracing::error!(%error, "SQS refuses what is asked: mend the queue or its key; it is asked again every minute");
        }
    }

    pub(super) fn offsets(&self) -> MutexGuard<'_, Offsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds on the source's own clock.
    pub(super) fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    /// How long ago a delivery was received.
    pub(super) fn held_for(&self, token: &Token) -> Duration {
        self.epoch.elapsed().saturating_sub(Duration::from_millis(token.number))
    }

    /// Where many messages are out a long poll says no more than that there is nothing. So after one that brought
    /// nothing the queue is asked how many are: the first time, and then once in ten minutes while it is not `idle`,
    /// or while they are too many.
    pub(super) async fn look_at_in_flight(&self, client: &Client, idle: bool) {
        use aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessagesNotVisible as Out;
        let now = Instant::now();
        let asked = || self.asked_in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut asked = asked();
            if asked.is_some_and(|(at, many)| now < at + LOOK || (idle && !many)) {
                return;
            }
            let many = asked.is_some_and(|(_, many)| many);
            *asked = Some((now, many));
        }
        let request = client
            .queue
            .sqs
            .get_queue_attributes()
            .queue_url(&client.queue.url)
            .attribute_names(Out);
        let Ok(Ok(answer)) = timeout(SHORT_GRACE, request.send()).await else {
            return;
        };
        let out = answer
            .attributes
            .as_ref()
            .and_then(|all| all.get(&Out)?.parse::<u64>().ok());
        let many = out.is_some_and(|out| out >= MANY_OUT);
        *asked() = Some((now, many));
        if let Some(out) = out.filter(|_| many) {
            tracing::error!(
                queue = client.queue.name(),
                in_flight = out,
                "SQS hands out no more than 120000 messages at once: who receives must delete, or fewer be received"
            );
        }
    }

    /// Whether a message is too old to be worked on.
    pub(super) fn is_too_old(&self, first_received: Option<SystemTime>) -> bool {
        let (Some(retention), Some(first)) = (self.config.retention, first_received) else {
            return false;
        };
        SystemTime::now()
            .duration_since(first)
            .is_ok_and(|age| age > retention.0)
    }
}

/// Gives messages back at once.
pub(super) async fn release(settler: &SqsSettler, deliveries: Vec<Delivery>) {
    settle_all(settler, deliveries, &Disposition::Release).await;
}

/// Leaves messages to their visibility, or to `error_visibility_timeout`.
#[cfg(feature = "sqs-s3")]
pub(super) async fn nack(settler: &SqsSettler, deliveries: Vec<Delivery>) {
    let nack = Disposition::Nack {
        delay: None,
        attempts: Vec::new(),
    };
    settle_all(settler, deliveries, &nack).await;
}

pub(super) async fn delete(settler: &SqsSettler, deliveries: Vec<Delivery>) {
    settle_all(settler, deliveries, &Disposition::Ack(Reply::default())).await;
}

async fn settle_all(settler: &SqsSettler, deliveries: Vec<Delivery>, disposition: &Disposition) {
    if deliveries.is_empty() {
        return;
    }
    let settlement = |delivery: Delivery| Settlement {
        token: delivery.receipt.into_parts().0,
        disposition: disposition.clone(),
    };
    let batch = deliveries.into_iter().map(settlement).collect();
    for answer in settler.settle(batch).await {
        if let Err(error) = answer {
            tracing::debug!(%error, "settled by the source itself: its visibility decides");
        }
    }
}

impl SqsSource {
    /// Checks `config` and makes the source; connects to nothing yet.
    ///
    /// # Errors
    /// Names the field that is wrong: no queue or two names for it, a URL that is none, a number out of its range.
    pub fn new(config: SqsSourceConfig) -> Result<Self, ConfigError> {
        Self::build(config, None, &Meter::default())
    }

    /// As [`new`](Self::new), over an HTTP client of the caller's own, such as that of a
    /// [`Fake`](super::fake::Fake::http_client).
    ///
    /// # Errors
    /// As `new`.
    #[cfg(feature = "testing")]
    pub fn with_http_client(config: SqsSourceConfig, http: SharedHttpClient) -> Result<Self, ConfigError> {
        Self::build(config, Some(http), &Meter::default())
    }

    /// As [`new`](Self::new), counting in `meter`; a file's source does.
    ///
    /// # Errors
    /// As `new`.
    pub fn metered(config: SqsSourceConfig, meter: &Meter) -> Result<Self, ConfigError> {
        Self::build(config, None, meter)
    }

    fn build(config: SqsSourceConfig, http: Option<SharedHttpClient>, meter: &Meter) -> Result<Self, ConfigError> {
        config.check()?;
        let shared = Arc::new(Shared {
            fifo: config.place().is_fifo(),
            held: AtomicBool::new(false),
            meters: Meters::new(meter),
            asked_in_flight: Mutex::default(),
            told_refusal: Mutex::default(),
            http,
            client: tokio::sync::Mutex::default(),
            cut: watch::Sender::new(false),
            offsets: Mutex::default(),
            epoch: Instant::now(),
            #[cfg(feature = "sqs-s3")]
            payloads: config.s3_payload.clone().map(super::s3::Payloads::new),
            config,
        });
        Ok(Self {
            settler: Arc::new(SqsSettler::new(Arc::clone(&shared))),
            pace: Pace::new(shared.config.pollers, shared.config.wait_time.0),
            shared,
            polls: JoinSet::new(),
            reserved: 0,
            firm: 0,
            widest: 0,
            ready: VecDeque::new(),
            rest_until: None,
            closed: false,
        })
    }

    /// How many messages were deleted for being older than `retention`.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.shared.meters.expired.get()
    }

    /// Whether the queue answers.
    async fn ask(&self) -> Result<(), SqsError> {
        let asked = self.shared.client().await?.queue.ask().await;
        if let Err(error) = &asked {
            self.shared.heard(error).await;
        }
        asked
    }

    /// What is ready and still ours for most of its visibility.
    fn take_ready(&mut self, max: usize) -> Vec<Delivery> {
        let fresh = self.shared.config.visibility_timeout.0 / 4;
        // One kept too long goes back by being dropped.
        self.ready.retain(|(since, _)| since.elapsed() <= fresh);
        let count = max.min(self.ready.len());
        self.ready.drain(..count).map(|(_, delivery)| delivery).collect()
    }

    /// Starts receives for what is asked and not on its way.
    fn start_polls(&mut self, max: usize) {
        let now = Instant::now();
        if self.rest_until.is_some_and(|until| now < until) {
            return;
        }
        self.rest_until = None;
        self.widest = self.widest.max(max);
        let whole = self.shared.config.receive_batch.min(self.widest);
        while self.reserved < max && self.polls.len() < self.pace.pollers(now) {
            let asked = (max - self.reserved).min(whole);
            // Less than a batch waits for a receive under way and grows meanwhile: requests are billed.
            if asked < whole && !self.polls.is_empty() {
                break;
            }
            self.reserved += asked;
            let (shared, settler) = (Arc::clone(&self.shared), Arc::clone(&self.settler));
            let ask = self.pace.ask(now);
            self.firm += usize::from(!ask.brief);
            self.polls.spawn(poll(shared, settler, asked, ask));
            self.shared.meters.pollers.add(1);
        }
    }

    /// A receive has come back that nobody waits for any more.
    fn came_late(&mut self, polled: Result<Poll, JoinError>) {
        if let Ok(poll) = polled
            && let Err(error) = self.polled(poll)
        {
            tracing::debug!(%error, "the last receive failed");
        }
    }

    fn polled(&mut self, poll: Poll) -> Result<(), SqsError> {
        self.shared.meters.pollers.add(-1);
        self.reserved -= poll.asked;
        self.firm -= usize::from(!poll.ask.brief);
        let result = poll.result.map(|deliveries| {
            self.pace.received(poll.began, poll.asked, poll.count);
            if poll.count == 0 && poll.ask.wait.is_zero() {
                self.rest_until = Some(Instant::now() + SHORT_REST);
            }
            let now = Instant::now();
            self.ready
                .extend(deliveries.into_iter().map(|delivery| (now, delivery)));
        });
        if let Err(error) = &result {
            self.pace.failed();
            self.rest_until = Some(Instant::now() + error.rest());
        }
        result
    }

    /// Waits out what SQS was to be spared.
    async fn rest(&mut self) {
        if let Some(until) = self.rest_until {
            sleep_until(until).await;
            self.rest_until = None;
        }
    }
}

impl Drop for SqsSource {
    /// Receives under way end by themselves and give back what they bring.
    fn drop(&mut self) {
        self.shared.held.store(true, Relaxed);
        self.polls.detach_all();
    }
}

#[async_trait]
impl Source for SqsSource {
    fn capabilities(&self) -> Capabilities {
        let config = &self.shared.config;
        let mut capabilities = Capabilities::default();
        // From the receive on: an hour for what was spent here.
        capabilities.nack_delay = NackDelay::UpTo(LONGEST - Duration::from_secs(3_600));
        capabilities.redelivers = true;
        capabilities.lease = Some(config.visibility_timeout.0);
        capabilities.extends = config.heartbeat;
        capabilities.settle_batch = 10;
        capabilities.settle_linger = Duration::from_millis(50);
        capabilities.settles_apart = true;
        capabilities.order = if self.shared.fifo { Order::Key } else { Order::None };
        capabilities.needs_lanes = self.shared.fifo;
        capabilities.counts_redeliveries = true;
        capabilities.prefetch = 0;
        capabilities
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as Arc<dyn Settler>
    }

    /// Says what no waiting mends: no such queue, no credentials or refused ones, a set-up that cannot work.
    async fn open(&mut self) -> Result<(), Error> {
        if self.shared.config.wait_for_aws {
            return Ok(());
        }
        match self.ask().await {
            Err(error) if !error.may_pass() => Err(error.into()),
            Err(error) => {
                tracing::warn!(error = %error, "SQS does not answer yet");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        if self.closed {
            return Ok(Received::End);
        }
        self.shared.held.store(false, Relaxed);
        loop {
            let ready = self.take_ready(max);
            if !ready.is_empty() {
                return Ok(Received::Batch(ready));
            }
            self.start_polls(max);
            if self.polls.is_empty() {
                self.rest().await;
                continue;
            }
            let rest = self.rest_until.filter(|_| self.reserved < max);
            let polled = tokio::select! {
                polled = self.polls.join_next() => polled,
                () = sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => continue,
            };
            match polled {
                Some(Ok(poll)) => self.polled(poll)?,
                // A receive that panicked has lost count of what it reserved.
                Some(Err(error)) => {
                    self.polls.detach_all();
                    (self.reserved, self.firm) = (0, 0);
                    self.shared.meters.pollers.set(0);
                    return Err(Error::retry(error));
                }
                None => {}
            }
        }
    }

    /// Others may have the messages while we may not.
    async fn hold(&mut self) -> Result<(), Error> {
        self.shared.held.store(true, Relaxed);
        // What had come back before that.
        while let Some(polled) = self.polls.try_join_next() {
            self.came_late(polled);
        }
        let ready = self.ready.drain(..).map(|(_, delivery)| delivery).collect();
        release(&self.settler, ready).await;
        Ok(())
    }

    /// Asks for the queue's attributes.
    async fn probe(&mut self) -> Result<(), Error> {
        self.rest().await;
        let asked = self.ask().await;
        if let Err(error) = &asked {
            self.rest_until = Some(Instant::now() + error.rest());
        }
        Ok(asked?)
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.closed = true;
        self.hold().await?;
        let grace = if self.firm == 0 { SHORT_GRACE } else { GRACE };
        let polls = async {
            while let Some(polled) = self.polls.join_next().await {
                self.came_late(polled);
            }
        };
        if timeout(grace, polls).await.is_err() {
            // They wait for long, and ask for a moment's lease only: what is still handed to one comes again soon.
            tracing::debug!(receives = self.polls.len(), "receives that brought nothing are cut off");
            self.shared.cut.send_replace(true);
            // What has brought something is given back; the driver bounds how long that may take.
            while let Some(polled) = self.polls.join_next().await {
                self.came_late(polled);
            }
        }
        // What came between the last receive and the close; dropped, it would go back in a task that nobody waits for.
        self.hold().await
    }
}
