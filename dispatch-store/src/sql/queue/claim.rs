use async_trait::async_trait;
use dispatch_core::{
    Error,
    store::{Claim, Claimed, Item, Lease},
};
use sea_orm::DbErr;

use super::returns::recover;
use crate::sql::{
    SqlStore,
    conn::{Conn, Needs, Work},
    rows::{ITEM, read_item, span},
};

/// Higher than any priority.
const TOP: i32 = i32::MAX;

impl SqlStore {
    /// Claims priority by priority, highest first, until enough is found.
    ///
    /// Within one priority the due items are one stretch of the index, so that neither a great backlog nor a crowd of
    /// delayed items makes a claim slower.
    pub(super) async fn claim_all(&self, queue: &str, claim: Claim) -> Result<Vec<Claimed>, Error> {
        let mut claimed = Vec::new();
        let mut below = TOP;
        let mut recovered = false;
        while claimed.len() < claim.max {
            let claim = Claim {
                max: claim.max - claimed.len(),
                ..claim
            };
            let queue = queue.to_owned();
            let take = Take {
                queue: queue.clone(),
                claim,
                below,
                fence: rand::random::<i64>() & i64::MAX,
            };
            let found = match self.database.perform(take).await {
                Ok(found) => found,
                // What is leased already is given out; the error will come again if it stays.
                Err(error) if !claimed.is_empty() => {
                    tracing::debug!(%error, "claim cut short");
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            claimed.extend(found.claimed);
            if found.expired && !recovered {
                // What has expired is ready now, at its old place.
                if let Err(error) = self.database.perform(Recover { queue }).await {
                    if claimed.is_empty() {
                        return Err(error.into());
                    }
                    tracing::debug!(%error, "expired leases wait for the next claim");
                    break;
                }
                (recovered, below) = (true, TOP);
                continue;
            }
            match found.next {
                Some(next) => below = next,
                None => break,
            }
        }
        Ok(claimed)
    }
}

/// Leases what is due at the highest priority below another.
struct Take {
    queue: String,
    claim: Claim,
    below: i32,
    fence: i64,
}

#[derive(Default)]
struct Found {
    claimed: Vec<Claimed>,
    /// There are lower priorities than the one looked at: those below this.
    next: Option<i32>,
    /// Some leases have run out.
    expired: bool,
}

/// Items under one key go one at a time: whoever has an older one beside it, leased or not, waits.
const HEADS: &str = "AND (r.key IS NULL OR NOT EXISTS (
    SELECT 1 FROM dispatch_item o WHERE o.queue = r.queue AND o.key = r.key AND o.id < r.id))";

/// PostgreSQL: pick, take out and lease in one statement. Rows that another claim is taking are passed over. It does not
/// wait for the disk: a claim that a crash of the server undoes is one that never was, and its fence, drawn by chance,
/// is never drawn again.
const TAKE: &str = "
    WITH top AS MATERIALIZED (
        SELECT max(priority) AS priority FROM dispatch_ready WHERE queue = $1 AND priority < $2
    ), taken AS MATERIALIZED (
        DELETE FROM dispatch_ready WHERE ctid = ANY (ARRAY(
            SELECT r.ctid FROM dispatch_ready r
            WHERE r.queue = $1 AND r.priority = (SELECT priority FROM top) AND r.run_at <= {now} {heads}
            ORDER BY r.run_at, r.id LIMIT $3 FOR UPDATE SKIP LOCKED))
        RETURNING id
    ), leased AS (
        INSERT INTO dispatch_lease (fence, queue, until, ids)
        SELECT $4, $1, {now} + $5, array_agg(id) FROM taken HAVING count(*) > 0
    )
    SELECT set_config('synchronous_commit', 'off', true), top.priority::integer,
        EXISTS (SELECT 1 FROM dispatch_ready r WHERE r.queue = $1 AND r.priority < top.priority),
        EXISTS (SELECT 1 FROM dispatch_lease l WHERE l.queue = $1 AND l.until <= {now}),
        {item}
    FROM top LEFT JOIN (taken JOIN dispatch_item i ON i.id = taken.id) ON true";

#[async_trait]
impl Work for Take {
    type Answer = Found;

