use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbErr, RuntimeErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
    sqlx::{
        ConnectOptions as _, SqlitePool,
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
    },
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    conn::{Conn, Needs, Work},
    error::{SqlStoreError, code, remedy},
    migrate,
    writer::{Writer, write_all},
};

/// A database file and how it is to be written.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    /// Whether a commit waits for the disk.
    pub(super) full: bool,
    pub(super) busy_timeout: Duration,
    /// The most pages that the file may have; for tests of a full disk.
    pub(super) max_pages: Option<u32>,
}

/// An open database file: one connection that writes, few that read.
#[derive(Debug)]
pub(super) struct Sqlite {
    place: String,
    pool: SqlitePool,
    readers: SqlitePool,
    reader: DatabaseConnection,
    writer: Writer,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Target {
    pub(super) async fn open(&self) -> Result<Sqlite, SqlStoreError> {
        let place = self.path.display().to_string();
        let pool = self.connect().await.map_err(|source| self.failed(&place, source))?;
        let connection = DatabaseConnection::from(pool.clone());
        let begun = begin(&connection).await.map_err(|source| self.failed(&place, source))?;
        migrate::migrate(begun, migrate::SQLITE, &place).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(2)
            .test_before_acquire(false)
            .connect_lazy_with(self.options().pragma("query_only", "ON"));
        let (writer, jobs) = Writer::new(place.clone());
        let task = tokio::spawn(write_all(connection, self.full, place.clone(), jobs));
        Ok(Sqlite {
            place,
            pool,
            reader: readers.clone().into(),
            readers,
            writer,
            task: Mutex::new(Some(task)),
        })
    }

    fn failed(&self, place: &str, source: DbErr) -> SqlStoreError {
        let mut remedy = remedy(&source);
        if let Some(directory) = self
            .path
            .parent()
            .filter(|path| !path.as_os_str().is_empty() && !path.is_dir())
        {
            remedy = format!(
                ": there is no directory {}; create it, or set `path` to another place",
                directory.display()
            );
        }
        SqlStoreError::Open {
            place: place.to_owned(),
            remedy,
            source,
        }
    }

    fn options(&self) -> SqliteConnectOptions {
        let mut options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(if self.full {
                SqliteSynchronous::Full
            } else {
                SqliteSynchronous::Normal
            })
            .busy_timeout(self.busy_timeout)
            // 16 MiB of log between two checkpoints, and as much cache: pages of the queue's head are written over and over.
            .pragma("wal_autocheckpoint", "4000")
            .pragma("cache_size", "-16384")
            .statement_cache_capacity(512)
            .row_buffer_size(1024)
            .disable_statement_logging();
        if let Some(pages) = self.max_pages {
            options = options.pragma("max_page_count", pages.to_string());
        }
        options
    }

    /// The one connection that writes. Several processes that make the same file at the same time get in each other's
    /// way where SQLite does not wait by itself (the change to WAL), so this waits.
    async fn connect(&self) -> Result<SqlitePool, DbErr> {
        let end = Instant::now() + self.busy_timeout;
        loop {
            let pool = SqlitePoolOptions::new()
                .max_connections(1)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_with(self.options())
                .await
                .map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(error.into())));
            let busy = pool.as_ref().is_err_and(|error| {
                let code = code(error).and_then(|code| code.parse::<u32>().ok());
                code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
            });
            if !busy || Instant::now() >= end {
                return pool;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Opens a transaction that may write from the start, so that it waits for its turn here and nowhere else.
pub(super) async fn begin(connection: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    connection
        .begin_with_options(TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        })
        .await
}

impl Sqlite {
    pub(super) async fn perform<W: Work>(&self, work: W) -> Result<W::Answer, SqlStoreError> {
        if work.needs() == Needs::Read {
            return work
                .run(&Conn::pool(&self.reader))
                .await
                .map_err(|source| SqlStoreError::Work {
                    what: work.what(),
                    place: self.place.clone(),
                    remedy: remedy(&source),
                    source,
                });
        }
        self.writer.submit(work).await
    }

    pub(super) fn is_alive(&self) -> bool {
        self.writer.is_alive()
    }

    /// Finishes what was submitted, folds the log into the file and closes it.
    pub(super) async fn close(&self) {
        self.writer.end();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(place = self.place, %error, "writer failed");
        }
        self.readers.close().await;
        self.pool.close().await;
    }
}
