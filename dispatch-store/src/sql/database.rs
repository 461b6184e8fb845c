use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{conn::Work, error::SqlStoreError, hints::Hints};

/// Where the database is, connected to at first use.
#[derive(Debug)]
pub(super) struct Database {
    target: Target,
    engine: Mutex<Option<Arc<Engine>>>,
    /// Held while connecting, so that one caller does it for all.
    opening: tokio::sync::Mutex<()>,
    pub(super) hints: Arc<Hints>,
}

/// Which database, and how to open it.
#[derive(Debug)]
pub(super) enum Target {
    #[cfg(feature = "sqlite")]
    Sqlite(super::sqlite::Target),
    #[cfg(feature = "postgres")]
    Postgres(Box<super::postgres::Target>),
}

#[derive(Debug)]
enum Engine {
    #[cfg(feature = "sqlite")]
    Sqlite(super::sqlite::Sqlite),
    #[cfg(feature = "postgres")]
    Postgres(Box<super::postgres::Postgres>),
}

impl Database {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            engine: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            hints: Arc::default(),
        }
    }

    /// Does a piece of work; connects and migrates first if nobody has yet.
    pub(super) async fn perform<W: Work>(&self, work: W) -> Result<W::Answer, SqlStoreError> {
        match &*self.engine().await? {
            #[cfg(feature = "sqlite")]
            Engine::Sqlite(sqlite) => sqlite.perform(work).await,
            #[cfg(feature = "postgres")]
            Engine::Postgres(postgres) => postgres.perform(work).await,
        }
    }

    pub(super) async fn connect(&self) -> Result<(), SqlStoreError> {
        self.engine().await.map(drop)
    }

    async fn engine(&self) -> Result<Arc<Engine>, SqlStoreError> {
        if let Some(engine) = self.open() {
            return Ok(engine);
        }
        let _one = self.opening.lock().await;
        if let Some(engine) = self.open() {
            return Ok(engine);
        }
        let engine = Arc::new(match &self.target {
            #[cfg(feature = "sqlite")]
            Target::Sqlite(target) => Engine::Sqlite(target.open().await?),
            #[cfg(feature = "postgres")]
            Target::Postgres(target) => Engine::Postgres(Box::new(target.open(Arc::clone(&self.hints)).await?)),
        });
        *self.slot() = Some(Arc::clone(&engine));
        Ok(engine)
    }

    fn open(&self) -> Option<Arc<Engine>> {
        self.slot().as_ref().filter(|engine| engine.is_alive()).map(Arc::clone)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Engine>>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether others put things in of which an announcement can come too early: they announce nothing while they see
    /// that something waits, and when they commit it may be gone.
    pub(super) fn has_silent_news(&self) -> bool {
        match &self.target {
            #[cfg(feature = "sqlite")]
            Target::Sqlite(_) => false,
            #[cfg(feature = "postgres")]
            Target::Postgres(_) => true,
        }
    }

    /// Begins an enqueue, which may announce itself to other processes.
    #[cfg(feature = "postgres")]
    pub(super) fn enqueuing(&self, queue: &str) -> Option<super::ride::Enqueuing> {
        match self.slot().as_deref() {
            Some(Engine::Postgres(postgres)) => postgres.enqueuing(queue),
            _ => None,
        }
    }

    /// Tells other processes that `queue` has something new.
    pub(super) fn announce(&self, queue: &str) {
        self.hints.of(queue).bump();
        #[cfg(feature = "postgres")]
        if let Some(Engine::Postgres(postgres)) = self.slot().as_deref() {
            postgres.announce(queue);
        }
    }

    /// Asks to be told of what other processes announce for `queue`.
    pub(super) fn listen(&self, queue: &str) {
        #[cfg(feature = "postgres")]
        if let Some(Engine::Postgres(postgres)) = self.slot().as_deref() {
            postgres.listen(queue);
        }
        #[cfg(not(feature = "postgres"))]
        let _ = queue;
    }

    pub(super) async fn close(&self) {
        let engine = self.slot().take();
        match engine.as_deref() {
            #[cfg(feature = "sqlite")]
            Some(Engine::Sqlite(sqlite)) => sqlite.close().await,
            #[cfg(feature = "postgres")]
            Some(Engine::Postgres(postgres)) => postgres.close().await,
            None => {}
        }
    }
}

impl Engine {
    fn is_alive(&self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(sqlite) => sqlite.is_alive(),
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => postgres.is_alive(),
        }
    }
}
