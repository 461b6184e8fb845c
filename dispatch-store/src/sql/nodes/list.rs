use async_trait::async_trait;
use dispatch_core::store::Node;
use sea_orm::DbErr;

use crate::sql::{
    conn::{Conn, Needs, Work},
    rows::{read_text, time},
};

/// Shows every node. Who is alive is told by the server's clock, which is good enough for people.
pub(in crate::sql) struct List;

#[async_trait]
impl Work for List {
    type Answer = Vec<Node>;

    fn what(&self) -> String {
        "list the nodes".to_owned()
    }

    fn needs(&self) -> Needs {
        Needs::Read
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Vec<Node>, DbErr> {
        let length = if conn.is_postgres() {
            "cardinality(ids)"
        } else {
            "json_array_length(ids)"
        };
        let sql = format!(
            "SELECT n.name, n.host, n.process, n.started_at, n.last_seen, n.last_seen > {{now}} - n.period,
                CAST(coalesce(held.messages, 0) AS bigint)
            FROM dispatch_node n LEFT JOIN (
                SELECT node, sum({length}) AS messages FROM dispatch_lease WHERE until > {{now}} GROUP BY node
            ) AS held ON held.node = n.id
            ORDER BY n.started_at, n.id"
        );
        let mut nodes = Vec::new();
        for row in conn.all(&sql, Vec::new()).await? {
            nodes.push(Node {
                name: read_text(&row, 0)?.unwrap_or_default(),
                host: read_text(&row, 1)?.unwrap_or_default(),
                process: read_text(&row, 2)?.unwrap_or_default(),
                started_at: time(row.try_get_by_index(3)?),
                last_seen: time(row.try_get_by_index(4)?),
                alive: row.try_get_by_index(5)?,
                held: row.try_get_by_index::<i64>(6)?.max(0).cast_unsigned(),
            });
        }
        Ok(nodes)
    }
}
