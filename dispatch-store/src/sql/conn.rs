use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, QueryResult, Statement, Value,
};

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

    async fn run(&self, conn: &Conn<'_>) -> Result<Self::Answer, DbErr>;
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

/// A connection or an open transaction, and the dialect that it speaks.
pub(super) struct Conn<'a> {
    handle: Handle<'a>,
    backend: DbBackend,
}

enum Handle<'a> {
    Pool(&'a DatabaseConnection),
    Open(&'a DatabaseTransaction),
}

impl<'a> Conn<'a> {
    pub(super) fn pool(pool: &'a DatabaseConnection) -> Self {
        Self {
            backend: pool.get_database_backend(),
            handle: Handle::Pool(pool),
        }
    }

    pub(super) fn open(transaction: &'a DatabaseTransaction) -> Self {
        Self {
            backend: transaction.get_database_backend(),
            handle: Handle::Open(transaction),
        }
    }

    pub(super) fn is_postgres(&self) -> bool {
        self.backend == DbBackend::Postgres
    }

    /// Row numbers as one value; a statement reads them by `{ids}`, always as `$1`.
    pub(super) fn ids(&self, ids: &[i64]) -> Value {
        if self.is_postgres() {
            bigints(ids.iter().copied())
        } else {
            json(ids)
        }
    }

    pub(super) async fn all(&self, sql: &str, values: Vec<Value>) -> Result<Vec<QueryResult>, DbErr> {
        let statement = self.statement(sql, values);
        match self.handle {
            Handle::Pool(pool) => pool.query_all_raw(statement).await,
            Handle::Open(transaction) => transaction.query_all_raw(statement).await,
        }
    }

    pub(super) async fn one(&self, sql: &str, values: Vec<Value>) -> Result<Option<QueryResult>, DbErr> {
        let statement = self.statement(sql, values);
        match self.handle {
            Handle::Pool(pool) => pool.query_one_raw(statement).await,
            Handle::Open(transaction) => transaction.query_one_raw(statement).await,
        }
    }

    /// Runs a statement and says how many rows it touched.
    pub(super) async fn run(&self, sql: &str, values: Vec<Value>) -> Result<u64, DbErr> {
        let statement = self.statement(sql, values);
        let result = match self.handle {
            Handle::Pool(pool) => pool.execute_raw(statement).await,
            Handle::Open(transaction) => transaction.execute_raw(statement).await,
        };
        result.map(|result| result.rows_affected())
    }

    /// Fills in what the dialects write differently: `{now}` in microseconds, by the server's clock where there is one,
    /// and `{ids}`, the rows of the list `$1`.
    fn statement(&self, sql: &str, values: Vec<Value>) -> Statement {
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
        Statement::from_sql_and_values(self.backend, sql.replace("{now}", now).replace("{ids}", ids), values)
    }
}

/// A PostgreSQL array of row numbers or times.
pub(super) fn bigints(values: impl Iterator<Item = i64>) -> Value {
    let values = values.map(|value| Value::BigInt(Some(value))).collect();
    Value::Array(sea_orm::sea_query::ArrayType::BigInt, Some(Box::new(values)))
}

/// Any list as JSON, for SQLite's `json_each`.
pub(super) fn json<T: serde::Serialize + ?Sized>(value: &T) -> Value {
    // Numbers, strings and lists of them always have a JSON form.
    Value::from(serde_json::to_string(value).unwrap_or_default())
}
