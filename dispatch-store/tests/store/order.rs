//! Order under a key where several enqueue at once.

use std::time::Duration;

use dispatch_core::store::{Claim, Claimed};
use sea_orm::{ConnectionTrait as _, Statement, TransactionTrait as _};

use crate::{item, postgres::Server};

#[tokio::test]
async fn an_item_under_a_key_waits_for_one_that_is_not_committed_yet() {
    let Some(server) = Server::find("an_item_under_a_key_waits_for_one_that_is_not_committed_yet").await else {
        return;
    };
    let store = server.open();
    store.probe().await.unwrap();
    let ordered = Claim {
        max: 10,
        lease: Duration::from_secs(30),
        ordered: true,
        below: None,
    };
    let transaction = server.admin.begin().await.unwrap();
    let sql = format!(
        "SELECT \"{}\".dispatch_enqueue('q', 'first', identity => 'k', on_duplicate => 'serial')",
        server.schema
    );
    transaction
        .execute_raw(Statement::from_string(sea_orm::DatabaseBackend::Postgres, sql))
        .await
        .unwrap();

    let mut keyed = item("second");
    keyed.key = Some("k".into());
    let mut other = item("other");
    other.key = Some("another key".into());
    let second = tokio::spawn({
        let store = store.clone();
        async move { store.queue().enqueue("q", vec![keyed]).await }
    });
    store.queue().enqueue("q", vec![other]).await.unwrap();
    let before = store.queue().claim("q", ordered).await.unwrap();
    assert!(!second.is_finished());
    transaction.commit().await.unwrap();
    second.await.unwrap().unwrap();

    let claimed = store.queue().claim("q", ordered).await.unwrap();
    let texts = |claimed: &[Claimed]| {
        claimed
            .iter()
            .map(|claimed| claimed.item.payload.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (texts(&before), texts(&claimed)),
        (vec!["other".into()], vec!["first".into()])
    );
    server.end(store).await;
}
