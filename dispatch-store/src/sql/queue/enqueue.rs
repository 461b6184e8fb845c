use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write as _,
};

use async_trait::async_trait;
use dispatch_core::store::{Enqueued, Item};
use sea_orm::{DbErr, Value, sea_query::ArrayType};
use smol_str::SmolStr;

use super::columns::{Column, columns};
use crate::sql::conn::{Conn, Needs, Work};

/// The most rows of one SQLite statement; each size up to it is prepared once.
const ROWS: usize = 128;

/// Stores items.
pub(super) struct Enqueue {
    pub(super) queue: String,
    pub(super) items: Vec<Item>,
    /// The announcement that goes along; PostgreSQL's alone.
    pub(super) along: Option<Along>,
}

/// The channel, and the text that says who announces.
pub(in crate::sql) type Along = (String, SmolStr);

#[async_trait]
impl Work for Enqueue {
    type Answer = Vec<Enqueued>;

    fn what(&self) -> String {
        format!("enqueue to `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        if self.items.iter().any(|item| item.alone) {
            Needs::Transaction
        } else {
            Needs::Statement
        }
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Vec<Enqueued>, DbErr> {
        if !self.items.iter().any(|item| item.alone) {
            return match &self.along {
                Some(along) if conn.is_postgres() => insert_arrays(conn, &self.queue, &self.items, Some(along)).await,
                _ => insert(conn, &self.queue, &self.items).await,
            };
        }
        if self.items.iter().all(|item| item.dedupe.is_none()) {
            return insert_alone(conn, &self.queue, &self.items, true).await;
        }
        // Which of them a dedupe key drops is known once those before it are stored.
        let mut answers = Vec::with_capacity(self.items.len());
        for (place, item) in self.items.iter().enumerate() {
            let last = place + 1 == self.items.len();
            answers.append(&mut insert_alone(conn, &self.queue, std::slice::from_ref(item), last).await?);
        }
        Ok(answers)
    }
}

/// Stores items of which some are to be alone under their key, and drops those that are not.
/// `last`: nothing comes after them in the transaction.
async fn insert_alone(conn: &mut Conn<'_>, queue: &str, items: &[Item], last: bool) -> Result<Vec<Enqueued>, DbErr> {
    let alone = in_company(conn, queue, items).await?;
    let kept = items.iter().zip(&alone);
    let kept: Vec<Item> = kept
        .filter(|(_, answer)| **answer == Enqueued::New)
        .map(|(item, _)| item.clone())
        .collect();
    if kept.is_empty() {
        return Ok(alone);
    }
    let mut stored = if conn.is_postgres() {
        insert_arrays(conn, queue, &kept, None).await?.into_iter()
    } else {
        insert_rows(conn, queue, &kept, last).await?.into_iter()
    };
    let answer = |alone| match alone {
        Enqueued::New => stored.next().unwrap_or(Enqueued::New),
        Enqueued::Duplicate => Enqueued::Duplicate,
    };
    Ok(alone.into_iter().map(answer).collect())
}

/// Which items were to be the only ones under their key and are not, those before them in the batch counted. In a
/// statement of its own, after the keys are locked: one that waited for the lock would not see what was stored meanwhile.
async fn in_company(conn: &mut Conn<'_>, queue: &str, items: &[Item]) -> Result<Vec<Enqueued>, DbErr> {
    let keys = |some: fn(&&Item) -> bool| -> BTreeSet<&SmolStr> {
        items.iter().filter(some).filter_map(|item| item.key.as_ref()).collect()
    };
    let wanted = keys(|item| item.alone);
    let mut taken: HashSet<SmolStr> = HashSet::new();
    if conn.is_postgres() {
        let array = |keys: BTreeSet<&SmolStr>| {
            let keys = keys.into_iter().map(|key| Value::from(key.as_str())).collect();
            Value::Array(ArrayType::String, Some(Box::new(keys)))
        };
        let turns = format!("WITH {} SELECT * FROM turns", IN_TURN.replace("{keys}", "$2"));
        conn.all(&turns, vec![queue.into(), array(keys(|_| true))]).await?;
        let there = "
            SELECT key FROM unnest($2::text[]) AS wanted(key)
            WHERE EXISTS (SELECT FROM dispatch_item WHERE queue = $1 AND dispatch_item.key = wanted.key)";
        for row in conn.all(there, vec![queue.into(), array(wanted)]).await? {
            taken.insert(row.try_get_by_index::<String>(0)?.into());
        }
    } else {
        for key in wanted {
            let there = "SELECT 1 FROM dispatch_item WHERE queue = $1 AND key = $2 LIMIT 1";
            if conn
                .one(there, vec![queue.into(), key.as_str().into()])
                .await?
                .is_some()
            {
                taken.insert(key.clone());
            }
        }
    }
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        answers.push(match &item.key {
            Some(key) if !taken.insert(key.clone()) && item.alone => Enqueued::Duplicate,
            _ => Enqueued::New,
        });
    }
    Ok(answers)
}

