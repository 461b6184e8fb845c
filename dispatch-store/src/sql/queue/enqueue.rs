use async_trait::async_trait;
use dispatch_core::store::{Enqueued, Item};
use sea_orm::{DbErr, Value, sea_query::ArrayType};

use crate::sql::{
    conn::{Conn, Needs, Work, bigints},
    rows::{micros, write_headers, write_history},
};

/// Stores items.
pub(super) struct Enqueue {
    pub(super) queue: String,
    pub(super) items: Vec<Item>,
}

#[async_trait]
impl Work for Enqueue {
    type Answer = Vec<Enqueued>;

    fn what(&self) -> String {
        format!("enqueue to `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        Needs::Transaction
    }

    async fn run(&self, conn: &Conn<'_>) -> Result<Vec<Enqueued>, DbErr> {
        insert(conn, &self.queue, &self.items).await
    }
}

/// Stores items inside the caller's transaction.
pub(in crate::sql) async fn insert(conn: &Conn<'_>, queue: &str, items: &[Item]) -> Result<Vec<Enqueued>, DbErr> {
    if conn.is_postgres() {
        insert_arrays(conn, queue, items).await
    } else {
        insert_rows(conn, queue, items).await
    }
}

/// PostgreSQL: the whole batch as one array a column. sea-query's arrays have no NULL, so a value that stands for it is
/// taken back in SQL: an empty text (others carry `=` in front), or the smallest number.
const ARRAYS: &str = "
    WITH input AS MATERIALIZED (
        SELECT nextval('dispatch_item_id_seq') AS id, place, message_id, payload,
            nullif(headers, '') AS headers, nullif(metadata, '') AS metadata, substr(nullif(key, ''), 2) AS key, priority,
            coalesce(nullif(run_at, -9223372036854775808), {now}) AS run_at, substr(nullif(dedupe, ''), 2) AS dedupe,
            created_at, nullif(deadline, -9223372036854775808) AS deadline, attempts, nullif(history, '') AS history
        FROM unnest($2::text[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::bigint[], $9::text[],
            $10::bigint[], $11::bigint[], $12::integer[], $13::text[]) WITH ORDINALITY
            AS input(message_id, payload, headers, metadata, key, priority, run_at, dedupe, created_at, deadline, attempts,
                history, place)
    ), waiting AS (
        INSERT INTO dispatch_ready (queue, priority, run_at, id, key, dedupe)
        SELECT $1, priority, run_at, id, key, dedupe FROM input {conflict}
    ), stored AS (
        INSERT INTO dispatch_item (id, queue, message_id, payload, headers, metadata, key, priority, run_at, dedupe,
            created_at, deadline, attempts, history)
        SELECT id, $1, message_id, payload, headers, metadata, key, priority, run_at, dedupe, created_at, deadline,
            attempts, history
        FROM input {new}
    )
    SELECT place FROM input {old}";

async fn insert_arrays(conn: &Conn<'_>, queue: &str, items: &[Item]) -> Result<Vec<Enqueued>, DbErr> {
    let texts = |text: &dyn Fn(&Item) -> String| {
        let texts = items.iter().map(|item| Value::String(Some(text(item)))).collect();
        Value::Array(ArrayType::String, Some(Box::new(texts)))
    };
    let optional = |text: &Option<smol_str::SmolStr>| text.as_ref().map_or_else(String::new, |text| format!("={text}"));
    let values = vec![
        queue.into(),
        texts(&|item| item.id.to_string()),
        Value::Array(
            ArrayType::Bytes,
            Some(Box::new(
                items
                    .iter()
                    .map(|item| Value::Bytes(Some(item.payload.to_vec())))
                    .collect(),
            )),
        ),
        texts(&|item| write_headers(&item.headers).unwrap_or_default()),
        texts(&|item| write_headers(&item.metadata).unwrap_or_default()),
        texts(&|item| optional(&item.key)),
        Value::Array(
            ArrayType::SmallInt,
            Some(Box::new(
                items.iter().map(|item| Value::SmallInt(Some(item.priority))).collect(),
            )),
        ),
        bigints(items.iter().map(|item| item.run_at.map_or(i64::MIN, micros))),
        texts(&|item| optional(&item.dedupe)),
        bigints(items.iter().map(|item| micros(item.created_at))),
        bigints(items.iter().map(|item| item.deadline.map_or(i64::MIN, micros))),
        Value::Array(
            ArrayType::Int,
            Some(Box::new(
                items.iter().map(|item| Value::Int(Some(attempts(item)))).collect(),
            )),
        ),
        texts(&|item| write_history(&item.history).unwrap_or_default()),
    ];
    let keyed = items.iter().any(|item| item.dedupe.is_some());
    let (conflict, new, old) = if keyed {
        (
            "ON CONFLICT (queue, dedupe) WHERE dedupe IS NOT NULL DO NOTHING RETURNING id",
            "WHERE id IN (SELECT id FROM waiting)",
            "WHERE id NOT IN (SELECT id FROM waiting)",
        )
    } else {
        ("", "", "WHERE false")
    };
    let sql = ARRAYS
        .replace("{conflict}", conflict)
        .replace("{new}", new)
        .replace("{old}", old);

    let mut answers = vec![Enqueued::New; items.len()];
    for row in conn.all(&sql, values).await? {
        let place: i64 = row.try_get_by_index(0)?;
        if let Some(answer) = usize::try_from(place - 1).ok().and_then(|place| answers.get_mut(place)) {
            *answer = Enqueued::Duplicate;
        }
    }
    Ok(answers)
}

/// SQLite: rows of bound values, in few sizes, so that each size is prepared once.
async fn insert_rows(conn: &Conn<'_>, queue: &str, items: &[Item]) -> Result<Vec<Enqueued>, DbErr> {
    let answers = duplicates(conn, queue, items).await?;
    let new: Vec<&Item> = items
        .iter()
        .zip(&answers)
        .filter_map(|(item, answer)| (*answer == Enqueued::New).then_some(item))
        .collect();
    let last = conn
        .one("SELECT coalesce(max(id), 0) FROM dispatch_item", Vec::new())
        .await?;
    let last: i64 = last.map_or(Ok(0), |row| row.try_get_by_index(0))?;

    let mut next = last;
    let mut rest = &new[..];
    while !rest.is_empty() {
        let size = 1 << rest.len().min(64).ilog2();
        let (chunk, later) = rest.split_at(size);
        rest = later;
        let mut values = Vec::with_capacity(1 + 13 * size);
        values.push(queue.into());
        for item in chunk {
            next += 1;
            values.extend(row(next, item));
        }
        conn.run(&rows(size), values).await?;
    }
    conn.run(
        "INSERT INTO dispatch_ready (queue, priority, run_at, id, key, dedupe)
         SELECT queue, priority, run_at, id, key, dedupe FROM dispatch_item WHERE id > $1",
        vec![last.into()],
    )
    .await?;
    Ok(answers)
}

/// Which items wait already under their dedupe key, or do once those before them are stored.
async fn duplicates(conn: &Conn<'_>, queue: &str, items: &[Item]) -> Result<Vec<Enqueued>, DbErr> {
    let mut taken = std::collections::HashSet::new();
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        let Some(key) = &item.dedupe else {
            answers.push(Enqueued::New);
            continue;
        };
        let waits = "SELECT 1 FROM dispatch_ready WHERE queue = $1 AND dedupe = $2";
        let new = taken.insert(key)
            && conn
                .one(waits, vec![queue.into(), key.as_str().into()])
                .await?
                .is_none();
        answers.push(if new { Enqueued::New } else { Enqueued::Duplicate });
    }
    Ok(answers)
}

fn rows(size: usize) -> String {
    let mut sql = String::from(
        "INSERT INTO dispatch_item (queue, id, message_id, payload, headers, metadata, key, priority, run_at, dedupe, \
         created_at, deadline, attempts, history) VALUES ",
    );
    for row in 0..size {
        let first = 2 + row * 13;
        sql.push_str(if row == 0 { "($1" } else { ", ($1" });
        for place in first..first + 13 {
            // The eighth after the queue: when it is due.
            if place == first + 7 {
                sql.push_str(&format!(", coalesce(${place}, {{now}})"));
            } else {
                sql.push_str(&format!(", ${place}"));
            }
        }
        sql.push(')');
    }
    sql
}

fn row(id: i64, item: &Item) -> [Value; 13] {
    let text = |text: &Option<smol_str::SmolStr>| Value::String(text.as_ref().map(ToString::to_string));
    [
        id.into(),
        item.id.to_string().into(),
        item.payload.to_vec().into(),
        write_headers(&item.headers).into(),
        write_headers(&item.metadata).into(),
        text(&item.key),
        item.priority.into(),
        item.run_at.map(micros).into(),
        text(&item.dedupe),
        micros(item.created_at).into(),
        item.deadline.map(micros).into(),
        attempts(item).into(),
        write_history(&item.history).into(),
    ]
}

fn attempts(item: &Item) -> i32 {
    i32::try_from(item.attempts).unwrap_or(i32::MAX)
}
