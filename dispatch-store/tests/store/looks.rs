//! What a look at a long queue costs the server.

use std::time::Duration;

use dispatch_core::store::Look;
use sea_orm::ConnectionTrait;

use crate::{item, postgres::Server};

/// Whatever the statistics say of the tables, a page is a stretch of the index, and not the first of all that waits, sorted.
#[tokio::test]
async fn a_look_at_what_waits_reads_each_place_a_few_times_at_most() {
    const MANY: usize = 20_000;
    for analysed in ["never", "empty", "with others"] {
        let Some(server) = Server::find("a_look_at_what_waits_reads_each_place_a_few_times_at_most").await else {
            return;
        };
        let store = server.open();
        store.probe().await.unwrap();
        if analysed == "with others" {
            let items = (0..100).map(|_| item("x")).collect();
            store.queue().enqueue("other", items).await.unwrap();
        }
        if analysed != "never" {
            for table in ["dispatch_item", "dispatch_ready"] {
                server.run(&format!("VACUUM ANALYZE {}.{table}", server.schema)).await;
            }
        }
        for _ in 0..MANY / 1_000 {
            let items = (0..1_000).map(|_| item("x")).collect();
            store.queue().enqueue("q", items).await.unwrap();
        }

        let mut look = Look {
            after: None,
            max: 500,
            holding: Vec::new(),
        };
        let mut seen = 0;
        loop {
            let page = store.queue().waiting("q", look.clone()).await.unwrap();
            seen += page.items.len();
            match page.next {
                Some(next) => look.after = Some(next),
                None => break,
            }
        }
        // What a connection has read is counted at its end at the latest.
        store.close().await.unwrap();
        let read = format!(
            "SELECT sum(idx_tup_read)::bigint AS read FROM pg_stat_all_indexes WHERE schemaname = '{}' AND relname = 'dispatch_ready'",
            server.schema
        );
        let read = sea_orm::Statement::from_string(sea_orm::DatabaseBackend::Postgres, read);
        let mut all = 0;
        for _ in 0..100 {
            let row = server.admin.query_one_raw(read.clone()).await.unwrap().unwrap();
            all = row.try_get::<i64>("", "read").unwrap();
            if all >= i64::try_from(MANY).unwrap() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        assert_eq!(seen, MANY, "{analysed}");
        assert!((20_000..100_000).contains(&all), "{analysed}: {all} read");
        let store = server.open();
        server.end(store).await;
    }
}