/// Stores items: one statement on PostgreSQL, a few inside the caller's transaction on SQLite.
pub(in crate::sql) async fn insert(conn: &mut Conn<'_>, queue: &str, items: &[Item]) -> Result<Vec<Enqueued>, DbErr> {
    if conn.is_postgres() {
        insert_arrays(conn, queue, items, None).await
    } else {
        insert_rows(conn, queue, items, true).await
    }
}

/// One at a time under a key, until the commit: numbers are drawn before it, and an older one that became visible after
/// a younger one was claimed would be worked on beside it. Few locks for all keys, since the server has room for few; in
/// one order, so that two batches never wait for each other. `dispatch_enqueue` takes the same.
const IN_TURN: &str = "
    turns AS MATERIALIZED (
        SELECT count(*) FROM (SELECT pg_advisory_xact_lock(1684632432, turn) FROM (
            SELECT DISTINCT (hashtextextended($1 || chr(10) || key, 0) & 1023)::int AS turn
            FROM unnest({keys}::text[]) AS keys(key) ORDER BY turn) AS turns) AS locked
    )";

/// PostgreSQL: every column that differs from item to item is one array, and each item is written straight from there.
const STORE: &str = "
    WITH {turns} stored AS (
        INSERT INTO dispatch_item (queue, {names})
        SELECT $1, {expressions} FROM {after} unnest({arrays}) AS input({inputs})
        RETURNING id, priority, run_at, key
    ){waiting}";

/// What comes after, with an announcement or without: in the order of claims.
const WAITING: &str = "
    INSERT INTO dispatch_ready (queue, priority, run_at, id, key) SELECT $1, priority, run_at, id, key FROM stored";

/// With dedupe keys the order of claims comes first: it says who is new. Answers with the places of those that are not.
const STORE_NEW: &str = "
    WITH {turns} input AS MATERIALIZED (
        SELECT nextval('dispatch_item_id_seq') AS id, place, {named}
        FROM {after} unnest({arrays}) WITH ORDINALITY AS input({inputs}, place)
    ), waiting AS (
        INSERT INTO dispatch_ready (queue, priority, run_at, id, key, dedupe)
        SELECT $1, priority, run_at, id, key, dedupe FROM input
        ON CONFLICT (queue, dedupe) WHERE dedupe IS NOT NULL DO NOTHING RETURNING id
    ), stored AS (
        INSERT INTO dispatch_item (id, queue, {names}) SELECT id, $1, {names} FROM input
        WHERE id IN (SELECT id FROM waiting)
    )
    SELECT place FROM input WHERE id NOT IN (SELECT id FROM waiting)";

