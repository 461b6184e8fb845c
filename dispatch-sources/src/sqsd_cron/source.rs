use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use dispatch_core::{
    Capabilities, Error, Received, Settler, Source, Store,
    config::{BuildContext, ConfigError},
    store::QueueSource,
};
use smol_str::format_smolstr;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    SqsdCronSourceConfig, file,
    tasks::{Tasks, text_of},
};

/// How long slots that are being fired may take once the source closes.
const FAREWELL: Duration = Duration::from_secs(5);

/// Makes a message for each periodic task. The module's page says how.
pub struct SqsdCronSource {
    /// Until the first `receive`.
    tasks: Option<Tasks>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    fired: QueueSource,
}

impl fmt::Debug for SqsdCronSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsdCronSource")
            .field("fired", &self.fired)
            .finish_non_exhaustive()
    }
}

impl SqsdCronSource {
    /// Reads the file and makes the source; fires nothing before the first `receive`.
    ///
    /// # Errors
    /// Names what is wrong in the file: no version or one that is not known, a task without name, url or schedule, two of
    /// one name, a schedule or time zone that is none; or a file that cannot be read, but for one that is not there.
    pub fn new(config: &SqsdCronSourceConfig, context: &BuildContext) -> Result<Self, ConfigError> {
        Self::with_clock(config, context, Arc::new(SystemTime::now))
    }

    /// As [`new`](Self::new), by another clock than the system's; for tests.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_clock(
        config: &SqsdCronSourceConfig,
        context: &BuildContext,
        clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    ) -> Result<Self, ConfigError> {
        if config.reload.0.is_zero() {
            return Err(ConfigError::at(
                "reload",
                "looking at the file without a pause leaves no time for anything else",
            )
            .help("write \"5s\""));
        }
        let path = context.base_dir.join(&config.file);
        let wrong = |what: String| ConfigError::at("file", format!("{}: {what}", path.display()));
        let text = text_of(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if text.is_none() {
            tracing::info!(file = %path.display(), "no file of periodic tasks: there are none until it appears");
        }
        let tasks = file::read(text.as_deref().unwrap_or_default(), &config.timezone).map_err(wrong)?;
        let schedule = format_smolstr!("{}:{}", context.pipeline, context.component);
        let queue = format_smolstr!("schedule:{schedule}");
        Ok(Self {
            fired: QueueSource::new(context.store.clone(), queue.as_str()),
            tasks: Some(Tasks {
                path,
                text,
                tasks,
                timezone: config.timezone.clone(),
                misfire: config.misfire,
                reload: config.reload.0,
                store: context.store.clone(),
                clock,
                schedule,
                queue,
            }),
            running: None,
        })
    }
}

#[async_trait]
impl Source for SqsdCronSource {
    fn capabilities(&self) -> Capabilities {
        self.fired.capabilities()
    }

    fn keeps_letters_in(&self, store: &Arc<dyn Store>) -> bool {
        self.fired.keeps_letters_in(store)
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.fired.settler()
    }

    /// The slots are fired by tasks of their own, whether or not somebody asks: what waits is in the Store.
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        if let Some(tasks) = self.tasks.take() {
            let (stop, stopped) = oneshot::channel();
            self.running = Some((stop, tokio::spawn(tasks.run(stopped))));
        }
        self.fired.receive(max).await
    }

    async fn hold(&mut self) -> Result<(), Error> {
        self.fired.hold().await
    }

    async fn probe(&mut self) -> Result<(), Error> {
        self.fired.probe().await
    }

    async fn close(&mut self) -> Result<(), Error> {
        if let Some((stop, running)) = self.running.take() {
            drop(stop);
            if tokio::time::timeout(FAREWELL, running).await.is_err() {
                tracing::warn!("a slot was not fired in time; it fires at the next start");
            }
        }
        self.fired.close().await
    }
}
