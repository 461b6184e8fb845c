//! How much there is, and taking it all out.

use super::super::*;

use crate::store::Enqueued;

pub(super) async fn battery(store: &dyn Store) {
    a_purge_spares_leased_items(store).await;
    depth_tells_ready_delayed_and_leased_apart(store).await;
    every_key_is_known_while_it_has_items(store).await;
}

async fn a_purge_spares_leased_items(store: &dyn Store) {
    let queue = name("purge");
    let mut later = Item {
        dedupe: Some("k".into()),
        ..item("later")
    };
    later.run_at = Some(SystemTime::now() + LONG);
    put(store, &queue, vec![item("leased"), item("ready"), later]).await;
    let claimed = take(store, &queue, 1).await;

    let purged = store.queue().purge(&queue).await.expect("a working store purges");

    same(purged, 2, "a purge takes what waits, due or not");
    same(
        take(store, &queue, 10).await.len(),
        0,
        "nothing is left to claim after a purge",
    );
    same(
        settle(store, &queue, claimed[0].lease, Outcome::Done).await,
        Ok(()),
        "a purge spares leased items",
    );
    let again = store
        .queue()
        .enqueue(
            &queue,
            vec![Item {
                dedupe: Some("k".into()),
                ..item("new")
            }],
        )
        .await;
    same(
        again.expect("a working store takes items"),
        vec![Enqueued::New],
        "a purge frees dedupe keys",
    );
}

async fn depth_tells_ready_delayed_and_leased_apart(store: &dyn Store) {
    let queue = name("depth");
    let depth = async || {
        store
            .queue()
            .depth(&queue)
            .await
            .expect("a working store knows its depth")
    };
    let empty = depth().await;
    let mut oldest = item("ready");
    oldest.created_at = whole_micros(SystemTime::now() - LONG);
    let mut later = item("later");
    later.run_at = Some(SystemTime::now() + LONG);
    put(
        store,
        &queue,
        vec![item("leased"), oldest.clone(), item("ready"), later],
    )
    .await;
    take(store, &queue, 1).await;

    let depth = depth().await;

    same(
        (empty.ready, empty.delayed, empty.leased, empty.oldest),
        (0, 0, 0, None),
        "an unknown queue is empty",
    );
    same(
        (depth.ready, depth.delayed, depth.leased),
        (2, 1, 1),
        "depth tells ready, delayed and leased apart",
    );
    same(
        depth.oldest,
        Some(oldest.created_at),
        "depth knows how long the oldest ready item has waited",
    );
}

async fn every_key_is_known_while_it_has_items(store: &dyn Store) {
    let queue = name("keys");
    let keys = async || {
        let keys = store.queue().keys(&queue).await;
        let mut keys = keys.expect("a working store knows its keys");
        keys.sort();
        keys
    };
    let key = |key: &str, id: &str| Item {
        key: Some(key.into()),
        ..item(id)
    };
    let mut delayed = key("b", "delayed");
    delayed.run_at = Some(SystemTime::now() + LONG);
    let empty = keys().await;
    put(
        store,
        &queue,
        vec![key("a", "leased"), key("a", "ready"), delayed, item("none")],
    )
    .await;
    let claimed = take(store, &queue, 1).await;

    let before = keys().await;
    let settled = settle(store, &queue, claimed[0].lease, Outcome::Done).await;
    let after = keys().await;

    same(empty, Vec::new(), "an unknown queue has no keys");
    same(
        before,
        vec![("a".into(), 2), ("b".into(), 1)],
        "leased and delayed items count under their keys",
    );
    same(settled, Ok(()), "the holder of a lease can settle it");
    same(
        after,
        vec![("a".into(), 1), ("b".into(), 1)],
        "what is done counts no more",
    );
}
