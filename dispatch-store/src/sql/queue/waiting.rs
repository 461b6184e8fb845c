//! What is not leased, seen page by page and taken out of the order of claims.

use async_trait::async_trait;
use dispatch_core::{
    Error,
    store::{Look, Page, Place, Waiting},
};
use sea_orm::{DbErr, QueryResult, Value, sea_query::ArrayType};

use super::claim::Recover;
use crate::sql::{
    SqlStore,
    conn::{Conn, Needs, Work, bigints, json},
    rows::{ITEM, read_item},
};

impl SqlStore {
    pub(super) async fn see(&self, queue: &str, look: Look) -> Result<Page, Error> {
        let read = |look| Read {
            queue: queue.to_owned(),
            look,
        };
        let begins = look.after.is_none();
        let (page, expired) = self.database.perform(read(look.clone())).await?;
        if !(begins && expired) {
            return Ok(page);
        }
        // Nobody has them, and nobody has claimed since: they are where they were before.
        let queue = queue.to_owned();
        self.database.perform(Recover { queue }).await?;
        Ok(self.database.perform(read(look)).await?.0)
    }

    pub(super) async fn take_out(&self, queue: &str, places: &[Place]) -> Result<Vec<u64>, Error> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let work = Withdraw {
            queue: queue.to_owned(),
            places: places.to_vec(),
        };
        let rows = self.database.perform(work).await?;
        // Those behind them may go.
        if !rows.is_empty() && self.database.hints.of(queue).is_ordered() {
            self.database.announce(queue);
        }
        Ok(rows)
    }
}

/// Reads one page.
struct Read {
    queue: String,
    look: Look,
}

/// The page is two stretches of the index: what is left of one priority, and what is below it. However much waits, it reads no
/// more than the page. `OFFSET 0` has each item looked up by its number, whatever statistics say of the table.
const READ: &str = "
    WITH clock AS (SELECT {now} AS now), page AS {materialized} (
        SELECT priority, run_at, id FROM (
            SELECT * FROM (SELECT priority, run_at, id FROM dispatch_ready
                WHERE queue = $1 AND priority = $2 AND (run_at, id) > ($3, $4) ORDER BY run_at, id LIMIT $5) AS same
            UNION ALL
            SELECT * FROM (SELECT priority, run_at, id FROM dispatch_ready
                WHERE queue = $1 AND priority < $2 ORDER BY priority DESC, run_at, id LIMIT $5) AS lower
        ) AS stretches ORDER BY priority DESC, run_at, id LIMIT $5
    ), last AS (SELECT priority, run_at, id FROM page ORDER BY priority, run_at DESC, id DESC LIMIT 1)
    SELECT (SELECT count(*) FROM page),
        EXISTS (SELECT 1 FROM dispatch_lease l WHERE l.queue = $1 AND l.until <= now),
        last.priority, last.run_at, last.id,
        i.run_at <= now,
        i.key IS NOT NULL AND EXISTS (
            SELECT 1 FROM dispatch_item o WHERE o.queue = i.queue AND o.key = i.key AND o.id < i.id),
        {item}
    FROM clock LEFT JOIN last ON true LEFT JOIN ({items}) AS i ON true
    ORDER BY i.priority DESC, i.run_at, i.id";

const ITEMS: &str = "SELECT i.* FROM page CROSS JOIN LATERAL (
        SELECT * FROM dispatch_item WHERE dispatch_item.id = page.id OFFSET 0
    ) AS i WHERE true";
/// SQLite takes a CROSS JOIN in its order.
const ITEMS_IN_ORDER: &str = "SELECT i.* FROM page CROSS JOIN dispatch_item AS i ON i.id = page.id";

#[async_trait]
impl Work for Read {
    /// And whether leases have run out.
    type Answer = (Page, bool);

