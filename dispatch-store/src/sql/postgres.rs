use std::{str::FromStr, sync::Arc, time::Duration};

use dispatch_core::config::Secret;
use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{self, ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions},
};

use super::{
    conn::{Conn, Work},
    connections::Connections,
    error::{SqlStoreError, is_conflict, remedy},
    hints::Hints,
    migrate,
    notify::Notifier,
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
}

/// Connections to a server.
#[derive(Debug)]
pub(super) struct Postgres {
    connections: Arc<Connections>,
    notifier: Notifier,
}

impl Target {
    /// What the URL says, without connecting.
    pub(super) fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        let mut options = PgConnectOptions::from_str(self.url.expose())?;
        if self.is_pooled() {
            // A prepared statement belongs to one connection, and the next one may be another.
            options = options.statement_cache_capacity(0);
        }
        if !self.url.expose().contains("application_name=") {
            options = options.application_name("dispatch");
        }
        Ok(options.disable_statement_logging())
    }

    /// Whether a pooler stands between, for which the next transaction may be another connection.
    pub(super) const fn is_pooled(&self) -> bool {
        self.listen_url.is_some()
    }

    pub(super) fn listen_url_is_wrong(&self) -> bool {
        self.listen_options().is_some_and(|options| options.is_err())
    }

    fn listen_options(&self) -> Option<Result<PgConnectOptions, sqlx::Error>> {
        let url = self.listen_url.as_ref()?;
        Some(PgConnectOptions::from_str(url.expose()).map(ConnectOptions::disable_statement_logging))
    }

    pub(super) async fn open(&self, hints: Arc<Hints>) -> Result<Postgres, SqlStoreError> {
        let nowhere = |source| self.failed("the server in `url`", source);
        let options = self.options().map_err(|error| nowhere(wrap(error)))?;
        let place = place(&options);
        // A direct connection first: it says why it fails, where a pool would say that it waited.
        let direct = tokio::time::timeout(self.connect_timeout, PgConnection::connect_with(&options)).await;
        let direct = direct.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
        let mut direct = direct.map_err(|error| self.failed(&place, wrap(error)))?;
        if let Some(schema) = &self.schema {
            self.create_schema(&mut direct, schema)
                .await
                .map_err(|error| self.failed(&place, wrap(error)))?;
        }
        if let Err(error) = direct.close().await {
            tracing::debug!(%error, "close of the first connection failed");
        }

        let connections = Arc::new(Connections::new(place.clone(), options.clone(), self));
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
        let listening = match self.listen_options() {
            Some(options) => options.map_err(|error| nowhere(wrap(error)))?,
            None => options,
        };
        let notifier = Notifier::new(Arc::clone(&connections), listening, hints);
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
             SET plan_cache_mode = force_generic_plan",
        );
        if let Some(schema) = &self.schema {
            setting.push_str(&format!("; SET search_path = {}", quoted(schema)));
        }
        setting
    }
}

/// The server without its password.
fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_default();
    format!("postgres://{}:{}/{database}", options.get_host(), options.get_port())
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

    pub(super) fn announce(&self, queue: &str) {
        self.notifier.announce(queue);
    }

    pub(super) fn listen(&self, queue: &str) {
        self.notifier.listen(queue);
    }

    pub(super) fn is_alive(&self) -> bool {
        self.connections.is_open()
    }

    pub(super) async fn close(&self) {
        self.notifier.end();
        self.connections.close().await;
    }
}
