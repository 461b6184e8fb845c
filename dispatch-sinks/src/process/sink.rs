use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use async_trait::async_trait;
use dispatch_core::{
    Error, Message, Reply, Sink,
    config::{BuildContext, ConfigError},
};
use tokio::task::AbortHandle;

use super::{
    ProcessSinkConfig, ProcessSinkError, control,
    job::Job,
    launch::Launcher,
    manage,
    metrics::Metrics,
    pool::{Pool, Settings},
};

/// Hands each message, a task, to one of a pool of long-lived worker processes.
///
/// Workers start with [`open`](Sink::open), or at the first message, and end with [`close`](Sink::close); dropping the
/// sink kills them.
pub struct ProcessSink {
    pool: Arc<Pool>,
    /// Ends the manager, and with it every worker.
    manager: Mutex<Option<AbortHandle>>,
    started: AtomicBool,
}

impl ProcessSink {
    /// Checks `config` and makes the sink; starts nothing.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn new(config: ProcessSinkConfig, context: &BuildContext) -> Result<Self, ConfigError> {
        config.check()?;
        let launcher = Launcher::new(&config, &context.base_dir)?;
        let metrics = Metrics::new(&context.meter);
        let pool = Pool::new(Settings::of(&config), launcher, context.commands.clone(), metrics);
        let pool = Arc::new(pool);
        control::register(&pool);
        Ok(Self {
            pool,
            manager: Mutex::new(None),
            started: AtomicBool::new(false),
        })
    }

    /// Starts the manager, once.
    fn start(&self) {
        let mut manager = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        if manager.is_none() {
            let task = tokio::spawn(manage::run(Arc::downgrade(&self.pool)));
            *manager = Some(task.abort_handle());
            self.started.store(true, Relaxed);
        }
    }
}

impl std::fmt::Debug for ProcessSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessSink")
            .field("settings", &self.pool.settings)
            .finish_non_exhaustive()
    }
}

impl Drop for ProcessSink {
    fn drop(&mut self) {
        if let Some(manager) = &*self.manager.lock().unwrap_or_else(PoisonError::into_inner) {
            manager.abort();
        }
    }
}

/// Cancels a task that nobody waits for any more.
struct Waiting<'p> {
    pool: &'p Pool,
    number: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.pool.abandon(number);
        }
    }
}

#[async_trait]
impl Sink for ProcessSink {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let (job, outcome) = Job::new(&message)?;
        if !self.started.load(Relaxed) {
            self.start();
        }
        let number = self.pool.submit(job)?;
        let mut waiting = Waiting {
            pool: &self.pool,
            number: Some(number),
        };
        let outcome = outcome.await;
        waiting.number = None;
        Ok(outcome.unwrap_or(Err(ProcessSinkError::Closed))?)
    }

    async fn open(&self) -> Result<(), Error> {
        self.start();
        Ok(())
    }

    /// Looks for the program; starts nothing.
    async fn probe(&self) -> Result<(), Error> {
        self.pool
            .launcher
            .find()
            .map_err(|error| ProcessSinkError::NoWorkers(error.to_string()).into())
    }

    /// Tells every worker to end, cancels what they are at, and kills those that are still there after `stop_wait`.
    async fn close(&self) -> Result<(), Error> {
        self.pool.begin_close();
        if self.started.load(Relaxed) {
            loop {
                let ended = self.pool.ended.notified();
                tokio::pin!(ended);
                // From here on no end is missed.
                ended.as_mut().enable();
                if self.pool.lock().workers.iter().all(|worker| !worker.status.lives()) {
                    break;
                }
                ended.await;
            }
        }
        self.pool.launcher.close().await;
        Ok(())
    }
}
