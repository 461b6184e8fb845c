//! What becomes claimable again: released, retried, under a lease that ran out or one of a node that is gone.

use std::collections::BTreeMap;

use sea_orm::{DbErr, QueryResult, Value};

use crate::sql::conn::Conn;

/// Row numbers in a column of `dispatch_lease`.
pub(super) fn read_ids(conn: &Conn<'_>, row: &QueryResult, at: usize) -> Result<Vec<i64>, DbErr> {
    if conn.is_postgres() {
        return row.try_get_by_index(at);
    }
    let text: String = row.try_get_by_index(at)?;
    serde_json::from_str(&text).map_err(|error| DbErr::Json(error.to_string()))
}

/// Makes items claimable, at the time that each of them says.
pub(super) async fn make_ready(conn: &mut Conn<'_>, ids: &[i64]) -> Result<(), DbErr> {
    if ids.is_empty() {
        return Ok(());
    }
    let with_keys = "INSERT INTO dispatch_ready (queue, priority, run_at, id, key, dedupe)
        SELECT i.queue, i.priority, i.run_at, i.id, i.key, i.dedupe FROM dispatch_item i WHERE i.id IN ({ids})
        ON CONFLICT DO NOTHING RETURNING id";
    let mut back = Vec::with_capacity(ids.len());
    for row in conn.all(with_keys, vec![conn.ids(ids)]).await? {
        back.push(row.try_get_by_index::<i64>(0)?);
    }
    if back.len() == ids.len() {
        return Ok(());
    }
    // Somebody else waits under their dedupe key by now; they come back without it.
    back.sort_unstable();
    let rest: Vec<i64> = ids
        .iter()
        .copied()
        .filter(|id| back.binary_search(id).is_err())
        .collect();
    let without_keys = "INSERT INTO dispatch_ready (queue, priority, run_at, id, key, dedupe)
        SELECT i.queue, i.priority, i.run_at, i.id, i.key, NULL FROM dispatch_item i WHERE i.id IN ({ids})";
    conn.run(without_keys, vec![conn.ids(&rest)]).await.map(drop)
}

/// Ends the leases of a queue that have run out, and makes their items ready. Says how many there were.
pub(super) async fn recover(conn: &mut Conn<'_>, queue: &str) -> Result<usize, DbErr> {
    let end = "DELETE FROM dispatch_lease WHERE queue = $1 AND until <= {now} RETURNING ids";
    let mut ids = Vec::new();
    for row in conn.all(end, vec![Value::from(queue)]).await? {
        ids.extend(read_ids(conn, &row, 0)?);
    }
    make_ready(conn, &ids).await?;
    Ok(ids.len())
}

/// Ends the leases of nodes that are no more, and makes their items ready. Says how many there were in each queue.
pub(in crate::sql) async fn give_back(conn: &mut Conn<'_>, nodes: &[i64]) -> Result<BTreeMap<String, usize>, DbErr> {
    let end = "DELETE FROM dispatch_lease WHERE node IN ({ids})
        AND NOT EXISTS (SELECT 1 FROM dispatch_node n WHERE n.id = dispatch_lease.node) RETURNING queue, ids";
    let mut ids = Vec::new();
    let mut counts = BTreeMap::new();
    for row in conn.all(end, vec![conn.ids(nodes)]).await? {
        let held = read_ids(conn, &row, 1)?;
        *counts.entry(row.try_get_by_index(0)?).or_insert(0) += held.len();
        ids.extend(held);
    }
    make_ready(conn, &ids).await?;
    Ok(counts)
}
