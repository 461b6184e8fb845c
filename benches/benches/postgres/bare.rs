//! The bare loop: connections that lock 100 rows and delete them, with a synchronous commit.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::server::connect;

const CONNECTIONS: usize = 4;

/// A table in the order of claims, with nothing else.
pub(crate) struct Bare {
    clients: Vec<Client>,
}

impl Bare {
    pub(crate) async fn open(url: &str) -> Self {
        let clients = join_all((0..CONNECTIONS).map(|_| connect(url))).await;
        let table = "CREATE TABLE bare (id bigserial PRIMARY KEY, run_at timestamptz NOT NULL DEFAULT now(), payload bytea NOT NULL);
            CREATE INDEX ON bare (run_at, id)";
        clients[0].batch_execute(table).await.unwrap();
        // Its one index, as ours has its own: a plan by old statistics reads and sorts the whole table, forty times slower.
        let settings = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off";
        join_all(clients.iter().map(|client| client.batch_execute(settings))).await;
        Self { clients }
    }

    pub(crate) async fn fill(&self, rows: usize, payload: &[u8]) {
        let fill = "INSERT INTO bare (payload) SELECT $1 FROM generate_series(1, $2::bigint)";
        let count = i64::try_from(rows).unwrap();
        self.clients[0].execute(fill, &[&payload, &count]).await.unwrap();
    }

    /// Empties the table, and says how long it took.
    pub(crate) async fn empty(&self, rows: usize) -> Duration {
        let began = Instant::now();
        let done = join_all(self.clients.iter().map(empty)).await;
        assert_eq!(done.iter().sum::<usize>(), rows);
        began.elapsed()
    }
}

async fn empty(client: &Client) -> usize {
    let lock =
        "SELECT id, payload FROM bare WHERE run_at <= now() ORDER BY run_at, id LIMIT 100 FOR UPDATE SKIP LOCKED";
    let lock = client.prepare(lock).await.unwrap();
    let delete = client.prepare("DELETE FROM bare WHERE id = ANY($1)").await.unwrap();
    let mut done = 0;
    loop {
        client.batch_execute("BEGIN").await.unwrap();
        let rows = client.query(&lock, &[]).await.unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        client.execute(&delete, &[&ids]).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        if ids.is_empty() {
            return done;
        }
        done += ids.len();
    }
}
