//! What source, settler and receives share: the queue, what was counted, and what an operator is told.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use aws_sdk_sqs::config::SharedHttpClient;
use dispatch_core::{Token, telemetry::Meter};
use dispatch_sqs_client::SqsError;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{SqsSourceConfig, client::Client, meters::Meters, wire::Offsets};

/// How seldom a queue is asked how many of its messages are out, and from how many on that is said.
const LOOK: Duration = Duration::from_secs(600);
const MANY_OUT: u64 = 100_000;
/// How seldom it is said that receives are held up.
const TELL: Duration = Duration::from_secs(60);
/// How long the answer to that may take.
const GLANCE: Duration = Duration::from_millis(500);

/// What source, settler and receives share.
pub(super) struct Shared {
    pub(super) config: SqsSourceConfig,
    pub(super) fifo: bool,
    /// Receives give back what they bring: the gate is closed, or the source.
    pub(super) held: watch::Sender<bool>,
    pub(super) meters: Meters,
    /// When the queue was last asked how many messages are out, and whether they were too many.
    asked_in_flight: Mutex<Option<(Instant, bool)>>,
    /// When it was last said that receives are held up.
    told: Mutex<Option<Instant>>,
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

impl Shared {
    /// `http`: a client of the caller's own.
    pub(super) fn new(config: SqsSourceConfig, http: Option<SharedHttpClient>, meter: &Meter) -> Self {
        Self {
            fifo: config.place().is_fifo(),
            held: watch::Sender::new(false),
            meters: Meters::new(meter),
            asked_in_flight: Mutex::default(),
            told: Mutex::default(),
            http,
            client: tokio::sync::Mutex::default(),
            cut: watch::Sender::new(false),
            offsets: Mutex::default(),
            epoch: Instant::now(),
            #[cfg(feature = "sqs-s3")]
            payloads: config.s3_payload.clone().map(super::s3::Payloads::new),
            config,
        }
    }

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
        // No waiting mends it, and yet it is asked again: that must not go unseen, nor fill the log.
        if matches!(error, SqsError::Refused { .. }) && self.may_tell() {
            tracing::error!(%error, "SQS refuses what is asked: mend the queue or its key; it is asked again every minute");
        }
        if let SqsError::Throttled { code, queue, .. } = error {
            self.meters.throttled.add(1);
            if code == "OverLimit" && self.may_tell() {
                tracing::error!(%queue, "too many messages of this queue are out: nothing is received until some are deleted");
            }
        }
        if error.is_about_credentials() {
            self.client.lock().await.take();
        }
    }

    /// Whether it is time to say again what holds receives up.
    fn may_tell(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let may = told.is_none_or(|at| at.elapsed() >= TELL);
        if may {
            *told = Some(Instant::now());
        }
        may
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
        let Ok(Ok(answer)) = timeout(GLANCE, request.send()).await else {
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