async fn insert_arrays(
    conn: &mut Conn<'_>,
    queue: &str,
    items: &[Item],
    along: Option<&Along>,
) -> Result<Vec<Enqueued>, DbErr> {
    let columns = columns(items);
    let mut values = vec![Value::from(queue)];
    let (mut expressions, mut arrays, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
    for column in &columns {
        let place = values.len() + 1;
        if let Some(value) = &column.same {
            values.push(value.clone());
            expressions.push(column.or_now(&format!("${place}::{}", column.kind)));
        } else {
            values.push(column.array(items));
            arrays.push(format!("${place}::{}[]", column.kind));
            inputs.push(column.name);
            expressions.push(column.or_now(&column.read_back()));
        }
    }
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    let named: Vec<String> = expressions
        .iter()
        .zip(&names)
        .map(|(value, name)| format!("{value} AS {name}"))
        .collect();
    let keys: BTreeSet<&SmolStr> = items.iter().filter_map(|item| item.key.as_ref()).collect();
    let (mut turns, mut after) = (String::new(), "");
    if !keys.is_empty() {
        let keys = keys.iter().map(|key| Value::from(key.as_str())).collect();
        values.push(Value::Array(ArrayType::String, Some(Box::new(keys))));
        turns = IN_TURN.replace("{keys}", &format!("${}", values.len())) + ",";
        after = "turns,";
    }
    let waiting = match along {
        None => WAITING.to_owned(),
        Some((channel, own)) => {
            values.extend([channel.as_str().into(), own.as_str().into()]);
            let last = values.len();
            format!(", waiting AS ({WAITING}) SELECT pg_notify(${}, ${last})", last - 1)
        }
    };
    let deduped = items.iter().any(|item| item.dedupe.is_some());
    let sql = if deduped { STORE_NEW } else { STORE }
        .replace("{waiting}", &waiting)
        .replace("{turns}", &turns)
        .replace("{after}", after)
        .replace("{names}", &names.join(", "))
        .replace("{named}", &named.join(", "))
        .replace("{expressions}", &expressions.join(", "))
        .replace("{arrays}", &arrays.join(", "))
        .replace("{inputs}", &inputs.join(", "));

    let mut answers = vec![Enqueued::New; items.len()];
    if !deduped {
        conn.run(&sql, values).await?;
        return Ok(answers);
    }
    for row in conn.all(&sql, values).await? {
        let place: i64 = row.try_get_by_index(0)?;
        if let Some(answer) = usize::try_from(place - 1).ok().and_then(|place| answers.get_mut(place)) {
            *answer = Enqueued::Duplicate;
        }
    }
    Ok(answers)
}

/// SQLite: rows of bound values. Nobody else writes meanwhile, so the rows get numbers one after the other.
async fn insert_rows(conn: &mut Conn<'_>, queue: &str, items: &[Item], last: bool) -> Result<Vec<Enqueued>, DbErr> {
    let answers = duplicates(conn, queue, items).await?;
    let new = items
        .iter()
        .zip(&answers)
        .filter_map(|(item, answer)| (*answer == Enqueued::New).then_some(item));
    let new: Vec<&Item> = new.collect();
    let columns = columns(items);
    let mut chunks = new.chunks(ROWS).peekable();
    while let Some(chunk) = chunks.next() {
        let mut values = vec![Value::from(queue)];
        values.extend(columns.iter().filter_map(|column| column.same.clone()));
        let each: Vec<&Column> = columns.iter().filter(|column| column.same.is_none()).collect();
        values.extend(
            chunk
                .iter()
                .flat_map(|item| each.iter().map(|column| (column.value)(item))),
        );
        values.push(i64::try_from(chunk.len()).unwrap_or(0).into());
        if last && chunks.peek().is_none() {
            conn.last();
        }
        conn.all(&rows(&columns, each.len(), chunk.len()), values).await?;
    }
    Ok(answers)
}

/// Two statements in one trip. Plain `?` in the order of the text: SQLite looks numbered ones up by name, each through all the others.
fn rows(columns: &[Column], each: usize, size: usize) -> String {
    let mut sql = String::from("INSERT INTO dispatch_item (queue");
    for column in columns {
        let _infallible = write!(sql, ", {}", column.name);
    }
    sql.push_str(") SELECT ?");
    let mut place = 0;
    for column in columns {
        let value = if column.same.is_some() {
            "?".to_owned()
        } else {
            place += 1;
            format!("column{place}")
        };
        let _infallible = write!(sql, ", {}", column.or_now(&value));
    }
    let row = format!("({})", vec!["?"; each].join(","));
    let _infallible = write!(sql, " FROM (VALUES {})", vec![row; size].join(","));
    sql.push_str(
        "; INSERT INTO dispatch_ready (queue, priority, run_at, id, key, dedupe)
        SELECT queue, priority, run_at, id, key, dedupe FROM dispatch_item
        WHERE id > last_insert_rowid() - ? AND id <= last_insert_rowid()",
    );
    sql
}

/// Which items wait already under their dedupe key, or do once those before them are stored.
async fn duplicates(conn: &mut Conn<'_>, queue: &str, items: &[Item]) -> Result<Vec<Enqueued>, DbErr> {
    let mut taken = HashSet::new();
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
