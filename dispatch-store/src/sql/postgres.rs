use std::{
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use dispatch_core::config::Secret;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbErr, RuntimeErr, TransactionTrait,
    sqlx::{
        self, ConnectOptions as _, Connection, Executor, PgConnection, PgPool,
        postgres::{PgConnectOptions, PgPoolOptions},
    },
};

use super::{
    conn::{Conn, Needs, Work},
    error::{SqlStoreError, is_conflict, is_lost, remedy},
    hints::Hints,
    migrate,
    notify::Notifier,
};

/// How often work that collided with somebody else's is done again.
const TRIES: u32 = 10;
/// A connection that idled for longer is asked whether it lives before it is used.
const STALE: Duration = Duration::from_secs(30);
/// The advisory lock under which schemas are migrated: "dispatch" in ASCII.
const LOCK: i64 = 0x6469_7370_6174_6368;

/// A server and how to reach it.
#[derive(Debug)]
pub(super) struct Target {
    /// Parsed from the URL; holds the password and is never printed.
    pub(super) url: Secret,
    pub(super) schema: Option<String>,
    pub(super) max_connections: u32,
    pub(super) connect_timeout: Duration,
}

/// A pool of connections to a server.
#[derive(Debug)]
pub(super) struct Postgres {
    place: String,
    pool: PgPool,
    connection: DatabaseConnection,
    /// When a connection was last found dead; those that idled since are suspect.
    lost: Arc<Mutex<Option<Instant>>>,
    notifier: Notifier,
}

impl Target {
    /// What the URL says, without connecting.
    pub(super) fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        let mut options = PgConnectOptions::from_str(self.url.expose())?;
        if !self.url.expose().contains("application_name=") {
            options = options.application_name("dispatch");
        }
        Ok(options.disable_statement_logging())
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

        let lost = Arc::default();
        let pool = self.pool(options.clone(), Arc::clone(&lost));
        let connection = DatabaseConnection::from(pool.clone());
        let begun = async {
            let transaction = connection.begin().await?;
            let lock = format!("SELECT pg_advisory_xact_lock({LOCK})");
            transaction.execute_unprepared(&lock).await?;
            Ok(transaction)
        };
        let begun = begun.await.map_err(|source| self.failed(&place, source))?;
        migrate::migrate(begun, migrate::POSTGRES, &place).await?;
        let scope = self.schema.as_deref().unwrap_or_default();
        let notifier = Notifier::new(pool.clone(), options, scope, hints);
        Ok(Postgres {
            place,
            pool,
            connection,
            lost,
            notifier,
        })
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

    fn pool(&self, options: PgConnectOptions, lost: Arc<Mutex<Option<Instant>>>) -> PgPool {
        let mut setting = String::from(
            // Plans that do not depend on when the tables were last analysed: each statement has its index.
            "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_mergejoin = off; SET jit = off;
             SET plan_cache_mode = force_generic_plan",
        );
        if let Some(schema) = &self.schema {
            setting.push_str(&format!("; SET search_path = {}", quoted(schema)));
        }
        let setting: Arc<str> = setting.into();
        PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.connect_timeout)
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                let setting = Arc::clone(&setting);
                Box::pin(async move {
                    let setting = sqlx::raw_sql(sqlx::AssertSqlSafe(setting.to_string()));
                    connection.execute(setting).await.map(drop)
                })
            })
            .before_acquire(move |connection, about| {
                let lost = *lost.lock().unwrap_or_else(PoisonError::into_inner);
                let suspect = about.idle_for >= STALE || lost.is_some_and(|lost| about.idle_for >= lost.elapsed());
                Box::pin(async move { Ok(!suspect || connection.ping().await.is_ok()) })
            })
            .connect_lazy_with(options)
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
            let source = match self.attempt(&work).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if is_lost(&source) {
                *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            if !is_conflict(&source) || tries >= TRIES {
                return Err(SqlStoreError::Work {
                    what: work.what(),
                    place: self.place.clone(),
                    remedy: remedy(&source),
                    source,
                });
            }
            tries += 1;
        }
    }

    async fn attempt<W: Work>(&self, work: &W) -> Result<W::Answer, DbErr> {
        if matches!(work.needs(), Needs::Read | Needs::Statement | Needs::LightStatement) {
            return work.run(&Conn::pool(&self.connection)).await;
        }
        let transaction = self.connection.begin().await?;
        let answer = work.run(&Conn::open(&transaction)).await?;
        transaction.commit().await?;
        Ok(answer)
    }

    pub(super) fn announce(&self, queue: &str) {
        self.notifier.announce(queue);
    }

    pub(super) fn listen(&self, queue: &str) {
        self.notifier.listen(queue);
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.pool.is_closed()
    }

    pub(super) async fn close(&self) {
        self.notifier.end();
        self.pool.close().await;
    }
}
