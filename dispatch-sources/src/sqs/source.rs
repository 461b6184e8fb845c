use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_sqs::config::SharedHttpClient;
use dispatch_core::{
    Capabilities, Delivery, Error, NackDelay, Order, Received, Settler, Source,
    config::ConfigError,
    telemetry::{Meter, Origin},
};
use dispatch_sqs_client::SqsError;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    SqsSourceConfig,
    config::LONGEST,
    hold::Held,
    pace::Pace,
    poll::{Poll, poll},
    settler::{SqsSettler, release},
    shared::Shared,
};

/// How long a close waits for receives under way; what they bring is released. While messages come no receive waits
/// longer; those that do are cut off then.
const GRACE: Duration = Duration::from_millis(2_500);
/// The same where all of them ask an empty queue: what is handed to a cut one comes again in a moment.
const SHORT_GRACE: Duration = Duration::from_millis(500);
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
    /// Received and not yet asked for.
    ready: VecDeque<Held>,
    /// Nothing is asked before this.
    rest_until: Option<Instant>,
    closed: bool,
}

impl fmt::Debug for SqsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsSource")
            .field("queue", &self.shared.label())
            .finish_non_exhaustive()
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
        let shared = Arc::new(Shared::new(config, http, meter));
        Ok(Self {
            settler: Arc::new(SqsSettler::new(Arc::clone(&shared))),
            pace: Pace::new(shared.config.pollers, shared.config.wait_time.map(|wait| wait.0)),
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
        let mut gone = HashSet::new();
        // One kept too long goes back by being dropped, and with it what is behind it in its group.
        self.ready.retain(|held| {
            let group = held.group();
            let goes = held.since.elapsed() > fresh || (!gone.is_empty() && gone.contains(&group));
            if goes && group != 0 {
                gone.insert(group);
            }
            !goes
        });
        let count = max.min(self.ready.len());
        self.ready.drain(..count).map(|held| held.delivery).collect()
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
            self.ready.extend(deliveries);
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
        self.shared.held.send_replace(true);
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

    fn origin(&self) -> Option<Origin> {
        Some(Origin::new("aws_sqs", self.shared.config.place().name()))
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
        self.shared.held.send_if_modified(std::mem::take);
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
        self.shared.held.send_replace(true);
        // What had come back before that.
        while let Some(polled) = self.polls.try_join_next() {
            self.came_late(polled);
        }
        let ready = self.ready.drain(..).map(|held| held.delivery).collect();
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