    fn what(&self) -> String {
        format!("claim from `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        Needs::LightStatement
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Found, DbErr> {
        let (mut found, mut items) = if conn.is_postgres() {
            self.take_at_once(conn).await?
        } else {
            self.take_by_steps(conn).await?
        };
        // One priority and the same time for whole batches: what is left of the order is time and number.
        items.sort_unstable_by_key(|(id, item)| (item.run_at, *id));
        found.claimed = items
            .into_iter()
            .map(|(id, item)| Claimed {
                lease: Lease {
                    row: id.cast_unsigned(),
                    fence: self.fence.cast_unsigned(),
                },
                item,
            })
            .collect();
        Ok(found)
    }
}

impl Take {
    fn heads(&self) -> &'static str {
        if self.claim.ordered { HEADS } else { "" }
    }

    fn max(&self) -> i64 {
        i64::try_from(self.claim.max).unwrap_or(i64::MAX)
    }

    async fn take_at_once(&self, conn: &mut Conn<'_>) -> Result<(Found, Vec<(i64, Item)>), DbErr> {
        let sql = TAKE.replace("{heads}", self.heads()).replace("{item}", ITEM);
        let values = vec![
            self.queue.as_str().into(),
            self.below.into(),
            self.max().into(),
            self.fence.into(),
            span(self.claim.lease).into(),
        ];
        let mut found = Found::default();
        let mut items = Vec::new();
        for row in conn.all(&sql, values).await? {
            let priority: Option<i32> = row.try_get_by_index(1)?;
            found.next = priority.filter(|_| row.try_get_by_index(2).unwrap_or(false));
            found.expired = row.try_get_by_index(3)?;
            if row.try_get_by_index::<Option<i64>>(4)?.is_some() {
                items.push(read_item(&row, 4)?);
            }
        }
        Ok((found, items))
    }

    /// SQLite: nobody else writes meanwhile, so it can be done step by step.
    async fn take_by_steps(&self, conn: &mut Conn<'_>) -> Result<(Found, Vec<(i64, Item)>), DbErr> {
        let queue = || self.queue.as_str().into();
        let state = conn
            .one(
                "SELECT (SELECT max(priority) FROM dispatch_ready WHERE queue = $1 AND priority < $2),
                    (SELECT min(priority) FROM dispatch_ready WHERE queue = $1),
                    EXISTS (SELECT 1 FROM dispatch_lease WHERE queue = $1 AND until <= {now})",
                vec![queue(), self.below.into()],
            )
            .await?;
        let Some(state) = state else {
            return Ok(Default::default());
        };
        let mut found = Found {
            expired: state.try_get_by_index(2)?,
            ..Found::default()
        };
        let Some(priority) = state.try_get_by_index::<Option<i32>>(0)? else {
            return Ok((found, Vec::new()));
        };
        let lowest: Option<i32> = state.try_get_by_index(1)?;
        found.next = lowest.is_some_and(|lowest| lowest < priority).then_some(priority);

        let pick = format!(
            "SELECT {ITEM} FROM dispatch_ready r CROSS JOIN dispatch_item i ON i.id = r.id
             WHERE r.queue = $1 AND r.priority = $2 AND r.run_at <= {{now}} {} ORDER BY r.run_at, r.id LIMIT $3",
            self.heads()
        );
        let rows = conn
            .all(&pick, vec![queue(), priority.into(), self.max().into()])
            .await?;
        let items = rows
            .iter()
            .map(|row| read_item(row, 0))
            .collect::<Result<Vec<_>, _>>()?;
        if items.is_empty() {
            return Ok((found, items));
        }
        let ids: Vec<i64> = items.iter().map(|(id, _)| *id).collect();
        let take = "DELETE FROM dispatch_ready WHERE (queue, priority, run_at, id) IN (
                SELECT i.queue, i.priority, i.run_at, i.id FROM dispatch_item i WHERE i.id IN ({ids}));
            INSERT INTO dispatch_lease (fence, queue, until, ids) VALUES ($2, $3, {now} + $4, $1)";
        let values = vec![
            conn.ids(&ids),
            self.fence.into(),
            queue(),
            span(self.claim.lease).into(),
        ];
        conn.run(take, values).await?;
        Ok((found, items))
    }
}

/// Makes ready what is under leases that have run out.
struct Recover {
    queue: String,
}

#[async_trait]
impl Work for Recover {
    type Answer = ();

    fn what(&self) -> String {
        format!("recover expired leases of `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        Needs::Light
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<(), DbErr> {
        recover(conn, &self.queue).await.map(drop)
    }
}