    fn what(&self) -> String {
        format!("look at what waits in `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        Needs::Read
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Self::Answer, DbErr> {
        // Above every priority there is.
        let (priority, at, row) = self.look.after.map_or((i32::MAX, 0, 0), |place| {
            (i32::from(place.priority), place.at, place.row.cast_signed())
        });
        let max = i64::try_from(self.look.max).unwrap_or(i64::MAX);
        let mut values = vec![
            self.queue.as_str().into(),
            priority.into(),
            at.into(),
            row.into(),
            max.into(),
        ];
        let mut items = if conn.is_postgres() { ITEMS } else { ITEMS_IN_ORDER }.to_owned();
        for text in &self.look.holding {
            values.push(text.to_vec().into());
            let text = format!("${}", values.len());
            items += &holds(conn.is_postgres(), &text);
        }
        let materialized = if conn.is_postgres() { "MATERIALIZED" } else { "" };
        let sql = READ
            .replace("{materialized}", materialized)
            .replace("{items}", &items)
            .replace("{item}", ITEM);
        let (mut page, mut expired) = (Page::default(), false);
        for row in conn.all(&sql, values).await? {
            let seen: i64 = row.try_get_by_index(0)?;
            expired = row.try_get_by_index(1)?;
            if seen >= max {
                page.next = Some(Place {
                    priority: row.try_get_by_index(2)?,
                    at: row.try_get_by_index(3)?,
                    row: row.try_get_by_index::<i64>(4)?.cast_unsigned(),
                });
            }
            if row.try_get_by_index::<Option<i64>>(7)?.is_some() {
                page.items.push(read_waiting(&row)?);
            }
        }
        Ok((page, expired))
    }
}

/// As [`Look::shows`] has it.
fn holds(is_postgres: bool, text: &str) -> String {
    if is_postgres {
        format!(
            " AND (convert_to(i.message_id, 'UTF8') = {text} OR position('\\x5c'::bytea IN i.payload) > 0 \
             OR position({text} IN i.payload) > 0)"
        )
    } else {
        format!(
            " AND (CAST(i.message_id AS BLOB) = {text} OR instr(i.payload, x'5c') > 0 OR instr(i.payload, {text}) > 0)"
        )
    }
}

fn read_waiting(row: &QueryResult) -> Result<Waiting, DbErr> {
    let (id, item) = read_item(row, 7)?;
    Ok(Waiting {
        place: Place {
            priority: item.priority,
            at: row.try_get_by_index(14)?,
            row: id.cast_unsigned(),
        },
        due: row.try_get_by_index(5)?,
        behind: row.try_get_by_index(6)?,
        item,
    })
}

/// Removes what waits still.
struct Withdraw {
    queue: String,
    places: Vec<Place>,
}

/// PostgreSQL: what a claim is taking just now is passed over, as by another claim. Each place is looked up by itself: joined,
/// the whole queue would be read for each page.
const TAKE: &str = "
    DELETE FROM dispatch_ready WHERE ctid = ANY (ARRAY(
        SELECT r.ctid FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS place(priority, run_at, id)
        CROSS JOIN LATERAL (
            SELECT o.ctid FROM dispatch_ready o
            WHERE o.queue = $1 AND o.priority = place.priority AND o.run_at = place.run_at AND o.id = place.id
            FOR UPDATE SKIP LOCKED
        ) AS r))
    RETURNING id";

/// SQLite.
const TAKE_ALONE: &str = "
    DELETE FROM dispatch_ready WHERE (queue, priority, run_at, id) IN (
        SELECT $1, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each($2))
    RETURNING id";

#[async_trait]
impl Work for Withdraw {
    type Answer = Vec<u64>;

    fn what(&self) -> String {
        format!("withdraw from `{}`", self.queue)
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Vec<u64>, DbErr> {
        let queue = Value::from(self.queue.as_str());
        let rows = if conn.is_postgres() {
            let priorities = self.places.iter().map(|place| Value::SmallInt(Some(place.priority)));
            let values = vec![
                queue,
                Value::Array(ArrayType::SmallInt, Some(Box::new(priorities.collect()))),
                bigints(self.places.iter().map(|place| place.at)),
                bigints(self.places.iter().map(|place| place.row.cast_signed())),
            ];
            conn.all(TAKE, values).await?
        } else {
            let places: Vec<_> = self
                .places
                .iter()
                .map(|place| (place.priority, place.at, place.row.cast_signed()))
                .collect();
            conn.all(TAKE_ALONE, vec![queue, json(&places)]).await?
        };
        let mut ids = Vec::with_capacity(rows.len());
        for row in rows {
            ids.push(row.try_get_by_index::<i64>(0)?);
        }
        // Only what came out of the order of claims there is nobody else's.
        conn.run("DELETE FROM dispatch_item WHERE id IN ({ids})", vec![conn.ids(&ids)])
            .await?;
        Ok(ids.into_iter().map(i64::cast_unsigned).collect())
    }
}
