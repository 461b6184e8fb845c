use std::{sync::Arc, time::Duration};

use dispatch_core::config::Secret;
use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{self, Connection, Executor, PgConnection},
};

use super::{
    conn::{Conn, Work},
    connections::Connections,
    error::{SqlStoreError, is_conflict, remedy},
    hints::Hints,
    migrate,
    notify::Notifier,
    ride::Enqueuing,
    servers::Servers,
};

/// How often work that collided with somebody else's is done again.
const TRIES: u32 = 10;
/// The advisory lock under which schemas are migrated: "dispatch" in ASCII.
const LOCK: i64 = 0x6469_7370_6174_6368;

/// A server and how to reach it.
#[derive(Debug)]
pub(super) struct Target {
    /// Parsed from the URL; holds the password and is never printed.
    pub(super) url: Secret,
    /// The server itself, where `url` is that of a pooler in transaction mode.
    pub(super) listen_url: Option<Secret>,
    pub(super) schema: Option<String>,
    pub(super) max_connections: u32,
    pub(super) connect_timeout: Duration,
    /// Whether notifications are sent and heard.
    pub(super) listens: bool,
}

/// Connections to a server.
#[derive(Debug)]
pub(super) struct Postgres {
    connections: Arc<Connections>,
    /// None: who waits polls.
    notifier: Option<Notifier>,
}

impl Target {
    /// What the URL says, without connecting.
    pub(super) fn servers(&self) -> Result<Servers, sqlx::Error> {
        let (pooled, named) = (self.is_pooled(), self.url.expose().contains("application_name="));
        let servers = Servers::parse(self.url.expose())?;
        Ok(servers.map(|mut options| {
            if pooled {
                // A prepared statement belongs to one connection, and the next one may be another.
                options = options.statement_cache_capacity(0);
            }
            if named {
                options
            } else {
                options.application_name("dispatch")
            }
        }))
    }

    /// Whether a pooler stands between, for which the next transaction may be another connection.
    pub(super) const fn is_pooled(&self) -> bool {
        self.listen_url.is_some()
    }

    pub(super) fn listen_url_is_wrong(&self) -> bool {
        self.listen_servers().is_some_and(|servers| servers.is_err())
    }

    fn listen_servers(&self) -> Option<Result<Servers, sqlx::Error>> {
        self.listen_url.as_ref().map(|url| Servers::parse(url.expose()))
    }

    pub(super) async fn open(&self, hints: Arc<Hints>) -> Result<Postgres, SqlStoreError> {
        let nowhere = |source| self.failed("the server in `url`", source);
        let servers = self.servers().map_err(|error| nowhere(wrap(error)))?;
        let place = servers.place();
        // A direct connection first: it says why it fails, where a pool would say that it waited.
        let direct = servers.connect(self.connect_timeout).await;
        let mut direct = direct.map_err(|error| self.failed(&place, wrap(error)))?;
        if let Some(schema) = &self.schema {
            self.create_schema(&mut direct, schema)
                .await
                .map_err(|error| self.failed(&place, wrap(error)))?;
        }
        if let Err(error) = direct.close().await {
            tracing::debug!(%error, "close of the first connection failed");
        }

        let connections = Arc::new(Connections::new(servers.clone(), self));
        let mut first = connections.take().await.map_err(|source| self.failed(&place, source))?;
        let begin = format!("{}; SELECT pg_advisory_xact_lock({LOCK})", connections.begin());
        migrate::migrate(
            &mut Conn::Postgres(&mut first.connection, !self.is_pooled()),
            &begin,
            migrate::POSTGRES,
            &place,
        )
        .await?;
        connections.put(first);
        let listening = match self.listen_servers() {
            Some(listening) => listening.map_err(|error| nowhere(wrap(error)))?,
            None => servers,
        };
        let notifier = self
            .listens
            .then(|| Notifier::new(Arc::clone(&connections), listening, hints));
        Ok(Postgres { connections, notifier })
    }

    fn failed(&self, place: &str, source: DbErr) -> SqlStoreError {
        SqlStoreError::Open {
            place: place.to_owned(),
            remedy: remedy(&source),
            source,
        }
    }

    /// Makes the schema, one process at a time: `IF NOT EXISTS` alone still collides with itself.
    async fn create_schema(&self, connection: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
        let create = format!(
            "BEGIN; SELECT pg_advisory_xact_lock({LOCK}); CREATE SCHEMA IF NOT EXISTS {}; COMMIT",
            quoted(schema)
        );
        connection
            .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(create)))
            .await
            .map(drop)
    }

    /// What every connection is told first.
    pub(super) fn setting(&self) -> String {
        let mut setting = String::from(
            // Plans that do not depend on when the tables were last analysed: each statement has its index.
            "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_mergejoin = off; SET jit = off;
             SET plan_cache_mode = force_generic_plan;
             -- Who has waited for a lock is to see what was stored meanwhile, whatever the role's default.
             SET default_transaction_isolation = 'read committed'",
        );
        if let Some(schema) = &self.schema {
            setting.push_str(&format!("; SET search_path = {}", quoted(schema)));
        }
        setting
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn wrap(error: sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(error.into()))
}

impl Postgres {
    pub(super) async fn perform<W: Work>(&self, work: W) -> Result<W::Answer, SqlStoreError> {
        let mut tries = 1;
        loop {
            let source = match self.connections.perform(&work).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !is_conflict(&source) || tries >= TRIES {
                return Err(SqlStoreError::Work {
                    what: work.what(),
                    place: self.connections.place().to_owned(),
                    remedy: remedy(&source),
                    source,
                });
            }
            tries += 1;
        }
    }

    /// Begins an enqueue; none where nobody is told of it.
    pub(super) fn enqueuing(&self, queue: &str) -> Option<Enqueuing> {
        self.notifier.as_ref().map(|notifier| notifier.enqueuing(queue))
    }

    pub(super) fn announce(&self, queue: &str) {
        if let Some(notifier) = &self.notifier {
            notifier.announce(queue);
        }
    }

    pub(super) fn listen(&self, queue: &str) {
        if let Some(notifier) = &self.notifier {
            notifier.listen(queue);
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.connections.is_open()
    }

    pub(super) async fn close(&self) {
        if let Some(notifier) = &self.notifier {
            notifier.end();
        }
        self.connections.close().await;
    }
}
