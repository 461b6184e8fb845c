use std::time::SystemTime;

use async_trait::async_trait;
use dispatch_core::{
    Error,
    store::{DeadLetter, DeadLetterFilter, DeadLetters},
};
use sea_orm::{DbErr, QueryResult, Value};
use smol_str::SmolStr;

use super::{
    SqlStore,
    conn::{Conn, Needs, Work},
    queue::insert,
    rows::{micros, read_json, read_text, time, write_json},
};

const LETTER: &str = "number, pipeline, source, message_id, payload, headers, metadata, key, reason, attempts, trace_id, \
                      config_hash, created_at, died_at, replayed_at";

#[async_trait]
impl DeadLetters for SqlStore {
    async fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), Error> {
        Ok(self.database.perform(Bury(letters)).await?)
    }

    async fn list(&self, filter: &DeadLetterFilter, after: u64, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let work = List {
            filter: filter.clone(),
            after: after.cast_signed(),
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
        };
        Ok(self.database.perform(work).await?)
    }

    async fn count(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        Ok(self.database.perform(Count(filter.clone())).await?)
    }

    async fn replay(&self, numbers: &[u64], queue: &str) -> Result<u64, Error> {
        let work = Replay {
            numbers: numbers.iter().map(|number| number.cast_signed()).collect(),
            queue: queue.to_owned(),
        };
        let replayed = self.database.perform(work).await?;
        self.database.announce(queue);
        Ok(replayed)
    }

    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        Ok(self.database.perform(Purge(filter.clone())).await?)
    }
}

struct Bury(Vec<DeadLetter>);

#[async_trait]
impl Work for Bury {
    type Answer = ();

    fn what(&self) -> String {
        "keep dead letters".to_owned()
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<(), DbErr> {
        for letter in &self.0 {
            bury(conn, letter).await?;
        }
        Ok(())
    }
}

/// What a letter is kept in, in the order of [`columns`].
pub(super) const COLUMNS: [&str; 15] = [
    "pipeline",
    "source",
    "message_id",
    "payload",
    "headers",
    "metadata",
    "key",
    "reason",
    "attempts",
    "class",
    "code",
    "trace_id",
    "config_hash",
    "created_at",
    "died_at",
];

/// A letter of the same message gives its place.
pub(super) const REPLACE: &str =
    "ON CONFLICT (pipeline, source, message_id, created_at) WHERE replayed_at IS NULL DO UPDATE SET
    payload = excluded.payload, headers = excluded.headers, metadata = excluded.metadata, key = excluded.key,
    reason = excluded.reason, attempts = excluded.attempts, class = excluded.class, code = excluded.code,
    trace_id = excluded.trace_id, config_hash = excluded.config_hash, died_at = excluded.died_at";

/// The columns of a letter.
pub(super) fn columns(letter: &DeadLetter) -> [Value; 15] {
    let text = |text: Option<&SmolStr>| Value::String(text.map(ToString::to_string));
    let last = letter.attempts.last();
    [
        letter.pipeline.as_str().into(),
        letter.source.as_str().into(),
        letter.id.as_str().into(),
        letter.payload.to_vec().into(),
        write_json(&letter.headers).into(),
        write_json(&letter.metadata).into(),
        text(letter.key.as_ref()),
        letter.reason.as_str().into(),
        write_json(&letter.attempts).into(),
        text(last.map(|last| &last.class)),
        text(last.and_then(|last| last.code.as_ref())),
        text(letter.trace_id.as_ref()),
        letter.config_hash.as_str().into(),
        micros(letter.created_at).into(),
        micros(letter.died_at).into(),
    ]
}

/// Keeps a letter, within the caller's transaction.
pub(super) async fn bury(conn: &mut Conn<'_>, letter: &DeadLetter) -> Result<(), DbErr> {
    let sql = format!(
        "INSERT INTO dispatch_dead ({}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) {REPLACE}",
        COLUMNS.join(", ")
    );
    conn.run(&sql, columns(letter).into()).await.map(drop)
}

fn read_letter(row: &QueryResult) -> Result<DeadLetter, DbErr> {
    let text = |at| -> Result<SmolStr, DbErr> { Ok(read_text(row, at)?.unwrap_or_default()) };
    Ok(DeadLetter {
        number: row.try_get_by_index::<i64>(0)?.cast_unsigned(),
        pipeline: text(1)?,
        source: text(2)?,
        id: text(3)?,
        payload: row.try_get_by_index::<Vec<u8>>(4)?.into(),
        headers: read_json(row, 5)?.unwrap_or_default(),
        metadata: read_json(row, 6)?.unwrap_or_default(),
        key: read_text(row, 7)?,
        reason: text(8)?,
        attempts: read_json(row, 9)?.unwrap_or_default(),
        trace_id: read_text(row, 10)?,
        config_hash: text(11)?,
        created_at: time(row.try_get_by_index(12)?),
        died_at: time(row.try_get_by_index(13)?),
        replayed_at: row.try_get_by_index::<Option<i64>>(14)?.map(time),
    })
}

/// The filter as SQL; its first parameter, the list of numbers, is always `$1`.
fn condition(conn: &Conn<'_>, filter: &DeadLetterFilter) -> (String, Vec<Value>) {
    let numbers: Vec<i64> = filter.numbers.iter().map(|number| number.cast_signed()).collect();
    let mut values = vec![conn.ids(&numbers)];
    let mut sql = String::from(if numbers.is_empty() {
        // The list still has to be read, or PostgreSQL cannot tell its type.
        "(number IN ({ids}) OR true)"
    } else {
        "number IN ({ids})"
    });
    let mut and = |test: &str, value: Option<Value>| {
        if let Some(value) = value {
            values.push(value);
            sql.push_str(&format!(" AND {test} ${}", values.len()));
        }
    };
    let text = |text: &Option<SmolStr>| text.as_ref().map(|text| Value::from(text.as_str()));
    let at = |time: Option<SystemTime>| time.map(|time| Value::from(micros(time)));
    and("pipeline =", text(&filter.pipeline));
    and("class =", text(&filter.class));
    and("code =", text(&filter.code));
    and("reason =", text(&filter.reason));
    and("died_at >=", at(filter.since));
    and("died_at <", at(filter.until));
    if !filter.with_replayed {
        sql.push_str(" AND replayed_at IS NULL");
    }
    (sql, values)
}

struct List {
    filter: DeadLetterFilter,
    after: i64,
    limit: i64,
}

#[async_trait]
impl Work for List {
    type Answer = Vec<DeadLetter>;

