use async_trait::async_trait;
use dispatch_core::store::Depth;
use sea_orm::DbErr;
use smol_str::SmolStr;

use super::returns::recover;
use crate::sql::{
    conn::{Conn, Needs, Work},
    rows::{read_text, time},
};

/// Counts what is in a queue.
pub(super) struct Count {
    pub(super) queue: String,
}

#[async_trait]
impl Work for Count {
    type Answer = Depth;

    fn what(&self) -> String {
        format!("count `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        Needs::Read
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Depth, DbErr> {
        let length = if conn.is_postgres() {
            "cardinality(ids)"
        } else {
            "json_array_length(ids)"
        };
        let sql = format!(
            "WITH clock AS (SELECT {{now}} AS now), lease AS (
                SELECT CAST(coalesce(sum(CASE WHEN until <= now THEN {length} END), 0) AS bigint) AS expired,
                    CAST(coalesce(sum(CASE WHEN until > now THEN {length} END), 0) AS bigint) AS live
                FROM dispatch_lease, clock WHERE queue = $1
            ), ready AS (
                SELECT count(CASE WHEN r.run_at <= now THEN 1 END) AS due, count(CASE WHEN r.run_at > now THEN 1 END) AS later,
                    min(CASE WHEN r.run_at <= now THEN i.created_at END) AS oldest
                FROM clock, dispatch_ready r JOIN dispatch_item i ON i.id = r.id WHERE r.queue = $1
            )
            SELECT due + expired, later, live, oldest FROM ready, lease"
        );
        let Some(row) = conn.one(&sql, vec![self.queue.as_str().into()]).await? else {
            return Ok(Depth::default());
        };
        Ok(Depth {
            ready: row.try_get_by_index::<i64>(0)?.cast_unsigned(),
            delayed: row.try_get_by_index::<i64>(1)?.cast_unsigned(),
            leased: row.try_get_by_index::<i64>(2)?.cast_unsigned(),
            oldest: row.try_get_by_index::<Option<i64>>(3)?.map(time),
        })
    }
}

/// Counts what is under each key, from the index of keys alone.
pub(super) struct Keys {
    pub(super) queue: String,
}

#[async_trait]
impl Work for Keys {
    type Answer = Vec<(SmolStr, u64)>;

    fn what(&self) -> String {
        format!("count the keys of `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        Needs::Read
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Self::Answer, DbErr> {
        let sql = "SELECT key, count(*) FROM dispatch_item WHERE queue = $1 AND key IS NOT NULL GROUP BY key";
        let mut keys = Vec::new();
        for row in conn.all(sql, vec![self.queue.as_str().into()]).await? {
            let count = row.try_get_by_index::<i64>(1)?;
            keys.extend(read_text(&row, 0)?.map(|key| (key, count.cast_unsigned())));
        }
        Ok(keys)
    }
}

/// Removes what is not leased.
pub(super) struct Purge {
    pub(super) queue: String,
}

#[async_trait]
impl Work for Purge {
    type Answer = u64;

    fn what(&self) -> String {
        format!("purge `{}`", self.queue)
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<u64, DbErr> {
        recover(conn, &self.queue).await?;
        // Taken out of the order of claims first: only what came out there is nobody else's.
        let mut ids: Vec<i64> = Vec::new();
        let take = "DELETE FROM dispatch_ready WHERE queue = $1 RETURNING id";
        for row in conn.all(take, vec![self.queue.as_str().into()]).await? {
            ids.push(row.try_get_by_index(0)?);
        }
        conn.run("DELETE FROM dispatch_item WHERE id IN ({ids})", vec![conn.ids(&ids)])
            .await
    }
}
