//! A few connections to one server, lent to one piece of work at a time.
//!
//! Unlike a general pool it asks the server nothing on the way in or out, and a connection whose work was dropped
//! midway is closed, since nobody knows what it was doing.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sea_orm::{
    DbErr,
    sqlx::{self, Connection, PgConnection},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::{
    conn::{Conn, Needs, Work, failed},
    error::is_lost,
    postgres::Target,
    servers::Servers,
};

/// A connection that idled for longer is asked whether it lives before it is used.
const STALE: Duration = Duration::from_secs(30);

/// What is connected, and how to connect more.
#[derive(Debug)]
pub(super) struct Connections {
    place: String,
    servers: Servers,
    /// What every connection is told first; where a pooler stands between, every transaction.
    setting: String,
    pooled: bool,
    connect_timeout: Duration,
    permits: Semaphore,
    idle: Mutex<Idle>,
    open: AtomicBool,
}

#[derive(Debug, Default)]
struct Idle {
    /// With the time each was put back; the last one is used first.
    connections: Vec<(PgConnection, Instant)>,
    /// When one was found dead; those that idle since before are suspect.
    lost: Option<Instant>,
}

/// A connection for one piece of work. Dropped, it is closed.
pub(super) struct Lent<'a> {
    pub(super) connection: PgConnection,
    _permit: SemaphorePermit<'a>,
}

/// How long a server may take for one piece of work: far longer than any takes that is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has the transaction not wait for the disk.
const LIGHT: &str = "; SET LOCAL synchronous_commit = off";

impl Connections {
    pub(super) fn new(servers: Servers, target: &Target) -> Self {
        Self {
            place: servers.place(),
            servers,
            setting: target.setting(),
            pooled: target.is_pooled(),
            connect_timeout: target.connect_timeout,
            permits: Semaphore::new(usize::try_from(target.max_connections).unwrap_or(Semaphore::MAX_PERMITS)),
            idle: Mutex::default(),
            open: AtomicBool::new(true),
        }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Does a piece of work once.
    pub(super) async fn perform<W: Work>(&self, work: &W) -> Result<W::Answer, DbErr> {
        let mut lent = self.take().await?;
        let mut conn = Conn::Postgres(&mut lent.connection, !self.pooled);
        let run = async {
            let light = if work.needs() == Needs::Light { LIGHT } else { "" };
            match work.needs() {
                // The next statement may be another connection's: only a transaction is one from end to end.
                _ if self.pooled => in_transaction(work, &mut conn, &(self.begin() + light)).await,
                Needs::Read | Needs::Statement | Needs::LightStatement => work.run(&mut conn).await,
                Needs::Transaction | Needs::Light => in_transaction(work, &mut conn, &format!("BEGIN{light}")).await,
            }
        };
        // A server that vanished without a word: the connection is dropped, not put back.
        let Ok(answer) = timeout(PATIENCE, run).await else {
            self.idle().lost = Some(Instant::now());
            return Err(failed(sqlx::Error::PoolTimedOut));
        };
        match &answer {
            Err(error) if is_lost(error) => self.idle().lost = Some(Instant::now()),
            _ => self.put(lent),
        }
        answer
    }

    /// One that idles, or a new one.
    pub(super) async fn take(&self) -> Result<Lent<'_>, DbErr> {
        let late = |_| failed(sqlx::Error::PoolTimedOut);
        let closed = |_| failed(sqlx::Error::PoolClosed);
        let permit = timeout(self.connect_timeout, self.permits.acquire()).await;
        let permit = permit.map_err(late)?.map_err(closed)?;
        let connection = match self.idling().await {
            Some(connection) => connection,
            None => timeout(self.connect_timeout, self.connect())
                .await
                .map_err(late)?
                .map_err(failed)?,
        };
        Ok(Lent {
            connection,
            _permit: permit,
        })
    }

    async fn idling(&self) -> Option<PgConnection> {
        loop {
            let (mut connection, suspect) = {
                let mut idle = self.idle();
                let (connection, since) = idle.connections.pop()?;
                let suspect = since.elapsed() >= STALE || idle.lost.is_some_and(|lost| since <= lost);
                (connection, suspect)
            };
            if !suspect || matches!(timeout(self.connect_timeout, connection.ping()).await, Ok(Ok(()))) {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.servers.connect(self.connect_timeout).await?;
        if self.pooled {
            return Ok(connection);
        }
        let setting = sqlx::raw_sql(sqlx::AssertSqlSafe(self.setting.clone()));
        setting.execute(&mut connection).await?;
        Ok(connection)
    }

    /// What begins a transaction.
    pub(super) fn begin(&self) -> String {
        if self.pooled {
            format!("BEGIN; {}", self.setting.replace("SET ", "SET LOCAL "))
        } else {
            "BEGIN".to_owned()
        }
    }

    pub(super) fn put(&self, lent: Lent<'_>) {
        if self.is_open() {
            self.idle().connections.push((lent.connection, Instant::now()));
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) async fn close(&self) {
        self.open.store(false, Ordering::Release);
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle());
        for (connection, _) in idle.connections {
            if let Err(error) = connection.close().await {
                tracing::debug!(place = self.place, %error, "close of a connection failed");
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn in_transaction<W: Work>(work: &W, conn: &mut Conn<'_>, begin: &str) -> Result<W::Answer, DbErr> {
    if begin == "BEGIN" {
        conn.run(begin, Vec::new()).await?;
    } else {
        conn.script(begin).await?;
    }
    let answer = async {
        let answer = work.run(conn).await?;
        conn.run("COMMIT", Vec::new()).await?;
        Ok(answer)
    };
    let answer = answer.await;
    if let Err(error) = &answer
        && !is_lost(error)
    {
        conn.run("ROLLBACK", Vec::new()).await?;
    }
    answer
}
