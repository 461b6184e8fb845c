use async_trait::async_trait;
use sea_orm::{
    DbErr, QueryResult, RuntimeErr, Value,
    sea_query::{ArrayType, Values},
    sqlx,
};
use sea_query_sqlx::SqlxValues;

/// One piece of work on the database; it may be run more than once, as after a rollback that others caused.
#[async_trait]
pub(super) trait Work: Send + Sync + 'static {
    /// What comes of it.
    type Answer: Send + 'static;

    /// What it does, for error messages: "enqueue to `jobs`".
    fn what(&self) -> String;

    fn needs(&self) -> Needs {
        Needs::Transaction
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Self::Answer, DbErr>;
}

/// What a piece of work needs of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// One statement that only reads.
    Read,
    /// All or nothing, and on disk when it returns.
    Transaction,
    /// As `Transaction`; on PostgreSQL it is one statement, which is a transaction by itself.
    Statement,
    /// All or nothing; if the last few are lost with the machine, a message is delivered again and nothing else happens.
    Light,
    /// As `Light`; on PostgreSQL it is one statement, which says so itself.
    LightStatement,
}

/// A connection, and the dialect that it speaks.
pub(super) enum Conn<'a> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'a mut sqlx::SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(&'a mut sqlx::PgConnection),
}

/// Runs one query on whichever connection there is.
macro_rules! on_connection {
    ($conn:expr, $sql:expr, $values:expr, |$query:ident, $connection:ident| $run:expr) => {{
        let sql = $conn.fill_in($sql);
        let values = SqlxValues(Values($values));
        match $conn {
            #[cfg(feature = "sqlite")]
            Conn::Sqlite($connection) => {
                let $query = sqlx::query_with::<sqlx::Sqlite, _>(sqlx::AssertSqlSafe(sql), values);
                $run
            }
            #[cfg(feature = "postgres")]
            Conn::Postgres($connection) => {
                let $query = sqlx::query_with::<sqlx::Postgres, _>(sqlx::AssertSqlSafe(sql), values);
                $run
            }
        }
    }};
}

impl Conn<'_> {
    pub(super) fn is_postgres(&self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => false,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => true,
        }
    }

    /// Row numbers as one value; a statement reads them by `{ids}`, always as `$1`.
    pub(super) fn ids(&self, ids: &[i64]) -> Value {
        if self.is_postgres() {
            bigints(ids.iter().copied())
        } else {
            json(ids)
        }
    }

    pub(super) async fn all(&mut self, sql: &str, values: Vec<Value>) -> Result<Vec<QueryResult>, DbErr> {
        on_connection!(self, sql, values, |query, connection| {
            let rows = query.fetch_all(&mut **connection).await.map_err(failed)?;
            Ok(rows.into_iter().map(QueryResult::from).collect())
        })
    }

    pub(super) async fn one(&mut self, sql: &str, values: Vec<Value>) -> Result<Option<QueryResult>, DbErr> {
        on_connection!(self, sql, values, |query, connection| {
            let row = query.fetch_optional(&mut **connection).await.map_err(failed)?;
            Ok(row.map(QueryResult::from))
        })
    }

    /// Runs a statement and says how many rows it touched.
    pub(super) async fn run(&mut self, sql: &str, values: Vec<Value>) -> Result<u64, DbErr> {
        on_connection!(self, sql, values, |query, connection| {
            let done = query.execute(&mut **connection).await.map_err(failed)?;
            Ok(done.rows_affected())
        })
    }

    /// Runs statements without values, none of which is kept prepared.
    pub(super) async fn script(&mut self, sql: &str) -> Result<(), DbErr> {
        let script = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(connection) => script.execute(&mut **connection).await.map(drop).map_err(failed),
            #[cfg(feature = "postgres")]
            Self::Postgres(connection) => script.execute(&mut **connection).await.map(drop).map_err(failed),
        }
    }

    /// Fills in what the dialects write differently: `{now}` in microseconds, by the server's clock where there is one,
    /// and `{ids}`, the rows of the list `$1`.
    fn fill_in(&self, sql: &str) -> String {
        let (now, ids) = if self.is_postgres() {
            (
                "(SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)",
                "SELECT unnest($1::bigint[])",
            )
        } else {
            (
                "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
                "SELECT value FROM json_each($1)",
            )
        };
        sql.replace("{now}", now).replace("{ids}", ids)
    }
}

/// What a database says, in the words of the rest of this room.
pub(super) fn failed(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

/// A PostgreSQL array of row numbers or times.
pub(super) fn bigints(values: impl Iterator<Item = i64>) -> Value {
    let values = values.map(|value| Value::BigInt(Some(value))).collect();
    Value::Array(ArrayType::BigInt, Some(Box::new(values)))
}

/// Any list as JSON, for SQLite's `json_each`.
pub(super) fn json<T: serde::Serialize + ?Sized>(value: &T) -> Value {
    // Numbers, strings and lists of them always have a JSON form.
    Value::from(serde_json::to_string(value).unwrap_or_default())
}
