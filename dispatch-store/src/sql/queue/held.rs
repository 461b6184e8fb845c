use std::collections::{HashMap, HashSet};

use dispatch_core::store::Lease;
use sea_orm::{DbErr, Value};

use super::returns::read_ids;
use crate::sql::conn::Conn;

/// Lease rows, locked, and what is taken out of them.
pub(super) struct Held {
    rows: HashMap<i64, Row>,
    /// Which lease row holds which lease.
    places: HashMap<Lease, i64>,
}

struct Row {
    ids: Vec<i64>,
    taken: HashSet<i64>,
}

impl Held {
    pub(super) async fn lock(
        conn: &mut Conn<'_>,
        queue: &str,
        leases: impl Iterator<Item = Lease>,
    ) -> Result<Self, DbErr> {
        let fences: HashSet<i64> = leases.map(|lease| lease.fence.cast_signed()).collect();
        let fences: Vec<i64> = fences.into_iter().collect();
        // In one order, so that two who settle at the same time do not wait for each other.
        let lock = if conn.is_postgres() { "FOR UPDATE" } else { "" };
        let sql = format!(
            "SELECT number, fence, ids FROM dispatch_lease WHERE queue = $2 AND fence IN ({{ids}}) ORDER BY number {lock}"
        );
        let mut held = Self {
            rows: HashMap::new(),
            places: HashMap::new(),
        };
        for row in conn.all(&sql, vec![conn.ids(&fences), Value::from(queue)]).await? {
            let number: i64 = row.try_get_by_index(0)?;
            let fence = row.try_get_by_index::<i64>(1)?.cast_unsigned();
            let ids = read_ids(conn, &row, 2)?;
            for id in &ids {
                let row = id.cast_unsigned();
                held.places.insert(Lease { row, fence }, number);
            }
            let taken = HashSet::new();
            held.rows.insert(number, Row { ids, taken });
        }
        Ok(held)
    }

    /// Takes a lease out of its row; false if no row has it.
    pub(super) fn take(&mut self, lease: Lease) -> bool {
        let row = self.places.remove(&lease).and_then(|number| self.rows.get_mut(&number));
        row.is_some_and(|row| row.taken.insert(lease.row.cast_signed()))
    }

    /// Writes back what is left.
    pub(super) async fn save(self, conn: &mut Conn<'_>) -> Result<(), DbErr> {
        let mut empty = Vec::new();
        for (number, mut row) in self.rows.into_iter().filter(|(_, row)| !row.taken.is_empty()) {
            row.ids.retain(|id| !row.taken.contains(id));
            if row.ids.is_empty() {
                empty.push(number);
                continue;
            }
            let shrink = "UPDATE dispatch_lease SET ids = $1 WHERE number = $2";
            conn.run(shrink, vec![conn.ids(&row.ids), number.into()]).await?;
        }
        if !empty.is_empty() {
            conn.run(
                "DELETE FROM dispatch_lease WHERE number IN ({ids})",
                vec![conn.ids(&empty)],
            )
            .await?;
        }
        Ok(())
    }
}
