use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use dispatch_core::{
    Capabilities, Error, Headers, Message, Received, Settler, Source, Store,
    config::{BuildContext, ConfigError},
    store::QueueSource,
    tasks::heed,
};
use smol_str::format_smolstr;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{ScheduleSourceConfig, latest::Latest};
use crate::slots::{Clock, Overlap, Ticker};

/// How long the slot that is being fired may take once the source closes.
const FAREWELL: Duration = Duration::from_secs(5);

/// Makes a message at each slot. The module's page says how.
pub struct ScheduleSource {
    /// Until the first `receive`.
    ticker: Option<Ticker>,
    ticking: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    fired: QueueSource,
    /// Whether others read the queue.
    elsewhere: bool,
    /// Where a later slot cancels an earlier one.
    latest: Option<Arc<Latest>>,
}

impl fmt::Debug for ScheduleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScheduleSource")
            .field("fired", &self.fired)
            .finish_non_exhaustive()
    }
}

impl ScheduleSource {
    /// Checks `config` and makes the source; fires nothing before the first `receive`.
    ///
    /// # Errors
    /// Names the field that is wrong: no time or two, a pattern or time zone that is none, a jitter beyond the interval.
    pub fn new(config: &ScheduleSourceConfig, context: &BuildContext) -> Result<Self, ConfigError> {
        Self::with_clock(config, context, Arc::new(SystemTime::now))
    }

    /// As [`new`](Self::new), by another clock than the system's; for tests.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_clock(
        config: &ScheduleSourceConfig,
        context: &BuildContext,
        clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    ) -> Result<Self, ConfigError> {
        let clock: Clock = clock;
        let schedule = format_smolstr!("{}:{}", context.pipeline, context.component);
        config.check_task()?;
        let elsewhere = config.queue.is_some();
        let queue = match &config.queue {
            Some(queue) => queue.as_str().into(),
            None => format_smolstr!("schedule:{schedule}"),
        };
        let count = Arc::<AtomicU64>::default();
        if elsewhere {
            // Whoever tells of a pipeline's producers tells of this one too.
            let count = Arc::clone(&count);
            context.commands.on("scheduled", move |_| {
                let count = count.load(Relaxed);
                async move { count.to_string() }
            });
        }
        let headers: Headers = config
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let payload = config.payload.clone();
        let fired = QueueSource::new(context.store.clone(), queue.as_str()).ordered(config.overlap.is_one_by_one());
        let latest = (config.overlap == Overlap::Cancel)
            .then(|| Arc::new(Latest::new(context.store.clone(), schedule.clone(), fired.settler())));
        Ok(Self {
            fired,
            elsewhere,
            latest,
            ticker: Some(Ticker {
                plan: config.plan()?,
                schedule,
                queue,
                store: context.store.clone(),
                clock,
                misfire: config.misfire,
                // What runs beside what is for the task to say.
                overlap: if elsewhere { Overlap::Allow } else { config.overlap },
                jitter: config.jitter.unwrap_or_default().0,
                since: None,
                make: Box::new(move |id, slot| {
                    Message::with_id_at(id, payload.clone(), slot).with_headers(headers.clone())
                }),
                heed: elsewhere.then_some(heed),
                fired: count,
            }),
            ticking: None,
        })
    }
}

#[async_trait]
impl Source for ScheduleSource {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.fired.capabilities();
        if self.latest.is_some() {
            capabilities.lease = Some(Latest::HEARS);
        }
        capabilities
    }

    fn keeps_letters_in(&self, store: &Arc<dyn Store>) -> bool {
        self.fired.keeps_letters_in(store)
    }

    fn settler(&self) -> Arc<dyn Settler> {
        match &self.latest {
            Some(latest) => Arc::clone(latest) as Arc<dyn Settler>,
            None => self.fired.settler(),
        }
    }

    /// The slots are fired by a task of their own, whether or not somebody asks: what waits is in the Store.
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        if let Some(ticker) = self.ticker.take() {
            let (stop, stopped) = oneshot::channel();
            self.ticking = Some((stop, tokio::spawn(ticker.run(stopped))));
        }
        if self.elsewhere {
            return std::future::pending().await;
        }
        loop {
            let batch = match (self.fired.receive(max).await?, &self.latest) {
                (Received::Batch(batch), Some(latest)) => latest.keep(batch).await?,
                (received, _) => return Ok(received),
            };
            if !batch.is_empty() {
                return Ok(Received::Batch(batch));
            }
        }
    }

    async fn hold(&mut self) -> Result<(), Error> {
        self.fired.hold().await
    }

    async fn probe(&mut self) -> Result<(), Error> {
        self.fired.probe().await
    }

    async fn close(&mut self) -> Result<(), Error> {
        if let Some((stop, ticking)) = self.ticking.take() {
            drop(stop);
            if tokio::time::timeout(FAREWELL, ticking).await.is_err() {
                tracing::warn!("a slot was not fired in time; it fires at the next start");
            }
        }
        self.fired.close().await
    }
}
