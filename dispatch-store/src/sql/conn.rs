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
    Sqlite(&'a mut sqlx::SqliteConnection, Frame),
    #[cfg(feature = "postgres")]
    /// And whether statements may be prepared for longer than their one use.
    Postgres(&'a mut sqlx::PgConnection, bool),
}

/// What opens and ends a transaction on SQLite, where each trip to the connection's thread costs as much as a small
/// statement: both travel with the statements of the work where they can.
#[cfg(feature = "sqlite")]
#[derive(Default)]
pub(super) struct Frame {
    /// Not sent yet.
    begin: Option<&'static str>,
    /// No other work comes after this one in the transaction.
    ends: bool,
    /// The work has said that its next statements are its last.
    last: bool,
    /// The end goes along with the statements under way.
    ending: bool,
    committed: bool,
}

/// Runs one query on whichever connection there is.
macro_rules! on_connection {
    ($conn:expr, $sql:expr, $values:expr, |$query:ident, $connection:ident| $run:expr) => {{
        let sql = $conn.framed($sql);
        let values = SqlxValues(Values($values));
        match $conn {
            #[cfg(feature = "sqlite")]
            Conn::Sqlite($connection, _) => {
                let $query = sqlx::query_with::<sqlx::Sqlite, _>(sqlx::AssertSqlSafe(sql), values);
                $run
            }
            #[cfg(feature = "postgres")]
            Conn::Postgres($connection, persistent) => {
                let $query =
                    sqlx::query_with::<sqlx::Postgres, _>(sqlx::AssertSqlSafe(sql), values).persistent(*persistent);
                $run
            }
        }
    }};
}

#[cfg(feature = "sqlite")]
impl<'a> Conn<'a> {
    pub(super) fn sqlite(connection: &'a mut sqlx::SqliteConnection) -> Self {
        Self::Sqlite(connection, Frame::default())
    }

    /// Opens a transaction together with the first statement.
    pub(super) fn transaction(connection: &'a mut sqlx::SqliteConnection, begin: &'static str) -> Self {
        let frame = Frame {
            begin: Some(begin),
            ..Frame::default()
        };
        Self::Sqlite(connection, frame)
    }

    /// Lets the end of the transaction go with the last statements of the work that comes next.
    pub(super) fn ends_with_next(&mut self) {
        if let Some(frame) = self.frame() {
            frame.ends = true;
        }
    }

    /// Whether the end of the transaction has gone along: what fails now fails alone.
    pub(super) fn has_committed(&mut self) -> bool {
        self.frame().is_some_and(|frame| frame.committed)
    }

    /// Ends the transaction if that did not go along.
    pub(super) async fn commit(&mut self) -> Result<(), DbErr> {
        match self.frame() {
            Some(frame) if frame.committed || frame.begin.is_some() => Ok(()),
            _ => self.run("COMMIT", Vec::new()).await.map(drop),
        }
    }
}

impl Conn<'_> {
    #[cfg(feature = "sqlite")]
    fn frame(&mut self) -> Option<&mut Frame> {
        match self {
            Self::Sqlite(_, frame) => Some(frame),
            #[cfg(feature = "postgres")]
            Self::Postgres(..) => None,
        }
    }

    pub(super) fn is_postgres(&self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(..) => false,
            #[cfg(feature = "postgres")]
            Self::Postgres(..) => true,
        }
    }

    /// Row numbers as one value; a statement reads them by `IN ({ids})`, always as `$1`.
    pub(super) fn ids(&self, ids: &[i64]) -> Value {
        if self.is_postgres() {
            bigints(ids.iter().copied())
        } else {
            json(ids)
        }
    }

    /// A condition that always holds and has the transaction not wait for the disk.
    pub(super) fn light(&self) -> &'static str {
        if self.is_postgres() {
            "set_config('synchronous_commit', 'off', true) IS NOT NULL"
        } else {
            "true"
        }
    }

    pub(super) async fn all(&mut self, sql: &str, values: Vec<Value>) -> Result<Vec<QueryResult>, DbErr> {
        on_connection!(self, sql, values, |query, connection| {
            let rows = query.fetch_all(&mut **connection).await.map_err(failed)?;
            let rows = rows.into_iter().map(QueryResult::from).collect();
            #[cfg(feature = "sqlite")]
            if let Some(frame) = self.frame() {
                frame.committed |= frame.ending;
            }
            Ok(rows)
        })
    }

    /// The first row. A statement of which there may be many asks for one.
    pub(super) async fn one(&mut self, sql: &str, values: Vec<Value>) -> Result<Option<QueryResult>, DbErr> {
        Ok(self.all(sql, values).await?.into_iter().next())
    }

    /// Runs a statement and says how many rows it touched.
    pub(super) async fn run(&mut self, sql: &str, values: Vec<Value>) -> Result<u64, DbErr> {
        // SQLite would count for BEGIN what the statement before it has touched.
        #[cfg(feature = "sqlite")]
        if let Some(begin) = self.frame().and_then(|frame| frame.begin.take()) {
            self.all(begin, Vec::new()).await?;
        }
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
            Self::Sqlite(connection, _) => script.execute(&mut **connection).await.map(drop).map_err(failed),
            #[cfg(feature = "postgres")]
            Self::Postgres(connection, _) => script.execute(&mut **connection).await.map(drop).map_err(failed),
        }
    }

    /// Says that the next rows asked for are the last that the work needs, so that the end of the transaction can go
    /// along.
    pub(super) fn last(&mut self) -> &mut Self {
        #[cfg(feature = "sqlite")]
        if let Some(frame) = self.frame() {
            frame.last = true;
        }
        self
    }

    /// A statement as it is sent, with what goes along.
    fn framed(&mut self, sql: &str) -> String {
        let filled = self.fill_in(sql);
        #[cfg(feature = "sqlite")]
        if let Some(frame) = self.frame() {
            let begin = frame.begin.take();
            frame.ending = std::mem::take(&mut frame.last) && frame.ends;
            return match (begin, frame.ending) {
                (None, false) => filled,
                (None, true) => filled + "; COMMIT",
                (Some(begin), false) => format!("{begin}; {filled}"),
                (Some(begin), true) => format!("{begin}; {filled}; COMMIT"),
            };
        }
        filled
    }

    /// Fills in what the dialects write differently: `{now}` in microseconds, by the server's clock where there is one,
    /// and `IN ({ids})`, one of the list `$1`. On PostgreSQL that is no join: one would be done row by row over the whole
    /// table where statistics say that it is nearly empty, as a queue's tables often were.
    fn fill_in(&self, sql: &str) -> String {
        let (now, among) = if self.is_postgres() {
            (
                "(SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)",
                "= ANY ($1::bigint[])",
            )
        } else {
            (
                "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
                "IN (SELECT value FROM json_each($1))",
            )
        };
        sql.replace("{now}", now).replace("IN ({ids})", among)
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
