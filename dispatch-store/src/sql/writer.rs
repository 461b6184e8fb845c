//! Group commit: what many callers want written goes to disk in one transaction.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sqlx::{Connection as _, SqliteConnection},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{
    conn::{Conn, Needs, Work},
    error::{SqlStoreError, remedy},
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
    async fn run(&mut self, conn: &mut Conn<'_>) -> Result<(), DbErr>;
    fn finish(self: Box<Self>, place: &str, outcome: Result<(), DbErr>);
}

struct Pending<W: Work> {
    work: W,
    answer: Option<Result<W::Answer, DbErr>>,
    reply: oneshot::Sender<Result<W::Answer, SqlStoreError>>,
}

#[async_trait]
impl<W: Work> Job for Pending<W> {
    fn needs(&self) -> Needs {
        self.work.needs()
    }

    async fn run(&mut self, conn: &mut Conn<'_>) -> Result<(), DbErr> {
        self.answer = Some(match self.work.run(conn).await {
            // An answer that cannot be read is no reason to do again what is done.
            Err(error) if !conn.has_committed() => return Err(error),
            answer => answer,
        });
        Ok(())
    }

    fn finish(self: Box<Self>, place: &str, outcome: Result<(), DbErr>) {
        let answer = match outcome.and(self.answer.transpose()) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(SqlStoreError::Closed {
                what: self.work.what(),
                place: place.to_owned(),
            }),
            Err(source) => Err(SqlStoreError::Work {
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
    mut connection: SqliteConnection,
    full: bool,
    place: String,
    mut jobs: mpsc::UnboundedReceiver<Box<dyn Job>>,
) {
    let mut group = Vec::with_capacity(GROUP);
    let mut commits = Commits {
        full,
        waits: Some(full),
        unsafe_since: None,
    };
    while let Some(()) = gather(&mut connection, &mut commits, &mut jobs, &mut group).await {
        match write(&mut connection, &mut commits, &mut group).await {
            Ok(()) => group.drain(..).for_each(|job| job.finish(&place, Ok(()))),
            // One of them failed and took the others with it, so each gets a transaction of its own.
            Err(_) if group.len() > 1 => {
                for mut job in group.drain(..) {
                    let outcome = write(&mut connection, &mut commits, std::slice::from_mut(&mut job)).await;
                    job.finish(&place, outcome);
                }
            }
            Err(error) => group.drain(..).for_each(|job| job.finish(&place, Err(error.clone()))),
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(place, %error, "close failed");
    }
}

/// Waits for work; while there is none, what was left to the system's buffers is brought to disk.
async fn gather(
    connection: &mut SqliteConnection,
    commits: &mut Commits,
    jobs: &mut mpsc::UnboundedReceiver<Box<dyn Job>>,
    group: &mut Vec<Box<dyn Job>>,
) -> Option<()> {
    if commits.unsafe_since.is_some() {
        match timeout(LIGHT, jobs.recv_many(group, GROUP)).await {
            Ok(0) => return None,
            Ok(_) => return Some(()),
            Err(_) => {
                let checkpoint = Conn::sqlite(connection).script("PRAGMA wal_checkpoint(PASSIVE)").await;
                if let Err(error) = checkpoint {
                    tracing::debug!(%error, "checkpoint failed");
                }
                commits.unsafe_since = None;
            }
        }
    }
    (jobs.recv_many(group, GROUP).await > 0).then_some(())
}

/// Whether commits wait for the disk: as configured, and as the connection is set now, if that is known.
struct Commits {
    full: bool,
    waits: Option<bool>,
    /// Since when there are commits that are not on disk.
    unsafe_since: Option<Instant>,
}

async fn write(
    connection: &mut SqliteConnection,
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
    // A pragma is obeyed each time it is run, though the statement is kept prepared: it prepares itself again.
    let begin = match (commits.waits == Some(waits), waits) {
        (true, _) => "BEGIN IMMEDIATE",
        (false, true) => "PRAGMA synchronous = FULL; BEGIN IMMEDIATE",
        (false, false) => "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE",
    };
    commits.waits = None;
    let mut conn = Conn::transaction(connection, begin);
    if let Err(error) = run(&mut conn, group).await {
        // A full disk and the like have rolled back already, and then there is nothing to roll back.
        if let Err(error) = conn.run("ROLLBACK", Vec::new()).await {
            tracing::debug!(%error, "nothing to roll back");
        }
        return Err(error);
    }
    commits.waits = Some(waits);
    commits.unsafe_since = match commits.unsafe_since {
        _ if waits || !commits.full => None,
        Some(since) => Some(since),
        None => Some(Instant::now()),
    };
    Ok(())
}

async fn run(conn: &mut Conn<'_>, group: &mut [Box<dyn Job>]) -> Result<(), DbErr> {
    let Some((last, others)) = group.split_last_mut() else {
        return Ok(());
    };
    for job in others {
        job.run(conn).await?;
    }
    conn.ends_with_next();
    last.run(conn).await?;
    conn.commit().await
}
