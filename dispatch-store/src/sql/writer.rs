//! Group commit: what many callers want written goes to disk in one transaction.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, RuntimeErr, sqlx};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{
    conn::{Conn, Needs, Work},
    error::{SqlStoreError, remedy},
    sqlite::begin,
};

/// The most pieces of work in one transaction.
const GROUP: usize = 256;
/// How long claims and completions may be without being on disk.
const LIGHT: Duration = Duration::from_millis(200);

/// Where work is handed in.
#[derive(Debug)]
pub(super) struct Writer {
    place: String,
    jobs: Mutex<Option<mpsc::UnboundedSender<Box<dyn Job>>>>,
}

/// A piece of work with its answer on the way.
#[async_trait]
pub(super) trait Job: Send {
    fn needs(&self) -> Needs;
    async fn run(&mut self, conn: &Conn<'_>) -> Result<(), DbErr>;
    fn finish(self: Box<Self>, place: &str, outcome: Result<(), DbErr>);
}

struct Pending<W: Work> {
    work: W,
    answer: Option<W::Answer>,
    reply: oneshot::Sender<Result<W::Answer, SqlStoreError>>,
}

#[async_trait]
impl<W: Work> Job for Pending<W> {
    fn needs(&self) -> Needs {
        self.work.needs()
    }

    async fn run(&mut self, conn: &Conn<'_>) -> Result<(), DbErr> {
        self.answer = Some(self.work.run(conn).await?);
        Ok(())
    }

    fn finish(self: Box<Self>, place: &str, outcome: Result<(), DbErr>) {
        let answer = match (outcome, self.answer) {
            (Ok(()), Some(answer)) => Ok(answer),
            (Ok(()), None) => Err(SqlStoreError::Closed {
                what: self.work.what(),
                place: place.to_owned(),
            }),
            (Err(source), _) => Err(SqlStoreError::Work {
                what: self.work.what(),
                place: place.to_owned(),
                remedy: remedy(&source),
                source,
            }),
        };
        if self.reply.send(answer).is_err() {
            tracing::trace!("caller left before its answer");
        }
    }
}

impl Writer {
    pub(super) fn new(place: String) -> (Self, mpsc::UnboundedReceiver<Box<dyn Job>>) {
        // Unbounded, because each caller waits for its own answer: there are never more jobs than callers.
        let (jobs, receiver) = mpsc::unbounded_channel();
        let jobs = Mutex::new(Some(jobs));
        (Self { place, jobs }, receiver)
    }

    pub(super) async fn submit<W: Work>(&self, work: W) -> Result<W::Answer, SqlStoreError> {
        let closed = SqlStoreError::Closed {
            what: work.what(),
            place: self.place.clone(),
        };
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            work,
            answer: None,
            reply,
        };
        let sent = match &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(jobs) => jobs.send(Box::new(pending)).is_ok(),
            None => false,
        };
        if !sent {
            return Err(closed);
        }
        answer.await.unwrap_or(Err(closed))
    }

    pub(super) fn is_alive(&self) -> bool {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().is_some_and(|jobs| !jobs.is_closed())
    }

    /// Takes nothing more; what was submitted is still done.
    pub(super) fn end(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Does the jobs until there can be no more: while one transaction goes to disk, the next group gathers.
pub(super) async fn write_all(
    connection: DatabaseConnection,
    full: bool,
    place: String,
    mut jobs: mpsc::UnboundedReceiver<Box<dyn Job>>,
) {
    let mut group = Vec::with_capacity(GROUP);
    let mut commits = Commits {
        full,
        waits: full,
        unsafe_since: None,
    };
    while let Some(()) = gather(&connection, &mut commits, &mut jobs, &mut group).await {
        match write(&connection, &mut commits, &mut group).await {
            Ok(()) => group.drain(..).for_each(|job| job.finish(&place, Ok(()))),
            // One of them failed and took the others with it, so each gets a transaction of its own.
            Err(_) if group.len() > 1 => {
                for mut job in group.drain(..) {
                    let outcome = write(&connection, &mut commits, std::slice::from_mut(&mut job)).await;
                    job.finish(&place, outcome);
                }
            }
            Err(error) => group.drain(..).for_each(|job| job.finish(&place, Err(error.clone()))),
        }
    }
}

/// Waits for work; while there is none, what was left to the system's buffers is brought to disk.
async fn gather(
    connection: &DatabaseConnection,
    commits: &mut Commits,
    jobs: &mut mpsc::UnboundedReceiver<Box<dyn Job>>,
    group: &mut Vec<Box<dyn Job>>,
) -> Option<()> {
    if commits.unsafe_since.is_some() {
        match timeout(LIGHT, jobs.recv_many(group, GROUP)).await {
            Ok(0) => return None,
            Ok(_) => return Some(()),
            Err(_) => {
                let checkpoint = connection.execute_unprepared("PRAGMA wal_checkpoint(PASSIVE)").await;
                if let Err(error) = checkpoint {
                    tracing::debug!(%error, "checkpoint failed");
                }
                commits.unsafe_since = None;
            }
        }
    }
    (jobs.recv_many(group, GROUP).await > 0).then_some(())
}

/// Whether commits wait for the disk: as configured, and as the connection is set now.
struct Commits {
    full: bool,
    waits: bool,
    /// Since when there are commits that are not on disk.
    unsafe_since: Option<Instant>,
}

async fn write(
    connection: &DatabaseConnection,
    commits: &mut Commits,
    group: &mut [Box<dyn Job>],
) -> Result<(), DbErr> {
    // Claims and completions need not reach the disk by themselves: lost with the machine, they are messages delivered
    // again. So that these stay few, they never wait for long.
    let overdue = commits.unsafe_since.is_some_and(|since| since.elapsed() >= LIGHT);
    let waits = commits.full
        && (overdue
            || group
                .iter()
                .any(|job| matches!(job.needs(), Needs::Transaction | Needs::Statement)));
    if waits != commits.waits {
        let synchronous = if waits {
            "PRAGMA synchronous = FULL"
        } else {
            "PRAGMA synchronous = NORMAL"
        };
        connection.execute_unprepared(synchronous).await?;
        commits.waits = waits;
    }
    let transaction = begin(connection).await?;
    match run(&transaction, group).await {
        Ok(()) => {
            if let Err(error) = transaction.commit().await {
                replace(connection, commits).await?;
                return Err(error);
            }
            commits.unsafe_since = match commits.unsafe_since {
                _ if waits || !commits.full => None,
                Some(since) => Some(since),
                None => Some(Instant::now()),
            };
            Ok(())
        }
        Err(error) => {
            // A full disk and the like have rolled back already; what the connection believes is wrong then.
            if transaction.rollback().await.is_err() {
                replace(connection, commits).await?;
            }
            Err(error)
        }
    }
}

/// Closes the connection that writes; the pool opens another one at the next use.
async fn replace(connection: &DatabaseConnection, commits: &mut Commits) -> Result<(), DbErr> {
    let failed = |error: sqlx::Error| DbErr::Conn(RuntimeErr::SqlxError(error.into()));
    let broken = connection
        .get_sqlite_connection_pool()
        .acquire()
        .await
        .map_err(failed)?;
    commits.waits = commits.full;
    if let Err(error) = broken.close().await {
        tracing::debug!(%error, "close of a broken connection failed");
    }
    Ok(())
}

async fn run(transaction: &DatabaseTransaction, group: &mut [Box<dyn Job>]) -> Result<(), DbErr> {
    let conn = Conn::open(transaction);
    for job in group {
        job.run(&conn).await?;
    }
    Ok(())
}
