//! What vacuum has yet to clear away, and who holds it up.

use std::time::Duration;

use async_trait::async_trait;
use dispatch_core::store::Bloat;
use sea_orm::DbErr;

use super::conn::{Conn, Needs, Work};

/// Vacuum's own view is held by nobody. What a role may not see of others' sessions is as if it were not there.
const LOOK: &str = "
    WITH holder(xids, seconds) AS (
        SELECT greatest(age(backend_xmin), age(backend_xid)), extract(epoch FROM clock_timestamp() - xact_start)
        FROM pg_stat_activity
        WHERE (datname = current_database() OR backend_type = 'walsender')
            AND backend_type <> 'autovacuum worker' AND pid <> pg_backend_pid()
        UNION ALL
        SELECT age(transaction), extract(epoch FROM clock_timestamp() - prepared)
        FROM pg_prepared_xacts WHERE database = current_database()
        UNION ALL
        SELECT age(xmin), NULL FROM pg_replication_slots
    )
    SELECT
        (SELECT coalesce(sum(pg_stat_get_dead_tuples(to_regclass(name))), 0)::bigint
            FROM unnest(ARRAY['dispatch_item', 'dispatch_ready', 'dispatch_lease']) AS name),
        coalesce(max(seconds), 0)::bigint, coalesce(max(xids), 0)::bigint
    FROM holder WHERE xids IS NOT NULL";

pub(super) struct Look;

#[async_trait]
impl Work for Look {
    type Answer = Option<Bloat>;

    fn what(&self) -> String {
        "look what vacuum has to do".to_owned()
    }

    fn needs(&self) -> Needs {
        Needs::Read
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Option<Bloat>, DbErr> {
        if !conn.is_postgres() {
            return Ok(None);
        }
        let Some(row) = conn.one(LOOK, Vec::new()).await? else {
            return Ok(None);
        };
        let number = |at| -> Result<u64, DbErr> { Ok(row.try_get_by_index::<i64>(at)?.max(0).cast_unsigned()) };
        Ok(Some(Bloat {
            dead_rows: number(0)?,
            oldest_transaction: Duration::from_secs(number(1)?),
            held_transactions: number(2)?,
        }))
    }
}