    fn what(&self) -> String {
        "list dead letters".to_owned()
    }

    fn needs(&self) -> Needs {
        Needs::Read
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Self::Answer, DbErr> {
        let (condition, mut values) = condition(conn, &self.filter);
        values.extend([self.after.into(), self.limit.into()]);
        let (after, limit) = (values.len() - 1, values.len());
        let sql = format!(
            "SELECT {LETTER} FROM dispatch_dead WHERE {condition} AND number > ${after} ORDER BY number LIMIT ${limit}"
        );
        conn.all(&sql, values).await?.iter().map(read_letter).collect()
    }
}

struct Count(DeadLetterFilter);

#[async_trait]
impl Work for Count {
    type Answer = u64;

    fn what(&self) -> String {
        "count dead letters".to_owned()
    }

    fn needs(&self) -> Needs {
        Needs::Read
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<u64, DbErr> {
        let (condition, values) = condition(conn, &self.0);
        let row = conn
            .one(&format!("SELECT count(*) FROM dispatch_dead WHERE {condition}"), values)
            .await?;
        row.map_or(Ok(0), |row| Ok(row.try_get_by_index::<i64>(0)?.cast_unsigned()))
    }
}

struct Replay {
    numbers: Vec<i64>,
    queue: String,
}

#[async_trait]
impl Work for Replay {
    type Answer = u64;

    fn what(&self) -> String {
        format!("replay dead letters into `{}`", self.queue)
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<u64, DbErr> {
        // Marked first: among several who replay the same letter, only one gets it back.
        let mark = format!(
            "UPDATE dispatch_dead SET replayed_at = {{now}} WHERE number IN ({{ids}}) AND replayed_at IS NULL RETURNING {LETTER}"
        );
        let rows = conn.all(&mark, vec![conn.ids(&self.numbers)]).await?;
        let mut letters = rows.iter().map(read_letter).collect::<Result<Vec<_>, _>>()?;
        letters.sort_by_key(|letter| letter.number);
        let items: Vec<_> = letters.iter().map(DeadLetter::to_item).collect();
        if !items.is_empty() {
            insert(conn, &self.queue, &items).await?;
        }
        Ok(items.len() as u64)
    }
}

struct Purge(DeadLetterFilter);

#[async_trait]
impl Work for Purge {
    type Answer = u64;

    fn what(&self) -> String {
        "purge dead letters".to_owned()
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<u64, DbErr> {
        let (condition, values) = condition(conn, &self.0);
        conn.run(&format!("DELETE FROM dispatch_dead WHERE {condition}"), values)
            .await
    }
}
