use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sea_orm::{
    DbErr,
    sqlx::{
        ConnectOptions as _, Connection as _, SqliteConnection,
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
    },
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    conn::{Conn, Needs, Work, failed},
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

/// An open database file: one connection that writes, one that reads.
#[derive(Debug)]
pub(super) struct Sqlite {
    target: Target,
    place: String,
    reader: tokio::sync::Mutex<Option<SqliteConnection>>,
    writer: Writer,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Target {
    pub(super) async fn open(&self) -> Result<Sqlite, SqlStoreError> {
        let place = self.path.display().to_string();
        let mut connection = self.connect().await.map_err(|source| self.refused(&place, source))?;
        let begin = "BEGIN IMMEDIATE";
        migrate::migrate(&mut Conn::sqlite(&mut connection), begin, migrate::SQLITE, &place).await?;
        let (writer, jobs) = Writer::new(place.clone());
        let task = tokio::spawn(write_all(connection, self.full, place.clone(), jobs));
        Ok(Sqlite {
            target: self.clone(),
            place,
            reader: tokio::sync::Mutex::default(),
            writer,
            task: Mutex::new(Some(task)),
        })
    }

    fn refused(&self, place: &str, source: DbErr) -> SqlStoreError {
        let mut remedy = remedy(&source);
        let parent = self.path.parent().filter(|path| !path.as_os_str().is_empty());
        if let Some(directory) = parent.filter(|path| !path.is_dir()) {
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
        let synchronous = if self.full {
            SqliteSynchronous::Full
        } else {
            SqliteSynchronous::Normal
        };
        let mut options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
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

    /// Several processes that make the same file at the same time get in each other's way where SQLite does not wait by
    /// itself (the change to WAL), so this waits.
    async fn connect(&self) -> Result<SqliteConnection, DbErr> {
        let end = Instant::now() + self.busy_timeout;
        loop {
            let connection = SqliteConnection::connect_with(&self.options()).await.map_err(failed);
            let busy = connection.as_ref().is_err_and(|error| {
                let code = code(error).and_then(|code| code.parse::<u32>().ok());
                code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
            });
            if !busy || Instant::now() >= end {
                return connection;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Sqlite {
    pub(super) async fn perform<W: Work>(&self, work: W) -> Result<W::Answer, SqlStoreError> {
        if work.needs() != Needs::Read {
            return self.writer.submit(work).await;
        }
        self.read(&work).await.map_err(|source| SqlStoreError::Work {
            what: work.what(),
            place: self.place.clone(),
            remedy: remedy(&source),
            source,
        })
    }

    async fn read<W: Work>(&self, work: &W) -> Result<W::Answer, DbErr> {
        let mut reader = self.reader.lock().await;
        // Taken out while it is used: one that a dropped read leaves behind is not used again.
        let mut connection = match reader.take() {
            Some(connection) => connection,
            None => self.target.connect().await?,
        };
        let answer = work.run(&mut Conn::sqlite(&mut connection)).await?;
        *reader = Some(connection);
        Ok(answer)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.writer.is_alive()
    }

    /// Finishes what was submitted, folds the log into the file and closes it.
    pub(super) async fn close(&self) {
        self.writer.end();
        if let Some(reader) = self.reader.lock().await.take()
            && let Err(error) = reader.close().await
        {
            tracing::debug!(place = self.place, %error, "close of the reader failed");
        }
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(place = self.place, %error, "writer failed");
        }
    }
}
